//! A [`Config`] from the `config.json` of a Hugging Face folder.
//!
//! Names: <https://huggingface.co/docs/transformers/main_classes/configuration> and the architectures' own pages. Files of
//! transformers 5 say under `rope_parameters` what older ones say under `rope_theta` and `rope_scaling`.

use std::f32::consts::PI;

use serde::Deserialize;
use serde_json::Value;

use super::config::{Config, Windowed, check_lists};
use super::variant::{Variant, Windows};
use crate::causal_lm::LoadError;
use crate::layers::attention::AttentionShape;
use crate::layers::rope::{RopeConfig, RopeScaling, YARN_BETA_FAST, YARN_BETA_SLOW};
use crate::spec::ModelSpec;

/// Rotary base where a file gives none: that of the first Llama.
const ROPE_BASE: f32 = 10_000.0;

/// The keys that are read; others do not change what is computed.
#[derive(Debug, Deserialize)]
pub(super) struct FolderConfig {
    pub(super) model_type: String,
    pub(super) tie_word_embeddings: Option<bool>,
    vocab_size: u32,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: u32,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    max_position_embeddings: u32,
    rms_norm_eps: f32,
    rope_theta: Option<f32>,
    rope_local_base_freq: Option<f32>,
    rope_scaling: Option<Value>,
    rope_parameters: Option<Value>,
    sliding_window: Option<usize>,
    use_sliding_window: Option<bool>,
    max_window_layers: Option<usize>,
    sliding_window_pattern: Option<usize>,
    layer_types: Option<Vec<String>>,
    query_pre_attn_scalar: Option<f32>,
    attn_logit_softcapping: Option<f32>,
    final_logit_softcapping: Option<f32>,
}

/// One kind of rotation.
#[derive(Debug, Default, Deserialize)]
struct RopeKeys {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f32>,
    factor: Option<f32>,
    original_max_position_embeddings: Option<f32>,
    low_freq_factor: Option<f32>,
    high_freq_factor: Option<f32>,
    attention_factor: Option<f32>,
    beta_fast: Option<f32>,
    beta_slow: Option<f32>,
    mscale: Option<f32>,
    partial_rotary_factor: Option<f32>,
}

impl FolderConfig {
    /// The sizes of the model.
    ///
    /// # Errors
    /// [`LoadError`] names the size that cannot be, or the feature that is not computed here.
    pub(super) fn config(&self, variant: &Variant) -> Result<Config, LoadError> {
        if self.attn_logit_softcapping.is_some() || self.final_logit_softcapping.is_some() {
            return Err(feature("capped logits"));
        }
        let heads = self.num_attention_heads;
        let kv_heads = self.num_key_value_heads.unwrap_or(heads);
        let per_head = self.hidden_size.checked_div(heads).unwrap_or(0);
        let head_dim = self.head_dim.unwrap_or(per_head);
        check_lists(self.num_hidden_layers, head_dim)?;
        Config {
            spec: ModelSpec {
                architecture: variant.name.to_owned(),
                vocab_size: self.vocab_size,
                context_len: self.max_position_embeddings,
                layers: self.num_hidden_layers,
                kv_heads: kv_heads as u32,
                head_dim: head_dim as u32,
            },
            shape: AttentionShape {
                heads,
                kv_heads,
                head_dim,
            },
            width: self.hidden_size,
            mlp_width: self.intermediate_size,
            eps: self.rms_norm_eps,
            query_scale: self
                .query_pre_attn_scalar
                .map_or(1.0, |scalar| (head_dim as f32 / scalar).sqrt()),
            rope: self.rope(head_dim)?,
            windowed: self.windowed(variant, head_dim)?,
        }
        .check()
    }

    /// Rotation in layers without a window.
    fn rope(&self, head_dim: usize) -> Result<RopeConfig, LoadError> {
        let keys = match &self.rope_parameters {
            Some(parameters) => parse(parameters.get("full_attention").unwrap_or(parameters))?,
            None => RopeKeys {
                rope_theta: self.rope_theta,
                ..self
                    .rope_scaling
                    .as_ref()
                    .map_or(Ok(RopeKeys::default()), parse)?
            },
        };
        keys.config(head_dim, ROPE_BASE, self.max_position_embeddings)
    }

