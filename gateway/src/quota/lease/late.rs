//! What a gateway let in whose life is over: how it is settled by another one.

use uuid::Uuid;

use super::Size;
use crate::quota::charge::ChargeId;
use crate::quota::ledger::Record;

/// One part of a request, found where it was served.
#[derive(Debug, Clone)]
pub struct Late {
    /// The life that let it in.
    pub run: Uuid,
    /// The charge of the whole request, which that life settles itself if it goes on.
    pub of: ChargeId,
    /// What is to be written down, under the part's own charge.
    pub record: Record,
    /// How large each allocation is that the record draws from, in its order.
    pub sizes: Vec<Size>,
}
