//! A fixed list of answers: the output is one of them, with its probability.
//!
//! Their ids, each list closed with the end token and all sorted, are a trie: what may follow a prefix is a run of lists.
//!
//! The probability of an answer is exact, whatever the search: every answer is decoded as given, the log-probabilities of its
//! ids and of its end token (changed by the processors, as in beam search) are added up, and the exponentials of these sums are
//! divided by their sum over all answers. Without sampling and beams that is also the search: the most probable answer first,
//! which a walk that takes the best token at every step may miss.

use super::custom::keep;
use super::processors::{Context, Processor};
use super::{Finish, Found, Search, Settings, Strategy};
use crate::error::{Error, Result};
use crate::t5::{Source, T5};
use tiny_t5_kernels::log_softmax_row;

/// The answers that may be given: [`T5::choices`] makes it, [`Custom::choices`](crate::Custom::choices) takes it.
///
/// Greedy search becomes a ranking: all are scored, and the most probable come first, up to `num_return_sequences`. Sampling
/// and beams walk inside the list. Where the other rules leave none of the ids that may follow, all of those count alike.
#[derive(Debug, Clone)]
pub struct Choices {
    /// Sorted, each closed with an end token, with its place in the list given.
    all: Vec<(Vec<u32>, usize)>,
    eos: u32,
}

/// Which of the choices a sequence is.
#[derive(Debug, Clone, Copy, PartialEq)]
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

    /// The token that closes each.
    pub(super) fn eos(&self) -> u32 {
        self.eos
    }

    /// Tokens of the longest, its end token included.
    pub(super) fn longest(&self) -> usize {
        self.all.iter().map(|(ids, _)| ids.len()).max().unwrap_or(0)
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
}

impl Processor for &Choices {
    fn process(&self, context: &Context<'_>, scores: &mut [f32]) {
        let ids = context.new_ids();
        keep(self.after(ids), scores);
        // Nothing else may come, so what the other rules make of these cannot be obeyed.
        if self.after(ids).all(|id| !scores[id as usize].is_finite()) {
            self.after(ids).for_each(|id| scores[id as usize] = 0.0);
        }
    }

    fn touches(&self, _: &Context<'_>, _: &mut Vec<u32>) -> bool {
        false
    }
}

/// The choices of a source: for each, in the order of [`Choices`], the sum of its log-probabilities.
fn sums(search: &mut Search<'_>, choices: &Choices, sources: &[&[u32]]) -> Result<Vec<Vec<f32>>> {
    let (settings, isa, numbers) = (search.settings, search.exec.isa, search.numbers);
    let prompt = settings.prompt.len();
    let whole: Vec<Vec<u32>> = choices.all.iter().map(|(ids, _)| [&settings.prompt[..], ids].concat()).collect();
    let known: Vec<(usize, &[u32])> =
        (0..sources.len()).flat_map(|source| whole.iter().map(move |ids| (source, &ids[1..]))).collect();
    let mut sums = vec![vec![0f32; whole.len()]; sources.len()];
    search.known(&known, 0, |sequence, position, scores| {
        let (source, choice) = (sequence / whole.len(), sequence % whole.len());
        let ids = &whole[choice][..=position];
        if ids.len() < prompt {
            return;
        }
        log_softmax_row(isa, scores);
        let context = Context { ids, prompt, source: sources[source], index: numbers[source] };
        settings.processors.iter().for_each(|processor| processor.process(&context, scores));
        sums[source][choice] += scores[whole[choice][position + 1] as usize];
    })?;
    Ok(sums)
}

/// Probabilities from sums of log-probabilities.
fn probabilities(sums: &[f32]) -> Vec<f32> {
    let most = sums.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if !most.is_finite() {
        return vec![1.0 / sums.len() as f32; sums.len()];
    }
    let shares: Vec<f64> = sums.iter().map(|sum| f64::from(sum - most).exp()).collect();
    let all: f64 = shares.iter().sum();
    shares.iter().map(|share| (share / all) as f32).collect()
}

/// Which of the choices each sequence of each source is; none where something else ended it.
pub(super) fn chosen(
    search: &mut Search<'_>,
    choices: &Choices,
    sources: &[&[u32]],
    found: &[Vec<Found>],
) -> Result<Vec<Vec<Option<Chosen>>>> {
    let prefix = search.settings.prompt.len() - 1;
    let sums = match search.state.sums.take() {
        Some(sums) => sums,
        None => sums(search, choices, sources)?,
    };
    let of_source = |(sums, found): (&Vec<f32>, &Vec<Found>)| {
        let probabilities = probabilities(sums);
        let of_sequence = |found: &Found| {
            let i = choices.all.binary_search_by(|(ids, _)| ids.as_slice().cmp(&found.ids[prefix..])).ok()?;
            Some(Chosen { index: choices.all[i].1, probability: probabilities[i] })
        };
        found.iter().map(of_sequence).collect()
    };
    Ok(sums.iter().zip(found).map(of_source).collect())
}

/// All choices, the most probable first: a search of one step.
pub(super) struct Ranking {
    sources: Vec<Vec<u32>>,
    found: Vec<Vec<Found>>,
}

impl Ranking {
    pub(super) fn new(sources: &[&[u32]]) -> Ranking {
        Ranking { sources: sources.iter().map(|ids| ids.to_vec()).collect(), found: Vec::new() }
    }
}

impl Strategy for Ranking {
    fn step(&mut self, search: &mut Search<'_>) -> Result<()> {
        let Settings { prompt, length_penalty, num_return_sequences, custom, .. } = search.settings;
        let Some(choices) = custom.chosen_from() else { return Ok(()) };
        let sources: Vec<&[u32]> = self.sources.iter().map(Vec::as_slice).collect();
        let all = sums(search, choices, &sources)?;
        for sums in &all {
            let mut order: Vec<usize> = (0..sums.len()).collect();
            // Of equals the one that was given first.
            order.sort_by(|a, b| sums[*b].total_cmp(&sums[*a]).then(choices.all[*a].1.cmp(&choices.all[*b].1)));
            order.truncate(*num_return_sequences);
            let found = |i: usize| {
                let ids = &choices.all[i].0;
                let penalty = (ids.len() as f64).powf(*length_penalty) as f32;
                let ids = [&prompt[1..], ids].concat();
                Found { ids, score: Some(sums[i] / penalty), finish: Finish::Eos }
            };
            self.found.push(order.into_iter().map(found).collect());
        }
        search.state.sums = Some(all);
        Ok(())
    }

    fn is_done(&self) -> bool {
        !self.found.is_empty()
    }

    fn stop(&mut self) {}

    fn settled(&self, _: usize) -> &[u32] {
        &[]
    }

    fn found(&mut self, found: &mut [Vec<Found>]) {
        found.iter_mut().zip(&mut self.found).for_each(|(all, own)| all.append(own));
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
        assert_eq!(choices.longest(), 4);
    }

    #[test]
    fn probabilities_are_shares_of_their_sum() {
        let p = probabilities(&[-1000.0, -1001.0, f32::NEG_INFINITY]);
        assert!((p[0] - 0.731_058_6).abs() < 1e-6 && (p[0] + p[1] - 1.0).abs() < 1e-6 && p[2] == 0.0, "{p:?}");
        assert_eq!(probabilities(&[f32::NEG_INFINITY; 4]), [0.25; 4]);
    }
}
