//! What handles and the engine's thread both see: life, figures, tokenizer, and when to stop.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use hansa_models::text::TextCodec;
use tokio::sync::watch;

use crate::api::{EngineState, MemoryUse, Stats};
use crate::grammar::Grammars;
use crate::numerics::Numerics;

/// State between the two sides.
#[derive(Debug)]
pub(crate) struct Shared {
    state: watch::Sender<EngineState>,
    stats: watch::Sender<Stats>,
    loaded: OnceLock<Loaded>,
    /// Moment on the engine's clock at which the grace period of a drain ends.
    drain_at: Mutex<Option<Duration>>,
    /// The step in hand of the device.
    busy: Arc<Busy>,
}

/// The step in hand of a device, whichever of its models runs it: who shares the device waits for it as well.
#[derive(Debug, Default)]
pub(crate) struct Busy {
    /// Moment on the engines' clock at which it began, in nanoseconds, plus 1; 0 where none runs.
    began: AtomicU64,
}

/// What is known of the model once it is loaded.
pub(crate) struct Loaded {
    /// Tokenizer and chat template.
    pub(crate) text: Arc<dyn TextCodec>,
    /// Compiles the grammars of its submissions.
    pub(crate) grammars: Arc<Grammars>,
    /// What its tokens depend on.
    pub(crate) numerics: Numerics,
    /// Every token id of a prompt is below it.
    pub(crate) vocab_size: u32,
    /// Tokens of prompt and completion together: the least of the model's, the option's and what the KV cache holds.
    pub(crate) context_len: u32,
    /// What it holds in memory.
    pub(crate) resident: MemoryUse,
}

impl Shared {
    /// The state of an engine that begins to load.
    pub(crate) fn new(busy: Arc<Busy>) -> Arc<Self> {
        Arc::new(Self {
            state: watch::Sender::new(EngineState::Loading),
            stats: watch::Sender::new(Stats::default()),
            loaded: OnceLock::new(),
            drain_at: Mutex::new(None),
            busy,
        })
    }

    /// Goes to `next`, unless the engine is past it already.
    pub(crate) fn set_state(&self, next: EngineState) {
        self.state.send_if_modified(|state| {
            let goes_on = rank(state) < rank(&next);
            if goes_on {
                *state = next;
            }
            goes_on
        });
    }

    /// Goes from ready to stalled or back; nothing else can stall.
    pub(crate) fn set_stalled(&self, stalled: bool) {
        let (from, to) = if stalled {
            (EngineState::Ready, EngineState::Stalled)
        } else {
            (EngineState::Stalled, EngineState::Ready)
        };
        let changed = self.state.send_if_modified(|state| {
            let applies = *state == from;
            if applies {
                *state = to;
            }
            applies
        });
        if changed && stalled {
            tracing::error!("a step hangs; the engine takes no work until it ends");
        } else if changed {
            tracing::warn!("the step that hung has ended");
        }
    }

    /// Whether the engine is over, well or not.
    pub(crate) fn has_ended(&self) -> bool {
        rank(&self.state.borrow()) == ENDED
    }

    /// A step begins.
    pub(crate) fn begin_step(&self, now: Duration) {
        let nanos = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX - 1);
        self.busy.began.store(nanos + 1, Ordering::Release);
    }

    /// No step runs.
    pub(crate) fn end_step(&self) {
        self.busy.began.store(0, Ordering::Release);
    }

    /// When the step in hand of the device began.
    pub(crate) fn step_began(&self) -> Option<Duration> {
        let nanos = self.busy.began.load(Ordering::Acquire).checked_sub(1)?;
        Some(Duration::from_nanos(nanos))
    }

    /// The engine's life.
    pub(crate) fn state(&self) -> watch::Receiver<EngineState> {
        self.state.subscribe()
    }

    /// Shows new figures.
    pub(crate) fn publish(&self, stats: Stats) {
        self.stats.send_replace(stats);
    }

    /// The figures shown last.
    pub(crate) fn stats(&self) -> watch::Receiver<Stats> {
        self.stats.subscribe()
    }

    /// Shows the model; once.
    pub(crate) fn set_loaded(&self, loaded: Loaded) {
        let _ = self.loaded.set(loaded);
    }

    /// The model, once loaded.
    pub(crate) fn loaded(&self) -> Option<&Loaded> {
        self.loaded.get()
    }

    /// Asks for the end at `at`, or earlier where that was asked before.
    pub(crate) fn drain(&self, at: Duration) {
        let mut drain_at = self.drain_at.lock().unwrap_or_else(PoisonError::into_inner);
        *drain_at = Some(drain_at.map_or(at, |before| before.min(at)));
        drop(drain_at);
        self.set_state(EngineState::Draining);
    }

    /// When the grace period of a drain ends.
    pub(crate) fn drain_at(&self) -> Option<Duration> {
        *self.drain_at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Rank of the states after which nothing comes.
const ENDED: u8 = 4;

/// States only rise; a failed engine stays failed, for its reason is worth more than that it stopped.
fn rank(state: &EngineState) -> u8 {
    match state {
        EngineState::Loading => 0,
        EngineState::Warming => 1,
        EngineState::Ready | EngineState::Stalled => 2,
        EngineState::Draining => 3,
        EngineState::Failed(_) | EngineState::Stopped => ENDED,
    }
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loaded")
            .field("context_len", &self.context_len)
            .finish_non_exhaustive()
    }
}
