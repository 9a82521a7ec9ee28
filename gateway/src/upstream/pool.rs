//! Pure computation over what a client chose, off the event loop and a few at a time.
//!
//! On the event loop a long prompt or a large grammar would stall every connection, and without a bound many would take the
//! cores from the kernels.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::upstream::UpstreamErrorKind;

/// A line for one kind of work of one model.
#[derive(Debug)]
pub(super) struct Pool {
    /// Places in line, running included.
    line: Arc<Semaphore>,
    /// Places at work.
    work: Arc<Semaphore>,
}

impl Pool {
    /// A pool that runs `at_once` pieces of work, with room for `line` of them, running included.
    pub(super) fn new(at_once: usize, line: usize) -> Self {
        Self {
            line: Arc::new(Semaphore::new(line)),
            work: Arc::new(Semaphore::new(at_once)),
        }
    }

    /// Runs `work` when its turn comes.
    ///
    /// # Errors
    /// [`UpstreamErrorKind::Overloaded`] where the line is full; [`UpstreamErrorKind::Internal`] where the work panicked.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, UpstreamErrorKind> {
        let Ok(place) = Arc::clone(&self.line).try_acquire_owned() else {
            return Err(UpstreamErrorKind::Overloaded);
        };
        let Ok(turn) = Arc::clone(&self.work).acquire_owned().await else {
            return Err(UpstreamErrorKind::ShuttingDown);
        };
        let work = move || {
            let done = work();
            // Held until here even where the client has left: the thread is at work all the same.
            drop((place, turn));
            done
        };
        // It panicked (the log says where) or the runtime ends.
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|_| UpstreamErrorKind::Internal)
    }
}
