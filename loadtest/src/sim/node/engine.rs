//! What a simulated machine is: what its steps cost, what it holds, and what it can serve for ever. Knows no request.

/// What a step costs on a machine, and what it holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Engine {
    /// Nanoseconds of a step however small: c0.
    pub step_ns: f64,
    /// Of each prompt token: c1.
    pub prefill_token_ns: f64,
    /// Of each token in the context of a sequence that decodes: c2.
    pub context_token_ns: f64,
    /// Of each sequence that decodes: c3.
    pub sequence_ns: f64,
    /// Tokens that the KV cache holds.
    pub kv_tokens: u64,
    /// Sequences at once.
    pub sequences_max: u32,
    /// Tokens of a step.
    pub step_tokens_max: u32,
    /// Step time up to which prompts may join decodes, in nanoseconds.
    pub step_target_ns: f64,
    /// Requests in line before further ones are refused.
    pub queue_max: u32,
    /// Joules of an output token, those of its prompt and of the building included.
    pub joules_per_token: f64,
}

impl Engine {
    /// Requests a second that it can serve for ever, where requests have these mean figures: each pays for its prompt, for
    /// its tokens' share of the steps in the largest batch that fits, and for its own part of them.
    #[must_use]
    pub fn capacity(&self, of: &Means) -> f64 {
        let held = of.prompt + of.output / 2.0;
        let fits = (self.kv_tokens as f64 / held.max(1.0)).max(1.0);
        let batch = fits.min(f64::from(self.sequences_max)).max(1.0);
        let decode = of.output * (self.step_ns / batch + self.sequence_ns)
            + of.output_context * self.context_token_ns;
        1e9 / (of.uncached * self.prefill_token_ns + decode).max(1e-3)
    }
}

/// Mean figures of requests, in tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Means {
    /// Of a prompt.
    pub prompt: f64,
    /// Of a prompt, without what is shared.
    pub uncached: f64,
    /// Of an answer.
    pub output: f64,
    /// Of an answer times its context.
    pub output_context: f64,
}
