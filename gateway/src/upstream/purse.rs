//! What a request may spend where: how the account that it goes on steers its way, without the way knowing of accounts.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;

use crate::route::means::Means;

/// What one request is paid from.
pub trait Purse: Send + Sync + fmt::Debug {
    /// What there is for it at `site`, its own hold not counted.
    fn at(&self, site: &Arc<str>) -> Means;

    /// Takes what is held for it along to `site`; false where there is not enough by now, and nothing has changed.
    fn move_to(&self, site: &Arc<str>) -> bool;

    /// Notes who serves it: the node, and the digest of the model as it runs there, where that is told.
    fn served(&self, node: &Arc<str>, build: Option<&Arc<str>>);

    /// Waits for what the last move found missing, where others may have it; whether it is worth to try again.
    fn fetch(&self) -> BoxFuture<'_, bool>;
}
