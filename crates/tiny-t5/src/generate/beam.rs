//! Beam search, as transformers 5 does it.
//!
//! Every source has B running beams and up to B finished ones. A step scores all continuations of the running beams
//! (log-probabilities, changed by the processors, added up), takes the best K = max(2, 1 + end tokens) B, finishes those
//! among the first B that end, and goes on with the best B that do not. Finished beams are compared by
//! score / length^length_penalty. Equal scores: the lower index (beam, then token) goes first.
//!
//! Source: transformers, `GenerationMixin._beam_search`.

use super::processors::Context;
use super::{Finish, Found, Search, Settings, Strategy};
use crate::error::Result;
use crate::options::EarlyStopping;
use std::cmp::Ordering;
use tiny_t5_kernels::{BLOCK, block_maxima, log_softmax_row};

/// What transformers gives beams that do not count.
const OUT: f32 = -1e9;

struct Beam {
    /// The start token and what was generated.
    ids: Vec<u32>,
    /// The sum of its log-probabilities.
    score: f32,
    cache: usize,
}

struct Source {
    ids: Vec<u32>,
    /// Its place among the call's sources.
    index: usize,
    /// Best first.
    running: Vec<Beam>,
    /// Best first, by penalised score.
    finished: Vec<Found>,
}

/// The beams of all sources.
pub(super) struct Beams {
    live: Vec<Source>,
    done: Vec<Vec<Found>>,
    generated: usize,
    candidates: Candidates,
    /// What the live beams of each source begin with.
    settled: Vec<Vec<u32>>,
}

/// Buffers of a step.
#[derive(Default)]
struct Candidates {
    /// Best first.
    best: Vec<Candidate>,
    /// Of blocks of a beam's scores.
    maxima: Vec<f32>,
}

/// A continuation of a running beam.
#[derive(Clone, Copy)]
struct Candidate {
    score: f32,
    beam: usize,
    id: u32,
}

/// Best first; of equal scores the lower (beam, id).
fn order(a: &Candidate, b: &Candidate) -> Ordering {
    b.score.total_cmp(&a.score).then(a.beam.cmp(&b.beam)).then(a.id.cmp(&b.id))
}

impl Beams {
    pub(super) fn new(search: &mut Search<'_>, sources: &[&[u32]]) -> Beams {
        let settings = search.settings;
        let beams = settings.num_beams;
        search.begin((0..sources.len() * beams).map(|cache| (cache, cache / beams)));
        let source = |(index, ids): (usize, &&[u32])| {
            let beam = |b| Beam {
                ids: settings.prompt.clone(),
                score: if b == 0 { 0.0 } else { OUT },
                cache: index * beams + b,
            };
            // Where there may be fewer ways on than beams, those that do not count would take part in the end.
            let running = if settings.custom.constrains() { 1 } else { beams };
            Source { ids: ids.to_vec(), index, running: (0..running).map(beam).collect(), finished: Vec::new() }
        };
        Beams {
            live: sources.iter().enumerate().map(source).collect(),
            done: sources.iter().map(|_| Vec::new()).collect(),
            generated: 0,
            candidates: Candidates::default(),
            settled: sources.iter().map(|_| Vec::new()).collect(),
        }
    }
}

impl Strategy for Beams {
    fn step(&mut self, search: &mut Search<'_>) -> Result<()> {
        let settings = search.settings;
        search.feed(self.live.iter().flat_map(|source| {
            source.running.iter().map(|beam| (beam.cache, source.index, beam.ids[beam.ids.len() - 1]))
        }));
        self.generated += 1;
        search.logits()?;
        let mut first = 0;
        for source in &mut self.live {
            best_candidates(search, source, first, &mut self.candidates);
            first += source.running.len();
            source.advance(search, &self.candidates.best, self.generated);
            if source.running.is_empty() && source.finished.is_empty() {
                return Err(super::custom::no_way_on());
            }
        }
        let Beams { live, done, generated, settled, .. } = self;
        live.retain_mut(|source| {
            let goes_on = *generated < settings.max_new_tokens && source.can_improve(search, *generated);
            if !goes_on {
                source.end(done, settings.num_return_sequences);
            }
            settled[source.index] = source.settled();
            goes_on
        });
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.live.is_empty()
    }

    fn stop(&mut self) {
        for mut source in self.live.drain(..) {
            // Nothing finished yet: the best running beam is what there is.
            if source.finished.is_empty() {
                let best = source.running.swap_remove(0);
                source.finished.push(Found {
                    ids: best.ids[1..].to_vec(),
                    score: Some(best.score),
                    finish: Finish::Stopped,
                });
            }
            source.end(&mut self.done, usize::MAX);
        }
    }

    fn settled(&self, source: usize) -> &[u32] {
        match self.done[source].first() {
            Some(best) => &best.ids,
            None => &self.settled[source],
        }
    }

    fn found(&mut self, found: &mut [Vec<Found>]) {
        found.iter_mut().zip(&mut self.done).for_each(|(all, own)| all.append(own));
    }
}

fn context<'a>(settings: &Settings<'_>, source: &'a Source, ids: &'a [u32], numbers: &[usize]) -> Context<'a> {
    Context { ids, prompt: settings.prompt.len(), source: &source.ids, index: numbers[source.index] }
}

