//! How long a request waits: for an upstream before it asks another beside it, and for anybody where nobody takes it.

use std::future::pending;
use std::pin::pin;
use std::time::Duration;

use futures::future::{BoxFuture, Either, select};
use tokio::time::sleep;

use crate::limits;

/// Why a second upstream is asked before the first has answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Impatience {
    /// It takes longer than it should.
    Slow,
    /// It may be dead.
    Silent,
}

/// Resolves when another upstream should be asked: after `hedge`, or when `silence` has come.
pub(super) async fn impatience(
    hedge: Option<Duration>,
    silence: Option<BoxFuture<'static, ()>>,
) -> Impatience {
    let slow = async {
        match hedge {
            Some(after) => sleep(after).await,
            None => pending().await,
        }
    };
    let silent = async {
        match silence {
            Some(silence) => silence.await,
            None => pending().await,
        }
    };
    match select(pin!(slow), pin!(silent)).await {
        Either::Left(_) => Impatience::Slow,
        Either::Right(_) => Impatience::Silent,
    }
}

/// The pauses of a request whom nobody takes at the moment.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    last: Duration,
    all: Duration,
}

impl Pauses {
    /// The next one, twice as long as the one before; `None` once it has waited enough.
    pub(super) fn longer(&mut self) -> Option<Duration> {
        let (first, longest) = limits::COMEBACK_PAUSE;
        let pause = (2 * self.last).clamp(first, longest);
        self.last = pause;
        self.all += pause;
        (self.all <= limits::COMEBACK_MAX).then_some(pause)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn whichever_comes_first_is_the_reason() {
        let after = |ms| sleep(Duration::from_millis(ms)).boxed();
        let hedge = Some(Duration::from_millis(100));
        assert_eq!(impatience(hedge, None).await, Impatience::Slow);
        assert_eq!(impatience(hedge, Some(after(200))).await, Impatience::Slow);
        assert_eq!(impatience(hedge, Some(after(50))).await, Impatience::Silent);
        assert_eq!(impatience(None, Some(after(50))).await, Impatience::Silent);
    }

    #[test]
    fn pauses_grow_and_end() {
        let mut pauses = Pauses::default();
        let all: Vec<Duration> = std::iter::from_fn(|| pauses.longer()).collect();
        assert_eq!(all.first(), Some(&limits::COMEBACK_PAUSE.0));
        assert_eq!(all.last(), Some(&limits::COMEBACK_PAUSE.1));
        let sum: Duration = all.iter().sum();
        assert!(
            sum <= limits::COMEBACK_MAX && sum + limits::COMEBACK_PAUSE.1 > limits::COMEBACK_MAX
        );
    }
}
