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

/// Token ids that end a choice beside the model's own; each is looked for at every token.
pub const STOP_TOKENS_MAX: usize = 256; // tokens; models have a handful

/// Tokens whose logits one submission shifts; each is touched at every draw.
pub const LOGIT_BIAS_MAX: usize = 300; // tokens; OpenAI's own bound

/// Largest shift of a logit.
pub const LOGIT_BIAS_ABS_MAX: f32 = 100.0; // OpenAI's bound; forbids or forces a token already

/// Largest frequency or presence penalty.
pub const PENALTY_ABS_MAX: f32 = 2.0; // OpenAI's bound

/// Largest repetition penalty, and the inverse of the smallest: beyond it logits would overflow.
pub const REPETITION_PENALTY_MAX: f32 = 100.0; // users stay below 2

/// Best tokens whose log-probabilities come with each token.
pub const TOP_LOGPROBS_MAX: u32 = 20; // tokens; OpenAI's bound

/// Log-probability that stands for anything below it, minus infinity included.
pub const LOGPROB_MIN: f32 = -9999.0; // OpenAI's value; JSON knows no infinity

/// Weights that a sampler sums at a time.
pub const SAMPLER_BLOCK: usize = 64; // logits; four cache lines, skipped as one where nothing in them can be drawn

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
