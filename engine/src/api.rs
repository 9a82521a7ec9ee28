//! What goes into the engine and what comes out: the types of its boundary.

use std::sync::Arc;
use std::time::Duration;

use crate::grammar::{Grammar, GuideFault};

/// Reads a monotonic clock: time since any fixed origin. The binary brings it, tests bring their own (I7).
pub type Clock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// One request to the engine: a prompt and how to continue it, `n` times.
#[derive(Debug, Clone)]
pub struct Submission {
    /// The caller's request id, for logs and aborts; unique among those in flight.
    pub id: Arc<str>,
    /// Token ids of the prompt, at least one, each below the width of the logits.
    pub prompt: Arc<[u32]>,
    /// Choices wanted, at least 1.
    pub n: u32,
    /// How a token is drawn from the logits.
    pub sampling: SamplingParams,
    /// When a choice ends.
    pub stop: StopParams,
    /// What each choice must look like.
    pub grammar: Option<Grammar>,
    /// Seed of every draw. Token `i` of choice `c` depends on `(seed, c, i)` and the logits alone.
    pub seed: u64,
    /// Whether somebody waits for it.
    pub priority: Priority,
    /// Tokens that each choice has produced already, elsewhere or before a fault; empty for one that begins. They are
    /// replayed, not told again: events and usage hold only what comes after them.
    pub resume: Vec<Vec<u32>>,
    /// Opaque fair-share flow.
    pub flow: u64,
    /// Opaque prefix-sharing pool.
    pub pool: u64,
    /// Moment on the engine's clock after which the answer is of no use.
    pub deadline: Option<Duration>,
    /// Whether token events carry ids.
    pub want_token_ids: bool,
    /// Whether the prompt's tokens come with their log-probabilities too, with as many beside each as
    /// `sampling.logprobs` says, which must be given. Such a submission may have a `stop.max_tokens` of 0.
    pub prompt_logprobs: bool,
}

/// Classes of work, the higher one first. A lower one is never starved: see the scheduler.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Somebody waits for it.
    #[default]
    Interactive,
    /// It may wait, and yields its room to those who may not.
    Batch,
}

/// How a token is drawn. The neutral value of each field leaves the distribution as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// 0 is greedy; 1 is neutral.
    pub temperature: f32,
    /// Smallest set of tokens with at least this mass; 1 is neutral.
    pub top_p: f32,
    /// This many best tokens; 0 is neutral.
    pub top_k: u32,
    /// Tokens with at least this share of the best one's probability; 0 is neutral.
    pub min_p: f32,
    /// Divides the positive logits and multiplies the negative ones of every token that prompt or completion holds (Keskar
    /// et al., "CTRL", 2019); 1 is neutral.
    pub repetition_penalty: f32,
    /// Taken off a token's logit once for each time that the completion holds it, as OpenAI defines it; 0 is neutral.
    pub frequency_penalty: f32,
    /// Taken off the logit of every token that the completion holds, as OpenAI defines it; 0 is neutral.
    pub presence_penalty: f32,
    /// Added to the logits of these tokens, each below the width of the logits.
    pub logit_bias: Arc<[(u32, f32)]>,
    /// Whether tokens carry their log-probability, and those of so many best ones beside it.
    pub logprobs: Option<u32>,
}

impl SamplingParams {
    /// Whether a draw depends on what the sequence holds.
    #[must_use]
    pub(crate) fn has_penalty(&self) -> bool {
        self.penalises_the_prompt() || self.frequency_penalty != 0.0 || self.presence_penalty != 0.0
    }

    /// Whether a draw depends on what the prompt holds.
    #[must_use]
    pub(crate) fn penalises_the_prompt(&self) -> bool {
        self.repetition_penalty != 1.0
    }
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            logit_bias: Arc::new([]),
            logprobs: None,
        }
    }
}

/// When a choice ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopParams {
    /// Tokens to produce at most, at least 1; 0 where only the prompt is to be weighed.
    pub max_tokens: u32,
    /// Strings that end the choice; neither they nor a part of them is emitted.
    pub strings: Vec<String>,
    /// Whether the model's own end-of-generation tokens are ignored.
    pub ignore_eos: bool,
    /// Tokens before which no end-of-generation token, none of `token_ids` and no stop string ends the choice; at most
    /// `max_tokens`.
    pub min_tokens: u32,
    /// Further tokens that end the choice, each below the width of the logits; their text is not emitted.
    pub token_ids: Arc<[u32]>,
}

impl StopParams {
    /// A choice that ends by itself, or after `max_tokens` tokens.
    #[must_use]
    pub fn after(max_tokens: u32) -> Self {
        Self {
            max_tokens,
            strings: Vec::new(),
            ignore_eos: false,
            min_tokens: 0,
            token_ids: Arc::new([]),
        }
    }
}

/// What the engine says about a submission, in order. The stream ends after [`Event::Done`] or [`Event::Failed`].
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Log-probabilities of the prompt, where wanted; before all other events. The first token has none, so that the first
    /// of these is of the second one.
    Prompt(Vec<TokenLogprob>),
    /// A choice went on.
    Delta {
        /// Index of the choice.
        choice: u32,
        /// Text that became certain: may be empty, never holds half a character or part of a stop string.
        text: String,
        /// Ids behind it, where wanted.
        token_ids: Vec<u32>,
        /// Log-probabilities of the tokens whose text became certain, where wanted. A token that ends the choice has none,
        /// nor has one whose text is all cut off by a stop string.
        logprobs: Vec<TokenLogprob>,
    },
    /// A choice ended.
    Finished {
        /// Index of the choice.
        choice: u32,
        /// Why.
        reason: FinishReason,
    },
    /// All choices ended; the last event of a stream that went well.
    Done(Usage),
    /// The submission failed; the last event of a stream that did not.
    Failed(EngineError, Usage),
}

