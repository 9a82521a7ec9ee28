//! The engine's thread: it loads the model, then owns runner, scheduler and blocks, and takes turns until it is told to
//! end. It waits only where there is nothing to compute, and then costs nothing.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, TryRecvError};
use std::time::Duration;

use crate::api::{EngineError, EngineState};
use crate::block_manager::BlockManager;
use crate::core::{Core, Turn};
use crate::doorbell::{Command, Door};
use crate::grammar::Grammars;
use crate::limits::PARK_MAX;
use crate::options::EngineOptions;
use crate::pace::Pace;
use crate::runner::{Runner, RunnerError};
use crate::scheduler::{Scheduler, Speculation};
use crate::shared::{Loaded, Shared};

/// Makes the runner on the engine's thread.
pub(crate) type Load =
    Box<dyn FnOnce(&EngineOptions) -> Result<Box<dyn Runner>, RunnerError> + Send>;

/// The life of the engine's thread.
pub(crate) fn run(shared: &Arc<Shared>, options: &EngineOptions, door: Door, load: Load) {
    // The outer fence: a fault of our own ends the engine, not the process, and every stream still gets its last event
    // because its request is dropped.
    let life = catch_unwind(AssertUnwindSafe(|| match start(shared, options, load) {
        Ok(core) => StepLoop {
            shared,
            options,
            door,
            core,
        }
        .serve(),
        Err(error) => shared.set_state(EngineState::Failed(error.to_string())),
    }));
    if life.is_err() {
        tracing::error!("the engine's thread panicked");
        shared.set_state(EngineState::Failed(
            "the engine panicked; restart it".to_owned(),
        ));
    }
    shared.set_state(EngineState::Stopped);
}

/// Loads and warms the model.
fn start(shared: &Shared, options: &EngineOptions, load: Load) -> Result<Core, RunnerError> {
    let mut runner = load(options)?;
    shared.set_state(EngineState::Warming);
    runner.warm_up(options.step_tokens_max)?;
    let profile = runner.profile();
    let blocks = BlockManager::new(profile.kv_blocks, options.block_size);
    let in_cache = u64::from(profile.kv_blocks) * u64::from(options.block_size);
    let context_len = profile
        .context_len
        .min(options.context_max.unwrap_or(u32::MAX))
        .min(u32::try_from(in_cache).unwrap_or(u32::MAX));
    tracing::info!(
        context_len,
        kv_blocks = profile.kv_blocks,
        "the engine is ready"
    );
    let text = runner.text();
    let pace = Pace::new(options.inter_token_target);
    let scheduler = Scheduler::new(options.sequences_max, options.step_tokens_max, blocks, pace)
        .with_speculation(Speculation {
            draft_tokens_max: options.draft_tokens_max,
            context_len,
        });
    let core = Core::new(runner, scheduler);
    shared.publish(core.stats());
    shared.set_loaded(Loaded {
        grammars: Arc::new(Grammars::new(Arc::clone(&text), profile.vocab_size)),
        text,
        vocab_size: profile.vocab_size,
        context_len,
    });
    shared.set_state(EngineState::Ready);
    Ok(core)
}

struct StepLoop<'a> {
    shared: &'a Arc<Shared>,
    options: &'a EngineOptions,
    door: Door,
    core: Core,
}

/// Whether the loop goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    GoOn,
    End,
}

impl StepLoop<'_> {
    fn serve(mut self) {
        let mut flow = Flow::GoOn;
        while flow == Flow::GoOn {
            flow = self.listen();
            if flow == Flow::GoOn {
                flow = self.turn();
            }
        }
        self.end(&EngineError::ShuttingDown);
    }

    /// Ends everything, also what came while nobody listened.
    fn end(&mut self, error: &EngineError) {
        while let Ok(command) = self.door.commands.try_recv() {
            self.obey(command);
        }
        self.core.fail_all(error);
        self.shared.publish(self.core.stats());
    }

    /// Gives up: no step succeeds any more, so that another node must serve.
    fn give_up(&mut self) -> Flow {
        let reason = "step after step failed; the log says why, restart the engine".to_owned();
        self.shared.set_state(EngineState::Failed(reason));
        self.end(&EngineError::StepFailed);
        Flow::End
    }

    /// Takes in what came, without waiting.
    fn listen(&mut self) -> Flow {
        loop {
            match self.door.commands.try_recv() {
                Ok(command) => self.obey(command),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Flow::End,
            }
        }
        if self.door.take_ring() {
            self.core.look_around();
        }
        Flow::GoOn
    }

    fn turn(&mut self) -> Flow {
        let now = (self.options.clock)();
        let drained = self
            .shared
            .drain_at()
            .is_some_and(|at| at <= now || self.core.is_empty());
        if drained {
            return Flow::End;
        }
        self.shared.begin_step(now);
        let turn = self.core.turn(now);
        self.shared.end_step();
        if turn == Turn::Stepped {
            self.core.took((self.options.clock)().saturating_sub(now));
        }
        self.shared.publish(self.core.stats());
        match turn {
            Turn::Stepped => Flow::GoOn,
            Turn::Broken => self.give_up(),
            Turn::Paused => self.wait(Some(PARK_MAX)),
            Turn::Idle => self.idle(),
        }
    }

    /// Nothing to do: time for the audit, then sleep until someone comes.
    fn idle(&mut self) -> Flow {
        if let Err(violation) = self.core.audit() {
            tracing::error!(%violation, "the idle audit failed");
            debug_assert!(false, "{violation}");
        }
        self.wait(None)
    }

    fn wait(&mut self, timeout: Option<Duration>) -> Flow {
        let commands = &self.door.commands;
        let received = match timeout {
            Some(timeout) => commands.recv_timeout(timeout),
            None => commands.recv().map_err(RecvTimeoutError::from),
        };
        match received {
            Ok(command) => self.obey(command),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Flow::End,
        }
        Flow::GoOn
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Submit(request) => self.core.accept(*request, (self.options.clock)()),
            // The ring itself is a flag, which the loop looks at next.
            Command::Wake => {}
        }
    }
}
