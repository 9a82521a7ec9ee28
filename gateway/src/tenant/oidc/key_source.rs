//! Where an issuer's keys come from: fetched, kept, fetched again.
//!
//! Keys are fetched when the first token needs them, when they are no longer fresh, and when a token names one that is
//! not among them, which is how a rotation shows. However many tokens come, one fetch runs at a time and none sooner
//! than [`KEYS_RETRY`] after the one before it. An issuer that is away takes nobody's role while its keys are not stale.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use jsonwebtoken::{Algorithm, DecodingKey};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::fetch::Fetcher;
use super::key_set::KeySet;
use super::token::Wrong;
use crate::limits::{KEYS_FRESH, KEYS_RETRY, KEYS_STALE};

/// The keys of one issuer.
pub(super) struct KeySource {
    shared: Arc<Shared>,
    turn: Mutex<Turn>,
    tasks: TaskTracker,
}

struct Shared {
    id: String,
    fetcher: Fetcher,
    known: ArcSwap<Known>,
}

#[derive(Default)]
struct Known {
    keys: KeySet,
    /// When they were asked for; `None` before the first time.
    since: Option<Duration>,
}

#[derive(Default)]
struct Turn {
    tried: Option<Duration>,
    /// Closed once the last fetch is over.
    running: Option<watch::Receiver<()>>,
}

impl KeySource {
    pub(super) fn new(id: &str, fetcher: Fetcher) -> Self {
        let shared = Shared {
            id: id.to_owned(),
            fetcher,
            known: ArcSwap::default(),
        };
        Self {
            shared: Arc::new(shared),
            turn: Mutex::default(),
            tasks: TaskTracker::new(),
        }
    }

    /// The key that would prove a token of that `kid` and algorithm.
    ///
    /// # Errors
    /// [`Wrong::NoKey`], or [`Wrong::Away`] where nobody can say.
    pub(super) async fn key(
        &self,
        kid: Option<&str>,
        algorithm: Algorithm,
        now: Duration,
    ) -> Result<DecodingKey, Wrong> {
        let known = self.shared.known.load_full();
        if known.is_younger_than(KEYS_STALE, now)
            && let Some(key) = known.keys.find(kid, algorithm)
        {
            if !known.is_younger_than(KEYS_FRESH, now) {
                // In the background: the old ones will do until the new ones are here.
                drop(self.refresh(now));
            }
            return Ok(key.clone());
        }
        if let Some(mut running) = self.refresh(now) {
            // An error says that it is over.
            let _ = running.changed().await;
        }
        let known = self.shared.known.load();
        if !known.is_younger_than(KEYS_STALE, now) {
            return Err(Wrong::Away);
        }
        known.keys.find(kid, algorithm).cloned().ok_or(Wrong::NoKey)
    }

    /// The fetch that runs, or one that begins now; `None` where it is too soon for another.
    fn refresh(&self, now: Duration) -> Option<watch::Receiver<()>> {
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let running = turn.running.as_ref();
        if let Some(running) = running.filter(|running| running.has_changed().is_ok()) {
            return Some(running.clone());
        }
        if turn
            .tried
            .is_some_and(|tried| now < tried.saturating_add(KEYS_RETRY))
        {
            return None;
        }
        let (over, running) = watch::channel(());
        turn.tried = Some(now);
        turn.running = Some(running.clone());
        let shared = Arc::clone(&self.shared);
        // A task of its own: a client that leaves must not end what others wait for.
        self.tasks.spawn(async move {
            shared.fetch(now).await;
            drop(over);
        });
        Some(running)
    }
}

impl Shared {
    async fn fetch(&self, now: Duration) {
        let issuer = &self.id;
        match self.fetcher.keys().await {
            Ok(keys) => {
                tracing::debug!(issuer, keys = keys.len(), "fetched the keys of an issuer");
                let since = Some(now);
                self.known.store(Arc::new(Known { keys, since }));
            }
            Err(error) => {
                tracing::warn!(issuer, %error, "the keys of an issuer cannot be fetched");
            }
        }
    }
}

impl Known {
    fn is_younger_than(&self, age: Duration, now: Duration) -> bool {
        self.since
            .is_some_and(|since| now.saturating_sub(since) < age)
    }
}

impl fmt::Debug for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KeySource").field(&self.shared.id).finish()
    }
}
