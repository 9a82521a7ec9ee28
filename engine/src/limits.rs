//! Every bound of this crate, each with its unit and reason.

use std::time::Duration;

/// Choices of one submission; more multiplies the work of one request beyond what a fair share can even out.
pub const CHOICES_MAX: u32 = 128; // sequences; OpenAI's own bound

/// Sequences that may wait in line, whatever the options say; the channel to the engine has a slot for each.
pub const QUEUE_MAX: u32 = 65_536; // sequences; hours of work, so more would only time out

/// Stop strings of one submission; each costs a step of its automaton for every byte of output.
pub const STOP_STRINGS_MAX: usize = 32; // strings; OpenAI allows 4, vLLM's users ask for more

/// Length of one stop string; its automaton and the text it holds back are as long.
pub const STOP_STRING_BYTES_MAX: usize = 1024; // bytes; no known client needs a tenth of it

/// Events that wait for the reader of one submission before its sequences pause.
pub const EVENTS_MAX: usize = 64; // events; a second of fast decoding, a few kilobytes

/// How long a paused sequence keeps its KV blocks and seat while others wait for them.
pub const PAUSE_KEEPS_BLOCKS: Duration = Duration::from_secs(1); // longer than a hiccup of a network

/// Longest sleep of the step loop while it holds sequences, all of them paused.
pub const PARK_MAX: Duration = Duration::from_millis(50); // how late a deadline may be noticed then

/// Slots of a KV cache: a slot is a `u32`, and kernels multiply it by strides.
pub const KV_SLOTS_MAX: u64 = 1 << 31; // tokens; far beyond any memory

/// Tokens that the first selection of a top-p draw sorts.
pub const TOP_P_SELECTION: usize = 256; // tokens; holds nearly every nucleus

/// Vocabulary of the simulated model.
pub const SIM_VOCAB_SIZE: u32 = 1 << 31; // tokens; above any index of a completion

/// Text that the simulated codec tokenises.
pub const SIM_TEXT_BYTES_MAX: usize = 64 << 20; // bytes; above any body a gateway takes

/// Tokens of the prefill that warms a model up.
pub const WARM_UP_PREFILL_TOKENS: u32 = 64; // tokens; touches every weight and kernel, and is over in a blink

/// Sequences of the decode that warms a model up.
pub const WARM_UP_SEQUENCES: u32 = 8; // sequences; enough for the kernels that take several rows at once

/// Weight of a produced token in fair shares; a prompt token weighs 1.
pub const FLOW_OUTPUT_WEIGHT: u64 = 2; // ratio; a decode reads all weights for one token, a prefill for many

/// How much prompts may stretch a step beyond what its decodes take alone, where those take the target time already.
pub const DECODE_STRETCH_MAX: f64 = 1.8; // ratio; prompts go on, and a gap stays below twice the usual one

/// Prompt tokens of a step that has any, however slow the machine is.
pub const PREFILL_CHUNK_MIN: u32 = 8; // tokens; a row of packed weights is read once for so many

/// How long a sequence waits for its prefill before its age counts more than its class and its flow.
pub const AGES_AFTER: Duration = Duration::from_secs(5); // longer than most prompts take

/// Steps with prefills in which class and flow decide before the oldest sequence has the first pick.
pub const PASSED_OVER_MAX: u32 = 7; // steps; so age gets an eighth of the time of prompts

/// Steps that fail wholly one after another, each with a harmless one behind it that fails as well, before the engine
/// gives up: one may be a hiccup of a driver.
pub const FAILED_STEPS_MAX: u32 = 3; // steps

/// How often the watchdog looks at most.
pub const WATCH_PERIOD_MAX: Duration = Duration::from_millis(500); // a stall is noticed that late

/// Time that prompts may take in a step in which nobody decodes.
pub const STEP_WITHOUT_DECODES: Duration = Duration::from_millis(500); // how long a newcomer, an abort or a deadline waits
