//! Tokens a second of the engine, by work and by shape, and bytes a second of its starts: `cargo bench -p tiny-t5 --features embedded --bench engine`.
//!
//! The models are of random weights in released shapes, but for the one that is part of the library. Names are
//! group/work/threads, or group/work/shape with one thread. To compare two commits, run the older with `-- --save-baseline before` and the newer with `-- --baseline before`.

#![allow(missing_docs)] // of what criterion_group makes

#[path = "../tests/common/mod.rs"]
mod common;
mod shapes;

use common::{Folder, Stored, data};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use serde_json::Value;
use shapes::{BASE, SMALL, TINY, greedy, model, source, threads};
use std::time::Duration;
use tiny_t5::tokenizer::Tokenizer;
use tiny_t5::{Generate, Load, Shape, Source, Speculation, T5};

/// Source tokens a second.
fn encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode");
    let tiny = model(TINY);
    let (long, short) = (source(128, 0), (0..8).map(|i| source(64, i)).collect::<Vec<_>>());
    let batch: Vec<Source<'_>> = short.iter().map(Source::from).collect();
    for n in [1, 2] {
        let tiny = tiny.with_threads(n);
        group.throughput(Throughput::Elements(128));
        group.bench_function(BenchmarkId::new("128 tokens, tiny shape", threads(n)), |b| {
            b.iter(|| tiny.encode(&long).unwrap());
        });
        group.throughput(Throughput::Elements(8 * 64));
        group.bench_function(BenchmarkId::new("8 sources of 64 tokens, tiny shape", threads(n)), |b| {
            b.iter(|| tiny.encode_batch(&batch).unwrap());
        });
    }
    group.finish();
}

/// Generated tokens a second, from sources to sequences.
fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    let sources: Vec<Vec<u32>> = (0..8).map(|i| source(64, i)).collect();
    let (tiny, small) = (model(TINY), model(SMALL));
    let beams = Generate { num_beams: Some(4), ..greedy(32) };
    for (work, t5, count, tokens, options) in [
        ("greedy 32 tokens from 64, tiny shape", &tiny, 1, 32, greedy(32)),
        ("greedy 32 tokens from each of 8 sources of 64, tiny shape", &tiny, 8, 32, greedy(32)),
        ("4 beams of 32 tokens from 64, tiny shape", &tiny, 1, 32, beams),
        ("greedy 8 tokens from 64, t5-small's shape", &small, 1, 8, greedy(8)),
    ] {
        let sources: Vec<Source<'_>> = sources[..count].iter().map(Source::from).collect();
        group.throughput(Throughput::Elements((count * tokens) as u64));
        for n in [1, 2] {
            let t5 = t5.with_threads(n);
            group.bench_function(BenchmarkId::new(work, threads(n)), |b| {
                b.iter(|| {
                    let all = t5.generate_batch(&sources, &options).unwrap();
                    assert!(all.iter().all(|generated| generated.sequences[0].ids.len() == tokens));
                });
            });
        }
    }
    group.finish();
}

