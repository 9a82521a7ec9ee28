//! Ends an HTTP/2 stream that its client does not read, with everything that is held for it.
//!
//! On HTTP/1 the connection stalls as a whole and [`crate::listener`] cuts it. On HTTP/2 one stream can stand still while
//! its neighbours go on. hyper then waits for room in the stream's window and never asks the answer's body again, so the
//! body cannot end the stream. What can is dropping the task that hyper runs for the stream: that drops the body and all
//! around it, and resets the stream.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task_local;
use tokio::time::sleep;

task_local! {
    /// Of the stream whose task this is.
    static PROGRESS: Progress;
}

/// Runs the task of one HTTP/2 stream, and drops it where its answer stood still for `timeout`, at the latest after
/// twice that.
pub(crate) async fn run_while_read<F: Future>(task: F, timeout: Duration) {
    let progress = Progress::default();
    let unread = progress.clone();
    tokio::select! {
        _ = PROGRESS.scope(progress, task) => {}
        () = unread.until_unread(timeout) => {
            tracing::info!("a client reads nothing of its stream; the stream is ended");
        }
    }
}

/// How far an answer has come; told by its body, judged by its task. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress {
    answer: Arc<Answer>,
}

#[derive(Debug, Default)]
struct Answer {
    /// Whether the answer waits for its reader, and not the reader for the answer.
    offered: AtomicBool,
    /// How often it was taken a step further.
    steps: AtomicU64,
}

impl Progress {
    /// Of the stream in whose task this is called; none on HTTP/1.
    pub(crate) fn of_this_stream() -> Option<Self> {
        PROGRESS.try_with(Clone::clone).ok()
    }

    /// There is something for the client to read: the head, or a part of the body.
    pub(crate) fn offered(&self) {
        self.answer.steps.fetch_add(1, Ordering::Relaxed);
        self.answer.offered.store(true, Ordering::Relaxed);
    }

    /// The client has read what there was.
    pub(crate) fn awaited(&self) {
        self.answer.offered.store(false, Ordering::Relaxed);
    }

    async fn until_unread(&self, timeout: Duration) {
        let mut steps_before = 0;
        loop {
            sleep(timeout).await;
            let steps = self.answer.steps.load(Ordering::Relaxed);
            if self.answer.offered.load(Ordering::Relaxed) && steps == steps_before {
                return;
            }
            steps_before = steps;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::paused_now;

    const TIMEOUT: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_and_a_slow_model_keep_their_streams() {
        let reads_slowly = async {
            let progress = Progress::of_this_stream().unwrap();
            for _ in 0..20 {
                progress.offered();
                sleep(TIMEOUT - Duration::from_secs(1)).await;
            }
        };
        let thinks_long = async {
            let progress = Progress::of_this_stream().unwrap();
            sleep(10 * TIMEOUT).await;
            progress.offered();
            progress.awaited();
            sleep(10 * TIMEOUT).await;
        };
        let began = paused_now();
        run_while_read(reads_slowly, TIMEOUT).await;
        assert_eq!(began.elapsed(), 20 * (TIMEOUT - Duration::from_secs(1)));
        let began = paused_now();
        run_while_read(thinks_long, TIMEOUT).await;
        assert_eq!(began.elapsed(), 20 * TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_stands_still_is_dropped() {
        let began = paused_now();
        let stands_still = async {
            Progress::of_this_stream().unwrap().offered();
            std::future::pending::<()>().await;
        };
        run_while_read(stands_still, TIMEOUT).await;
        assert!(began.elapsed() <= 2 * TIMEOUT);
    }
}
