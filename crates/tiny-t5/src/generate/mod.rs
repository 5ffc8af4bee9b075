//! From sources to sequences: encode, cross K/V once, then a search over the decoder. One file a strategy.

mod beam;
mod choices;
mod custom;
mod greedy;
mod logprobs;
mod pace;
mod processors;
mod rows;
mod sample;
mod settings;
mod speculate;
mod warpers;

pub(crate) use choices::Closed;
pub use choices::{Choices, Chosen};
pub use custom::Custom;
pub(crate) use custom::NO_RULES;
pub use logprobs::TokenLogprob;
pub use processors::Context;
pub(crate) use settings::{Settings, eos};

use crate::decoder::{self, DecoderState, Feed};
use crate::encoder::EncoderState;
use crate::error::Result;
use crate::lm_head::{Choice, LmHead, Scores, Wanted};
use crate::load::Dtype;
use crate::model::Model;
use crate::options::Speculation;
use crate::sources;
use crate::stack::{Exec, Scratch, Stack};
use crate::weights::Packed;
use pace::Pace;
use processors::Rules;
use rows::Texts;
use serde::Serialize;
use std::time::{Duration, Instant};
use tiny_t5_kernels::padded;
use warpers::Warped;

/// Positions for which memory is taken before the first step; longer texts grow it.
pub(crate) const RESERVE: usize = 512;
/// Sequences that are decoded together: beyond it the weights are read often enough.
const MAX_ROWS: usize = 64;
/// Source tokens of sequences that are decoded together: what their keys and values may take.
const MAX_TOKENS: usize = 4096;

/// Why a sequence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Finish {
    /// With an end token.
    Eos,
    /// At the limit of new tokens.
    Length,
    /// The caller stopped it: by a rule of its own, a session's flag, or `max_time`.
    Stopped,
}

/// A sequence that a search found.
pub(crate) struct Found {
    /// The generated ids, up to and including the first end token.
    pub(crate) ids: Vec<u32>,
    /// The beam's log-probability, divided by its length to the power of length_penalty.
    pub(crate) score: Option<f32>,
    pub(crate) finish: Finish,
    /// Where they are asked for.
    pub(crate) logprobs: Option<Vec<TokenLogprob>>,
    /// Where there are choices.
    pub(crate) chosen: Option<Chosen>,
}

impl Found {
    fn new(ids: Vec<u32>, score: Option<f32>, finish: Finish) -> Found {
        Found { ids, score, finish, logprobs: None, chosen: None }
    }
}

/// Where the time of a call went, in milliseconds, and counts of what it did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Timings {
    /// Loading the model, once.
    pub load_ms: f64,
    /// The encoder.
    pub encode_ms: f64,
    /// Cross-attention's keys and values.
    pub cross_ms: f64,
    /// The decoder's blocks, all steps.
    pub layers_ms: f64,
    /// Attention within the blocks, projections not included.
    pub attention_ms: f64,
    /// Hidden states to logits, all steps.
    pub head_ms: f64,
    /// Tokens that speculation guessed; see [`Speculation`].
    pub guessed: usize,
    /// Guesses that held.
    pub accepted: usize,
    /// How often a copy of the LM head in fewer bits was enough to choose: for each token of greedy search, those of guesses
    /// that did not hold included, and for each running beam at each step.
    pub screened: usize,
    /// Rows of the LM head that were left to f32, over all of `screened`.
    pub survivors: usize,
    /// All after the encoder: cross K/V, blocks, head, search.
    pub decode_ms: f64,
    /// Tokens generated, over all sequences returned.
    pub new_tokens: usize,
}

/// The buffers of a session: all that a call needs beside the model.
#[derive(Default)]
pub(crate) struct State {
    /// A thread's.
    pub(crate) scratch: Vec<Scratch>,
    pub(crate) encoder: EncoderState,
    pub(crate) decoder: DecoderState,
    pub(crate) logits: Vec<f32>,
    /// What stands between the stacks and an answer that is no token.
    pub(crate) vector: Vec<f32>,
    choice: Choice,
    known: Known,
    sums: choices::Sums,
    warped: Warped,
    pub(crate) feeds: Vec<Feed>,
    pub(crate) ids: Vec<u32>,
    pace: Pace,
    /// Of a call: its sources by length, those that are decoded together, and their numbers.
    order: Vec<usize>,
    batch: Vec<&'static [u32]>,
    numbers: Vec<usize>,
    /// What a search found, a list a source.
    found: Vec<Vec<Found>>,
    pub(crate) spare: Spare,
}

