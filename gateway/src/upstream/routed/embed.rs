//! Vectors: one answer in one piece, so that all of it can be done again elsewhere.

use std::sync::Arc;

use super::{Inner, nobody};
use crate::route::decision::Attempt;
use crate::route::means::Means;
use crate::route::{Ask, End, Served, Unplaced};
use crate::upstream::retry::{Leg, died};
use crate::upstream::{
    EmbedInput, EmbedRequest, Embeddings, Retry, UpstreamError, UpstreamErrorKind, Wishes,
};

/// Goes from one upstream to the next until there are vectors.
///
/// # Errors
/// The last one's error, or why there is nobody.
pub(super) async fn embed(
    roster: &Arc<Inner>,
    request: Arc<EmbedRequest>,
) -> Result<Embeddings, UpstreamError> {
    let rules = roster.rules(&request.wishes.rules);
    let wishes = Wishes {
        rules: rules.clone(),
        ..Wishes::clone(&request.wishes)
    };
    let request = Arc::new(EmbedRequest {
        wishes: Arc::new(wishes),
        ..EmbedRequest::clone(&request)
    });
    let prompt_bytes = request.inputs.iter().map(bytes).sum();
    let (mut tried, mut attempt, mut last_error) = (Vec::new(), Attempt::First, None);
    for _ in 0..roster.options.attempts_max.max(1) {
        let ask = Ask {
            attempt,
            model: &request.model,
            prompt_bytes,
            blocks: &[],
            session: None,
            max_tokens: Some(0),
            n: u32::try_from(request.inputs.len()).unwrap_or(u32::MAX),
            rules: &rules,
            hops: request.hops,
            tried: &tried,
            numerics: None,
            allocation: &|_| Means::Any,
            time_left: roster.time_left(request.deadline),
            waits: false,
        };
        let mut leg = match depart(roster, &request, &ask).await {
            Ok(leg) => leg,
            Err(unplaced) => {
                let nobody = || nobody(&unplaced, roster, &request.model);
                return Err(last_error.unwrap_or_else(nobody));
            }
        };
        let error = match leg.upstream.embed(Arc::clone(&request)).await {
            Ok(made) => {
                if let (Some(purse), Some(pick)) = (&request.purse, &leg.decision.pick) {
                    purse.served(&pick.node, leg.digest.as_ref());
                }
                leg.sent.first_content(&[], false);
                leg.sent.end(End::Done(Served {
                    prompt_bytes,
                    prompt_tokens: made.usage.prompt_tokens,
                    ..Served::default()
                }));
                return Ok(made);
            }
            Err(error) => error,
        };
        leg.sent.fail(&error);
        if error.retry == Retry::Never {
            return Err(error);
        }
        attempt = if died(&error) {
            Attempt::Move
        } else {
            Attempt::Retry
        };
        tried.push(leg.name);
        last_error = Some(error);
    }
    Err(last_error.unwrap_or_else(|| UpstreamErrorKind::NotReady.into()))
}

/// Sends a request somewhere; what it is paid from is fetched where it is not at hand.
async fn depart(
    roster: &Arc<Inner>,
    request: &EmbedRequest,
    ask: &Ask<'_>,
) -> Result<Leg, Unplaced> {
    let purse = request.purse.as_deref();
    let unplaced = match roster.depart(&request.id, ask, purse) {
        Ok(leg) => return Ok(leg),
        Err(unplaced) => unplaced,
    };
    match purse {
        Some(purse) if purse.fetch().await => roster.depart(&request.id, ask, Some(purse)),
        _ => Err(unplaced),
    }
}

fn bytes(input: &EmbedInput) -> u64 {
    match input {
        EmbedInput::Text(text) => text.len() as u64,
        EmbedInput::Tokens(ids) => 4 * ids.len() as u64,
    }
}
