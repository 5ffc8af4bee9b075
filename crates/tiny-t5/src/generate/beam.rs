//! Beam search, as transformers 5 does it.
//!
//! Every source has B running beams and up to B finished ones. A step scores all continuations of the running beams
//! (log-probabilities, changed by the processors, added up), takes the best K = max(2, 1 + end tokens) B, finishes those
//! among the first B that end, and goes on with the best B that do not. Finished beams are compared by
//! score / length^length_penalty. Equal scores: the lower index (beam, then token) goes first.
//!
//! Source: transformers, `GenerationMixin._beam_search`.

use super::processors::{Context, Rules};
use super::rows::Texts;
use super::{Finish, Found, Search, Settings, Spare, Strategy};
use crate::error::Result;
use crate::lm_head::{Likeliest, Scores};
use crate::options::EarlyStopping;
use std::cmp::Ordering;
use tiny_t5_kernels::{BLOCK, block_maxima, log_softmax_row};

/// What transformers gives beams that do not count.
const OUT: f32 = -1e9;

struct Beam {
    /// The prompt and what was generated.
    ids: Vec<u32>,
    /// The sum of its log-probabilities.
    score: f32,
    cache: usize,
}

/// The beams of one source.
#[derive(Default)]
struct Source {
    /// Its place among the call's sources.
    index: usize,
    /// Its search goes on.
    live: bool,
    /// Best first.
    running: Vec<Beam>,
    /// Best first, by penalised score.
    finished: Vec<Found>,
}

/// The beams of all sources.
pub(crate) struct Beams {
    texts: Texts,
    /// Those of the call, and perhaps of an earlier one behind them.
    sources: Vec<Source>,
    generated: usize,
    /// Sequences of a source that are asked for.
    returned: usize,
    /// Beams of a source.
    beams: usize,
    length_penalty: f64,
    buffers: Buffers,
}

/// Buffers of a step.
#[derive(Default)]
struct Buffers {
    /// The continuations, best first.
    best: Vec<Candidate>,
    /// Of blocks of a beam's scores.
    maxima: Vec<f32>,
    /// [vocab_size], minus infinity between uses.
    dense: Vec<f32>,
    /// Why each of the best ends, if it does.
    ends: Vec<Option<Finish>>,
    /// Those that go on.
    next: Vec<Candidate>,
    /// What becomes of them.
    running: Vec<Beam>,
    /// Caches that nobody goes on with.
    free: Vec<usize>,
    /// Beams whose cache a child has.
    taken: Vec<bool>,
    /// What a stop rule looks at.
    text: Vec<u32>,
    lists: Lists,
}

/// Lists of ids that no beam has, for those that come.
#[derive(Default)]
struct Lists {
    free: Vec<Vec<u32>>,
    /// Ids that a list has room for from the start.
    room: usize,
}

impl Lists {
    /// A list of these ids and what follows them.
    fn take(&mut self, ids: &[u32], next: Option<u32>) -> Vec<u32> {
        let mut list = self.free.pop().unwrap_or_default();
        list.clear();
        list.reserve(self.room);
        list.extend_from_slice(ids);
        list.extend(next);
        list
    }

