//! The kernels against Candle's dequantised weights, against each other, and against themselves in other company.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use half::f16;

use super::activations::QuantizedRows;
use super::ggml::BlockKind;
use super::isa::Isa;
use super::matmul::matmul;
use super::packed::PackedMatrix;

const KINDS: [(BlockKind, GgmlDType); 8] = [
    (BlockKind::Q4_0, GgmlDType::Q4_0),
    (BlockKind::Q4_1, GgmlDType::Q4_1),
    (BlockKind::Q5_0, GgmlDType::Q5_0),
    (BlockKind::Q5_1, GgmlDType::Q5_1),
    (BlockKind::Q8_0, GgmlDType::Q8_0),
    (BlockKind::Q4K, GgmlDType::Q4K),
    (BlockKind::Q5K, GgmlDType::Q5K),
    (BlockKind::Q6K, GgmlDType::Q6K),
];

/// Not a multiple of the tile, so that the last tile is ragged.
const N: usize = 43;
const K: usize = 512;

/// A packed random matrix and its weights as Candle reads them.
fn matrix(kind: BlockKind, dtype: GgmlDType) -> candle_core::Result<(PackedMatrix, Vec<f32>)> {
    let weights = Tensor::from_vec(noise(1, N * K), (N, K), &Device::Cpu)?;
    let quantized = QTensor::quantize(&weights, dtype)?;
    let packed =
        PackedMatrix::pack(kind, &quantized.data()?, N, K).expect("the bytes fit the shape");
    Ok((
        packed,
        quantized
            .dequantize(&Device::Cpu)?
            .flatten_all()?
            .to_vec1()?,
    ))
}

