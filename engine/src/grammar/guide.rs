//! One choice on its way through a grammar: what it may say next, and what it must.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use llguidance::Matcher;

use crate::limits::FORCED_TOKENS_MAX;

/// Follows one choice. The lock is never waited for: the engine's thread tells it of tokens between steps, and a sampler
/// asks for the mask within one.
pub struct Guide {
    matcher: Mutex<Matcher>,
}

/// Why a choice cannot go on within its grammar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GuideFault {
    /// Its states outgrew their bound.
    #[error("the grammar became too complex for its bounds; simplify it")]
    TooComplex,
    /// No token goes on from here.
    #[error("the grammar allows no token here")]
    NothingAllowed,
}

impl Guide {
    pub(super) fn new(matcher: Matcher) -> Self {
        Self {
            matcher: Mutex::new(matcher),
        }
    }

    /// Forbids every token that the grammar does not allow next; where it is over, all but those that end a generation.
    ///
    /// # Errors
    /// [`GuideFault`]: the choice cannot go on.
    pub(crate) fn mask(&self, logits: &mut [f32]) -> Result<(), GuideFault> {
        mask(&mut self.matcher(), logits)
    }

    /// The same, after tokens that were guessed. They leave no trace: a copy is told of them.
    ///
    /// # Errors
    /// [`GuideFault`]: the choice could not go on.
    pub(crate) fn mask_after(&self, drafted: &[u32], logits: &mut [f32]) -> Result<(), GuideFault> {
        if drafted.is_empty() {
            return self.mask(logits);
        }
        let mut ahead = self.matcher().clone();
        // The copy keeps its error.
        let _ = ahead.consume_tokens(drafted);
        mask(&mut ahead, logits)
    }

    /// How many of the first tokens of `draft` the grammar allows.
    pub(crate) fn allowed(&self, draft: &[u32]) -> usize {
        let mut ahead = self.matcher().clone();
        ahead.try_consume_tokens(draft).unwrap_or(0)
    }

    /// Tells it of a token that the choice said. A failure shows at the next [`Guide::mask`].
    pub(crate) fn push(&self, token: u32) {
        // The matcher keeps its error.
        let _ = self.matcher().consume_token(token);
    }

    /// Tells it of the tokens that must come next, and returns them. `end` is the one that ends a generation: it must come
    /// where the grammar allows nothing more.
    pub(crate) fn force(&self, end: u32) -> Vec<u32> {
        let mut matcher = self.matcher();
        let mut forced = matcher.compute_ff_tokens();
        forced.truncate(FORCED_TOKENS_MAX);
        if !forced.is_empty() && matcher.consume_tokens(&forced).is_err() {
            return Vec::new();
        }
        forced.extend(end_if_over(&matcher, end));
        forced
    }

    /// `end`, where the grammar allows nothing more.
    pub(crate) fn end_if_over(&self, end: u32) -> Option<u32> {
        end_if_over(&self.matcher(), end)
    }

    fn matcher(&self) -> MutexGuard<'_, Matcher> {
        self.matcher.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forbids every token that the matcher does not allow next.
fn mask(matcher: &mut Matcher, logits: &mut [f32]) -> Result<(), GuideFault> {
    let Ok(allowed) = matcher.compute_mask_or_eos() else {
        return Err(fault(&matcher.get_error().unwrap_or_default()));
    };
    let words = allowed.as_slice();
    for (index, logits) in logits.chunks_mut(u32::BITS as usize).enumerate() {
        match words.get(index).copied().unwrap_or(0) {
            0 => logits.fill(f32::NEG_INFINITY),
            u32::MAX => {}
            word => {
                for (bit, logit) in logits.iter_mut().enumerate() {
                    let is_allowed = word >> bit & 1 == 1;
                    *logit = if is_allowed {
                        *logit
                    } else {
                        f32::NEG_INFINITY
                    };
                }
            }
        }
    }
    Ok(())
}

fn end_if_over(matcher: &Matcher, end: u32) -> Option<u32> {
    let is_over = matcher.stop_reason().is_ok() && matcher.is_stopped();
    is_over.then_some(end)
}

/// The library says in words alone which of its bounds was met; only that no token is left has a name.
fn fault(reason: &str) -> GuideFault {
    if ["NoExtension", "satisf", "stopped"]
        .iter()
        .any(|word| reason.contains(word))
    {
        GuideFault::NothingAllowed
    } else {
        GuideFault::TooComplex
    }
}

impl fmt::Debug for Guide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guide").finish_non_exhaustive()
    }
}
