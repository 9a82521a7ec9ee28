//! Products and attention in operations and bytes per second, after the ceilings that bound them. `cargo bench` prints
//! elements per second: an element is an operation (a multiply-add is two) or a byte.

use std::hint::black_box;
use std::thread;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hansa_models::kernels::cpu::{BlockKind, Isa, PackedMatrix, QuantizedRows, matmul};
use hansa_models::testing::{AttentionRig, ProductForm, ProductRig};
use hansa_models::{KvType, ThreadPool};
use hansa_peer_kernels::{FMA_OPERATIONS, VNNI_OPERATIONS, fma, read, vnni};

fn threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Runs the same on every processor at once.
fn everywhere(work: impl Fn(usize) + Sync) {
    thread::scope(|scope| {
        for index in 0..threads() {
            let work = &work;
            scope.spawn(move || work(index));
        }
    });
}

fn ceilings(c: &mut Criterion) {
    let mut group = c.benchmark_group("ceiling");
    let words = vec![1u64; 32 << 20];
    group.throughput(Throughput::Bytes(words.len() as u64 * 8));
    let part = words.len() / threads();
    group.bench_function("memory reads", |b| {
        b.iter(|| {
            everywhere(|i| {
                black_box(read(&words[i * part..][..part]));
            })
        });
    });
    group.throughput(Throughput::Elements(VNNI_OPERATIONS * threads() as u64));
    group.bench_function("byte products", |b| {
        b.iter(|| {
            everywhere(|i| {
                black_box(vnni(i as i32));
            })
        });
    });
    group.throughput(Throughput::Elements(FMA_OPERATIONS * threads() as u64));
    group.bench_function("F32 products", |b| {
        b.iter(|| {
            everywhere(|i| {
                black_box(fma(i as f32));
            })
        });
    });
    group.finish();
}

/// The shapes of SmolLM2-135M, whose two products of the feed-forward block are three quarters of its work.
fn products(c: &mut Criterion) {
    let pool = ThreadPool::new(threads()).expect("threads");
    let kinds = [
        ("Q4_0", BlockKind::Q4_0, GgmlDType::Q4_0),
        ("Q4_1", BlockKind::Q4_1, GgmlDType::Q4_1),
        ("Q5_0", BlockKind::Q5_0, GgmlDType::Q5_0),
        ("Q5_1", BlockKind::Q5_1, GgmlDType::Q5_1),
        ("Q8_0", BlockKind::Q8_0, GgmlDType::Q8_0),
        ("Q4_K", BlockKind::Q4K, GgmlDType::Q4K),
        ("Q5_K", BlockKind::Q5K, GgmlDType::Q5K),
        ("Q6_K", BlockKind::Q6K, GgmlDType::Q6K),
    ];
    for (name, kind, dtype) in kinds {
        let (n, k) = (3072, 768);
        let weights = Tensor::randn(0f32, 1f32, (n, k), &Device::Cpu).expect("weights");
        let raw = QTensor::quantize(&weights, dtype).expect("a type of blocks");
        let raw = raw.data().expect("bytes").into_owned();
        let packed = PackedMatrix::pack(kind, &raw, n, k).expect("a whole matrix");
        let mut group = c.benchmark_group(format!("product {name}"));
        for m in [1, 4, 8, 32, 512] {
            let x = vec![0.5f32; m * k];
            let rows = QuantizedRows::quantize(&x, &packed);
            let mut out = vec![0.0; m * n];
            group.throughput(if m == 1 {
                Throughput::Bytes(packed.bytes() as u64)
            } else {
                Throughput::Elements(2 * (m * n * k) as u64)
            });
            group.bench_function(BenchmarkId::from_parameter(m), |b| {
                b.iter(|| pool.install(|| matmul(Isa::detect(), &rows, &packed, &mut out)));
            });
        }
        group.finish();
    }
}

/// Plain numbers, and what is fused around a product: the norm before it, the gate after it.
fn forms(c: &mut Criterion) {
    let pool = ThreadPool::new(threads()).expect("threads");
    for form in [
        ProductForm::F16,
        ProductForm::Bf16,
        ProductForm::F32,
        ProductForm::Normed,
        ProductForm::Gated,
    ] {
        let mut group = c.benchmark_group(format!("product {form:?}"));
        for m in [1, 8, 512] {
            let (n, k) = (3072, 768);
            let rig = ProductRig::new(form, (m, n, k)).expect("memory");
            group.throughput(Throughput::Elements(2 * (m * n * k) as u64));
            group.bench_function(BenchmarkId::from_parameter(m), |b| {
                b.iter(|| pool.install(|| rig.run().expect("a product")))
            });
        }
        group.finish();
    }
}

/// The whole vocabulary of SmolLM2-135M for one row, which no cache holds: bytes as fast as memory gives them.
fn vocabulary(c: &mut Criterion) {
    let pool = ThreadPool::new(threads()).expect("threads");
    let (n, k) = (49_152, 576);
    let weights = Tensor::randn(0f32, 1f32, (n, k), &Device::Cpu).expect("weights");
    let raw = QTensor::quantize(&weights, GgmlDType::Q8_0).expect("a type of blocks");
    let raw = raw.data().expect("bytes").into_owned();
    let packed = PackedMatrix::pack(BlockKind::Q8_0, &raw, n, k).expect("a whole matrix");
    let rows = QuantizedRows::quantize(&vec![0.5f32; k], &packed);
    let mut out = vec![0.0; n];
    let mut group = c.benchmark_group("vocabulary Q8_0");
    group.throughput(Throughput::Bytes(packed.bytes() as u64));
    group.bench_function("1 row", |b| {
        b.iter(|| pool.install(|| matmul(Isa::detect(), &rows, &packed, &mut out)));
    });
    group.finish();
}

fn attention(c: &mut Criterion) {
    let pool = ThreadPool::new(threads()).expect("threads");
    let mut group = c.benchmark_group("attention");
    for (name, sequences, q_len, kv_len) in [
        ("prefill of 512", 1, 512, 512),
        ("1 token after 1,000", 1, 1, 1_000),
        ("32 tokens after 500", 32, 1, 500),
    ] {
        let rig = AttentionRig::new(sequences, q_len, kv_len, KvType::F16).expect("memory");
        group.throughput(Throughput::Elements(rig.operations()));
        group.bench_function(name, |b| {
            b.iter(|| pool.install(|| rig.run().expect("a step")))
        });
    }
    group.finish();
}

criterion_group!(benches, ceilings, products, forms, vocabulary, attention);
criterion_main!(benches);
