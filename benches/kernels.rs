//! GFLOP/s and GB/s of the kernels beside the machine's own peak, measured in the same run:
//! `cargo bench -p tiny-t5-kernels --bench kernels`.
//!
//! Names are operation/shape/instruction set/threads. Products count 2 operations a multiply-add, so that criterion's
//! Gelem/s reads as GFLOP/s; matrix-vector products count the bytes of their weights, and sweep as many matrices as a
//! decoder step of T5-Efficient-TINY reads, as `read` does. `roofline` prints the same as shares of the peak.

#![allow(missing_docs)] // of what criterion_group makes

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::time::Duration;
use tiny_t5_kernels::*;

/// Bytes of the decoder's layers of T5-Efficient-TINY in f32.
const STEP: usize = 14_700_000;

fn filled(floats: usize) -> Arena {
    let mut arena = Arena::new(floats * 4).expect("memory for a bench");
    let values: &mut [f32] = bytemuck::cast_slice_mut(arena.bytes_mut());
    values.iter_mut().enumerate().for_each(|(i, x)| *x = (i % 251) as f32 * 0.01 - 1.0);
    arena
}

fn floats(arena: &Arena) -> &[f32] {
    bytemuck::cast_slice(arena.bytes())
}

fn fast_isas() -> impl Iterator<Item = Isa> {
    Isa::available().into_iter().filter(|isa| isa.name() != "portable")
}

/// The machine's own limits.
fn limits(c: &mut Criterion) {
    let mut group = c.benchmark_group("limit");
    for isa in fast_isas() {
        group.throughput(Throughput::Elements(machine::BURST_FLOPS as u64));
        group.bench_function(BenchmarkId::new("fma_peak", isa.name()), |b| b.iter(|| machine::burst(isa)));
        let memory = machine::Sweep::new(STEP).expect("memory for a bench");
        group.throughput(Throughput::BytesDecimal(STEP as u64));
        group.bench_function(BenchmarkId::new("read/14.7 MB", isa.name()), |b| b.iter(|| memory.read(isa)));
    }
    group.finish();
}

/// Products of many rows.
fn products(c: &mut Criterion) {
    let mut group = c.benchmark_group("matmul");
    for (m, n, k) in [(512, 256, 1024), (128, 768, 256), (64, 1024, 256), (4, 1024, 256)] {
        let weights = filled(Panels::len(n, k));
        let w = Panels::new(n, k, Storage::F32(floats(&weights)));
        let a = vec![0.5f32; m * padded(k)];
        let mut out = vec![0f32; m * padded(n)];
        group.throughput(Throughput::Elements((2 * m * n * k) as u64));
        for isa in fast_isas() {
            for threads in [1, 2] {
                group.bench_function(format!("{m}x{n}x{k}/{}/{threads}t", isa.name()), |b| {
                    Team::enter(threads, |team| {
                        b.iter(|| {
                            let p = Product { a: black_box(&a), lda: padded(k), m, w, epilogue: Epilogue::Store };
                            matmul(isa, team, p, &mut out, padded(n));
                        });
                    });
                });
            }
        }
        assert!(out.iter().take(n).all(|x| x.is_finite()));
    }
    group.finish();
}

/// One row times the matrices of a decoder step.
fn vectors(c: &mut Criterion) {
    let mut group = c.benchmark_group("matmul of one row");
    for (n, k) in [(768, 256), (256, 256), (1024, 256), (256, 1024)] {
        let matrices = STEP / (n * k * 4);
        let weights = filled(matrices * n * k);
        let a = vec![0.5f32; padded(k)];
        let mut out = vec![0f32; padded(n)];
        group.throughput(Throughput::BytesDecimal((matrices * n * k * 4) as u64));
        for isa in fast_isas() {
            group.bench_function(format!("1x{n}x{k} times {matrices}/{}/1t", isa.name()), |b| {
                b.iter(|| {
                    for w in floats(&weights).chunks_exact(n * k) {
                        let w = Panels::new(n, k, Storage::F32(w));
                        let p = Product { a: black_box(&a), lda: padded(k), m: 1, w, epilogue: Epilogue::Store };
                        matmul(isa, &Team::alone(), p, &mut out, padded(n));
                    }
                });
            });
        }
    }
    group.finish();
}

/// What a region costs beside its work.
fn regions(c: &mut Criterion) {
    let mut group = c.benchmark_group("region");
    for chunks in [2, 8] {
        group.bench_function(format!("empty/{chunks} chunks/2t"), |b| {
            Team::enter(2, |team| {
                b.iter(|| {
                    team.run(chunks, |_, chunk| {
                        black_box(chunk);
                    });
                });
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = kernels;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(300));
    targets = limits, products, vectors, regions
}
criterion_main!(kernels);
