//! The transformer that every architecture here is, up to what its [`Variant`] says.

use candle_core::{DType, Result, Tensor};

use super::config::Config;
use super::variant::Variant;
use crate::batch::Batch;
use crate::causal_lm::{Arithmetic, CausalLm, LoadError, PagedKv};
use crate::kernels::cpu;
use crate::layers::attention::{AttentionKind, AttentionPath, AttentionShape, AttentionStep};
use crate::layers::embedding::Embedding;
use crate::layers::linear::{Linear, Weight};
use crate::layers::mlp::Mlp;
use crate::layers::norm::RmsNorm;
use crate::layers::qk_norm::QkNorm;
use crate::layers::rope::Rope;
use crate::spec::ModelSpec;
use crate::weights::tensors::Tensors;

/// A pre-norm transformer with grouped-query attention, rotary positions and a gated feed-forward block.
#[derive(Debug)]
pub(crate) struct Decoder {
    spec: ModelSpec,
    arithmetic: Arithmetic,
    /// How layers attend: without a window, and with one where some layers have it.
    kinds: Vec<AttentionKind>,
    embedding: Embedding,
    embedding_scale: Option<f64>,
    layers: Vec<Layer>,
    norm: RmsNorm,
    output: Linear,
}

#[derive(Debug)]
struct Layer {
    /// Its place among the kinds of attention.
    kind: usize,
    attention_norm: RmsNorm,
    /// Queries, keys and values side by side.
    qkv: Linear,
    qkv_bias: Option<Tensor>,
    qk_norm: Option<QkNorm>,
    attention_output: Linear,
    attention_post_norm: Option<RmsNorm>,
    mlp_norm: RmsNorm,
    mlp: Mlp,
    mlp_post_norm: Option<RmsNorm>,
}

impl CausalLm for Decoder {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn arithmetic(&self) -> &Arithmetic {
        &self.arithmetic
    }

    fn forward(&mut self, batch: &Batch, kv: &mut PagedKv) -> Result<Tensor> {
        batch
            .validate(&self.spec, kv.block_size, kv.slot_count())
            .map_err(|error| candle_core::Error::Msg(error.to_string()))?;
        if kv.keys.len() != self.layers.len() || kv.values.len() != self.layers.len() {
            candle_core::bail!("the cache has not as many layers as the model");
        }
        let device = kv.keys[0].device().clone();
        let steps = self
            .kinds
            .iter()
            .map(|kind| kind.step(batch, &kv.keys[0], kv.block_size))
            .collect::<Result<Vec<_>>>()?;
        let mut x = self.embedding.forward(&batch.tokens, &device)?;
        if let Some(scale) = self.embedding_scale {
            x = (x * scale)?;
        }
        for (i, layer) in self.layers.iter().enumerate() {
            let shape = self.kinds[layer.kind].shape;
            x = layer.attend(x, shape, &steps[layer.kind], (&kv.keys[i], &kv.values[i]))?;
            if i + 1 == self.layers.len() {
                // From here on only the rows whose logits are wanted matter.
                if batch.logit_rows.is_empty() {
                    return Tensor::zeros((0, self.spec.vocab_size as usize), DType::F32, &device);
                }
                x = select_rows(&x, &batch.logit_rows)?;
            }
            x = layer.feed_forward(x)?;
        }
        self.output.forward_normed(&self.norm, &x)
    }
}

impl Layer {
    fn is_batch_invariant(&self) -> bool {
        let linears = [
            &self.qkv,
            &self.attention_output,
            &self.mlp.gate_up,
            &self.mlp.down,
        ];
        linears.into_iter().all(Linear::is_batch_invariant)
    }

    /// `cache` is keys and values.
    fn attend(
        &self,
        x: Tensor,
        shape: AttentionShape,
        step: &AttentionStep<'_>,
        cache: (&Tensor, &Tensor),
    ) -> Result<Tensor> {
        let mut qkv = self.qkv.forward_normed(&self.attention_norm, &x)?;
        if let Some(bias) = &self.qkv_bias {
            qkv = qkv.broadcast_add(bias)?;
        }
        if let Some(norm) = &self.qk_norm {
            qkv = norm.forward(&qkv, shape)?;
        }
        let attended = step.attend(&qkv, cache.0, cache.1)?;
        add_normed(
            x,
            &self.attention_output,
            &attended,
            self.attention_post_norm.as_ref(),
        )
    }

    fn feed_forward(&self, x: Tensor) -> Result<Tensor> {
        let hidden = self.mlp.hidden(&x, &self.mlp_norm)?;
        add_normed(x, &self.mlp.down, &hidden, self.mlp_post_norm.as_ref())
    }
}

/// `x` plus the projection of `hidden`, which some architectures norm before.
fn add_normed(
    x: Tensor,
    project: &Linear,
    hidden: &Tensor,
    norm: Option<&RmsNorm>,
) -> Result<Tensor> {
    match norm {
        Some(norm) => x + norm.forward(&project.forward(hidden)?)?,
        None => project.add_to(x, hidden),
    }
}

fn select_rows(x: &Tensor, rows: &[u32]) -> Result<Tensor> {
    if rows.len() == x.dims()[0] {
        return Ok(x.clone());
    }
    x.index_select(&Tensor::new(rows, x.device())?, 0)
}

