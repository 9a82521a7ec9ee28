//! Where a ledger is kept: in memory for a server without a file, embedded in the process for one with it, and in PostgreSQL
//! where several gateways share it.

pub mod embedded;
pub mod memory;
pub mod postgres;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::watch;

/// Resolves once `told` is true; never where whoever tells is closed before, which says nothing.
fn once(mut told: watch::Receiver<bool>) -> BoxFuture<'static, ()> {
    let once = async move {
        if told.wait_for(|told| *told).await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    once.boxed()
}
