//! A fixed list of answers: the output is one of them, with its probability.
//!
//! Their ids, each list closed with the end token and all sorted, are a trie: what may follow a prefix is a run of lists.
//!
//! The probability of an answer is exact, whatever the search: every answer is decoded as given, the log-probabilities of its
//! ids and of its end token (changed by the processors, as in beam search) are added up, and the exponentials of these sums are
//! divided by their sum over all answers. Without sampling and beams that is also the search: the most probable answer first,
//! which a walk that takes the best token at every step may miss.

use super::custom::keep;
use super::processors::Context;
use super::rows::Texts;
use super::{Finish, Found, Search, Settings, Spare, Strategy};
use crate::error::{Error, Result};
use crate::input::Source;
use crate::t5::T5;
use serde::Serialize;
use std::cell::Cell;
use tiny_t5_kernels::log_softmax_row;

/// The answers that may be given: [`T5::choices`] makes it, [`Custom::choices`](crate::Custom::choices) takes it.
///
/// Greedy search becomes a ranking: all are scored, whole, so that no `stopping_criteria` are asked, and the most probable come
/// first, up to `num_return_sequences`. Sampling and beams walk inside the list. Where the other rules leave none of the ids that may
/// follow, all of those count alike. All choices are decoded, some rows at a time: a call whose time is over before that is done ends
/// [`Stopped`](crate::Finish::Stopped), with none of them.
#[derive(Debug, Clone)]
pub struct Choices {
    /// Sorted, each closed with an end token, with its place in the list given.
    all: Vec<(Vec<u32>, usize)>,
    eos: u32,
}

/// A list of choices from outside.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct Closed {
    /// The token that closes each.
    pub(super) eos: u32,
    /// Tokens of the longest, its end token included.
    pub(super) longest: usize,
    pub(super) count: usize,
    /// The largest of their ids.
    pub(super) largest: u32,
}

/// Which of the choices a sequence is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Chosen {
    /// Its place in the list given to [`T5::choices`].
    pub index: usize,
    /// Its probability among the choices: its own, given the source, over the sum of all of theirs.
    pub probability: f32,
}

impl T5 {
    /// A list of answers, texts or ids, for [`Custom::choices`](crate::Custom::choices). One may begin with another; an end
    /// token closes each.
    ///
    /// ```
    /// # #[cfg(feature = "embedded")] {
    /// use tiny_t5::{Custom, Generate, Load, T5};
    ///
    /// let t5 = T5::embedded(&Load::default())?;
    /// let choices = t5.choices(&["ˈwɝld".into(), "həˈloʊ".into()])?;
    /// let answer = t5.generate_with("hello", &Generate::default(), &Custom::new().choices(&choices))?;
    /// let chosen = answer.sequences[0].chosen.expect("it is one of them");
    /// assert!(chosen.index == 1 && chosen.probability > 0.9);
    /// # }
    /// # Ok::<_, tiny_t5::Error>(())
    /// ```
    ///
    /// # Errors
    /// Where the list or its ids are empty, two have the same ids, an id is not of the vocabulary, or there is no end token;
    /// for a text, where there is no tokenizer.
    pub fn choices(&self, choices: &[Source<'_>]) -> Result<Choices> {
        let end = super::eos(self.generation_defaults(), self.config());
        let Some(eos) = end.first().copied() else {
            return Err(Error::option("eos_token_id", "none", "an end token, which closes each of the choices"));
        };
        let mut all = Vec::with_capacity(choices.len());
        for (index, choice) in choices.iter().enumerate() {
            let what = || format!("choice {}", index + 1);
            let mut ids = match choice {
                Source::Text(text) => self.need_tokenizer()?.encode_plain(text)?,
                Source::Ids(ids) => ids.to_vec(),
            };
            if ids.last().is_some_and(|id| end.contains(id)) {
                ids.pop();
            }
            if ids.is_empty() {
                return Err(Error::input(what(), "nothing", "a text or ids"));
            }
            if ids.iter().any(|id| end.contains(id)) {
                return Err(Error::input(what(), "an end token before the end", "none"));
            }
            let mut ids = self.ids_of(&what(), Source::Ids(&ids))?;
            ids.push(eos);
            all.push((ids, index));
        }
        if all.is_empty() {
            return Err(Error::input("choices", "an empty list", "at least one"));
        }
        all.sort_unstable();
        if let Some(twice) = all.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            let same = format!("the ids of choice {}", twice[0].1 + 1);
            return Err(Error::input(format!("choice {}", twice[1].1 + 1), same, "choices of different ids"));
        }
        Ok(Choices { all, eos })
    }
}

impl Choices {
    /// How many there are.
    #[allow(clippy::len_without_is_empty)] // never empty
    #[must_use]
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// What the settings of a call depend on.
    pub(crate) fn closed(&self) -> Closed {
        let longest = self.all.iter().map(|(ids, _)| ids.len()).max().unwrap_or(0);
        let largest = self.all.iter().flat_map(|(ids, _)| ids).copied().max().unwrap_or(0);
        Closed { eos: self.eos, longest, count: self.all.len(), largest }
    }