type Loaded<T> = std::result::Result<T, LoadError>;

impl Decoder {
    /// Builds the model; heads of `tensors` are in the order that attention wants.
    pub(super) fn load(tensors: &Tensors<'_>, config: Config, variant: &Variant) -> Loaded<Self> {
        let Config { width, eps, .. } = config;
        let vocab = config.spec.vocab_size as usize;
        let table = Weight::load(tensors, &[("token_embd.weight", vocab)], width)?;
        let output = if tensors.has("output.weight") {
            Linear::load(tensors, &[("output.weight", vocab)], width)?
        } else {
            Linear::tied(&table)
        };
        let layers = (0..config.spec.layers)
            .map(|i| Layer::load(tensors, &config, variant, i))
            .collect::<Loaded<Vec<_>>>()?;
        let norm = RmsNorm::load(tensors, "output_norm.weight", width, eps)?;
        if let Some(tensor) = tensors.first_unread() {
            return Err(LoadError::Feature {
                feature: format!("the tensor `{tensor}`, foreign to its architecture"),
            });
        }
        let kinds = attention_kinds(&config, tensors);
        let batch_invariant = kinds.iter().all(|kind| kind.path == AttentionPath::Cpu)
            && layers.iter().all(Layer::is_batch_invariant)
            && output.is_batch_invariant();
        Ok(Self {
            arithmetic: arithmetic(tensors, batch_invariant),
            kinds,
            embedding: Embedding::new(table, width),
            embedding_scale: variant.scaled_embeddings.then(|| (width as f64).sqrt()),
            norm,
            spec: config.spec,
            layers,
            output,
        })
    }

    /// The same model with attention computed on another path.
    #[cfg(test)]
    pub(crate) fn with_path(mut self, path: AttentionPath) -> Self {
        for kind in &mut self.kinds {
            kind.path = path;
        }
        self
    }
}

/// What the results of the tensors that were read depend on.
fn arithmetic(tensors: &Tensors<'_>, batch_invariant: bool) -> Arithmetic {
    let kernels = if batch_invariant {
        cpu::instructions()
    } else {
        format!("plain operations on {:?}", tensors.device().location())
    };
    Arithmetic {
        weights: tensors.fingerprint(),
        kernels,
        batch_invariant,
    }
}

/// Without a window first, then with one.
fn attention_kinds(config: &Config, tensors: &Tensors<'_>) -> Vec<AttentionKind> {
    let kind = |rope, window| AttentionKind {
        path: AttentionPath::select(tensors.device(), config.shape),
        shape: config.shape,
        rope: Rope::new(rope),
        window,
    };
    let windowed = config.windowed.as_ref();
    let mut kinds = vec![kind(&config.rope, None)];
    kinds.extend(windowed.map(|windowed| kind(&windowed.rope, Some(windowed.positions))));
    kinds
}

impl Layer {
    fn load(tensors: &Tensors<'_>, config: &Config, variant: &Variant, index: u32) -> Loaded<Self> {
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
        let post_norm = |part: &str| {
            let load = || RmsNorm::load(tensors, &name(part), width, eps);
            variant.post_norms.then(load).transpose()
        };
        Ok(Self {
            kind: usize::from(config.has_window(index)),
            attention_norm: RmsNorm::load(tensors, &name("attn_norm"), width, eps)?,
            qkv: Linear::load(tensors, &qkv, width)?,
            qkv_bias: variant
                .qkv_bias
                .then(|| qkv_bias(tensors, shape, index))
                .transpose()?,
            qk_norm: variant
                .qk_norm
                .then(|| qk_norm(tensors, config, index))
                .transpose()?,
            attention_output: Linear::load(tensors, &[(&name("attn_output"), width)], q_width)?,
            attention_post_norm: post_norm("post_attention_norm")?,
            mlp_norm: RmsNorm::load(tensors, &name("ffn_norm"), width, eps)?,
            mlp: Mlp {
                gate_up: Linear::load(tensors, &gate_up, width)?,
                down: Linear::load(tensors, &[(&name("ffn_down"), width)], mlp_width)?,
                activation: variant.activation,
            },
            mlp_post_norm: post_norm("post_ffw_norm")?,
        })
    }
}

fn qkv_bias(tensors: &Tensors<'_>, shape: AttentionShape, index: u32) -> Loaded<Tensor> {
    let load = |part: &str, len| tensors.vector(&format!("blk.{index}.{part}.bias"), len);
    let parts = [
        load("attn_q", shape.q_width())?,
        load("attn_k", shape.kv_width())?,
        load("attn_v", shape.kv_width())?,
    ];
    Ok(Tensor::cat(&parts, 0)?)
}

/// What scores are scaled with beyond the usual goes into the norm of the queries.
fn qk_norm(tensors: &Tensors<'_>, config: &Config, index: u32) -> Loaded<QkNorm> {
    let load = |part: &str| {
        let name = format!("blk.{index}.{part}.weight");
        RmsNorm::load(tensors, &name, config.shape.head_dim, config.eps)
    };
    Ok(QkNorm {
        queries: load("attn_q_norm")?.scaled(config.query_scale)?,
        keys: load("attn_k_norm")?,
    })
}

#[cfg(test)]
mod tests;
