//! The sizes of one model, as every source of weights must give them.

use crate::causal_lm::LoadError;
use crate::layers::attention::AttentionShape;
use crate::layers::rope::RopeConfig;
use crate::limits::{HEAD_DIM_MAX, LAYERS_MAX};
use crate::spec::ModelSpec;

/// Everything that the decoder must know of a model besides its weights and its [`super::variant::Variant`].
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) spec: ModelSpec,
    pub(crate) shape: AttentionShape,
    /// Numbers in a token's residual stream.
    pub(crate) width: usize,
    /// Numbers between the two products of the feed-forward block.
    pub(crate) mlp_width: usize,
    /// Added to the mean square of a norm.
    pub(crate) eps: f32,
    /// What scores are multiplied with on top of `1 / sqrt(head_dim)`; 1 in most models.
    pub(crate) query_scale: f32,
    /// Rotation in layers without a window.
    pub(crate) rope: RopeConfig,
    /// Layers that look only at the last positions.
    pub(crate) windowed: Option<Windowed>,
}

/// The layers with a window.
#[derive(Debug)]
pub(crate) struct Windowed {
    /// Positions that a token sees, its own included.
    pub(crate) positions: usize,
    /// Rotation in these layers.
    pub(crate) rope: RopeConfig,
    /// Which layers they are, one for each.
    pub(crate) layers: Vec<bool>,
}

/// Refuses sizes that no model has, before a list is made of so many.
///
/// # Errors
/// [`LoadError::Metadata`] names the size.
pub(super) fn check_lists(layers: u32, head_dim: usize) -> Result<(), LoadError> {
    let what = match (layers > LAYERS_MAX, head_dim > HEAD_DIM_MAX) {
        (true, _) => "number of layers",
        (_, true) => "size of a head",
        _ => return Ok(()),
    };
    Err(LoadError::Metadata {
        key: what.to_owned(),
        why: "is more than any model has",
    })
}

impl Config {
    /// Whether a layer has a window.
    pub(crate) fn has_window(&self, layer: u32) -> bool {
        let windowed = self.windowed.as_ref();
        windowed.is_some_and(|w| w.layers.get(layer as usize) == Some(&true))
    }

    /// Checks what would otherwise divide by zero or read past the end.
    ///
    /// # Errors
    /// [`LoadError::Metadata`] names the size that cannot be.
    pub(crate) fn check(self) -> Result<Self, LoadError> {
        let AttentionShape {
            heads,
            kv_heads,
            head_dim,
        } = self.shape;
        let refuse = |key: &str, why| {
            Err(LoadError::Metadata {
                key: key.to_owned(),
                why,
            })
        };
        let sizes = [
            (heads, "number of heads"),
            (self.width, "width"),
            (self.mlp_width, "width of the feed-forward block"),
            (self.spec.layers as usize, "number of layers"),
            (self.spec.context_len as usize, "context length"),
        ];
        for (size, what) in sizes {
            if size == 0 {
                return refuse(what, "is zero");
            }
        }
        if kv_heads == 0 || heads % kv_heads != 0 {
            return refuse(
                "number of key and value heads",
                "does not divide the number of heads",
            );
        }
        if head_dim == 0 || head_dim % 2 != 0 {
            return refuse("size of a head", "is zero or odd");
        }
        if self.rope.dims > head_dim || !self.rope.dims.is_multiple_of(2) {
            return refuse("rotary dimensions", "are odd or more than a head has");
        }
        if self.windowed.as_ref().is_some_and(|w| w.positions == 0) {
            return refuse("sliding window", "is zero");
        }
        Ok(self)
    }
}