    fn give(&mut self, list: Vec<u32>) {
        self.free.push(list);
    }
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
    /// On the memory of an earlier search.
    pub(super) fn start(search: &mut Search<'_>, sources: &[&[u32]]) -> Box<Beams> {
        let settings = search.settings;
        let beams = settings.num_beams;
        search.begin((0..sources.len() * beams).map(|cache| (cache, cache / beams)));
        let mut this = search.state.spare.beams.take().unwrap_or_else(|| {
            let (texts, sources, buffers) = Default::default();
            Box::new(Beams { texts, sources, generated: 0, returned: 0, beams: 0, length_penalty: 0.0, buffers })
        });
        let Beams { texts, sources: all, buffers: Buffers { lists, .. }, .. } = &mut *this;
        texts.set(sources);
        if all.len() < sources.len() {
            all.resize_with(sources.len(), Source::default);
        }
        for Source { live, running, finished, .. } in all.iter_mut() {
            *live = false;
            running.drain(..).for_each(|beam| lists.give(beam.ids));
            finished.drain(..).for_each(|found| lists.give(found.ids));
        }
        lists.room = settings.prompt.len() + settings.max_new_tokens.min(super::RESERVE);
        // Where there may be fewer ways on than beams, those that do not count would take part in the end.
        let running = if search.custom.constrains() { 1 } else { beams };
        for (index, source) in all.iter_mut().enumerate().take(sources.len()) {
            (source.index, source.live) = (index, true);
            source.running.reserve(beams);
            source.running.extend((0..running).map(|b| Beam {
                ids: lists.take(&settings.prompt, None),
                score: if b == 0 { 0.0 } else { OUT },
                cache: index * beams + b,
            }));
        }
        (this.generated, this.returned) = (0, settings.num_return_sequences);
        (this.beams, this.length_penalty) = (beams, settings.length_penalty);
        this
    }
}

/// The beams of a step, with the processors that change their scores.
struct Step<'a> {
    sources: &'a [Source],
    texts: &'a Texts,
    rules: Rules<'a>,
    prompt: usize,
    numbers: &'a [usize],
}

impl Step<'_> {
    fn context(&self, row: usize) -> Context<'_> {
        let live = self.sources.iter().filter(|source| source.live);
        let mut beams = live.flat_map(|source| source.running.iter().map(move |beam| (source.index, beam)));
        let (source, beam) = beams.nth(row).expect("a row for each running beam");
        Context { ids: &beam.ids, prompt: self.prompt, source: self.texts.get(source), index: self.numbers[source] }
    }
}

impl Scores for Step<'_> {
    fn touches(&self, row: usize, ids: &mut Vec<u32>) -> bool {
        self.rules.touches(&self.context(row), ids)
    }

    fn process(&self, row: usize, scores: &mut [f32]) {
        self.rules.process(&self.context(row), scores);
    }
}

/// How many of a source's continuations a step looks at.
fn candidates_kept(settings: &Settings) -> usize {
    (settings.eos.len() + 1).max(2) * settings.num_beams
}

impl Strategy for Beams {
    fn step(&mut self, search: &mut Search<'_>) -> Result<()> {
        let settings = search.settings;
        search.feed(self.sources.iter().filter(|source| source.live).flat_map(|source| {
            source.running.iter().map(|beam| (beam.cache, source.index, beam.ids[beam.ids.len() - 1]))
        }));
        self.generated += 1;
        let Beams { texts, sources, generated, buffers, .. } = self;
        let step = Step {
            sources,
            texts,
            rules: search.rules(),
            prompt: search.settings.prompt.len(),
            numbers: search.numbers,
        };
        search.likeliest(&step, candidates_kept(settings))?;
        let mut first = 0;
        for source in sources.iter_mut().filter(|source| source.live) {
            let text = texts.get(source.index);
            best_candidates(search, source, text, first, buffers);
            first += source.running.len();
            source.advance(search, text, buffers, *generated);
            if source.running.is_empty() && source.finished.is_empty() {
                return Err(super::custom::no_way_on());
            }
            source.live = *generated < settings.max_new_tokens && source.can_improve(search, *generated);
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.sources.iter().all(|source| !source.live)
    }

    fn stop(&mut self) {
        // As transformers does: all that run count as if they ended here.
        let penalty = penalty(self.generated, self.length_penalty);
        for source in self.sources.iter_mut().filter(|source| source.live) {
            source.live = false;
            let mut running = std::mem::take(&mut source.running);
            for Beam { ids, score, .. } in running.drain(..) {
                let found =
                    Found::new(self.buffers.lists.take(&ids[1..], None), Some(score / penalty), Finish::Stopped);
                source.keep(found, self.beams, &mut self.buffers.lists);
                self.buffers.lists.give(ids);
            }
            source.running = running;
        }
    }

    fn settled(&self, source: usize) -> &[u32] {
        self.sources[source].settled()
    }

    fn found(&mut self, found: &mut [Vec<Found>]) {
        let lists = &mut self.buffers.lists;
        for (found, source) in found.iter_mut().zip(&mut self.sources) {
            for (place, Found { ids, score, finish, .. }) in source.finished.drain(..).enumerate() {
                if place < self.returned {
                    found.push(Found::new(ids.clone(), score, finish));
                }
                lists.give(ids);
            }
        }
    }

    fn put_back(self: Box<Self>, spare: &mut Spare) {
        spare.beams = Some(self);
    }
}

fn context<'a>(search: &Search<'_>, source: &Source, text: &'a [u32], ids: &'a [u32]) -> Context<'a> {
    Context { ids, prompt: search.settings.prompt.len(), source: text, index: search.numbers[source.index] }
}

