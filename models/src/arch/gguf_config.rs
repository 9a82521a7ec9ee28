//! A [`Config`] from the metadata of a GGUF file. Keys: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use super::config::{Config, Windowed, check_lists};
use super::variant::{Variant, Windows};
use crate::causal_lm::LoadError;
use crate::layers::attention::AttentionShape;
use crate::layers::rope::{RopeConfig, RopeScaling, YARN_BETA_FAST, YARN_BETA_SLOW};
use crate::spec::ModelSpec;
use crate::weights::gguf::{GgufError, GgufFile, Value};
use crate::weights::tensors::Tensors;

/// Rotary base where a file gives none: that of the first Llama.
const ROPE_BASE: f32 = 10_000.0;

/// Reads the sizes of a model.
///
/// # Errors
/// [`LoadError`] names the key that is missing or wrong, or the feature that is not computed here.
pub(super) fn read(
    gguf: &GgufFile,
    variant: &Variant,
    tensors: &Tensors<'_>,
) -> Result<Config, LoadError> {
    let keys = Keys {
        gguf,
        prefix: variant.name,
    };
    refuse_features(&keys)?;
    let heads = keys.size("attention.head_count")?;
    let width = keys.size("embedding_length")?;
    let kv_heads = keys
        .opt_size("attention.head_count_kv")?
        .map_or(heads, |n| n);
    let head_dim = match keys.opt_size("attention.key_length")? {
        Some(n) => n,
        None => width.checked_div(heads).unwrap_or(0),
    };
    if keys
        .opt_size("attention.value_length")?
        .is_some_and(|n| n != head_dim)
    {
        return Err(feature("values of another size than keys"));
    }
    let spec = ModelSpec {
        architecture: variant.name.to_owned(),
        vocab_size: vocab_size(gguf)?,
        context_len: keys.u32("context_length")?,
        layers: keys.u32("block_count")?,
        kv_heads: kv_heads as u32,
        head_dim: head_dim as u32,
    };
    check_lists(spec.layers, head_dim)?;
    let rope = rope(&keys, head_dim, spec.context_len, tensors)?;
    Config {
        windowed: windowed(&keys, variant.windows, &rope, spec.layers as usize)?,
        query_scale: query_scale(variant, &spec, width, heads),
        shape: AttentionShape {
            heads,
            kv_heads,
            head_dim,
        },
        width,
        mlp_width: keys.size("feed_forward_length")?,
        eps: keys.f32("attention.layer_norm_rms_epsilon")?,
        rope,
        spec,
    }
    .check()
}

/// Gemma 3 27B, which is told by its 62 layers, scales scores by the width of the model and not of the head; GGUF has no
/// key for it.
fn query_scale(variant: &Variant, spec: &ModelSpec, width: usize, heads: usize) -> f32 {
    if variant.name == "gemma3" && spec.layers == 62 && heads > 0 {
        (spec.head_dim as f32 / (width / heads) as f32).sqrt()
    } else {
        1.0
    }
}

/// Rows of the embedding table, which the tokenizer must not exceed.
fn vocab_size(gguf: &GgufFile) -> Result<u32, LoadError> {
    let table = "token_embd.weight";
    let rows = gguf
        .tensor(table)
        .and_then(|info| info.shape.first().copied())
        .ok_or_else(|| LoadError::MissingTensor {
            tensor: table.to_owned(),
        })?;
    let tokens = gguf.opt_strings("tokenizer.ggml.tokens")?;
    if let Some(tokens) = tokens.filter(|tokens| tokens.len() > rows) {
        return Err(LoadError::Vocabulary {
            tokenizer: tokens.len(),
            weights: rows,
        });
    }
    u32::try_from(rows).map_err(|_| LoadError::Metadata {
        key: table.to_owned(),
        why: "has more rows than fit 32 bits",
    })
}

/// Refuses what would load and then compute something else.
fn refuse_features(keys: &Keys<'_>) -> Result<(), LoadError> {
    if keys.opt_size("expert_count")?.is_some_and(|n| n > 0) {
        return Err(feature("a mixture of experts"));
    }
    for cap in ["attn_logit_softcapping", "final_logit_softcapping"] {
        if keys.opt_f32(cap)?.is_some_and(|cap| cap > 0.0) {
            return Err(feature("capped logits"));
        }
    }
    Ok(())
}

