//! Rotary positions: the angle of each pair of numbers by position.

use candle_core::{Device, Result, Tensor};

/// Rotary embedding (Su et al. 2021, <https://arxiv.org/abs/2104.09864>) of the pairs `(2i, 2i + 1)`. Files that pair the
/// halves of a head have their rows reordered when they are read, which changes no score: queries and keys are reordered
/// alike.
///
/// Angles are computed for the positions of a step and not kept in a table: that costs less than one row of a product,
/// and a table for 131,072 positions would take 67 MB.
#[derive(Debug)]
pub(crate) struct Rope {
    /// Radians per position, for each pair.
    frequencies: Vec<f32>,
    /// What cosines and sines are multiplied with.
    amplitude: f32,
}

/// What the angles of a model depend on.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RopeConfig {
    /// Numbers of a head that are rotated, its first ones.
    pub(crate) dims: usize,
    /// Pair `i` turns by `base^(-2i / dims)` radians a position.
    pub(crate) base: f32,
    pub(crate) scaling: RopeScaling,
    /// What each pair's frequency is divided by, where the model has such factors (Llama 3.1's long context).
    pub(crate) factors: Option<Vec<f32>>,
}

/// How angles are stretched to contexts longer than those of the first training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum RopeScaling {
    /// Not at all.
    None,
    /// Every frequency divided by the factor (Chen et al. 2023, <https://arxiv.org/abs/2306.15595>).
    Linear {
        /// How many times longer.
        factor: f32,
    },
    /// Slow pairs divided by the factor, fast ones as they are, and a ramp between (Peng et al. 2023,
    /// <https://arxiv.org/abs/2309.00071>).
    Yarn {
        /// How many times longer.
        factor: f32,
        /// Positions of the first training.
        context_len: f32,
        /// What cosines and sines are multiplied with.
        amplitude: f32,
        /// Turns within `context_len` from which a pair counts as fast.
        beta_fast: f32,
        /// Turns within `context_len` up to which a pair counts as slow.
        beta_slow: f32,
    },
}

/// The paper's [`RopeScaling::Yarn`] `beta_fast`.
pub(crate) const YARN_BETA_FAST: f32 = 32.0;
/// The paper's [`RopeScaling::Yarn`] `beta_slow`.
pub(crate) const YARN_BETA_SLOW: f32 = 1.0;

impl RopeConfig {
    /// Radians per position of pair `i`.
    fn frequency(&self, i: usize) -> f32 {
        let factors = self.factors.as_deref().unwrap_or_default();
        let plain = 1.0
            / self.base.powf(2.0 * i as f32 / self.dims as f32)
            / factors.get(i).copied().unwrap_or(1.0);
        match self.scaling {
            RopeScaling::None => plain,
            RopeScaling::Linear { factor } => plain / factor,
            RopeScaling::Yarn {
                factor,
                context_len,
                beta_fast,
                beta_slow,
                ..
            } => {
                let low = self
                    .pair_with_turns(beta_fast, context_len)
                    .floor()
                    .max(0.0);
                let high = self.pair_with_turns(beta_slow, context_len).ceil();
                let high = high.min(self.dims as f32 - 1.0);
                let ramp = ((i as f32 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
                plain / factor * ramp + plain * (1.0 - ramp)
            }
        }
    }

    /// The pair, as a fraction, that makes so many turns in `context_len` positions.
    fn pair_with_turns(&self, turns: f32, context_len: f32) -> f32 {
        let radians = turns * 2.0 * std::f32::consts::PI;
        self.dims as f32 * (context_len / radians).ln() / (2.0 * self.base.ln())
    }
}

/// Cosines and sines for the tokens of one step, each `[T, pairs]`, row by row.
#[derive(Debug)]
pub(crate) struct RopeAngles {
    pub(crate) cos: Vec<f32>,
    pub(crate) sin: Vec<f32>,
    /// Pairs in a head.
    pub(crate) width: usize,
}

impl Rope {
    /// A head's pairs in the order of [`RopeConfig::dims`].
    pub(crate) fn new(config: &RopeConfig) -> Self {
        let pairs = config.dims / 2;
        let frequencies = (0..pairs).map(|i| config.frequency(i)).collect();
        let amplitude = match config.scaling {
            RopeScaling::Yarn { amplitude, .. } => amplitude,
            RopeScaling::None | RopeScaling::Linear { .. } => 1.0,
        };
        Self {
            frequencies,
            amplitude,
        }
    }

    pub(crate) fn angles(&self, positions: &[u32]) -> RopeAngles {
        let angle = |position: u32| {
            let frequencies = self.frequencies.iter();
            frequencies.map(move |frequency| position as f32 * frequency)
        };
        let all = || positions.iter().flat_map(|&position| angle(position));
        RopeAngles {
            cos: all().map(|angle| angle.cos() * self.amplitude).collect(),
            sin: all().map(|angle| angle.sin() * self.amplitude).collect(),
            width: self.frequencies.len(),
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