/// A token that was produced, and how likely the model found it.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub chosen: Likely,
    /// The most likely tokens at its place, best first; as many as were asked for.
    pub top: Vec<Likely>,
}

/// A token and its natural log-probability by the model alone: before temperature, penalties, bias and grammar, so that
/// it says what the model thinks and not how its answer was bent (vLLM's `raw_logprobs`).
#[derive(Debug, Clone, PartialEq)]
pub struct Likely {
    /// The token.
    pub token: u32,
    /// Its text, perhaps only a part of a character; empty for control tokens.
    pub bytes: Vec<u8>,
    /// At most 0, and finite.
    pub logprob: f32,
}

/// Why a choice ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// End-of-generation token or stop string.
    Stop,
    /// `max_tokens` or the context is used up.
    Length,
}

/// Tokens that a submission really used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt, counted once.
    pub prompt_tokens: u32,
    /// Of these, taken from the prefix cache.
    pub cached_tokens: u32,
    /// Tokens produced over all choices.
    pub completion_tokens: u32,
    /// Time of the device: of each step that it was in, its part by its tokens there.
    pub device_time: Duration,
}

/// Why a submission was refused before anything ran. Nothing is held for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// The waiting line is full: another node, or later.
    #[error("the engine's queue is full")]
    QueueFull,
    /// Its deadline has passed already.
    #[error("the deadline passed")]
    DeadlineExceeded,
    /// The engine takes no more work.
    #[error("the engine is draining")]
    Draining,
    /// Loading, warming up, stalled or failed.
    #[error("the engine is not ready")]
    NotReady,
    /// The prompt leaves no room for a single token.
    #[error("the prompt has {prompt} tokens, the context holds {context}")]
    PromptTooLong {
        /// Tokens of the prompt.
        prompt: u32,
        /// Tokens of the context, prompt and completion together.
        context: u32,
    },
    /// A parameter is outside its domain; the text names it.
    #[error("{0}")]
    Invalid(String),
}

/// Why a running submission ended without finishing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// Cancelled by its owner.
    #[error("the request was cancelled")]
    Aborted,
    /// Its deadline passed.
    #[error("the deadline passed")]
    DeadlineExceeded,
    /// The engine ended the stream because it drains and the grace period is over.
    #[error("the engine is shutting down")]
    ShuttingDown,
    /// The model's output for this sequence was not a number.
    #[error("the model produced no valid probabilities")]
    InvalidLogits,
    /// Its grammar could not be followed to its end.
    #[error("{0}")]
    Grammar(#[from] GuideFault),
    /// The step that held this sequence failed because of it, or the engine itself did.
    #[error("the engine step failed")]
    StepFailed,
}

/// Where an engine is in its life. Ready is the only state that accepts work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineState {
    /// Reading weights.
    Loading,
    /// First passes, so that no user pays for them.
    Warming,
    /// Accepting work.
    Ready,
    /// A step has been running for far too long; ready again when it ends.
    Stalled,
    /// Finishing what it has.
    Draining,
    /// Loading failed, or step after step did; the text says what to do.
    Failed(String),
    /// The thread ended.
    Stopped,
}

/// What a loaded model holds in the memory of its device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Bytes of the weights, as their files have them.
    pub weights: u64,
    /// Bytes of the KV cache.
    pub kv: u64,
}

/// Figures of one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stats {
    /// Sequences that hold KV blocks.
    pub running: u32,
    /// Sequences in line.
    pub waiting: u32,
    /// Tokens still to prefill, running and waiting.
    pub waiting_prefill_tokens: u64,
    /// Prompt tokens looked for in the prefix cache since the start.
    pub prefix_tokens: u64,
    /// Of these, found there.
    pub prefix_hit_tokens: u64,
    /// KV blocks in all.
    pub blocks_total: u32,
    /// KV blocks free, those of the prefix cache that nobody holds among them.
    pub blocks_free: u32,
    /// KV blocks that the prefix cache keeps and nobody holds.
    pub blocks_cached: u32,
    /// Steps since the start.
    pub steps: u64,
    /// Prompt tokens computed since the start.
    pub prefill_tokens: u64,
    /// Tokens produced since the start.
    pub decode_tokens: u64,
    /// Tokens guessed since the start.
    pub drafted_tokens: u64,
    /// Of these, guessed right: produced without a step of their own.
    pub accepted_tokens: u64,
    /// Sequences preempted since the start.
    pub preemptions: u64,
    /// Duration of the last step.
    pub last_step: Duration,
    /// Mean duration of a step, over the recent ones.
    pub mean_step: Duration,
    /// Prompt tokens computed in a second of steps that held any, over the recent ones.
    pub prefill_tokens_per_s: f64,
    /// Tokens produced in a second of steps that decoded, over the recent ones.
    pub decode_tokens_per_s: f64,
}