/// The best K continuations of a source's beams, whose logits are the rows from `first` on.
fn best_candidates(search: &mut Search<'_>, source: &Source, text: &[u32], first: usize, buffers: &mut Buffers) {
    let settings = search.settings;
    let isa = search.exec.isa;
    let keep = candidates_kept(settings);
    let Buffers { best, maxima, dense, .. } = buffers;
    best.clear();
    let passes_over = search.custom.constrains();
    let mut best = Best { list: best, keep, least: f32::NEG_INFINITY, passes_over };
    let rules = search.rules();
    for (beam, Beam { ids, score, .. }) in source.running.iter().enumerate() {
        let context = context(search, source, text, ids);
        if let Some(Likeliest { outputs, sum }) = search.state.choice.likeliest(first + beam) {
            dense.resize(search.model.config().vocab_size.max(dense.len()), f32::NEG_INFINITY);
            outputs.iter().for_each(|(id, logit)| dense[*id as usize] = logit - sum);
            rules.process(&context, dense);
            for (id, _) in outputs {
                let x = std::mem::replace(&mut dense[*id as usize], f32::NEG_INFINITY);
                best.consider(Candidate { score: x + score, beam, id: *id });
            }
            continue;
        }
        let mut logits = search.last_logits();
        let scores = logits.row(first + beam);
        log_softmax_row(isa, scores);
        rules.process(&context, scores);
        block_maxima(isa, scores, maxima);
        for (block, (scores, max)) in scores.chunks(BLOCK).zip(maxima.iter()).enumerate() {
            if max + score < best.least {
                continue;
            }
            for (i, x) in scores.iter().enumerate() {
                best.consider(Candidate { score: x + score, beam, id: (block * BLOCK + i) as u32 });
            }
        }
    }
    best.list.sort_unstable_by(order);
    best.list.truncate(keep);
}

/// A list of the best so far; once it is long, it is cut, and what could not get in is passed over.
struct Best<'a> {
    list: &'a mut Vec<Candidate>,
    keep: usize,
    /// What the worst of a full list scores.
    least: f32,
    /// What has no probability at all is no way on.
    passes_over: bool,
}

impl Best<'_> {
    fn consider(&mut self, candidate: Candidate) {
        if candidate.score < self.least || self.passes_over && candidate.score == f32::NEG_INFINITY {
            return;
        }
        self.list.push(candidate);
        if self.list.len() >= 2 * self.keep + 64 {
            self.list.sort_unstable_by(order);
            self.list.truncate(self.keep);
            self.least = self.list.last().map_or(self.least, |c| c.score);
        }
    }
}

/// What the score of a sequence of so many tokens is divided by.
fn penalty(generated: usize, length_penalty: f64) -> f32 {
    (generated as f64).powf(length_penalty) as f32
}

