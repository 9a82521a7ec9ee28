//! What an upstream tells of itself: whether it is ready, how full it is, what it has done, what it holds.
//!
//! These are plain figures of one model at one moment; who compares them, and over which wire they come, is not known here.

use std::time::Duration;

/// What a model of this process holds in memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resident {
    /// Bytes of the weights.
    pub weights_bytes: u64,
    /// Bytes of the KV cache.
    pub kv_bytes: u64,
}

/// Work of an upstream for one model since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UpstreamTotals {
    /// Steps run.
    pub steps: u64,
    /// Prompt tokens computed.
    pub prefill_tokens: u64,
    /// Tokens produced.
    pub decode_tokens: u64,
    /// Tokens guessed ahead.
    pub drafted_tokens: u64,
    /// Of these, guessed right.
    pub accepted_tokens: u64,
    /// Sequences preempted.
    pub preemptions: u64,
    /// Prompt tokens looked for in the prefix cache.
    pub prefix_tokens: u64,
    /// Of these, found there.
    pub prefix_hit_tokens: u64,
}

/// Figures of an upstream for one model.
#[derive(Debug, Clone, PartialEq)]
pub struct UpstreamStatus {
    /// Whether it takes requests.
    pub readiness: Readiness,
    /// Sequences being served.
    pub running: u32,
    /// Sequences in line.
    pub waiting: u32,
    /// Tokens waiting to be prefilled.
    pub waiting_prefill_tokens: u64,
    /// KV blocks in all.
    pub kv_blocks_total: u32,
    /// KV blocks free.
    pub kv_blocks_free: u32,
    /// Of these, kept for prompts that begin alike.
    pub kv_blocks_cached: u32,
    /// Mean duration of the recent steps.
    pub mean_step: Duration,
    /// Prompt tokens computed in a second of steps that held any; 0 where it is not known.
    pub prefill_tokens_per_s: f64,
    /// Tokens produced in a second of steps that decoded; 0 where it is not known.
    pub decode_tokens_per_s: f64,
    /// Grows with each report of an upstream that reports; 0 for one that is asked.
    pub sequence: u64,
    /// How old these figures are.
    pub age: Duration,
    /// Whether it says nothing any more, though it had promised to.
    pub silent: bool,
    /// Time until its machines are taken away; `None` where no end is known. The longest of several nodes.
    pub walltime_left: Option<Duration>,
    /// Tokens that its KV cache holds, over all nodes.
    pub kv_tokens_total: u64,
    /// Tokens of KV cache that are free on the node where most are.
    pub kv_tokens_free: u64,
    /// Tokens still to be computed of all that wait, prompts and answers.
    pub queued_tokens: u64,
    /// Digests of what decides tokens to the bit, of each node once; a stream goes on elsewhere exactly where they are
    /// equal.
    pub numerics: Vec<String>,
    /// Joules of a token, where known.
    pub joules_per_token: Option<f64>,
    /// Grams of CO2 of a kilowatt-hour, where known.
    pub grams_per_kwh: Option<f64>,
    /// Whether only requests that opt in go there.
    pub experimental: bool,
    /// Time until a new prompt is begun on the node where that is soonest.
    pub least_wait: Duration,
    /// Whether it takes no requests for no other reason than that nothing is heard of it.
    pub unheard: bool,
    /// Whether some of it is reached through a further server, and perhaps by another way too.
    pub beyond: bool,
    /// Whether another upstream of this server reaches all of it by a shorter way.
    pub detour: bool,
}

impl Default for UpstreamStatus {
    /// Nothing is known yet.
    fn default() -> Self {
        Self {
            readiness: Readiness::Loading,
            running: 0,
            waiting: 0,
            waiting_prefill_tokens: 0,
            kv_blocks_total: 0,
            kv_blocks_free: 0,
            kv_blocks_cached: 0,
            mean_step: Duration::ZERO,
            prefill_tokens_per_s: 0.0,
            decode_tokens_per_s: 0.0,
            sequence: 0,
            age: Duration::ZERO,
            silent: false,
            walltime_left: None,
            kv_tokens_total: 0,
            kv_tokens_free: 0,
            queued_tokens: 0,
            numerics: Vec::new(),
            joules_per_token: None,
            grams_per_kwh: None,
            experimental: false,
            least_wait: Duration::ZERO,
            unheard: false,
            beyond: false,
            detour: false,
        }
    }
}

impl UpstreamStatus {
    /// The part `share`, from 0 to 1, of what adds up.
    #[must_use]
    #[expect(clippy::cast_sign_loss, reason = "no factor is negative")]
    pub fn share(&self, share: f64) -> Self {
        let count = |of: u32| (f64::from(of) * share).round() as u32;
        let tokens = |of: u64| (of as f64 * share).round() as u64;
        Self {
            running: count(self.running),
            waiting: count(self.waiting),
            waiting_prefill_tokens: tokens(self.waiting_prefill_tokens),
            kv_blocks_total: count(self.kv_blocks_total),
            kv_blocks_free: count(self.kv_blocks_free),
            kv_blocks_cached: count(self.kv_blocks_cached),
            prefill_tokens_per_s: self.prefill_tokens_per_s * share,
            decode_tokens_per_s: self.decode_tokens_per_s * share,
            kv_tokens_total: tokens(self.kv_tokens_total),
            queued_tokens: tokens(self.queued_tokens),
            ..self.clone()
        }
    }
}

/// Whether an upstream takes requests, and if not, why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// Reading weights.
    Loading,
    /// First passes.
    Warming,
    /// Takes requests.
    Ready,
    /// Hangs in a step; ready again when that ends.
    Stalled,
    /// Finishes what it has.
    Draining,
    /// Gave up; the text says why.
    Failed(String),
}
