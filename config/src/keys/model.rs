//! Keys of a model that the process serves itself.

use super::{Key, Slot, key};
use crate::limits;
use crate::schema::{Model, Runner};

/// Keys of each `[[model]]`.
pub(crate) const MODEL: &[Key<Model>] = &[
    key(
        "id",
        "Name in the API: what clients send as `model`.",
        |m: &mut Model| Slot::Id(&mut m.id),
    )
    .required(),
    key(
        "runner",
        "What runs it: a real model through Candle, or a simulated one that needs no weights.",
        |m| Slot::Runner(&mut m.runner),
    ),
    key(
        "source",
        "Where the weights come from: a name of the catalogue (`hansa models list`), the path of \
         a GGUF file or of a Hugging Face folder, or hf:owner/repository/file.gguf. Left out: the id, as a name of the \
         catalogue.",
        |m: &mut Model| Slot::Source(&mut m.source),
    )
    .only(Runner::Candle)
    .example("\"hf:owner/repository/file.gguf\""),
    key(
        "device",
        "Where the tensors live: \"cpu\", or \"cuda:N\" for the GPU with ordinal N.",
        |m: &mut Model| Slot::Device(&mut m.device),
    )
    .only(Runner::Candle),
    key(
        "kv_type",
        "Number type of cached keys and values; f32 takes twice the memory of f16.",
        |m: &mut Model| Slot::KvType(&mut m.kv_type),
    )
    .only(Runner::Candle),
    key(
        "quantise",
        "What the weights of a Hugging Face folder are quantised to while they are read: \
         \"q8_0\", \"q4_k\", or \"none\". GGUF files stay as they are.",
        |m: &mut Model| Slot::Quantise(&mut m.quantise),
    )
    .only(Runner::Candle),
    key(
        "self_test",
        "What follows at start where a sequence gets other logits in company than alone: with \
         \"require\" the model is not served, with \"warn\" it is, its answers change with the load, and no other node \
         can continue them.",
        |m: &mut Model| Slot::SelfTest(&mut m.self_test),
    )
    .only(Runner::Candle),
    key(
        "kv_bytes_max",
        "Bytes of KV cache: how many tokens all running sequences may hold together; beyond it \
         they take turns. Left out: 256MiB on a CPU, what sequences_max whole contexts need on a \
         GPU. Never more than half of the memory that is free once the model is loaded; the log \
         states the budget.",
        |m: &mut Model| Slot::MaybeSize(&mut m.kv_bytes_max, limits::KV_BYTES),
    )
    .example("\"256MiB\""),
    key(
        "device_share",
        "Share of its device's time while other models of the device have work too: 2 gets twice \
         the time of 1. The models of a CPU, and those of one GPU, take turns; a simulated model \
         has a device of its own.",
        |m| Slot::U32(&mut m.device_share, limits::DEVICE_SHARE),
    ),
    key(
        "block_tokens",
        "Tokens of one KV block: smaller wastes less memory, larger costs less bookkeeping.",
        |m| Slot::U32(&mut m.block_tokens, limits::BLOCK_TOKENS),
    ),
    key(
        "sequences_max",
        "Sequences that run at once; more give more tokens per second in all and fewer to each.",
        |m| Slot::U32(&mut m.sequences_max, limits::SEQUENCES),
    ),
    key(
        "step_tokens_max",
        "Tokens of one step, at least sequences_max: larger prefills faster, smaller keeps \
         running streams smoother.",
        |m| Slot::U32(&mut m.step_tokens_max, limits::STEP_TOKENS),
    ),
    key(
        "queue_max",
        "Sequences that wait in line; further requests are refused with 503 and Retry-After.",
        |m| Slot::U32(&mut m.queue_max, limits::QUEUE),
    ),
    key(
        "queue_tokens_max",
        "Prompt tokens that wait in line; further requests are refused with 503 and Retry-After.",
        |m| Slot::U64(&mut m.queue_tokens_max, limits::QUEUE_TOKENS),
    ),
    key(
        "inter_token_target_ms",
        "How far apart the tokens of a stream may be while prompts are computed beside it: smaller \
         keeps streams smoother, larger lets prompts begin sooner. Where the streams alone take \
         longer, prompts still get a share of each step.",
        |m| Slot::U64(&mut m.inter_token_target_ms, limits::INTER_TOKEN_MS),
    ),
    key(
        "speculation",
        "Guesses next tokens where a text repeats itself (\"ngram\"), as when code is edited or \
         fields are extracted, and checks them in the step that they are part of: what is said is \
         the same, sooner. It stops by itself where it does not pay. \"off\" never guesses.",
        |m| Slot::Speculation(&mut m.speculation),
    ),
    key(
        "draft_tokens_max",
        "Tokens that one sequence guesses at most in a step.",
        |m| Slot::U32(&mut m.draft_tokens_max, limits::DRAFT_TOKENS),
    ),
    key(
        "stall_after_ms",
        "A step that takes longer counts as hanging: the model is not ready until it ends.",
        |m| Slot::U64(&mut m.stall_after_ms, limits::STALL_MS),
    ),
    key(
        "context_max",
        "Tokens of prompt and completion together. Left out: as many as the model was made for.",
        |m: &mut Model| Slot::MaybeU32(&mut m.context_max, limits::CONTEXT_TOKENS),
    )
    .example("2048"),
    key(
        "default_max_tokens",
        "Tokens to produce where the client names no number. Left out: as many as the context \
         holds.",
        |m: &mut Model| Slot::MaybeU32(&mut m.default_max_tokens, limits::OUTPUT_TOKENS),
    )
    .example("512"),
    key(
        "threads",
        "Threads of the kernels on a CPU. Left out: as many as there are physical cores.",
        |m: &mut Model| Slot::MaybeU32(&mut m.threads, limits::THREADS),
    )
    .only(Runner::Candle)
    .example("8"),
    key(
        "sim.context_tokens",
        "Tokens of prompt and completion together.",
        |m| Slot::U32(&mut m.sim.context_tokens, limits::CONTEXT_TOKENS),
    ),
    key(
        "sim.embedding_numbers",
        "Above 0 it is an embedder whose vectors have so many numbers: it answers /v1/embeddings \
         instead of chat and completions.",
        |m| Slot::U32(&mut m.sim.embedding_numbers, limits::EMBEDDING_NUMBERS),
    ),
    key("sim.step_base_us", "Time of a step however small.", |m| {
        Slot::U64(&mut m.sim.step_base_us, limits::SIM_COST_US)
    }),
    key(
        "sim.prefill_token_us",
        "Time added by each prefilled token.",
        |m| Slot::U64(&mut m.sim.prefill_token_us, limits::SIM_COST_US),
    ),
    key(
        "sim.decode_sequence_us",
        "Time added by each decoding sequence.",
        |m| Slot::U64(&mut m.sim.decode_sequence_us, limits::SIM_COST_US),
    ),
];