impl Source {
    /// The ids that every beam that may still win begins with.
    fn settled(&self) -> &[u32] {
        let mut finished = self.finished.iter().map(|f| &f.ids[..]);
        if !self.live {
            return finished.next().unwrap_or_default();
        }
        let mut all = self.running.iter().map(|b| &b.ids[1..]).chain(finished);
        let mut common = all.next().unwrap_or_default();
        for ids in all {
            let same = common.iter().zip(ids).take_while(|(a, b)| a == b).count();
            common = &common[..same];
        }
        common
    }

    /// Finishes the best candidates that end, and makes the running beams of the next step.
    fn advance(&mut self, search: &mut Search<'_>, text: &[u32], buffers: &mut Buffers, generated: usize) {
        let settings = search.settings;
        let beams = settings.num_beams;
        let at_limit = generated >= settings.max_new_tokens;
        let Buffers { best, ends, next, running, free, taken, text: ids, lists, .. } = buffers;
        ends.clear();
        ends.extend(best.iter().map(|c| self.finish(search, text, c, ids, at_limit)));
        let penalty = penalty(generated, settings.length_penalty);
        let full = self.finished.len() == beams && settings.early_stopping == EarlyStopping::Yes;
        for (c, finish) in best.iter().zip(&*ends).take(beams).filter(|_| !full) {
            let Some(finish) = *finish else { continue };
            let ids = lists.take(&self.running[c.beam].ids[1..], Some(c.id));
            self.keep(Found::new(ids, Some(c.score / penalty), finish), beams, lists);
        }
        if at_limit {
            return;
        }
        // The first child of a beam goes on with its cache; the others copy it into those that nobody goes on with.
        next.clear();
        next.extend(best.iter().zip(&*ends).filter(|(_, finish)| finish.is_none()).map(|(c, _)| *c).take(beams));
        let kept = |cache: &usize| next.iter().any(|c| self.running[c.beam].cache == *cache);
        free.clear();
        free.extend((self.index * beams..(self.index + 1) * beams).filter(|cache| !kept(cache)));
        taken.clear();
        taken.resize(self.running.len(), false);
        running.reserve(beams);
        for c in &*next {
            let parent = &self.running[c.beam];
            let cache = match std::mem::replace(&mut taken[c.beam], true) {
                false => parent.cache,
                true => {
                    let copy = free.pop().unwrap_or(parent.cache);
                    search.copy_cache(parent.cache, copy);
                    copy
                }
            };
            running.push(Beam { ids: lists.take(&parent.ids, Some(c.id)), score: c.score, cache });
        }
        std::mem::swap(&mut self.running, running);
        running.drain(..).for_each(|parent| lists.give(parent.ids));
    }

    /// Puts a sequence among the finished ones, of which the best stay.
    fn keep(&mut self, found: Found, beams: usize, lists: &mut Lists) {
        let place = self.finished.partition_point(|f| f.score >= found.score);
        self.finished.insert(place, found);
        self.finished.drain(beams.min(self.finished.len())..).for_each(|worst| lists.give(worst.ids));
    }

    /// Why a candidate ends here, if it does; `ids` is a buffer.
    fn finish(
        &self,
        search: &Search<'_>,
        text: &[u32],
        candidate: &Candidate,
        ids: &mut Vec<u32>,
        at_limit: bool,
    ) -> Option<Finish> {
        let settings = search.settings;
        let mut stops = || {
            ids.clear();
            ids.extend_from_slice(&self.running[candidate.beam].ids);
            ids.push(candidate.id);
            search.custom.stops(&context(search, self, text, ids))
        };
        if settings.eos.contains(&candidate.id) {
            Some(Finish::Eos)
        } else if search.custom.may_stop() && stops() {
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
        let best = self.running[0].score / penalty(length, settings.length_penalty);
        let worst = self.finished.last().and_then(|f| f.score).unwrap_or(f32::NEG_INFINITY);
        best > worst
    }
}