fn rope(
    keys: &Keys<'_>,
    head_dim: usize,
    context_len: u32,
    tensors: &Tensors<'_>,
) -> Result<RopeConfig, LoadError> {
    let dims = keys.opt_size("rope.dimension_count")?.unwrap_or(head_dim);
    let factors = if tensors.has("rope_freqs.weight") {
        let factors = tensors.vector("rope_freqs.weight", dims / 2)?;
        Some(factors.to_vec1::<f32>()?)
    } else {
        None
    };
    Ok(RopeConfig {
        dims,
        base: keys.opt_f32("rope.freq_base")?.unwrap_or(ROPE_BASE),
        scaling: rope_scaling(keys, context_len)?,
        factors,
    })
}

/// A factor without a type is linear scaling, as in llama.cpp.
fn rope_scaling(keys: &Keys<'_>, context_len: u32) -> Result<RopeScaling, LoadError> {
    let factor = match keys.opt_f32("rope.scaling.factor")? {
        None => keys.opt_f32("rope.scale_linear")?,
        factor => factor,
    };
    let factor = factor.filter(|&factor| factor != 0.0).unwrap_or(1.0);
    match keys.opt_str("rope.scaling.type")? {
        Some("none") => Ok(RopeScaling::None),
        None | Some("linear") => Ok(RopeScaling::Linear { factor }),
        Some("yarn") => Ok(RopeScaling::Yarn {
            factor,
            context_len: keys
                .opt_size("rope.scaling.original_context_length")?
                .unwrap_or(context_len as usize) as f32,
            amplitude: (1.0 + 0.1 * factor.ln())
                * keys.opt_f32("rope.scaling.attn_factor")?.unwrap_or(1.0),
            beta_fast: keys
                .opt_f32("rope.scaling.yarn_beta_fast")?
                .unwrap_or(YARN_BETA_FAST),
            beta_slow: keys
                .opt_f32("rope.scaling.yarn_beta_slow")?
                .unwrap_or(YARN_BETA_SLOW),
        }),
        Some(other) => Err(feature(&format!("rotary scaling of type `{other}`"))),
    }
}

fn windowed(
    keys: &Keys<'_>,
    windows: Windows,
    rope: &RopeConfig,
    layers: usize,
) -> Result<Option<Windowed>, LoadError> {
    let positions = keys.opt_size("attention.sliding_window")?;
    let Some(positions) = positions.filter(|&n| n > 0) else {
        return Ok(None);
    };
    match windows {
        Windows::None => Err(feature("a sliding attention window")),
        Windows::EveryLayer => Ok(Some(Windowed {
            positions,
            rope: rope.clone(),
            layers: vec![true; layers],
        })),
        Windows::AllButEach { period, rope_base } => Ok(Some(Windowed {
            positions,
            rope: RopeConfig {
                dims: rope.dims,
                base: keys.opt_f32("rope.freq_base_swa")?.unwrap_or(rope_base),
                scaling: RopeScaling::None,
                factors: None,
            },
            layers: pattern(keys, period, layers)?,
        })),
    }
}

/// Which layers have a window: the file's list, or all but each of its or the architecture's period.
fn pattern(keys: &Keys<'_>, period: usize, layers: usize) -> Result<Vec<bool>, LoadError> {
    let key = keys.name("attention.sliding_window_pattern");
    if let Some(Value::Bools(list)) = keys.gguf.metadata(&key) {
        return Ok(list.clone());
    }
    let period = keys
        .opt_size("attention.sliding_window_pattern")?
        .unwrap_or(period);
    Ok((1..=layers)
        .map(|n| period == 0 || n % period != 0)
        .collect())
}

fn feature(feature: &str) -> LoadError {
    LoadError::Feature {
        feature: feature.to_owned(),
    }
}

/// Metadata keys of one architecture.
struct Keys<'a> {
    gguf: &'a GgufFile,
    prefix: &'static str,
}

impl Keys<'_> {
    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.prefix)
    }

    fn u32(&self, key: &str) -> Result<u32, GgufError> {
        self.gguf.u32(&self.name(key))
    }

    fn size(&self, key: &str) -> Result<usize, GgufError> {
        self.u32(key).map(|n| n as usize)
    }

    fn opt_size(&self, key: &str) -> Result<Option<usize>, GgufError> {
        Ok(self.gguf.opt_u32(&self.name(key))?.map(|n| n as usize))
    }

    fn f32(&self, key: &str) -> Result<f32, GgufError> {
        self.gguf.f32(&self.name(key))
    }

    fn opt_f32(&self, key: &str) -> Result<Option<f32>, GgufError> {
        self.gguf.opt_f32(&self.name(key))
    }

    fn opt_str(&self, key: &str) -> Result<Option<&str>, GgufError> {
        self.gguf.opt_str(&self.name(key))
    }
}
