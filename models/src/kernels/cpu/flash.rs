//! Online softmax over one tile of keys and values (Milakov and Gimelshein 2018, <https://arxiv.org/abs/1805.02867>).

use half::f16;

use super::simd::{Simd, exp, simd_dispatch};

/// Numbers of a head that are worked on at once: head sizes are multiples of it.
pub(crate) const LANES: usize = 16;

/// Keys and values of [`Tile::POSITIONS`] positions of one head as F32, and the running state of the queries.
pub(crate) struct Tile {
    head_dim: usize,
    /// Queries of one token.
    group: usize,
    keys: Vec<f32>,
    values: Vec<f32>,
    /// Largest score of each query so far.
    maxima: Vec<f32>,
    /// Sum of the exponentials of each query so far, relative to its largest score.
    sums: Vec<f32>,
}

impl Tile {
    /// Positions in a tile. Tiles are counted from position 0, so their borders depend on nothing else.
    pub(crate) const POSITIONS: usize = 64;

    pub(crate) fn new(head_dim: usize, group: usize, tokens: usize) -> Self {
        Self {
            head_dim,
            group,
            keys: vec![0.0; Self::POSITIONS * head_dim],
            values: vec![0.0; Self::POSITIONS * head_dim],
            maxima: vec![f32::NEG_INFINITY; group * tokens],
            sums: vec![0.0; group * tokens],
        }
    }

    pub(crate) fn key_mut(&mut self, row: usize) -> &mut [f32] {
        &mut self.keys[row * self.head_dim..][..self.head_dim]
    }

    pub(crate) fn value_mut(&mut self, row: usize) -> &mut [f32] {
        &mut self.values[row * self.head_dim..][..self.head_dim]
    }

    /// Divides each query's weighted values by the sum of its weights.
    pub(crate) fn finish(&self, out: &mut [f32]) {
        for (out, sum) in out.chunks_exact_mut(self.head_dim).zip(&self.sums) {
            let inverse = 1.0 / sum;
            out.iter_mut().for_each(|x| *x *= inverse);
        }
    }
}

simd_dispatch! {
    /// Adds a tile's share to `out`, `[tokens, group, head_dim]`. `first` is the position of the tile's first row,
    /// `contexts` the number of positions that each token may see.
    fn attend_tile = attend_tile_body(
        tile: &mut Tile,
        first: usize,
        queries: &[f32],
        contexts: &[usize],
        out: &mut [f32],
    )
}

#[inline(always)]
fn attend_tile_body<S: Simd>(
    tile: &mut Tile,
    first: usize,
    queries: &[f32],
    contexts: &[usize],
    out: &mut [f32],
) {
    let head_dim = tile.head_dim;
    let mut weights = [0.0f32; Tile::POSITIONS];
    let rows = queries
        .chunks_exact(head_dim)
        .zip(out.chunks_exact_mut(head_dim))
        .enumerate();
    for (index, (query, out)) in rows {
        let visible = contexts[index / tile.group]
            .saturating_sub(first)
            .min(Tile::POSITIONS);
        if visible == 0 {
            continue;
        }
        let weights = &mut weights[..visible];
        for (weight, key) in weights.iter_mut().zip(tile.keys.chunks_exact(head_dim)) {
            *weight = dot::<S>(query, key);
        }
        let (maximum, sum) = (&mut tile.maxima[index], &mut tile.sums[index]);
        let keep = soften::<S>(weights, maximum, sum);
        if keep != 1.0 {
            out.iter_mut().for_each(|x| *x *= keep);
        }
        add_values::<S>(weights, &tile.values, out);
    }
}

/// Scores to weights relative to the largest score so far. Returns what earlier weights must be multiplied with.
#[inline(always)]
fn soften<S: Simd>(weights: &mut [f32], maximum: &mut f32, sum: &mut f32) -> f32 {
    let before = *maximum;
    let now = before.max(fold_lanes(weights, f32::NEG_INFINITY, f32::max));
    for weight in weights.iter_mut() {
        *weight = exp::<S>(*weight - now);
    }
    let keep = if now > before {
        exp::<S>(before - now)
    } else {
        1.0
    };
    *maximum = now;
    *sum = *sum * keep + fold_lanes(weights, 0.0, |a, b| a + b);
    keep
}