    /// The ids that may follow, ascending: those of the choices that begin with `ids`.
    pub(super) fn after<'a>(&'a self, ids: &'a [u32]) -> impl Iterator<Item = u32> + 'a {
        let first = self.all.partition_point(|(choice, _)| choice.as_slice() < ids);
        let mut rest = &self.all[first..];
        std::iter::from_fn(move || {
            let (choice, _) = rest.first().filter(|(choice, _)| choice.starts_with(ids))?;
            let next = *choice.get(ids.len())?;
            let same = rest.partition_point(|(choice, _)| choice.starts_with(ids) && choice[ids.len()] == next);
            rest = &rest[same..];
            Some(next)
        })
    }

    /// Forbids all that may not follow.
    pub(super) fn keep(&self, context: &Context<'_>, scores: &mut [f32]) {
        let ids = context.new_ids();
        keep(self.after(ids), scores);
        // Nothing else may come, so what the other rules make of these cannot be obeyed.
        if self.after(ids).all(|id| !scores[id as usize].is_finite()) {
            self.after(ids).for_each(|id| scores[id as usize] = 0.0);
        }
    }
}

/// Of each source, of each choice in the order of [`Choices`]: the sum of its log-probabilities.
#[derive(Default)]
pub(super) struct Sums {
    all: Vec<f32>,
    choices: usize,
    /// They are of this search.
    valid: bool,
    /// They are not all: the caller's time was over, or the caller wanted the call to end.
    cut: bool,
}

impl Sums {
    pub(super) fn forget(&mut self) {
        self.valid = false;
    }

    /// One list a source.
    fn of_sources(&self) -> impl Iterator<Item = &[f32]> {
        self.all.chunks_exact(self.choices)
    }
}

/// The sums of these sources; to be given back to the state.
fn sums<'s>(
    search: &mut Search<'_>,
    choices: &Choices,
    source_of: impl Fn(usize) -> &'s [u32],
    sources: usize,
) -> Result<Sums> {
    let mut sums = std::mem::take(&mut search.state.sums);
    if sums.valid {
        return Ok(sums);
    }
    let (settings, isa, numbers) = (search.settings, search.exec.isa, search.numbers);
    let (rules, prompt, count) = (search.rules(), settings.prompt.len(), choices.all.len());
    let mut whole = std::mem::take(&mut search.state.known.texts);
    whole.clear();
    choices.all.iter().for_each(|(ids, _)| whole.push(&[&settings.prompt, ids]));
    sums.all.clear();
    sums.all.resize(sources * count, 0.0);
    (sums.choices, sums.valid) = (count, true);
    let (exec, begun, last) = (search.exec, search.begun, Cell::new((0, 0)));
    let go_on = || !super::is_over(settings, exec, begun);
    let known = |sequence| (sequence / count, &whole.get(sequence % count)[1..]);
    search.known(sources * count, known, (0, 0), go_on, |sequence, position, scores| {
        last.set((sequence, position));
        let (source, whole) = (sequence / count, whole.get(sequence % count));
        let ids = &whole[..=position];
        // A choice that a rule has forbidden stays so, and what would come behind is asked of nobody.
        if ids.len() < prompt || sums.all[sequence] == f32::NEG_INFINITY {
            return;
        }
        log_softmax_row(isa, scores);
        let context = Context { ids, prompt, source: source_of(source), index: numbers[source] };
        rules.process(&context, scores);
        sums.all[sequence] += scores[whole[position + 1] as usize];
    })?;
    let end = (sources * count - 1, whole.get(count - 1).len() - 2);
    sums.cut = last.get() != end;
    search.state.known.texts = whole;
    Ok(sums)
}

/// What probabilities are shares of: the exponentials of all sums of log-probabilities.
struct Whole {
    /// Of how many.
    count: usize,
    most: f32,
    all: f64,
}

impl Whole {
    fn of(sums: &[f32]) -> Whole {
        let most = sums.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let all = sums.iter().map(|sum| f64::from(sum - most).exp()).sum();
        Whole { count: sums.len(), most, all }
    }

    /// The probability of one of them.
    fn share(&self, sum: f32) -> f32 {
        if !self.most.is_finite() {
            return 1.0 / self.count as f32;
        }
        (f64::from(sum - self.most).exp() / self.all) as f32
    }
}

