//! Online softmax over tiles of keys and values (Milakov and Gimelshein 2018, <https://arxiv.org/abs/1805.02867>), several
//! rows of queries at a time.
//!
//! A row's result is decided by its query and its context alone: scores are summed over the head in order, weighted values
//! in order of position, tiles and chunks are counted from position 0. Rows that are worked on together only share loads.

use std::array::from_fn;
use std::ops::Range;

use super::super::simd::{LANES, Simd, exp, simd_dispatch};

/// Registers of positions in a tile.
const VECTORS: usize = 2;
/// Rows of queries that share the loads of a tile.
const ROWS: usize = 4;
/// Registers of a row's result that are kept over all positions of a tile.
const COLUMNS: usize = 4;

/// Keys and values of one head at [`Tile::POSITIONS`] positions, as F32.
pub(crate) struct Tile {
    /// Position of the first row.
    pub(crate) first: usize,
    /// `[head_dim][positions]`.
    pub(crate) keys: Vec<[[f32; LANES]; VECTORS]>,
    /// `[positions][head_dim]`.
    pub(crate) values: Vec<[f32; LANES]>,
}

impl Tile {
    /// Positions in a tile.
    pub(crate) const POSITIONS: usize = VECTORS * LANES;

    pub(crate) fn new(head_dim: usize) -> Self {
        Self {
            first: 0,
            keys: vec![[[0.0; LANES]; VECTORS]; head_dim],
            values: vec![[0.0; LANES]; Self::POSITIONS * head_dim / LANES],
        }
    }
}

/// Rows of queries and what they have seen so far.
#[derive(Clone)]
pub(crate) struct Rows {
    head_dim: usize,
    /// `[rows, head_dim]`, with the scale of the scores in them.
    queries: Vec<f32>,
    /// Positions that each row may see.
    sees: Vec<Range<usize>>,
    /// Largest score of each row.
    maxima: Vec<f32>,
    /// Sum of the exponentials of each row, relative to its largest score.
    sums: Vec<f32>,
    /// Weighted values, `[rows][head_dim]`.
    out: Vec<[f32; LANES]>,
}

impl Rows {
    pub(crate) fn new(head_dim: usize, queries: Vec<f32>, sees: Vec<Range<usize>>) -> Self {
        let rows = sees.len();
        assert_eq!(queries.len(), rows * head_dim, "a query for each row");
        Self {
            head_dim,
            queries,
            sees,
            maxima: vec![f32::NEG_INFINITY; rows],
            sums: vec![0.0; rows],
            out: vec![[0.0; LANES]; rows * head_dim / LANES],
        }
    }

    /// Forgets what was seen.
    pub(crate) fn restart(&mut self) {
        self.maxima.fill(f32::NEG_INFINITY);
        self.sums.fill(0.0);
        self.out.fill([0.0; LANES]);
    }

    /// Adds what the same rows saw at later positions.
    pub(crate) fn merge(&mut self, later: &Self) {
        let width = self.head_dim / LANES;
        let outs = self
            .out
            .chunks_exact_mut(width)
            .zip(later.out.chunks_exact(width));
        for (row, (out, later_out)) in outs.enumerate() {
            let (before, after) = (self.maxima[row], later.maxima[row]);
            if after == f32::NEG_INFINITY {
                continue;
            }
            let now = before.max(after);
            let keep = if before == f32::NEG_INFINITY {
                0.0
            } else {
                (before - now).exp()
            };
            let add = (after - now).exp();
            self.maxima[row] = now;
            self.sums[row] = self.sums[row] * keep + later.sums[row] * add;
            let pairs = out
                .as_flattened_mut()
                .iter_mut()
                .zip(later_out.as_flattened());
            pairs.for_each(|(out, later)| *out = *out * keep + later * add);
        }
    }

    /// Divides the weighted values by the sums of their weights: `[rows, head_dim]`.
    pub(crate) fn finish(&mut self) -> &[f32] {
        let width = self.head_dim / LANES;
        for (out, sum) in self.out.chunks_exact_mut(width).zip(&self.sums) {
            let inverse = 1.0 / sum;
            out.as_flattened_mut()
                .iter_mut()
                .for_each(|x| *x *= inverse);
        }
        self.out.as_flattened()
    }
}

simd_dispatch! {
    /// Shows a tile to all rows.
    fn attend_tile = attend_tile_body(tile: &Tile, rows: &mut Rows)
}

#[inline(always)]
fn attend_tile_body<S: Simd>(tile: &Tile, rows: &mut Rows) {
    let count = rows.sees.len();
    let mut row = 0;
    while row < count {
        row += match count - row {
            1 => attend_rows::<S, 1>(tile, rows, row),
            2 => attend_rows::<S, 2>(tile, rows, row),
            3 => attend_rows::<S, 3>(tile, rows, row),
            _ => attend_rows::<S, ROWS>(tile, rows, row),
        };
    }
}