/// Searches that have ended, for their memory.
#[derive(Default)]
pub(crate) struct Spare {
    rows: Option<Box<rows::Rows>>,
    beams: Option<Box<beam::Beams>>,
    speculation: Option<Box<speculate::Speculation>>,
    ranking: Option<Box<choices::Ranking>>,
}

/// Buffers for sequences that are known.
#[derive(Default)]
struct Known {
    /// Their ids.
    texts: Texts,
    /// The source of each.
    sources: Vec<usize>,
    /// What is decoded together: a sequence, its first position and the row of that.
    parts: Vec<(usize, usize, usize)>,
    /// Ids of the vocabulary, to be put in order.
    order: Vec<u32>,
}

/// A way of searching, at work on some sources: a step computes one token of every live sequence, or several.
pub(crate) trait Strategy: Send {
    fn step(&mut self, search: &mut Search<'_>) -> Result<()>;
    /// Nothing is live.
    fn is_done(&self) -> bool;
    /// Ends what is live.
    fn stop(&mut self);
    /// The ids that the best sequence of a source will begin with, whatever comes.
    fn settled(&self, source: usize) -> &[u32];
    /// Appends the sequences of each source to its list, best first; called once, at the end.
    fn found(&mut self, found: &mut [Vec<Found>]);
    /// Leaves the memory to the next search of its kind, if that is worth while.
    fn put_back(self: Box<Self>, _: &mut Spare) {}
}

/// What a search runs on.
pub(crate) struct Search<'a> {
    model: &'a Model,
    decoder: &'a Stack,
    head: &'a LmHead,
    exec: Exec<'a>,
    settings: &'a Settings,
    /// The caller's own rules.
    custom: &'a Custom<'a>,
    state: &'a mut State,
    timings: Timings,
    /// The place of each source in the call: what sampling numbers sources by.
    numbers: &'a [usize],
    begun: Instant,
}

/// The sequences of one source.
pub(crate) struct Answer<'a> {
    /// To be taken out.
    pub(crate) found: &'a mut Vec<Found>,
    pub(crate) timings: Timings,
}

