//! The kernels, whole encoder passes and whole decoder steps beside the machine's own limits, measured in turn in the same run:
//! `cargo bench -p tiny-t5 --bench roofline`; with `-- step`, only the rows whose names have `step` in them.
//!
//! A row gives the median of many short bursts and the fastest, and the share that the median reaches of the median of
//! the limit: FMA peak for products of many rows and for the encoder, read bandwidth at the same working set for products of
//! one row and for the decoder.

mod shapes;

use shapes::{SMALL, TINY, greedy, model, source, threads};
use std::hint::black_box;
use std::time::Instant;
use tiny_t5::{Config, Load, Source, T5};
use tiny_t5_kernels::*;

/// Whether the command line asks for a row: without names, for all.
fn wanted(row: &str) -> bool {
    // `cargo bench` adds `--bench`.
    let mut parts = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).peekable();
    parts.peek().is_none() || parts.any(|part| row.contains(&part))
}

/// (fastest, median) seconds of a call.
fn time(bursts: usize, mut call: impl FnMut()) -> (f64, f64) {
    call();
    let mut seconds: Vec<f64> = (0..bursts)
        .map(|_| {
            let start = Instant::now();
            call();
            start.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    (seconds[0], seconds[bursts / 2])
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn weights(n: usize, k: usize) -> Arena {
    let mut arena = Arena::new(Panels::len(n, k) * 4).unwrap();
    let floats: &mut [f32] = bytemuck::cast_slice_mut(arena.bytes_mut());
    floats.iter_mut().enumerate().for_each(|(i, x)| *x = (i % 251) as f32 * 0.01 - 1.0);
    arena
}

fn main() {
    let (tiny, small) = (model(TINY), model(SMALL));
    let survivors: Vec<_> =
        [true, false].into_iter().flat_map(|tied| Embedding::ALL.map(|kind| (kind, tied, kind.model(tied)))).collect();
    for isa in Isa::available().into_iter().filter(|isa| isa.name() != "portable") {
        let peak = machine::fma_peak(isa, 400);
        println!("\n{}: FMA peak {:.1} GFLOP/s, one thread", isa.name(), peak / 1e9);
        for (m, n, k) in [
            (512, 1024, 256),
            (512, 256, 1024),
            (64, 768, 256),
            (64, 1024, 256),
            (64, 256, 1024),
            (64, 256, 256),
            (128, 768, 256),
            (128, 1024, 256),
            (128, 256, 1024),
            (128, 2048, 512),
            (128, 512, 2048),
            (128, 3072, 768),
            (128, 768, 3072),
            (128, 1024, 1024),
            (32, 768, 256),
            (32, 1024, 256),
            (16, 1024, 256),
            (16, 256, 1024),
            (4, 1024, 256),
            (4, 256, 1024),
            (2, 1024, 256),
        ] {
            product(isa, m, n, k);
        }
        packing(isa, 32128, 256);
        packing(isa, 3840, 1024);
        for queries in [1, 2, 4, 32] {
            screen(isa, 32128, 256, queries);
        }
        for rows in [1, 4, 16] {
            near(isa, 32128, 256, rows);
        }
        for (n, k) in [(768, 256), (256, 256), (1024, 256), (256, 1024), (2048, 512), (512, 2048)] {
            vector(isa, n, k);
        }
        for (shape, t5) in [("tiny", &tiny), ("small", &small)] {
            let t5 = t5.with_isa(isa.name()).unwrap();
            for threads in [1, 2] {
                encoder(isa, shape, &t5.with_threads(threads));
            }
            for threads in [1, 2] {
                step(isa, shape, &t5.with_threads(threads));
            }
        }
        for (kind, tied, t5) in &survivors {
            screen_survivors(isa, *kind, *tied, &t5.with_isa(isa.name()).unwrap().with_threads(1));
        }
    }
}

/// Products of many rows, beside the FMA peak measured in the same moments.
fn product(isa: Isa, m: usize, n: usize, k: usize) {
    let row = format!("matmul/{m}x{n}x{k}");
    if !wanted(&row) {
        return;
    }
    let arena = weights(n, k);
    let w = Panels::new(n, k, Storage::F32(bytemuck::cast_slice(arena.bytes())));
    let a = vec![0.5f32; m * padded(k)];
    let mut out = vec![0f32; m * padded(n)];
    let flops = (2 * m * n * k) as f64;
    let bursts = ((2e9 / flops) as usize).clamp(20, 2000);
    let before = machine::fma_peak(isa, 20);
    let (fast, median) = time(bursts, || {
        let product = Product { a: black_box(&a), lda: padded(k), m, w, epilogue: Epilogue::Store };
        matmul(isa, &Team::alone(), product, &mut out, padded(n));
    });
    let peak = before.max(machine::fma_peak(isa, 20));
    println!(
        "  {row}: {:.1} GFLOP/s (fastest {:.1}), {:.0} % of peak {:.1}",
        flops / median / 1e9,
        flops / fast / 1e9,
        100.0 * flops / median / peak,
        peak / 1e9
    );
}

/// One row times matrices that together have a decoder's size, beside reading as many bytes.
fn vector(isa: Isa, n: usize, k: usize) {
    let total = 14_700_000;
    let copies = (total / (n * k * 4)).max(1);
    let row = format!("matmul/1x{n}x{k}, {copies} matrices");
    if !wanted(&row) {
        return;
    }
    let arena = weights(n * copies, k);
    let floats: &[f32] = bytemuck::cast_slice(arena.bytes());
    let a = vec![0.5f32; padded(k)];
    let mut out = vec![0f32; padded(n)];
    let bytes = (copies * n * k * 4) as f64;
    let (_, limit) = machine::read_bandwidth(isa, bytes as usize, 60).unwrap();
    let (fast, median) = time(60, || {
        for w in floats.chunks_exact(n * k) {
            let product = Product {
                a: black_box(&a),
                lda: padded(k),
                m: 1,
                w: Panels::new(n, k, Storage::F32(w)),
                epilogue: Epilogue::Store,
            };
            matmul(isa, &Team::alone(), product, &mut out, padded(n));
        }
    });
    println!(
        "  {row}: {:.1} GB/s (fastest {:.1}), {:.0} % of reading {:.1}",
        bytes / median / 1e9,
        bytes / fast / 1e9,
        100.0 * bytes / median / limit,
        limit / 1e9
    );
}

/// The int8 screen of an LM head, beside reading its bytes.
fn screen(isa: Isa, n: usize, k: usize, queries: usize) {
    let name = format!("screen/{queries}x{n}x{k}");
    if !wanted(&name) {
        return;
    }
    let row: Vec<f32> = (0..k).map(|i| (i * 7 % 31) as f32 * 0.1 - 1.5).collect();
    let scales = ColumnScales::new(&row, k, k);
    let mut arena = Arena::new(screen_bytes(n, k)).unwrap();
    for panel in arena.bytes_mut().chunks_exact_mut(screen_bytes(LANES, k)) {
        assert!(pack_screen(isa, &[Some(&row[..]); LANES], &scales, panel));
    }
    let mut all = vec![Query::default(); queries];
    assert!(all.iter_mut().all(|q| q.prepare(isa, &row, &scales)));
    let mut uppers = vec![0.0; queries * n.div_ceil(SCREEN_GROUP)];
    let bytes = screen_bytes(n, k) as f64;
    let (_, limit) = machine::read_bandwidth(isa, bytes as usize, 60).unwrap();
    let (fast, median) = time(100, || {
        let screen = Screen::new(n, k, arena.bytes());
        screen.scan(isa, &Team::alone(), &all, screen_digits(isa, queries), &mut uppers);
    });
    println!(
        "  {name}: {:.0} us (fastest {:.0}), {:.1} GB/s, {:.0} % of reading {:.1}",
        median * 1e6,
        fast * 1e6,
        bytes / median / 1e9,
        100.0 * bytes / median / limit,
        limit / 1e9
    );
}

/// The copy of an LM head at 16 bits, and what a beam search wants of it, beside reading its bytes.
fn near(isa: Isa, n: usize, k: usize, rows: usize) {
    let name = format!("near/{rows}x{n}x{k}");
    if !wanted(&name) {
        return;
    }
    let row = |lane: usize| (0..k).map(|i| (i * (7 + lane) % 31) as f32 * 0.1 - 1.5).collect::<Vec<f32>>();
    let panel: [Vec<f32>; LANES] = std::array::from_fn(row);
    let scales = ColumnScales::new(&panel.concat(), k, k);
    let mut arena = Arena::new(near_bytes(n, k)).unwrap();
    for mut to in near_panels(n, k, arena.bytes_mut()) {
        assert!(to.pack(isa, &std::array::from_fn(|lane| Some(&panel[lane][..])), &scales));
    }
    let mut queries = vec![0f32; rows * k];
    let prepared = NearQuery::prepare(&panel[0], &scales, &mut queries[..k]).unwrap();
    (1..rows).for_each(|i| queries.copy_within(..k, i * k));
    let (mut products, mut leading) = (vec![0f32; rows * n], NearLeading::default());
    let bytes = near_bytes(n, k) as f64;
    let (_, limit) = machine::read_bandwidth(isa, bytes as usize, 30).unwrap();
    let copy = Near::new(n, k, arena.bytes());
    let (fast, median) = time(50, || {
        copy.products(isa, &Team::alone(), &queries, k, rows, &mut products);
    });
    let (_, each) = time(50, || {
        black_box(copy.leading(isa, prepared, &products[..n], &[], (8, n), &mut leading));
    });
    println!(
        "  {name}: {:.0} us (fastest {:.0}), {:.1} GB/s, {:.0} % of reading {:.1}; the leading of a row {:.0} us",
        median * 1e6,
        fast * 1e6,
        bytes / median / 1e9,
        100.0 * bytes / median / limit,
        limit / 1e9,
        each * 1e6
    );
}

/// Making the screen, and packing the same matrix.
fn packing(isa: Isa, n: usize, k: usize) {
    let (screen, panels) = (format!("pack_screen/{n}x{k}"), format!("pack_panel/{n}x{k}"));
    if !wanted(&screen) && !wanted(&panels) {
        return;
    }
    let rows: Vec<f32> = (0..n * k).map(|i| (i % 251) as f32 * 0.01 - 1.0).collect();
    let scales = ColumnScales::new(&rows[..9 * k], k, k);
    let mut arena = Arena::new(screen_bytes(n, k)).unwrap();
    let each = |lane: usize, panel: usize| &rows[(panel * LANES + lane) * k..][..k];
    let (fast, median) = time(10, || {
        for (i, panel) in arena.bytes_mut().chunks_exact_mut(screen_bytes(LANES, k)).enumerate() {
            pack_screen(isa, &std::array::from_fn(|lane| Some(each(lane, i))), &scales, panel);
        }
    });
    println!("  {screen}: {:.2} ms (fastest {:.2})", median * 1e3, fast * 1e3);
    let mut packed = Arena::new(Panels::len(n, k) * 4).unwrap();
    let (fast, median) = time(10, || {
        for (i, panel) in packed.bytes_mut().chunks_exact_mut(LANES * k * 4).enumerate() {
            let rows = std::array::from_fn(|lane| Some(bytemuck::cast_slice(each(lane, i))));
            pack_panel(isa, WeightType::F32, &rows, WeightType::F32, panel);
        }
    });
    println!(
        "  {panels}: {:.2} ms (fastest {:.2}), {:.1} GB/s",
        median * 1e3,
        fast * 1e3,
        (n * k * 4) as f64 / median / 1e9
    );
}

/// A whole encoder pass, beside the FMA peak of as many threads, measured in the same moments.
fn encoder(isa: Isa, shape: &str, t5: &T5) {
    const TOKENS: u32 = 128;
    let row = format!("encoder/{shape} shape, {TOKENS} tokens, {}", threads(t5.threads()));
    if !wanted(&row) {
        return;
    }
    let ids = source(TOKENS, 0);
    let flops = t5.flops(ids.len() as u64, 0).encoder as f64;
    let bursts = ((8e9 / flops) as usize).clamp(5, 40);
    let before = fma_peak(isa, t5.threads());
    let (fast, median) = time(bursts, || {
        black_box(t5.encode(&ids).unwrap());
    });
    let peak = before.max(fma_peak(isa, t5.threads()));
    println!(
        "  {row}: {:.2} ms (fastest {:.2}), {:.1} GFLOP/s, {:.0} % of peak {:.1}",
        median * 1e3,
        fast * 1e3,
        flops / median / 1e9,
        100.0 * flops / median / peak,
        peak / 1e9
    );
}

/// Floating-point operations a second of threads that all run at once: the best of some bursts.
fn fma_peak(isa: Isa, threads: usize) -> f64 {
    let (fast, _) = Team::enter(threads, |team| time(60, || team.run(threads, |_, _| machine::burst(isa))));
    (threads * machine::BURST_FLOPS) as f64 / fast
}

/// A whole exact decoder step of one sequence, beside reading as many bytes with as many threads, in turn with it.
fn step(isa: Isa, shape: &str, t5: &T5) {
    const SOURCE: u32 = 64;
    const TARGET: usize = 32;
    let row = format!("step/{shape} shape, {TARGET} tokens from {SOURCE}, {}", threads(t5.threads()));
    if !wanted(&row) {
        return;
    }
    let (ids, options) = (source(SOURCE, 0), greedy(TARGET));
    let parts = step_bytes(t5.config(), ids.len(), TARGET);
    let bytes: usize = parts.iter().sum();
    let memory: Vec<_> =
        (0..t5.threads()).map(|_| machine::Sweep::new(bytes.div_ceil(t5.threads())).unwrap()).collect();
    let (mut layers, mut head, mut all, mut reading) = (vec![], vec![], vec![], vec![]);
    t5.generate(&ids, &options).unwrap();
    for _ in 0..12 {
        let read = || Team::enter(t5.threads(), |team| time(9, || team.run(memory.len(), |_, i| memory[i].read(isa))));
        reading.push(read().1);
        let generated = t5.generate(&ids, &options).unwrap();
        assert_eq!(generated.sequences[0].ids.len(), TARGET);
        let per_step = |ms: f64| ms / 1e3 / TARGET as f64;
        layers.push(per_step(generated.timings.layers_ms));
        head.push(per_step(generated.timings.head_ms));
        all.push(per_step(generated.timings.layers_ms + generated.timings.head_ms));
    }
    let [all, layers, head, reading] = [all, layers, head, reading].map(median);
    println!(
        "  {row}: {:.0} us (blocks {:.0}, head {:.0}), {:.1} MB (weights {:.1}, head {:.1}, keys and values {:.1}), {:.1} GB/s; \
         reading them takes {:.0} us at {:.1}: {:.2} times that",
        all * 1e6,
        layers * 1e6,
        head * 1e6,
        bytes as f64 / 1e6,
        parts[0] as f64 / 1e6,
        parts[1] as f64 / 1e6,
        parts[2] as f64 / 1e6,
        bytes as f64 / all / 1e9,
        reading * 1e6,
        bytes as f64 / reading / 1e9,
        all / reading
    );
}

/// Bytes that a step must read, in the middle of `target` steps: the blocks' weights in f32, the LM head's screen, and keys and
/// values of `source` and of what was generated. The rows of the head that survive the screen come on top.
fn step_bytes(c: &Config, source: usize, target: usize) -> [usize; 3] {
    let inner = c.num_heads * padded(c.d_kv);
    let feed_forward = if c.is_gated_act { 3 } else { 2 } * c.d_model * c.d_ff;
    // q, k, v and o of self-attention, q and o of cross-attention.
    let weights = c.num_decoder_layers * (6 * c.d_model * inner + feed_forward) * 4;
    let positions = source + target.div_ceil(2);
    [weights, screen_bytes(c.vocab_size, c.d_model), c.num_decoder_layers * 2 * positions * inner * 4]
}

/// How the rows of an output matrix are spread.
#[derive(Clone, Copy)]
enum Embedding {
    AsInitialised,
    HeavyTails,
    OutlierColumns,
}

impl Embedding {
    const ALL: [Embedding; 3] = [Embedding::AsInitialised, Embedding::HeavyTails, Embedding::OutlierColumns];

    fn name(self) -> &'static str {
        match self {
            Embedding::AsInitialised => "as initialised",
            Embedding::HeavyTails => "heavy tails",
            Embedding::OutlierColumns => "outlier columns",
        }
    }

    /// The tiny shape with this embedding, which is its output matrix too or (not tied) stands beside another one of the kind.
    fn model(self, tied: bool) -> T5 {
        let change = |name: &str, shape: &[usize], values: &mut [f32]| {
            let rows = values.chunks_exact_mut(shape[shape.len() - 1]);
            match self {
                _ if !["shared.weight", "lm_head.weight"].contains(&name) => {}
                Embedding::AsInitialised => {}
                Embedding::HeavyTails => {
                    let mut normal = normal(name.len() as u64);
                    for row in rows {
                        // Log-normal of sigma 1; Student's t of 3 degrees, whose variance is 3.
                        let norm = normal().exp() / f32::sqrt(3.0);
                        row.iter_mut().for_each(|x| {
                            let degrees = [normal(), normal(), normal()].map(|x| x * x);
                            *x = norm * normal() / (degrees.iter().sum::<f32>() / 3.0).sqrt();
                        });
                    }
                }
                Embedding::OutlierColumns => {
                    rows.for_each(|row| [3, 70, 130, 201].into_iter().for_each(|column| row[column] *= 30.0));
                }
            }
        };
        let config = TINY.replace('}', &format!(r#", "tie_word_embeddings": {tied}}}"#));
        T5::random_with(&config, 1, &Load::default(), change).expect("memory for a bench")
    }
}

/// Normal numbers, the same ones for a seed: Box and Muller's.
fn normal(mut seed: u64) -> impl FnMut() -> f32 {
    let mut uniform = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((seed >> 40) as f32 + 0.5) / (1 << 24) as f32
    };
    move || (-2.0 * uniform().ln()).sqrt() * (std::f32::consts::TAU * uniform()).cos()
}

/// How much the LM head's screen leaves to f32, and its time beside the full product's.
fn screen_survivors(isa: Isa, kind: Embedding, tied: bool, t5: &T5) {
    let matrix = if tied { "tied" } else { "a matrix of its own" };
    let row = format!("screen survivors/tiny shape, {matrix}, {}", kind.name());
    if !wanted(&row) {
        return;
    }
    let (n, k) = (t5.config().vocab_size, t5.config().d_model);
    let sources: Vec<_> = (0..8).map(|i| source(64, i)).collect();
    t5.generate(&sources[0], &greedy(1)).unwrap();
    let timings: Vec<_> =
        sources.iter().map(|ids| t5.generate(Source::from(ids), &greedy(32)).unwrap().timings).collect();
    let sum = |part: fn(&tiny_t5::Timings) -> usize| timings.iter().map(part).sum::<usize>();
    let (tokens, decided, survivors) = (sum(|t| t.new_tokens), sum(|t| t.screened), sum(|t| t.survivors));
    let head = median(timings.iter().map(|t| t.head_ms / 1e3 / t.new_tokens as f64).collect());

    let arena = weights(n, k);
    let w = Panels::new(n, k, Storage::F32(bytemuck::cast_slice(arena.bytes())));
    let (a, mut out) = (vec![0.5f32; padded(k)], vec![0f32; padded(n)]);
    let (_, full) = time(60, || {
        let product = Product { a: black_box(&a), lda: padded(k), m: 1, w, epilogue: Epilogue::Store };
        matmul(isa, &Team::alone(), product, &mut out, padded(n));
        black_box(first_max(isa, &out[..n]));
    });
    println!(
        "  {row}: {decided} of {tokens} tokens decided, {:.1} rows for each; head {:.0} us a token, the full product {:.0} us",
        survivors as f64 / decided.max(1) as f64,
        head * 1e6,
        full * 1e6
    );
}