/// Shows a tile to rows `row .. row + R`.
#[inline(always)]
fn attend_rows<S: Simd, const R: usize>(tile: &Tile, rows: &mut Rows, row: usize) -> usize {
    let inside = |position: usize| position.saturating_sub(tile.first).min(Tile::POSITIONS);
    let visible: [Range<usize>; R] = from_fn(|i| {
        let sees = &rows.sees[row + i];
        inside(sees.start)..inside(sees.end)
    });
    let seen = visible.iter().filter(|visible| !visible.is_empty());
    let Some(last) = seen.map(|visible| visible.end).max() else {
        return R;
    };
    let head_dim = rows.head_dim;
    let queries = from_fn(|i| &rows.queries[(row + i) * head_dim..][..head_dim]);
    let mut weights = scores::<S, R>(queries, &tile.keys);
    let mut keeps = [1.0; R];
    for (i, weights) in weights.iter_mut().enumerate() {
        if visible[i].is_empty() {
            weights.fill(0.0);
            continue;
        }
        weights[..visible[i].start].fill(f32::NEG_INFINITY);
        weights[visible[i].end..].fill(f32::NEG_INFINITY);
        keeps[i] = soften::<S>(weights, &mut rows.maxima[row + i], &mut rows.sums[row + i]);
    }
    let width = head_dim / LANES;
    let out = &mut rows.out[row * width..(row + R) * width];
    let wide = if R * COLUMNS <= S::SUMS_MAX {
        width / COLUMNS * COLUMNS
    } else {
        0
    };
    for column in (0..wide).step_by(COLUMNS) {
        add_values::<S, R, COLUMNS>(&weights, keeps, &tile.values, last, column, out);
    }
    for column in wide..width {
        add_values::<S, R, 1>(&weights, keeps, &tile.values, last, column, out);
    }
    R
}

/// Products of each query with each key.
#[inline(always)]
fn scores<S: Simd, const R: usize>(
    queries: [&[f32]; R],
    keys: &[[[f32; LANES]; VECTORS]],
) -> [[f32; Tile::POSITIONS]; R] {
    assert!(
        queries.iter().all(|query| query.len() == keys.len()),
        "one head"
    );
    let mut scores = [[0.0; Tile::POSITIONS]; R];
    if R * VECTORS <= S::SUMS_MAX {
        score::<S, R, VECTORS>(queries, keys, 0, &mut scores);
    } else {
        for vector in 0..VECTORS {
            score::<S, R, 1>(queries, keys, vector, &mut scores);
        }
    }
    scores
}

/// The same with the keys of `V` registers from `first` on.
#[inline(always)]
fn score<S: Simd, const R: usize, const V: usize>(
    queries: [&[f32]; R],
    keys: &[[[f32; LANES]; VECTORS]],
    first: usize,
    scores: &mut [[f32; Tile::POSITIONS]; R],
) {
    let mut sums = [[S::splat(0.0); V]; R];
    for (d, key) in keys.iter().enumerate() {
        let mut lanes = [S::splat(0.0); V];
        for v in 0..V {
            lanes[v] = S::load(&key[first + v]);
        }
        for r in 0..R {
            let query = S::splat(queries[r][d]);
            for v in 0..V {
                sums[r][v] = S::mul_add_lanes(query, lanes[v], sums[r][v]);
            }
        }
    }
    for r in 0..R {
        let (scores, _) = scores[r].as_chunks_mut::<LANES>();
        for v in 0..V {
            S::store(sums[r][v], &mut scores[first + v]);
        }
    }
}

/// Scores to weights relative to the largest score so far. Returns what earlier weights must be multiplied with.
#[inline(always)]
fn soften<S: Simd>(weights: &mut [f32; Tile::POSITIONS], maximum: &mut f32, sum: &mut f32) -> f32 {
    let before = *maximum;
    let now = before.max(fold(weights, f32::max));
    for weight in weights.iter_mut() {
        // A hidden position weighs nothing at all, where the exponential would stop at its smallest number.
        let hidden = *weight == f32::NEG_INFINITY;
        let raised = exp::<S>(*weight - now);
        *weight = if hidden { 0.0 } else { raised };
    }
    let keep = if now > before {
        exp::<S>(before - now)
    } else {
        1.0
    };
    *maximum = now;
    *sum = *sum * keep + fold(weights, |a, b| a + b);
    keep
}

/// Folds the upper half onto the lower until one number is left.
#[inline(always)]
fn fold(numbers: &[f32; Tile::POSITIONS], fold: impl Fn(f32, f32) -> f32) -> f32 {
    let mut numbers = *numbers;
    let mut width = Tile::POSITIONS / 2;
    while width > 0 {
        for i in 0..width {
            numbers[i] = fold(numbers[i], numbers[i + width]);
        }
        width /= 2;
    }
    numbers[0]
}

/// `out = keep * out + sum of weight * value` for `C` registers of each row from `column` on, in the order of positions.
#[inline(always)]
fn add_values<S: Simd, const R: usize, const C: usize>(
    weights: &[[f32; Tile::POSITIONS]; R],
    keeps: [f32; R],
    values: &[[f32; LANES]],
    last: usize,
    column: usize,
    out: &mut [[f32; LANES]],
) {
    let width = out.len() / R;
    // Loops and not closures: a closure is compiled without the level's instructions and not always inlined.
    let mut sums = [[S::splat(0.0); C]; R];
    for r in 0..R {
        for c in 0..C {
            let before = S::load(&out[r * width + column + c]);
            sums[r][c] = S::mul_add_lanes(before, S::splat(keeps[r]), sums[r][c]);
        }
    }
    for (position, value) in values.chunks_exact(width).take(last).enumerate() {
        let value = &value[column..column + C];
        let mut lanes = [S::splat(0.0); C];
        for c in 0..C {
            lanes[c] = S::load(&value[c]);
        }
        for r in 0..R {
            let weight = S::splat(weights[r][position]);
            for c in 0..C {
                sums[r][c] = S::mul_add_lanes(weight, lanes[c], sums[r][c]);
            }
        }
    }
    for r in 0..R {
        for c in 0..C {
            S::store(sums[r][c], &mut out[r * width + column + c]);
        }
    }
}
