//! Turns new requests away once the server drains. They come on connections that were open before.

use crate::drain::{DrainWatch, Phase};
use crate::openai::error::ApiError;

/// Admits requests while the server serves.
pub(crate) fn admit(drain: &DrainWatch) -> Result<(), ApiError> {
    match drain.phase() >= Phase::Draining {
        true => Err(ApiError::shutting_down()),
        false => Ok(()),
    }
}