/// Tokens a second by each way of guessing them; how many were guessed and held is printed beside.
fn speculation(c: &mut Criterion) {
    let mut group = c.benchmark_group("speculation");
    // With the embedding as its output matrix a random model repeats a token, and every guess holds.
    let random = |config: &str| model(&config.replacen('{', r#"{"tie_word_embeddings": false, "#, 1));
    let word: &[u32] =
        &T5::embedded(&Load::default()).unwrap().tokenizer().unwrap().encode("internationalization").unwrap();
    type Make<'a> = &'a dyn Fn() -> T5;
    let shapes: [(&str, Make<'_>, &[u32], usize); 4] = [
        ("a word by the embedded model", &|| T5::embedded(&Load::default()).unwrap(), word, 16),
        ("32 tokens from 64, tiny shape", &|| random(TINY), &source(64, 0), 32),
        ("32 tokens from 64, t5-small's shape", &|| random(SMALL), &source(64, 0), 32),
        ("16 tokens from 64, t5-base's shape", &|| random(BASE), &source(64, 0), 16),
    ];
    for (work, make, source, tokens) in shapes {
        let t5 = make().with_threads(1);
        group.sample_size(10).throughput(Throughput::Elements(tokens as u64));
        for how in [Speculation::Off, Speculation::Copy, Speculation::Draft] {
            let options = Generate { speculation: Some(how), ..greedy(tokens) };
            let generated = t5.generate(source, &options).unwrap();
            let (guessed, held) = (generated.timings.guessed, generated.timings.accepted);
            println!("{work}, {how:?}: {held} of {guessed} guesses held");
            group.bench_function(BenchmarkId::new(work, format!("{how:?}")), |b| {
                b.iter(|| t5.generate(source, &options).unwrap());
            });
        }
    }
    group.finish();
}

/// Bytes of the files a second, from nothing to a model that is ready; their pages are in memory.
fn startup(c: &mut Criterion) {
    let mut group = c.benchmark_group("startup");
    let folder = folder(TINY);
    let (path, panels) = (folder.write(), tempfile::tempdir().unwrap());
    let plain = Load { threads: Some(2), ..Load::default() };
    let cached = Load { cache: Some(panels.path().to_owned()), ..plain.clone() };

    group.throughput(Throughput::BytesDecimal(T5::embedded(&plain).unwrap().bytes_on_disk()));
    group.bench_function(BenchmarkId::new("the embedded model", threads(2)), |b| {
        b.iter(|| T5::embedded(&plain).unwrap());
    });
    group.throughput(Throughput::BytesDecimal(T5::open_with(path, &plain).unwrap().bytes_on_disk()));
    group.bench_function(BenchmarkId::new("a folder of the tiny shape", threads(2)), |b| {
        b.iter(|| T5::open_with(path, &plain).unwrap());
    });
    // Files are not taken for unchanged until they are some seconds old.
    std::thread::sleep(Duration::from_secs(4));
    T5::open_with(path, &cached).unwrap();
    group.bench_function(BenchmarkId::new("a folder of the tiny shape, its panels in the cache", threads(2)), |b| {
        b.iter(|| T5::open_with(path, &cached).unwrap());
    });
    let json = std::fs::read(data("vocab/t5/tokenizer.json")).unwrap();
    group.throughput(Throughput::BytesDecimal(json.len() as u64));
    group.bench_function(BenchmarkId::new("T5's tokenizer.json", threads(1)), |b| {
        b.iter(|| Tokenizer::from_json(&json, None).unwrap());
    });
    group.finish();
}

/// Shapes of T5-Efficient that differ from the tiny one in one thing each: source tokens a second through the encoder, and generated
/// tokens a second from a source.
fn family(c: &mut Criterion) {
    let mut group = c.benchmark_group("family");
    let source = source(64, 0);
    for (name, what) in [
        ("tiny", "4 + 4 layers of d_model 256"),
        ("tiny-nl8", "8 + 8 layers"),
        ("tiny-el8", "8 + 4 layers"),
        ("tiny-dl2", "4 + 2 layers"),
        ("tiny-ff2000", "a feed-forward of 2000"),
        ("tiny-nh8", "8 heads"),
        ("mini", "d_model 384, 8 heads"),
    ] {
        let shape = Shape::named(&format!("t5-efficient-{name}")).unwrap();
        let t5 = T5::random(&Value::from(shape.config.raw).to_string(), 1, &Load::default()).unwrap().with_threads(1);
        group.throughput(Throughput::Elements(64));
        group.bench_function(BenchmarkId::new("encode 64 tokens", format!("{name}, {what}")), |b| {
            b.iter(|| t5.encode(&source).unwrap());
        });
        group.throughput(Throughput::Elements(16));
        group.bench_function(BenchmarkId::new("greedy 16 tokens from 64", format!("{name}, {what}")), |b| {
            b.iter(|| t5.generate(&source, &greedy(16)).unwrap());
        });
    }
    group.finish();
}

/// A checkpoint folder of random weights, which is written where it is used.
fn folder(config: &str) -> Folder {
    let mut folder = Folder::of("goldens/v1_0-relu-tied");
    folder.config = serde_json::from_str(config).unwrap();
    folder.tensors.clear();
    let keep = |name: &str, shape: &[usize], values: &mut [f32]| {
        folder.tensors.insert(name.to_owned(), Stored::of(shape, values));
    };
    T5::random_with(config, 1, &Load::default(), keep).unwrap();
    folder
}

criterion_group! {
    name = engine;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(300));
    targets = encode, decode, speculation, startup, family
}
criterion_main!(engine);
