//! Rotary positions: the angle of each pair of numbers by position.

use candle_core::{Device, Result, Tensor};

/// Which numbers of a head form the pairs that are rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RopePairs {
    /// `(2i, 2i + 1)`: llama, whose GGUF files hold weights permuted to that end.
    Interleaved,
    /// `(i, i + half)`: GPT-NeoX and all whose weights are as their authors published them.
    Halves,
}

/// Rotary embedding (Su et al. 2021, <https://arxiv.org/abs/2104.09864>).
///
/// Angles are computed for the positions of a step and not kept in a table: that costs less than one row of a product,
/// and a table for 131,072 positions would take 67 MB.
#[derive(Debug)]
pub(crate) struct Rope {
    pub(crate) pairs: RopePairs,
    /// Radians per position, for each pair.
    frequencies: Vec<f32>,
}

/// Cosines and sines for the tokens of one step, each `[T, pairs]`, row by row.
#[derive(Debug)]
pub(crate) struct RopeAngles {
    pub(crate) cos: Vec<f32>,
    pub(crate) sin: Vec<f32>,
    /// Pairs in a head.
    pub(crate) width: usize,
    pub(crate) pairs: RopePairs,
}

impl Rope {
    /// `base^(-2i / dims)` for pair `i`, divided by `scale` (linear scaling) and by the pair's own factor, where the
    /// file has factors (Llama 3.1's long context).
    pub(crate) fn new(
        pairs: RopePairs,
        dims: usize,
        base: f32,
        scale: f32,
        factors: Option<&[f32]>,
    ) -> Self {
        let frequencies = (0..dims / 2)
            .map(|i| {
                let factor = factors.and_then(|f| f.get(i)).copied().unwrap_or(1.0);
                1.0 / base.powf(2.0 * i as f32 / dims as f32) / (scale * factor)
            })
            .collect();
        Self { pairs, frequencies }
    }

    pub(crate) fn angles(&self, positions: &[u32]) -> RopeAngles {
        let angle = |position: u32| {
            let frequencies = self.frequencies.iter();
            frequencies.map(move |frequency| position as f32 * frequency)
        };
        let all = || positions.iter().flat_map(|&position| angle(position));
        RopeAngles {
            cos: all().map(f32::cos).collect(),
            sin: all().map(f32::sin).collect(),
            width: self.frequencies.len(),
            pairs: self.pairs,
        }
    }
}

impl RopeAngles {
    /// Cosines and sines of token `t`.
    pub(crate) fn row(&self, t: usize) -> (&[f32], &[f32]) {
        let range = t * self.width..(t + 1) * self.width;
        (&self.cos[range.clone()], &self.sin[range])
    }

    /// The same on a device, each `[T, 1, pairs]`.
    pub(crate) fn tensors(&self, device: &Device) -> Result<(Tensor, Tensor)> {
        let shape = (self.cos.len() / self.width.max(1), 1, self.width);
        Ok((
            Tensor::from_slice(&self.cos, shape, device)?,
            Tensor::from_slice(&self.sin, shape, device)?,
        ))
    }
}
