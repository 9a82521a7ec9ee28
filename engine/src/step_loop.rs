//! One model's engine on the thread of its device: it takes in what comes, and one step a turn.

use std::sync::Arc;
use std::sync::mpsc::TryRecvError;
use std::time::Duration;

use crate::api::{EngineError, EngineState};
use crate::block_manager::BlockManager;
use crate::core::{Core, Turn};
use crate::device::{After, Heard, Resident};
use crate::doorbell::Door;
use crate::grammar::Grammars;
use crate::limits::PARK_MAX;
use crate::options::EngineOptions;
use crate::pace::Pace;
use crate::runner::{Runner, RunnerError};
use crate::scheduler::{Scheduler, Speculation};
use crate::shared::{Loaded, Shared};

/// What its owner and the device's thread hold of an engine.
pub(crate) struct StepLoop {
    shared: Arc<Shared>,
    options: EngineOptions,
    door: Door,
    core: Core,
    /// When to look at sequences that wait for their readers, while nothing else is to be done.
    look_again: Option<Duration>,
}

impl StepLoop {
    /// Warms a loaded model up and makes it an engine that is ready.
    pub(crate) fn open(
        shared: Arc<Shared>,
        options: EngineOptions,
        door: Door,
        runner: Box<dyn Runner>,
    ) -> Result<Self, RunnerError> {
        let core = start(&shared, &options, runner)?;
        Ok(Self {
            shared,
            options,
            door,
            core,
            look_again: None,
        })
    }
}

/// Warms the model up.
fn start(
    shared: &Shared,
    options: &EngineOptions,
    mut runner: Box<dyn Runner>,
) -> Result<Core, RunnerError> {
    shared.set_state(EngineState::Warming);
    let profile = runner.profile();
    let text = runner.text();
    let grammars = Arc::new(Grammars::new(Arc::clone(&text), profile.vocab_size));
    grammars.prepare_aside();
    // Others of the device wait for it, and their watchdogs must see if it hangs.
    shared.begin_step((options.clock)());
    let warm = runner.warm_up();
    shared.end_step();
    warm?;
    let numerics = runner.numerics();
    let blocks = BlockManager::new(profile.kv_blocks, options.block_size);
    let in_cache = u64::from(profile.kv_blocks) * u64::from(options.block_size);
    let context_len = profile
        .context_len
        .min(options.context_max.unwrap_or(u32::MAX))
        .min(u32::try_from(in_cache).unwrap_or(u32::MAX));
    tracing::info!(
        context_len,
        kv_blocks = profile.kv_blocks,
        %numerics,
        "the engine is ready"
    );
    let resident = runner.resident();
    let pace = Pace::new(options.inter_token_target);
    let scheduler = Scheduler::new(options.sequences_max, options.step_tokens_max, blocks, pace)
        .with_speculation(Speculation {
            draft_tokens_max: options.draft_tokens_max,
            context_len,
        });
    let core = Core::new(runner, scheduler);
    shared.publish(core.stats());
    shared.set_loaded(Loaded {
        grammars,
        numerics,
        text,
        vocab_size: profile.vocab_size,
        context_len,
        resident,
    });
    shared.set_state(EngineState::Ready);
    Ok(core)
}

impl Resident for StepLoop {
    fn listen(&mut self) -> Heard {
        let mut heard = Heard::Nothing;
        loop {
            match self.door.submissions.try_recv() {
                Ok(request) => {
                    self.core.accept(*request, (self.options.clock)());
                    heard = Heard::Something;
                }
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    self.end(&EngineError::ShuttingDown);
                    return Heard::Farewell;
                }
            }
        }
        if self.door.take_ring() {
            self.core.look_around();
            heard = Heard::Something;
        }
        let is_time = |at| at <= (self.options.clock)();
        if self.look_again.is_some_and(is_time) {
            heard = Heard::Something;
        }
        heard
    }

    fn turn(&mut self) -> After {
        let now = (self.options.clock)();
        self.look_again = None;
        let drained = self
            .shared
            .drain_at()
            .is_some_and(|at| at <= now || self.core.is_empty());
        if drained {
            self.end(&EngineError::ShuttingDown);
            return After::Over;
        }
        self.shared.begin_step(now);
        let turn = self.core.turn(now, &*self.options.clock);
        self.shared.end_step();
        let took = (self.options.clock)().saturating_sub(now);
        if turn == Turn::Stepped {
            self.core.took(took);
        }
        self.shared.publish(self.core.stats());
        match turn {
            Turn::Stepped => After::Stepped(took),
            Turn::Broken => self.give_up(),
            Turn::Paused => {
                // A little early, so that the device's sleep does not end just before it.
                self.look_again = Some(now + PARK_MAX / 2);
                After::Paused
            }
            Turn::Idle => self.idle(),
        }
    }
}

impl StepLoop {
    /// Ends everything, also what came while nobody listened.
    fn end(&mut self, error: &EngineError) {
        while let Ok(request) = self.door.submissions.try_recv() {
            self.core.accept(*request, (self.options.clock)());
        }
        self.core.fail_all(error);
        self.shared.publish(self.core.stats());
    }

    /// Gives up: no step succeeds any more, so that another node must serve.
    fn give_up(&mut self) -> After {
        let reason = "step after step failed; the log says why, restart the engine".to_owned();
        self.shared.set_state(EngineState::Failed(reason));
        self.end(&EngineError::StepFailed);
        After::Over
    }

    /// Nothing to do: time for the audit.
    fn idle(&mut self) -> After {
        if let Err(violation) = self.core.audit() {
            tracing::error!(%violation, "the idle audit failed");
            debug_assert!(false, "{violation}");
        }
        After::Idle
    }
}
