//! Each kernel beside the machine's own limits, measured in turn in the same run: `cargo bench --bench roofline`.
//!
//! A row gives the fastest and the median of many short bursts, and the share that the median reaches of the median of
//! the limit: FMA peak for products of many rows, read bandwidth at the same working set for those of one.

use std::hint::black_box;
use std::time::Instant;
use tiny_t5_kernels::*;

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

fn weights(n: usize, k: usize) -> Arena {
    let mut arena = Arena::new(Panels::len(n, k) * 4).unwrap();
    let floats: &mut [f32] = bytemuck::cast_slice_mut(arena.bytes_mut());
    floats.iter_mut().enumerate().for_each(|(i, x)| *x = (i % 251) as f32 * 0.01 - 1.0);
    arena
}

fn main() {
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
            (4, 1024, 256),
            (4, 256, 1024),
            (2, 1024, 256),
        ] {
            product(isa, m, n, k);
        }
        packing(isa, 32128, 256);
        packing(isa, 3840, 1024);
        for queries in [1, 2, 4, 8] {
            screen(isa, 32128, 256, queries);
        }
        for (n, k) in [(768, 256), (256, 256), (1024, 256), (256, 1024), (2048, 512), (512, 2048)] {
            vector(isa, n, k);
        }
    }
}

/// Products of many rows, beside the FMA peak measured in the same moments.
fn product(isa: Isa, m: usize, n: usize, k: usize) {
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
        "  matmul/{m}x{n}x{k}: {:.1} GFLOP/s (fastest {:.1}), {:.0} % of peak {:.1}",
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
        "  matmul/1x{n}x{k}, {copies} matrices: {:.1} GB/s (fastest {:.1}), {:.0} % of reading {:.1}",
        bytes / median / 1e9,
        bytes / fast / 1e9,
        100.0 * bytes / median / limit,
        limit / 1e9
    );
}

/// The int8 screen of an LM head, beside reading its bytes.
fn screen(isa: Isa, n: usize, k: usize, queries: usize) {
    let row: Vec<f32> = (0..k).map(|i| (i * 7 % 31) as f32 * 0.1 - 1.5).collect();
    let scales = ColumnScales::new([&row[..]].into_iter(), k);
    let mut arena = Arena::new(screen_bytes(n, k)).unwrap();
    for panel in arena.bytes_mut().chunks_exact_mut(screen_bytes(LANES, k)) {
        assert!(pack_screen(isa, &[Some(&row[..]); LANES], &scales, panel));
    }
    let mut all = vec![Query::default(); queries];
    assert!(all.iter_mut().all(|q| q.prepare(isa, &row, &scales, screen_digits(isa, queries))));
    let (mut lower, mut upper) = (vec![0.0; queries * padded(n)], vec![0.0; queries * padded(n)]);
    let bytes = screen_bytes(n, k) as f64;
    let (_, limit) = machine::read_bandwidth(isa, bytes as usize, 60).unwrap();
    let (fast, median) = time(100, || {
        let screen = Screen::new(n, k, arena.bytes());
        screen.scan(isa, &Team::alone(), &all, &mut lower, &mut upper);
    });
    println!(
        "  screen/{queries}x{n}x{k}: {:.0} us (fastest {:.0}), {:.1} GB/s, {:.0} % of reading {:.1}",
        median * 1e6,
        fast * 1e6,
        bytes / median / 1e9,
        100.0 * bytes / median / limit,
        limit / 1e9
    );
}

/// Making the screen, and packing the same matrix.
fn packing(isa: Isa, n: usize, k: usize) {
    let rows: Vec<f32> = (0..n * k).map(|i| (i % 251) as f32 * 0.01 - 1.0).collect();
    let scales = ColumnScales::new(rows.chunks(k).take(9), k);
    let mut arena = Arena::new(screen_bytes(n, k)).unwrap();
    let each = |lane: usize, panel: usize| &rows[(panel * LANES + lane) * k..][..k];
    let (fast, median) = time(10, || {
        for (i, panel) in arena.bytes_mut().chunks_exact_mut(screen_bytes(LANES, k)).enumerate() {
            pack_screen(isa, &std::array::from_fn(|lane| Some(each(lane, i))), &scales, panel);
        }
    });
    println!("  pack_screen/{n}x{k}: {:.2} ms (fastest {:.2})", median * 1e3, fast * 1e3);
    let mut packed = Arena::new(Panels::len(n, k) * 4).unwrap();
    let (fast, median) = time(10, || {
        for (i, panel) in packed.bytes_mut().chunks_exact_mut(LANES * k * 4).enumerate() {
            let rows = std::array::from_fn(|lane| Some(bytemuck::cast_slice(each(lane, i))));
            pack_panel(WeightType::F32, &rows, WeightType::F32, panel);
        }
    });
    println!(
        "  pack_panel/{n}x{k}: {:.2} ms (fastest {:.2}), {:.1} GB/s",
        median * 1e3,
        fast * 1e3,
        (n * k * 4) as f64 / median / 1e9
    );
}
