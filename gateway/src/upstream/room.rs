//! How many tokens a choice may have.

use crate::upstream::UpstreamErrorKind;

/// What the client `wanted`, where it fits into the `context` beside the prompt; the model's `default` or the rest of the
/// context where it named no number.
///
/// # Errors
/// A number that does not fit is refused and not cut: a client that asked for it would take the cut for the end.
pub(super) fn completion_room(
    prompt: usize,
    wanted: Option<u32>,
    default: Option<u32>,
    context: u32,
) -> Result<u32, UpstreamErrorKind> {
    let prompt = u32::try_from(prompt).unwrap_or(u32::MAX);
    let room = context.saturating_sub(prompt);
    if room == 0 {
        return Err(UpstreamErrorKind::ContextLength { prompt, context });
    }
    if let Some(completion) = wanted.filter(|wanted| *wanted > room) {
        return Err(UpstreamErrorKind::CompletionLength {
            prompt,
            completion,
            context,
        });
    }
    // A client that wants nothing but its prompt may say so; a default cannot.
    Ok(wanted.unwrap_or_else(|| default.unwrap_or(room).clamp(1, room)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_context_holds_prompt_and_completion() {
        let room = |prompt, wanted, default| completion_room(prompt, wanted, default, 100);
        assert_eq!(room(10, Some(90), Some(5)), Ok(90));
        assert_eq!(room(10, Some(0), Some(5)), Ok(0));
        assert_eq!(room(10, None, Some(5)), Ok(5));
        assert_eq!(room(10, None, Some(95)), Ok(90));
        assert_eq!(room(10, None, None), Ok(90));
        assert_eq!(
            room(10, Some(91), None),
            Err(UpstreamErrorKind::CompletionLength {
                prompt: 10,
                completion: 91,
                context: 100
            })
        );
        assert_eq!(
            room(100, Some(1), None),
            Err(UpstreamErrorKind::ContextLength {
                prompt: 100,
                context: 100
            })
        );
    }
}