#[inline(always)]
fn dot<S: Simd>(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    for (a, b) in a.chunks_exact(LANES).zip(b.chunks_exact(LANES)) {
        for i in 0..LANES {
            lanes[i] = S::mul_add(a[i], b[i], lanes[i]);
        }
    }
    halve(lanes, |a, b| a + b)
}

/// Folds numbers lane by lane, then the lanes: an order that only their count decides.
#[inline(always)]
fn fold_lanes(numbers: &[f32], start: f32, fold: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [start; LANES];
    let chunks = numbers.chunks_exact(LANES);
    let tail = chunks.remainder();
    for chunk in chunks {
        for (lane, &number) in lanes.iter_mut().zip(chunk) {
            *lane = fold(*lane, number);
        }
    }
    for (lane, &number) in lanes.iter_mut().zip(tail) {
        *lane = fold(*lane, number);
    }
    halve(lanes, fold)
}

/// Folds the upper half of the lanes onto the lower until one is left.
#[inline(always)]
fn halve(mut lanes: [f32; LANES], fold: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = fold(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// `out += sum of weight * value`, in the order of positions.
#[inline(always)]
fn add_values<S: Simd>(weights: &[f32], values: &[f32], out: &mut [f32]) {
    let head_dim = out.len();
    let wide = head_dim / (4 * LANES) * (4 * LANES);
    for at in (0..wide).step_by(4 * LANES) {
        add_columns::<S, { 4 * LANES }>(weights, values, at, out);
    }
    for at in (wide..head_dim).step_by(LANES) {
        add_columns::<S, LANES>(weights, values, at, out);
    }
}

/// Columns `at .. at + N`, kept in registers over all positions.
#[inline(always)]
fn add_columns<S: Simd, const N: usize>(
    weights: &[f32],
    values: &[f32],
    at: usize,
    out: &mut [f32],
) {
    let head_dim = out.len();
    let mut sums = [0.0f32; N];
    sums.copy_from_slice(&out[at..at + N]);
    for (weight, value) in weights.iter().zip(values.chunks_exact(head_dim)) {
        let value = &value[at..at + N];
        for i in 0..N {
            sums[i] = S::mul_add(*weight, value[i], sums[i]);
        }
    }
    out[at..at + N].copy_from_slice(&sums);
}

simd_dispatch! {
    /// Half precision to single; infinities become NaN.
    fn widen_f16 = widen_f16_body(from: &[f16], to: &mut [f32])
}

#[inline(always)]
fn widen_f16_body<S: Simd>(from: &[f16], to: &mut [f32]) {
    /// Moves the exponent from half precision's bias of 15 to 127; exact, for subnormal numbers too.
    const REBIAS: f32 = f32::from_bits((127 + 127 - 15) << 23);
    /// Largest finite number of half precision.
    const MAX: f32 = 65_504.0;
    for (to, from) in to.iter_mut().zip(from) {
        let bits = u32::from(from.to_bits());
        let magnitude = f32::from_bits((bits & 0x7fff) << 13) * REBIAS;
        // Infinity and NaN would come out as numbers above the largest; a NaN must stay one to fail its sequence.
        let magnitude = if magnitude > MAX { f32::NAN } else { magnitude };
        *to = f32::from_bits(magnitude.to_bits() | (bits & 0x8000) << 16);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widening_is_exact() {
        let all: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
        let mut got = vec![0.0; all.len()];
        widen_f16(&all, &mut got);
        for (half, got) in all.iter().zip(got) {
            if half.is_finite() {
                assert_eq!(half.to_f32().to_bits(), got.to_bits());
            } else {
                assert!(got.is_nan());
            }
        }
    }
}