/// Repeatable numbers in -1 .. 1.
fn noise(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn product(isa: Isa, x: &[f32], w: &PackedMatrix) -> Vec<f32> {
    let mut rows = QuantizedRows::default();
    rows.fill(x, K, w.layout, None);
    let mut out = vec![0.0; x.len() / K * N];
    matmul(isa, &rows, w, &mut out);
    out
}

#[test]
fn packing_keeps_every_weight() -> candle_core::Result<()> {
    for (kind, dtype) in KINDS {
        let (packed, expected) = matrix(kind, dtype)?;
        let mut row = vec![0.0; K];
        for (n, expected) in expected.chunks_exact(K).enumerate() {
            packed.dequantize_row(n, &mut row);
            for (got, expected) in row.iter().zip(expected) {
                assert!(
                    (got - expected).abs() <= 2e-3,
                    "{kind:?} row {n}: {got} for {expected}"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn products_are_near_those_of_the_plain_weights() -> candle_core::Result<()> {
    let x = noise(2, 5 * K);
    for (kind, dtype) in KINDS {
        let (packed, weights) = matrix(kind, dtype)?;
        for isa in Isa::all() {
            let got = product(isa, &x, &packed);
            for (row, got) in x.chunks_exact(K).zip(got.chunks_exact(N)) {
                for (weights, got) in weights.chunks_exact(K).zip(got) {
                    let expected: f32 = row.iter().zip(weights).map(|(x, w)| x * w).sum();
                    // 512 products of numbers below 1, each rounded to 1/254 of the largest of its run.
                    assert!(
                        (got - expected).abs() < 0.25,
                        "{kind:?} {isa:?}: {got} for {expected}"
                    );
                }
            }
        }
    }
    Ok(())
}

#[test]
fn every_path_gives_the_same_products() -> candle_core::Result<()> {
    let x = noise(3, 11 * K);
    for (kind, dtype) in KINDS {
        let (packed, _) = matrix(kind, dtype)?;
        let portable = product(Isa::PORTABLE, &x, &packed);
        for isa in Isa::all() {
            for (portable, got) in portable.iter().zip(product(isa, &x, &packed)) {
                assert!(
                    (portable - got).abs() < 1e-4 * portable.abs().max(1.0),
                    "{kind:?} {isa:?}: {got} for {portable}"
                );
            }
        }
    }
    Ok(())
}

/// Blocks of random codes whose scales are whole numbers, so that weights are, too.
fn whole_numbers(kind: BlockKind) -> PackedMatrix {
    let scale = f16::ONE.to_le_bytes();
    let mut raw: Vec<u8> = noise(6, N * K / kind.weights() * kind.bytes())
        .iter()
        .map(|x| (x * 32_768.0) as i32 as u8)
        .collect();
    for block in raw.chunks_exact_mut(kind.bytes()) {
        match kind {
            BlockKind::Q4_0 | BlockKind::Q5_0 | BlockKind::Q8_0 => {
                block[..2].copy_from_slice(&scale);
            }
            BlockKind::Q4_1 | BlockKind::Q5_1 | BlockKind::Q4K | BlockKind::Q5K => {
                block[..2].copy_from_slice(&scale);
                block[2..4].copy_from_slice(&scale);
            }
            BlockKind::Q6K => block[208..].copy_from_slice(&scale),
        }
    }
    PackedMatrix::pack(kind, &raw, N, K).expect("the bytes fit the shape")
}

#[test]
fn whole_numbers_are_multiplied_exactly_on_every_path() {
    // The largest of each run of 32 is 127, so that its scale is 1.
    let x: Vec<f32> = noise(7, 11 * K)
        .iter()
        .enumerate()
        .map(|(i, x)| {
            if i % 32 == 9 {
                -127.0
            } else {
                (x * 12.0).round()
            }
        })
        .collect();
    for (kind, _) in KINDS {
        let packed = whole_numbers(kind);
        for isa in Isa::all() {
            let got = product(isa, &x, &packed);
            for (n, column) in (0..N).map(|n| (n, got.iter().skip(n).step_by(N))) {
                let mut weights = vec![0.0; K];
                packed.dequantize_row(n, &mut weights);
                for (row, &got) in x.chunks_exact(K).zip(column) {
                    let products = row.iter().zip(&weights).map(|(x, w)| *x as i64 * *w as i64);
                    assert_eq!(got, products.sum::<i64>() as f32, "{kind:?} {isa:?} {n}");
                }
            }
        }
    }
}

#[test]
fn the_largest_codes_do_not_overflow_on_any_path() {
    for (code, weight) in [(0x80u8, -128i64), (0x7f, 127)] {
        let mut raw = vec![code; N * K / 32 * 34];
        for block in raw.chunks_exact_mut(34) {
            block[..2].copy_from_slice(&f16::ONE.to_le_bytes());
        }
        let packed =
            PackedMatrix::pack(BlockKind::Q8_0, &raw, N, K).expect("the bytes fit the shape");
        for x in [-127.0, 127.0] {
            for isa in Isa::all() {
                let expected = (x as i64 * weight * K as i64) as f32;
                assert_eq!(product(isa, &[x; K], &packed), [expected; N], "{isa:?}");
            }
        }
    }
}

#[test]
fn a_row_does_not_depend_on_its_neighbours() -> candle_core::Result<()> {
    let x = noise(4, 19 * K);
    for (kind, dtype) in KINDS {
        let (packed, _) = matrix(kind, dtype)?;
        for isa in Isa::all() {
            let together = product(isa, &x, &packed);
            for (row, together) in x.chunks_exact(K).zip(together.chunks_exact(N)) {
                assert_eq!(product(isa, row, &packed), together, "{kind:?} {isa:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn a_row_that_is_no_number_poisons_itself_alone() -> candle_core::Result<()> {
    let (packed, _) = matrix(BlockKind::Q4_1, GgmlDType::Q4_1)?;
    for (bad, isa) in [
        (f32::NAN, Isa::detect()),
        (f32::INFINITY, Isa::detect()),
        (f32::NAN, Isa::PORTABLE),
    ] {
        let mut x = noise(5, 2 * K);
        let clean = product(isa, &x[..K], &packed);
        x[K + 77] = bad;
        let got = product(isa, &x, &packed);
        assert_eq!(got[..N], clean);
        assert!(got[N..].iter().all(|value| value.is_nan()), "{bad} {isa:?}");
    }
    Ok(())
}

#[test]
fn bytes_that_do_not_fit_the_shape_are_refused() {
    assert!(PackedMatrix::pack(BlockKind::Q4_1, &[0; 19], 1, 32).is_none());
    assert!(PackedMatrix::pack(BlockKind::Q4_1, &[0; 20], 1, 31).is_none());
    assert!(PackedMatrix::pack(BlockKind::Q4K, &[0; 144], 1, 32).is_none());
    assert!(PackedMatrix::pack(BlockKind::Q8_0, &[], 0, 32).is_none());
}