    fn windowed(&self, variant: &Variant, head_dim: usize) -> Result<Option<Windowed>, LoadError> {
        let layers = self.windowed_layers(variant.windows);
        let Some(positions) = self.sliding_window.filter(|_| layers.contains(&true)) else {
            return Ok(None);
        };
        let rope = match (variant.windows, &self.rope_parameters) {
            (Windows::AllButEach { rope_base, .. }, parameters) => {
                let local = parameters.as_ref().and_then(|p| p.get("sliding_attention"));
                let keys = match local {
                    Some(keys) => parse(keys)?,
                    None => RopeKeys {
                        rope_theta: self.rope_local_base_freq,
                        ..RopeKeys::default()
                    },
                };
                keys.config(head_dim, rope_base, self.max_position_embeddings)?
            }
            _ => self.rope(head_dim)?,
        };
        Ok(Some(Windowed {
            positions,
            rope,
            layers,
        }))
    }

    /// Which layers have a window, where the file gives one.
    fn windowed_layers(&self, windows: Windows) -> Vec<bool> {
        let layers = self.num_hidden_layers as usize;
        if let Some(types) = &self.layer_types {
            return types
                .iter()
                .map(|kind| kind == "sliding_attention")
                .collect();
        }
        if let Some(switch) = self.use_sliding_window {
            let first = self.max_window_layers.unwrap_or(0);
            return (0..layers).map(|layer| switch && layer >= first).collect();
        }
        match windows {
            Windows::None => vec![false; layers],
            Windows::EveryLayer => vec![true; layers],
            Windows::AllButEach { period, .. } => {
                let period = self.sliding_window_pattern.unwrap_or(period).max(1);
                (1..=layers).map(|n| n % period != 0).collect()
            }
        }
    }
}

impl RopeKeys {
    fn config(
        &self,
        head_dim: usize,
        default_base: f32,
        context_len: u32,
    ) -> Result<RopeConfig, LoadError> {
        let base = self.rope_theta.unwrap_or(default_base);
        let share = self.partial_rotary_factor.unwrap_or(1.0);
        let dims = (head_dim as f32 * share) as usize;
        let factor = self.factor.unwrap_or(1.0);
        let (scaling, factors) = match self.rope_type.as_deref() {
            None | Some("default") => (RopeScaling::None, None),
            Some("linear") => (RopeScaling::Linear { factor }, None),
            Some("llama3") => (RopeScaling::None, Some(self.llama3_factors(dims, base)?)),
            Some("yarn") if self.mscale.is_none() => {
                let scaling = RopeScaling::Yarn {
                    factor,
                    context_len: self
                        .original_max_position_embeddings
                        .unwrap_or(context_len as f32),
                    amplitude: self.attention_factor.unwrap_or(1.0 + 0.1 * factor.ln()),
                    beta_fast: self.beta_fast.unwrap_or(YARN_BETA_FAST),
                    beta_slow: self.beta_slow.unwrap_or(YARN_BETA_SLOW),
                };
                (scaling, None)
            }
            Some(other) => return Err(feature(&format!("rotary scaling of type `{other}`"))),
        };
        Ok(RopeConfig {
            dims,
            base,
            scaling,
            factors,
        })
    }

    /// What each pair's frequency is divided by: slow pairs by the factor, fast ones by 1, and between them by what mixes
    /// the two frequencies (Grattafiori et al. 2024, <https://arxiv.org/abs/2407.21783>).
    fn llama3_factors(&self, dims: usize, base: f32) -> Result<Vec<f32>, LoadError> {
        let (Some(factor), Some(low), Some(high), Some(context_len)) = (
            self.factor,
            self.low_freq_factor,
            self.high_freq_factor,
            self.original_max_position_embeddings,
        ) else {
            return Err(feature("rotary scaling `llama3` without its factors"));
        };
        let of_pair = |i: usize| {
            let wavelength = 2.0 * PI * base.powf(2.0 * i as f32 / dims as f32);
            let turns = context_len / wavelength;
            let fast = ((turns - low) / (high - low)).clamp(0.0, 1.0);
            1.0 / ((1.0 - fast) / factor + fast)
        };
        Ok((0..dims / 2).map(of_pair).collect())
    }
}

fn parse(keys: &Value) -> Result<RopeKeys, LoadError> {
    RopeKeys::deserialize(keys).map_err(|error| LoadError::Feature {
        feature: format!("rotary scaling that cannot be read ({error})"),
    })
}

fn feature(feature: &str) -> LoadError {
    LoadError::Feature {
        feature: feature.to_owned(),
    }
}
