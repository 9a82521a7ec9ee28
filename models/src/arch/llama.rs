//! Llama and its kin by the same name in GGUF: Llama 2 and 3, Mistral, SmolLM.

use candle_core::{DType, Result, Tensor};

use crate::batch::Batch;
use crate::causal_lm::{CausalLm, LoadError, LoadOptions, PagedKv};
use crate::kernels::cpu::Activation;
use crate::layers::attention::{AttentionPath, AttentionShape, AttentionStep};
use crate::layers::embedding::Embedding;
use crate::layers::linear::{Linear, Weight};
use crate::layers::mlp::Mlp;
use crate::layers::norm::RmsNorm;
use crate::layers::rope::{Rope, RopePairs};
use crate::spec::ModelSpec;
use crate::weights::gguf::GgufFile;
use crate::weights::tensors::GgufTensors;

/// A pre-norm transformer with grouped-query attention, rotary positions and a SwiGLU block (Touvron et al. 2023,
/// <https://arxiv.org/abs/2307.09288>).
#[derive(Debug)]
pub(crate) struct Llama {
    spec: ModelSpec,
    shape: AttentionShape,
    path: AttentionPath,
    rope: Rope,
    embedding: Embedding,
    layers: Vec<Layer>,
    norm: RmsNorm,
    output: Linear,
}

#[derive(Debug)]
struct Layer {
    attention_norm: RmsNorm,
    /// Queries, keys and values side by side.
    qkv: Linear,
    attention_output: Linear,
    mlp_norm: RmsNorm,
    mlp: Mlp,
}

impl CausalLm for Llama {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn forward(&mut self, batch: &Batch, kv: &mut PagedKv) -> Result<Tensor> {
        batch
            .validate(&self.spec, kv.block_size, kv.slot_count())
            .map_err(|error| candle_core::Error::Msg(error.to_string()))?;
        if kv.keys.len() != self.layers.len() || kv.values.len() != self.layers.len() {
            candle_core::bail!("the cache has not as many layers as the model");
        }
        let device = kv.keys[0].device().clone();
        let step = AttentionStep::new(
            self.path,
            self.shape,
            &self.rope,
            batch,
            &kv.keys[0],
            kv.block_size,
        )?;
        let mut x = self.embedding.forward(&batch.tokens, &device)?;
        for (i, layer) in self.layers.iter().enumerate() {
            x = layer.attend(x, &step, &kv.keys[i], &kv.values[i])?;
            if i + 1 == self.layers.len() {
                // From here on only the rows whose logits are wanted matter.
                if batch.logit_rows.is_empty() {
                    return Tensor::zeros((0, self.spec.vocab_size as usize), DType::F32, &device);
                }
                x = select_rows(&x, &batch.logit_rows)?;
            }
            x = layer.mlp.add_to(x, &layer.mlp_norm)?;
        }
        self.output.forward_normed(&self.norm, &x)
    }
}

impl Layer {
    fn attend(
        &self,
        x: Tensor,
        step: &AttentionStep<'_>,
        keys: &Tensor,
        values: &Tensor,
    ) -> Result<Tensor> {
        let qkv = self.qkv.forward_normed(&self.attention_norm, &x)?;
        let attended = step.attend(&qkv, keys, values)?;
        self.attention_output.add_to(x, &attended)
    }
}

fn select_rows(x: &Tensor, rows: &[u32]) -> Result<Tensor> {
    if rows.len() == x.dims()[0] {
        return Ok(x.clone());
    }
    x.index_select(&Tensor::new(rows, x.device())?, 0)
}

/// Sizes that the metadata give.
struct Config {
    spec: ModelSpec,
    shape: AttentionShape,
    width: usize,
    mlp_width: usize,
    eps: f32,
}

impl Llama {
    pub(crate) fn load(
        gguf: &GgufFile,
        options: &LoadOptions,
    ) -> std::result::Result<Self, LoadError> {
        let config = Config::read(gguf)?;
        let tensors = GgufTensors::new(gguf, &options.device);
        refuse_variants(gguf, &tensors)?;
        let vocab = config.spec.vocab_size as usize;
        let table = Weight::load(&tensors, &[("token_embd.weight", vocab)], config.width)?;
        let output = if tensors.has("output.weight") {
            Linear::load(&tensors, &[("output.weight", vocab)], config.width)?
        } else {
            Linear::tied(&table)
        };
        let layers = (0..config.spec.layers)
            .map(|i| Layer::load(&tensors, &config, i))
            .collect::<std::result::Result<_, _>>()?;
        Ok(Self {
            path: AttentionPath::select(&options.device, config.shape),
            rope: load_rope(gguf, &tensors, config.shape.head_dim)?,
            embedding: Embedding::new(table, config.width),
            norm: RmsNorm::load(&tensors, "output_norm.weight", config.width, config.eps)?,
            shape: config.shape,
            spec: config.spec,
            layers,
            output,
        })
    }

    /// The same model with attention computed on another path.
    #[cfg(test)]
    pub(crate) fn with_path(mut self, path: AttentionPath) -> Self {
        self.path = path;
        self
    }
}

