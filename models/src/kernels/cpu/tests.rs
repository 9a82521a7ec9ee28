//! The kernels against Candle's dequantised weights, against each other, and against themselves in other company.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};

use super::activations::QuantizedRows;
use super::ggml::BlockKind;
use super::matmul::{Isa, matmul};
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
        for isa in [Isa::Portable, Isa::detect()] {
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
        let (portable, best) = (
            product(Isa::Portable, &x, &packed),
            product(Isa::detect(), &x, &packed),
        );
        for (portable, best) in portable.iter().zip(&best) {
            assert!(
                (portable - best).abs() < 1e-4 * portable.abs().max(1.0),
                "{kind:?}: {best} for {portable}"
            );
        }
    }
    Ok(())
}

#[test]
fn a_row_does_not_depend_on_its_neighbours() -> candle_core::Result<()> {
    let x = noise(4, 19 * K);
    for (kind, dtype) in KINDS {
        let (packed, _) = matrix(kind, dtype)?;
        for isa in [Isa::Portable, Isa::detect()] {
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
        (f32::NAN, Isa::Portable),
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