/// Adds which of the choices each sequence of each source is; none where something else ended it, or the time is over.
pub(super) fn add_chosen(
    search: &mut Search<'_>,
    choices: &Choices,
    sources: &[&[u32]],
    found: &mut [Vec<Found>],
) -> Result<()> {
    let (prefix, length_penalty) = (search.settings.prompt.len() - 1, search.settings.length_penalty);
    if found.iter().flatten().all(|found| found.finish != Finish::Eos) {
        return Ok(());
    }
    let all = sums(search, choices, |source| sources[source], sources.len())?;
    let there = if all.cut { 0 } else { sources.len() };
    for (sums, found) in all.of_sources().take(there).zip(found) {
        let whole = Whole::of(sums);
        for found in found {
            let ids = &found.ids[prefix.min(found.ids.len())..];
            let Ok(i) = choices.all.binary_search_by(|(choice, _)| choice.as_slice().cmp(ids)) else { continue };
            found.chosen = Some(Chosen { index: choices.all[i].1, probability: whole.share(sums[i]) });
            let score = sums[i] / (ids.len() as f64).powf(length_penalty) as f32;
            found.score = found.score.or(Some(score).filter(|score| score.is_finite()));
        }
    }
    search.state.sums = all;
    Ok(())
}

/// All choices, the most probable first: a search of one step, which ends early where the time is over.
#[derive(Default)]
pub(super) struct Ranking {
    sources: Texts,
    /// With the source.
    found: Vec<(usize, Found)>,
    order: Vec<usize>,
    done: bool,
}

impl Ranking {
    /// On the memory of an earlier one.
    pub(super) fn start(search: &mut Search<'_>, sources: &[&[u32]]) -> Box<Ranking> {
        let mut this = search.state.spare.ranking.take().unwrap_or_default();
        this.sources.set(sources);
        this.found.clear();
        this.done = false;
        this
    }
}

impl Strategy for Ranking {
    fn step(&mut self, search: &mut Search<'_>) -> Result<()> {
        let Settings { prompt, length_penalty, num_return_sequences, .. } = search.settings;
        let Some(choices) = search.custom.chosen_from() else { return Ok(()) };
        let Ranking { sources, found, order, done } = self;
        let all = sums(search, choices, |source| sources.get(source), sources.len())?;
        for (source, sums) in all.of_sources().enumerate() {
            if all.cut {
                let none = || (source, Found::new(prompt[1..].to_vec(), None, Finish::Stopped));
                found.extend(std::iter::repeat_with(none).take(*num_return_sequences));
                continue;
            }
            order.clear();
            order.extend(0..sums.len());
            // Of equals the one that was given first.
            order
                .sort_unstable_by(|a, b| sums[*b].total_cmp(&sums[*a]).then(choices.all[*a].1.cmp(&choices.all[*b].1)));
            for i in order.iter().take(*num_return_sequences) {
                let ids = &choices.all[*i].0;
                let penalty = (ids.len() as f64).powf(*length_penalty) as f32;
                let ids = [&prompt[1..], ids].concat();
                found.push((source, Found::new(ids, Some(sums[*i] / penalty), Finish::Eos)));
            }
        }
        search.state.sums = all;
        *done = true;
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.done
    }

    fn stop(&mut self) {}

    fn settled(&self, _: usize) -> &[u32] {
        &[]
    }

    fn found(&mut self, found: &mut [Vec<Found>]) {
        self.found.drain(..).for_each(|(source, one)| found[source].push(one));
    }

    fn put_back(self: Box<Self>, spare: &mut Spare) {
        spare.ranking = Some(self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_follow_is_what_the_choices_have_there() {
        let lists: [&[u32]; 5] = [&[5, 6, 1], &[5, 1], &[5, 6, 7, 1], &[9, 1], &[2, 3, 1]];
        let mut all: Vec<_> = lists.iter().enumerate().map(|(i, ids)| (ids.to_vec(), i)).collect();
        all.sort_unstable();
        let choices = Choices { all, eos: 1 };
        let after = |ids: &[u32]| choices.after(ids).collect::<Vec<_>>();
        assert_eq!(after(&[]), [2, 5, 9]);
        assert_eq!(after(&[5]), [1, 6]);
        assert_eq!(after(&[5, 6]), [1, 7]);
        assert_eq!(after(&[5, 6, 7]), [1]);
        assert_eq!(after(&[5, 1]), [0u32; 0]);
        assert_eq!(after(&[4]), [0u32; 0]);
        assert_eq!(after(&[10]), [0u32; 0]);
        assert_eq!(choices.closed().longest, 4);
    }

    #[test]
    fn probabilities_are_shares_of_their_sum() {
        let probabilities = |sums: &[f32]| {
            let whole = Whole::of(sums);
            sums.iter().map(|sum| whole.share(*sum)).collect::<Vec<_>>()
        };
        let p = probabilities(&[-1000.0, -1001.0, f32::NEG_INFINITY]);
        assert!((p[0] - 0.731_058_6).abs() < 1e-6 && (p[0] + p[1] - 1.0).abs() < 1e-6 && p[2] == 0.0, "{p:?}");
        assert_eq!(probabilities(&[f32::NEG_INFINITY; 4]), [0.25; 4]);
    }
}