impl Layer {
    fn load(
        tensors: &GgufTensors<'_>,
        config: &Config,
        index: u32,
    ) -> std::result::Result<Self, LoadError> {
        let Config {
            width,
            mlp_width,
            shape,
            eps,
            ..
        } = *config;
        let name = |part: &str| format!("blk.{index}.{part}.weight");
        let (q_width, kv_width) = (shape.q_width(), shape.kv_width());
        let qkv = [
            (&*name("attn_q"), q_width),
            (&*name("attn_k"), kv_width),
            (&*name("attn_v"), kv_width),
        ];
        let gate_up = [
            (&*name("ffn_gate"), mlp_width),
            (&*name("ffn_up"), mlp_width),
        ];
        Ok(Self {
            attention_norm: RmsNorm::load(tensors, &name("attn_norm"), width, eps)?,
            qkv: Linear::load(tensors, &qkv, width)?,
            attention_output: Linear::load(tensors, &[(&name("attn_output"), width)], q_width)?,
            mlp_norm: RmsNorm::load(tensors, &name("ffn_norm"), width, eps)?,
            mlp: Mlp {
                gate_up: Linear::load(tensors, &gate_up, width)?,
                down: Linear::load(tensors, &[(&name("ffn_down"), width)], mlp_width)?,
                activation: Activation::Silu,
            },
        })
    }
}

impl Config {
    fn read(gguf: &GgufFile) -> std::result::Result<Self, LoadError> {
        let heads = positive(gguf, "llama.attention.head_count")?;
        let width = positive(gguf, "llama.embedding_length")?;
        let kv_heads = gguf
            .opt_u32("llama.attention.head_count_kv")?
            .map_or(heads, |n| n as usize);
        if kv_heads == 0 || heads % kv_heads != 0 {
            return Err(metadata(
                "llama.attention.head_count_kv",
                "does not divide the number of heads",
            ));
        }
        let head_dim = gguf
            .opt_u32("llama.attention.key_length")?
            .map_or(width / heads, |n| n as usize);
        if head_dim == 0 || head_dim % 2 != 0 {
            return Err(metadata(
                "llama.attention.key_length",
                "makes no even head size",
            ));
        }
        Ok(Self {
            spec: ModelSpec {
                architecture: "llama".to_owned(),
                vocab_size: vocab_size(gguf)?,
                context_len: positive(gguf, "llama.context_length")? as u32,
                layers: positive(gguf, "llama.block_count")? as u32,
                kv_heads: kv_heads as u32,
                head_dim: head_dim as u32,
            },
            shape: AttentionShape {
                heads,
                kv_heads,
                head_dim,
                window: None,
            },
            width,
            mlp_width: positive(gguf, "llama.feed_forward_length")?,
            eps: gguf.f32("llama.attention.layer_norm_rms_epsilon")?,
        })
    }
}

/// Rows of the embedding table, which the tokenizer must not exceed.
fn vocab_size(gguf: &GgufFile) -> std::result::Result<u32, LoadError> {
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
    u32::try_from(rows).map_err(|_| metadata("llama.vocab_size", "is beyond 32 bits"))
}

/// Refuses what would load and then compute something else.
fn refuse_variants(
    gguf: &GgufFile,
    tensors: &GgufTensors<'_>,
) -> std::result::Result<(), LoadError> {
    let refuse = |feature: &str| {
        Err(LoadError::Feature {
            feature: feature.to_owned(),
        })
    };
    if gguf.opt_u32("llama.expert_count")?.is_some_and(|n| n > 0) {
        return refuse("a mixture of experts");
    }
    if ["attn_q", "attn_k", "attn_v", "attn_output"]
        .iter()
        .any(|part| tensors.has(&format!("blk.0.{part}.bias")))
    {
        return refuse("biases in attention");
    }
    if gguf.opt_u32("llama.attention.sliding_window")?.is_some() {
        return refuse("a sliding attention window");
    }
    Ok(())
}

fn load_rope(
    gguf: &GgufFile,
    tensors: &GgufTensors<'_>,
    head_dim: usize,
) -> std::result::Result<Rope, LoadError> {
    let key = "llama.rope.dimension_count";
    let dims = gguf.opt_u32(key)?.map_or(head_dim, |n| n as usize);
    if dims > head_dim || dims % 2 != 0 {
        return Err(metadata(key, "is odd or more than a head has"));
    }
    let scale = match gguf.opt_str("llama.rope.scaling.type")? {
        None | Some("none") => 1.0,
        Some("linear") => gguf.f32("llama.rope.scaling.factor")?,
        Some(other) => {
            return Err(LoadError::Feature {
                feature: format!("rotary scaling of type `{other}`"),
            });
        }
    };
    let factors = if tensors.has("rope_freqs.weight") {
        Some(
            tensors
                .vector("rope_freqs.weight", dims / 2)?
                .to_vec1::<f32>()?,
        )
    } else {
        None
    };
    let base = gguf.opt_f32("llama.rope.freq_base")?.unwrap_or(10_000.0);
    Ok(Rope::new(
        RopePairs::Interleaved,
        dims,
        base,
        scale,
        factors.as_deref(),
    ))
}

fn positive(gguf: &GgufFile, key: &str) -> std::result::Result<usize, LoadError> {
    match gguf.u32(key)? {
        0 => Err(metadata(key, "is zero")),
        n => Ok(n as usize),
    }
}

fn metadata(key: &str, why: &'static str) -> LoadError {
    LoadError::Metadata {
        key: key.to_owned(),
        why,
    }
}

#[cfg(test)]
mod tests;
