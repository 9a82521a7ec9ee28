//! Pools of kernel threads of one device. Its models take turns, so those that want as many threads share one pool.

use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use hansa_models::ThreadPool;

/// The pools in use.
#[derive(Debug, Default)]
pub(crate) struct Pools {
    in_use: Mutex<Vec<Weak<ThreadPool>>>,
}

impl Pools {
    /// The pool of `threads`, default as many as there are physical cores; it ends with the last model that uses it.
    ///
    /// # Errors
    /// Where the system refuses a thread.
    pub(crate) fn of(&self, threads: Option<usize>) -> io::Result<Arc<ThreadPool>> {
        let threads = threads.unwrap_or_else(candle_core::utils::get_num_threads);
        let mut in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        in_use.retain(|pool| pool.strong_count() > 0);
        let mut pools = in_use.iter().filter_map(Weak::upgrade);
        if let Some(pool) = pools.find(|pool| pool.threads() == threads.max(1)) {
            return Ok(pool);
        }
        let pool = Arc::new(ThreadPool::new(threads)?);
        in_use.push(Arc::downgrade(&pool));
        Ok(pool)
    }
}