/// The best K continuations of a source's beams, whose logits are the rows from `first` on.
fn best_candidates(search: &mut Search<'_>, source: &Source, first: usize, candidates: &mut Candidates) {
    let settings = search.settings;
    let isa = search.exec.isa;
    let keep = (settings.eos.len() + 1).max(2) * settings.num_beams;
    let Candidates { best: candidates, maxima } = candidates;
    candidates.clear();
    // What the worst of a full list scores.
    let mut least = f32::NEG_INFINITY;
    let (constrained, numbers) = (settings.custom.constrains(), search.numbers);
    let mut logits = search.last_logits();
    for (beam, Beam { ids, score, .. }) in source.running.iter().enumerate() {
        let scores = logits.row(first + beam);
        log_softmax_row(isa, scores);
        for processor in &settings.processors {
            processor.process(&context(settings, source, ids, numbers), scores);
        }
        // A list of the best so far; once it is long, it is cut, and what could not get in is passed over.
        block_maxima(isa, scores, maxima);
        for (block, (scores, max)) in scores.chunks(BLOCK).zip(maxima.iter()).enumerate() {
            if max + score < least {
                continue;
            }
            for (i, x) in scores.iter().enumerate() {
                let candidate = Candidate { score: x + score, beam, id: (block * BLOCK + i) as u32 };
                if candidate.score < least || constrained && candidate.score == f32::NEG_INFINITY {
                    continue;
                }
                candidates.push(candidate);
                if candidates.len() >= 2 * keep + 64 {
                    candidates.sort_unstable_by(order);
                    candidates.truncate(keep);
                    least = candidates.last().map_or(least, |c| c.score);
                }
            }
        }
    }
    candidates.sort_unstable_by(order);
    candidates.truncate(keep);
}

impl Source {
    fn end(&mut self, done: &mut [Vec<Found>], most: usize) {
        self.finished.truncate(most);
        done[self.index] = std::mem::take(&mut self.finished);
    }

    /// The ids that every beam that may still win begins with.
    fn settled(&self) -> Vec<u32> {
        let mut all = self.running.iter().map(|b| &b.ids[1..]).chain(self.finished.iter().map(|f| &f.ids[..]));
        let mut common = all.next().unwrap_or_default();
        for ids in all {
            let same = common.iter().zip(ids).take_while(|(a, b)| a == b).count();
            common = &common[..same];
        }
        common.to_vec()
    }

    /// Finishes the candidates that end, and makes the running beams of the next step.
    fn advance(&mut self, search: &mut Search<'_>, candidates: &[Candidate], generated: usize) {
        let settings = search.settings;
        let beams = settings.num_beams;
        let at_limit = generated >= settings.max_new_tokens;
        let ends: Vec<Option<Finish>> = candidates.iter().map(|c| self.finish(search, c, at_limit)).collect();
        let penalty = (generated as f64).powf(settings.length_penalty) as f32;
        let full = self.finished.len() == beams && settings.early_stopping == EarlyStopping::Yes;
        for (c, finish) in candidates.iter().zip(&ends).take(beams).filter(|_| !full) {
            let Some(finish) = *finish else { continue };
            let ids = self.running[c.beam].ids[1..].iter().copied().chain([c.id]).collect();
            let score = c.score / penalty;
            let place = self.finished.partition_point(|f| f.score.is_some_and(|s| s >= score));
            self.finished.insert(place, Found { ids, score: Some(score), finish });
            self.finished.truncate(beams);
        }
        if at_limit {
            return;
        }
        // The first child of a beam goes on with its cache; the others copy it into those that nobody goes on with.
        let goes_on = candidates.iter().zip(&ends).filter(|(_, finish)| finish.is_none());
        let next: Vec<&Candidate> = goes_on.map(|(c, _)| c).take(beams).collect();
        let mut free: Vec<usize> = (self.index * beams..(self.index + 1) * beams)
            .filter(|cache| next.iter().all(|c| self.running[c.beam].cache != *cache))
            .collect();
        let mut taken = vec![false; self.running.len()];
        let running = next
            .iter()
            .map(|c| {
                let parent = &self.running[c.beam];
                let cache = match std::mem::replace(&mut taken[c.beam], true) {
                    false => parent.cache,
                    true => {
                        let copy = free.pop().unwrap_or(parent.cache);
                        search.copy_cache(parent.cache, copy);
                        copy
                    }
                };
                Beam { ids: parent.ids.iter().copied().chain([c.id]).collect(), score: c.score, cache }
            })
            .collect();
        self.running = running;
    }

    /// Why a candidate ends here, if it does.
    fn finish(&self, search: &Search<'_>, candidate: &Candidate, at_limit: bool) -> Option<Finish> {
        let settings = search.settings;
        let stops = || {
            let ids = [&self.running[candidate.beam].ids[..], &[candidate.id]].concat();
            settings.custom.stops(&context(settings, self, &ids, search.numbers))
        };
        if settings.eos.contains(&candidate.id) {
            Some(Finish::Eos)
        } else if settings.custom.may_stop() && stops() {
            Some(Finish::Stopped)
        } else {
            at_limit.then_some(Finish::Length)
        }
    }

    /// Whether a running beam can still get among the finished ones.
    fn can_improve(&self, search: &Search<'_>, generated: usize) -> bool {
        let settings = search.settings;
        if self.running.is_empty() {
            return false;
        }
        if self.finished.len() < settings.num_beams {
            return true;
        }
        let length = match settings.early_stopping {
            EarlyStopping::Yes => return false,
            EarlyStopping::Never if settings.length_penalty > 0.0 => settings.max_new_tokens,
            _ => generated,
        };
        let best = self.running[0].score / (length as f64).powf(settings.length_penalty) as f32;
        let worst = self.finished.last().and_then(|f| f.score).unwrap_or(f32::NEG_INFINITY);
        best > worst
    }
}
