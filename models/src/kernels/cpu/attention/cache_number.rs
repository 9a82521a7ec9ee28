//! The number types that a cache may hold, and how they become F32.

use half::f16;

use super::super::simd::{LANES, Simd, simd_dispatch};

/// A number type of the cache.
pub(super) trait CacheNumber: Copy + Send + Sync + Into<f32> {
    /// From F32, rounded to the nearest.
    fn narrow(from: f32) -> Self;
    /// A row of whole registers to F32.
    fn widen(from: &[Self], to: &mut [[f32; LANES]]);
    /// [`LANES`] numbers at the start of every `stride` to register `vector` of each row.
    fn widen_columns<const V: usize>(
        from: &[Self],
        stride: usize,
        vector: usize,
        to: &mut [[[f32; LANES]; V]],
    );
}

impl CacheNumber for f32 {
    fn narrow(from: f32) -> Self {
        from
    }

    fn widen(from: &[Self], to: &mut [[f32; LANES]]) {
        to.as_flattened_mut().copy_from_slice(from);
    }

    fn widen_columns<const V: usize>(
        from: &[Self],
        stride: usize,
        vector: usize,
        to: &mut [[[f32; LANES]; V]],
    ) {
        for (from, to) in from.chunks(stride).zip(to) {
            to[vector].copy_from_slice(&from[..LANES]);
        }
    }
}

impl CacheNumber for f16 {
    fn narrow(from: f32) -> Self {
        Self::from_f32(from)
    }

    fn widen(from: &[Self], to: &mut [[f32; LANES]]) {
        widen_row(from.as_chunks().0, to);
    }

    fn widen_columns<const V: usize>(
        from: &[Self],
        stride: usize,
        vector: usize,
        to: &mut [[[f32; LANES]; V]],
    ) {
        widen_strided(from, stride, &mut to.as_flattened_mut()[vector..], V);
    }
}

simd_dispatch! {
    fn widen_row = widen_row_body(from: &[[f16; LANES]], to: &mut [[f32; LANES]])
}

#[inline(always)]
fn widen_row_body<S: Simd>(from: &[[f16; LANES]], to: &mut [[f32; LANES]]) {
    from.iter()
        .zip(to)
        .for_each(|(from, to)| S::widen(from, to));
}

simd_dispatch! {
    /// Registers at the start of every `from_stride` numbers to every `to_stride`th register.
    fn widen_strided = widen_strided_body(
        from: &[f16],
        from_stride: usize,
        to: &mut [[f32; LANES]],
        to_stride: usize,
    )
}

#[inline(always)]
fn widen_strided_body<S: Simd>(
    from: &[f16],
    from_stride: usize,
    to: &mut [[f32; LANES]],
    to_stride: usize,
) {
    for (from, to) in from
        .chunks(from_stride)
        .zip(to.iter_mut().step_by(to_stride))
    {
        if let Some(from) = from.first_chunk() {
            S::widen(from, to);
        }
    }
}
