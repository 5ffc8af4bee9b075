//! Sources on their way into the decoder: encoded, and the keys and values that cross-attention looks at.

use crate::decoder::{self, DecoderState};
use crate::encoder::{self, BATCH_TOKENS, EncoderState, encode_apart, groups};
use crate::kv_cache::KvCache;
use crate::model::Model;
use crate::stack::{Exec, Scratch, Stack};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Time that sources took.
#[derive(Default)]
pub(crate) struct Spent {
    pub(crate) encoder: Duration,
    pub(crate) cross: Duration,
}

/// Encodes sources and puts their cross-attention in place.
pub(crate) fn attend_to(
    model: &Model,
    exec: Exec<'_>,
    scratch: &mut Vec<Scratch>,
    (encoder, decoding): (&mut EncoderState, &mut DecoderState),
    decoder: &Stack,
    sources: &[&[u32]],
) -> Spent {
    let start = Instant::now();
    decoder::receive(model, decoding, decoder, sources);
    let received = start.elapsed();
    let caches = &mut decoding.sources[..sources.len()];

    // Nanoseconds of all threads.
    let cross = AtomicU64::new(0);
    let mut left = &mut *caches;
    let share_of = |group: Range<usize>| left.split_off_mut(..group.len()).expect("groups are the sources");
    let finish =
        |exec: Exec<'_>, scratch: &mut Scratch, own: &mut &mut [KvCache], sources: &[&[u32]], hidden: &[f32]| {
            let start = Instant::now();
            decoder::project(model, exec, scratch, own, decoder, hidden, sources);
            cross.fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
        };
    if encode_apart(model, exec, scratch, encoder, sources, share_of, finish) {
        // As if all threads had taken part for as long.
        let cross = received + Duration::from_nanos(cross.into_inner() / exec.team.threads() as u64);
        return Spent { encoder: start.elapsed().saturating_sub(cross), cross };
    }

    let mut spent = Spent { cross: received, ..Spent::default() };
    for group in groups(sources, BATCH_TOKENS) {
        let (start, sources) = (Instant::now(), &sources[group.clone()]);
        encoder::encode(model, exec, scratch, encoder, sources);
        let encoded = Instant::now();
        let scratch = &mut Scratch::for_team(scratch, exec.team)[0];
        decoder::project(model, exec, scratch, &mut caches[group], decoder, &encoder.hidden, sources);
        spent.encoder += encoded - start;
        spent.cross += encoded.elapsed();
    }
    spent
}