/// Generates for sources of any lengths; `each` gets the place of a source and its answer, which is the same as alone (where
/// it is sampled, as alone with its number among the sources).
pub(crate) fn generate(
    (model, decoder, head): (&Model, &Stack, &LmHead),
    exec: Exec<'_>,
    state: &mut State,
    (settings, custom): (&Settings, &Custom<'_>),
    sources: &[&[u32]],
    each: &mut dyn FnMut(usize, Answer<'_>) -> Result<()>,
) -> Result<()> {
    let begun = Instant::now();
    let (mut order, mut numbers) = (std::mem::take(&mut state.order), std::mem::take(&mut state.numbers));
    let mut batch = emptied(std::mem::take(&mut state.batch));
    // Sources of like length go together.
    order.clear();
    order.extend(0..sources.len());
    order.sort_unstable_by_key(|i| (sources[*i].len(), *i));
    let mut rest = &order[..];
    while !rest.is_empty() {
        let most = (MAX_ROWS / settings.num_beams.max(settings.num_return_sequences)).max(1);
        let mut tokens = 0;
        let fits = rest.iter().take(most).take_while(|i| {
            tokens += sources[**i].len();
            tokens <= MAX_TOKENS
        });
        let (group, after) = rest.split_at(fits.count().max(1));
        // The first group takes a step however late it is, as a source alone does.
        if rest.len() < sources.len() && is_over(settings, exec, begun) {
            break;
        }
        rest = after;
        batch.clear();
        batch.extend(group.iter().map(|i| sources[*i]));
        numbers.clear();
        numbers.extend(group.iter().map(|i| custom.index(*i)));
        let mut search = Search::new((model, decoder, head), exec, (settings, custom), state, &numbers, begun);
        search.run(&batch, &mut |place, answer| each(group[place], answer))?;
    }
    for place in rest {
        let none = || Found {
            logprobs: settings.top_logprobs.map(|_| Vec::new()),
            ..Found::new(settings.prompt[1..].to_vec(), None, Finish::Stopped)
        };
        let mut found: Vec<Found> = (0..settings.num_return_sequences).map(|_| none()).collect();
        each(*place, Answer { found: &mut found, timings: Timings::default() })?;
    }
    (state.order, state.numbers, state.batch) = (order, numbers, emptied(batch));
    Ok(())
}

/// Whether a call shall begin nothing further: its time is over, or the caller wants it to end.
fn is_over(settings: &Settings, exec: Exec<'_>, begun: Instant) -> bool {
    settings.max_time.is_some_and(|most| begun.elapsed() >= most) || exec.is_stopped()
}

/// The memory of a list of slices, for slices of another life.
pub(crate) fn emptied<'b>(mut slices: Vec<&[u32]>) -> Vec<&'b [u32]> {
    slices.clear();
    // Nothing is left to map; std keeps the memory.
    slices.into_iter().map(|_| -> &'b [u32] { &[] }).collect()
}

impl<'a> Search<'a> {
    pub(crate) fn new(
        (model, decoder, head): (&'a Model, &'a Stack, &'a LmHead),
        exec: Exec<'a>,
        (settings, custom): (&'a Settings, &'a Custom<'a>),
        state: &'a mut State,
        numbers: &'a [usize],
        begun: Instant,
    ) -> Search<'a> {
        let timings = Timings::default();
        Search { model, decoder, head, exec, settings, custom, state, timings, numbers, begun }
    }

    /// What changes scores.
    fn rules(&self) -> Rules<'a> {
        Rules { list: &self.settings.rules, custom: self.custom, failure: &self.settings.failure }
    }

    /// Why decoder ids end here, if they do.
    fn finish(&self, context: &Context<'_>) -> Option<Finish> {
        let (ids, settings) = (context.ids, self.settings);
        if ids.last().is_some_and(|id| settings.eos.contains(id)) {
            Some(Finish::Eos)
        } else if self.custom.stops(context) {
            Some(Finish::Stopped)
        } else if ids.len() >= settings.prompt.len() + settings.max_new_tokens {
            Some(Finish::Length)
        } else {
            None
        }
    }

    /// A step of the search; its last where the caller's time is over, or the caller wants the call to end.
    pub(crate) fn step(&mut self, strategy: &mut dyn Strategy) -> Result<()> {
        strategy.step(self)?;
        self.settings.failure.check()?;
        if is_over(self.settings, self.exec, self.begun) {
            strategy.stop();
        }
        Ok(())
    }

    fn run(&mut self, sources: &[&[u32]], each: &mut dyn FnMut(usize, Answer<'_>) -> Result<()>) -> Result<()> {
        let start = Instant::now();
        let mut strategy = self.start(sources);
        while !strategy.is_done() {
            self.step(&mut *strategy)?;
        }
        let mut lists = self.found(strategy, sources.len());
        let found = &mut lists[..sources.len()];
        self.add_logprobs(found)?;
        if let Some(choices) = self.custom.chosen_from() {
            choices::add_chosen(self, choices, sources, found)?;
            self.settings.failure.check()?;
        }
        self.timings.decode_ms = ms(start) - self.timings.encode_ms;
        let State { choice, pace, .. } = &*self.state;
        (self.timings.screened, self.timings.survivors) = (choice.screened, choice.survivors);
        (self.timings.guessed, self.timings.accepted) = (pace.guessed, pace.accepted);
        for (place, found) in found.iter_mut().enumerate() {
            let new_tokens = found.iter().map(|f| f.ids.len()).sum();
            each(place, Answer { found, timings: Timings { new_tokens, ..self.timings } })?;
        }
        self.state.found = lists;
        Ok(())
    }

    /// What an ended search found: a list a source, and perhaps empty ones behind them. To be given back to the state.
    fn found(&mut self, mut strategy: Box<dyn Strategy>, sources: usize) -> Vec<Vec<Found>> {
        let mut found = std::mem::take(&mut self.state.found);
        found.iter_mut().for_each(Vec::clear);
        if found.len() < sources {
            found.resize_with(sources, Vec::new);
        }
        strategy.found(&mut found[..sources]);
        strategy.put_back(&mut self.state.spare);
        found
    }

    /// The best sequence that an ended search of one source found.
    pub(crate) fn best_found(&mut self, strategy: Box<dyn Strategy>) -> Option<Found> {
        let mut found = self.found(strategy, 1);
        let best = found[0].drain(..).next();
        self.state.found = found;
        best
    }

    /// Encodes the sources and begins the search that the settings ask for.
    pub(crate) fn start(&mut self, sources: &[&[u32]]) -> Box<dyn Strategy> {
        self.attend_to(sources);
        (self.state.choice.screened, self.state.choice.survivors) = (0, 0);
        (self.state.pace.guessed, self.state.pace.accepted) = (0, 0);
        self.state.sums.forget();
        match (self.settings.num_beams, self.settings.do_sample) {
            (1, false) if self.custom.chosen_from().is_some() => choices::Ranking::start(self, sources),
            (1, false) => match self.speculation(sources.len()) {
                (false, false) => greedy::greedy(self, sources),
                (copies, drafts) => speculate::Speculation::start(self, sources[0], copies, drafts),
            },
            (1, true) => sample::sample(self, sources),
            _ => beam::Beams::start(self, sources),
        }
    }

    /// Whether to guess by copies, and by drafts. A caller's own rules see no guesses.
    fn speculation(&self, sources: usize) -> (bool, bool) {
        if sources != 1 || !self.custom.is_empty() {
            return (false, false);
        }
        let drafts = self.model.dtype != Dtype::Int8;
        match self.settings.speculation {
            Speculation::Off => (false, false),
            Speculation::Copy => (true, false),
            Speculation::Draft => (false, drafts),
            Speculation::Auto => (true, drafts && self.model.drafts_pay()),
        }
    }

    /// Encodes the sources and puts their cross-attention in place.
    fn attend_to(&mut self, sources: &[&[u32]]) {
        let State { scratch, encoder, decoder, .. } = &mut *self.state;
        let spent = sources::attend_to(self.model, self.exec, scratch, (encoder, decoder), self.decoder, sources);
        self.timings.encode_ms += spent.encoder.as_secs_f64() * 1e3;
        self.timings.cross_ms += spent.cross.as_secs_f64() * 1e3;
    }

    /// Begins sequences, each with its cache and its source, those of a source one behind the other: all of the prompt but its last id is
    /// decoded, once for each source.
    fn begin(&mut self, sequences: impl ExactSizeIterator<Item = (usize, usize)>) {
        let prompt = &self.settings.prompt;
        let len = prompt.len() + self.settings.max_new_tokens.min(RESERVE);
        decoder::begin(self.model, &mut self.state.decoder, self.decoder, sequences.len(), len);
        let given = &prompt[..prompt.len() - 1];
        if given.is_empty() {
            return;
        }
        let mut before: Option<(usize, usize)> = None;
        for (cache, source) in sequences {
            if let Some((same, _)) = before.filter(|(_, of)| *of == source) {
                self.copy_cache(same, cache);
                continue;
            }
            for ids in given.chunks(decoder::TOGETHER) {
                self.state.feeds.clear();
                self.state.feeds.push(Feed { cache, source, rows: 0..ids.len() });
                self.state.ids.clear();
                self.state.ids.extend_from_slice(ids);
                self.decode();
            }
            before = Some((cache, source));
        }
    }

    /// Names the tokens of the next step: (cache, source, id), one a sequence.
    fn feed(&mut self, tokens: impl Iterator<Item = (usize, usize, u32)>) {
        let state = &mut *self.state;
        state.feeds.clear();
        state.ids.clear();
        for (row, (cache, source, id)) in tokens.enumerate() {
            state.feeds.push(Feed { cache, source, rows: row..row + 1 });
            state.ids.push(id);
        }
    }

    /// Decodes what was fed: hidden states.
    fn decode(&mut self) {
        self.decode_by((self.decoder, &self.model.packed));
    }

    fn decode_by(&mut self, by: (&Stack, &Packed)) {
        let State { scratch, decoder, feeds, ids, .. } = &mut *self.state;
        let start = Instant::now();
        decoder.attention = Duration::ZERO;
        decoder::decode(self.model, self.exec, scratch, decoder, by, feeds, ids);
        self.timings.layers_ms += ms(start);
        self.timings.attention_ms += decoder.attention.as_secs_f64() * 1e3;
    }

    /// Decodes what was fed; the logits of its rows.
    fn logits(&mut self) -> Result<Logits<'_>> {
        self.decode();
        let start = Instant::now();
        let State { decoder, logits, ids, .. } = &mut *self.state;
        self.head.logits(self.model, self.exec, &decoder.hidden, ids.len(), logits)?;
        self.timings.head_ms += ms(start);
        Ok(self.last_logits())
    }

    /// Decodes what was fed; the best id of each of its rows.
    fn best(&mut self, scores: &impl Scores, best: &mut Vec<u32>) -> Result<()> {
        self.decode();
        self.best_of_decoded(scores, Wanted::Exact, best)
    }

    /// [`Search::best`] by the decoder at 8 bits.
    fn draft(&mut self, scores: &impl Scores, best: &mut Vec<u32>) -> Result<()> {
        let draft = self.model.draft(self.exec, self.decoder)?;
        self.decode_by((&draft.stack, &draft.packed));
        self.best_of_decoded(scores, Wanted::Guess, best)
    }

    fn best_of_decoded(&mut self, scores: &impl Scores, wanted: Wanted, best: &mut Vec<u32>) -> Result<()> {
        let start = Instant::now();
        let State { decoder, choice, ids, .. } = &mut *self.state;
        self.head.best(self.model, self.exec, &decoder.hidden, ids.len(), choice, scores, wanted, best)?;
        self.timings.head_ms += ms(start);
        Ok(())
    }

    /// Decodes what was fed; of each of its rows what may be among the `keep` best ([`Choice::likeliest`]), or all logits.
    fn likeliest(&mut self, scores: &impl Scores, keep: usize) -> Result<()> {
        self.decode();
        let start = Instant::now();
        let State { decoder, choice, ids, logits, .. } = &mut *self.state;
        self.head.likeliest(self.model, self.exec, &decoder.hidden, ids.len(), choice, scores, keep, logits)?;
        self.timings.head_ms += ms(start);
        Ok(())
    }

    /// The logits of the last step.
    fn last_logits(&mut self) -> Logits<'_> {
        Logits { logits: &mut self.state.logits, vocab_size: self.model.config().vocab_size }
    }

    fn copy_cache(&mut self, from: usize, to: usize) {
        let caches = &mut self.state.decoder.caches;
        let mut copy = std::mem::take(&mut caches[to]);
        copy.copy_from(&caches[from]);
        caches[to] = copy;
    }
}

/// Logits [rows, vocab_size], in rows of padded length.
struct Logits<'a> {
    logits: &'a mut [f32],
    vocab_size: usize,
}

impl Logits<'_> {
    fn row(&mut self, row: usize) -> &mut [f32] {
        &mut self.logits[row * padded(self.vocab_size)..][..self.vocab_size]
    }
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Generate;
    use crate::t5::T5;

    /// Beams and samples of a source look at one copy of its cross-attention's keys and values.
    #[test]
    fn sequences_of_a_source_share_its_cross_attention() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/goldens/v1_0-relu-tied");
        let t5 = T5::open(folder).unwrap();
        let sources: [&[u32]; 3] = [&[5, 8, 1], &[7, 9, 3, 4, 1], &[1]];
        let sampled = Generate { do_sample: Some(true), num_return_sequences: Some(4), ..Generate::default() };
        for options in [Generate { num_beams: Some(4), ..Generate::default() }, sampled] {
            let (decoder, head) = t5.generator("generate").unwrap();
            let custom = Custom::new();
            let settings = t5.settings(&options, None).unwrap();
            let team = tiny_t5_kernels::Team::alone();
            let exec = Exec { isa: t5.isa_value(), team: &team, stop: None, upcoming: None };
            let mut state = State::default();
            let parts = (t5.model(), decoder, head);
            let mut search = Search::new(parts, exec, (&settings, &custom), &mut state, &[0, 1, 2], Instant::now());
            let mut strategy = search.start(&sources);
            while !strategy.is_done() {
                search.step(&mut *strategy).unwrap();
                assert_eq!((search.state.decoder.sources.len(), search.state.decoder.caches.len()), (3, 12));
                assert!(search.state.feeds.iter().all(|feed| feed.source == feed.cache / 4), "each its source's");
            }
            let lens = search.state.decoder.sources.iter().map(|cache| cache.len()).collect::<Vec<_>>();
            assert_eq!(lens, [3, 5, 1], "positions of the sources");
        }
    }
}
