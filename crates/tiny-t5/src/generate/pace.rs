//! How many tokens speculation guesses at once: from how many guesses held, what they cost, and what it may lose.

/// Tokens after which a way of guessing that does not pay is tried again.
const AGAIN: usize = 32;
/// Guessing begins where it promises this many times the tokens of plain steps.
const PAYS: f64 = 1.05;
/// Passes that guessing may lose before it has won any, and that every token adds to what it may lose.
const AT_FIRST: f64 = 1.0;
const A_TOKEN: f64 = 0.03;
/// Passes that it may lose at most of those that it has won.
const OF_WON: f64 = 4.0;

/// What guessing costs, in passes of one row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Costs {
    /// A row more in a pass.
    pub(super) row: f64,
    /// A draft.
    pub(super) draft: f64,
}

/// Where guesses came from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Way {
    Plain,
    Copies,
    Drafts,
}

impl Costs {
    /// Of a guess.
    fn of(self, way: Way) -> f64 {
        match way {
            Way::Plain => 0.0,
            Way::Copies => self.row,
            Way::Drafts => self.row + self.draft,
        }
    }
}

/// How guessing went so far, kept from call to call.
#[derive(Debug)]
pub(crate) struct Pace {
    copies: Held,
    drafts: Held,
    /// Passes that guesses which do not hold may still cost. All that was lost is at most [`AT_FIRST`] and [`A_TOKEN`] a token, whatever
    /// the texts are: a guess is made only where there is credit for it.
    credit: f64,
    pub(crate) guessed: usize,
    pub(crate) accepted: usize,
}

impl Default for Pace {
    fn default() -> Self {
        // What followed a word or two before follows them again every other time; a draft knows the model.
        let (copies, drafts) = (Held { share: 0.5, idle: 0 }, Held { share: 0.7, idle: 0 });
        Pace { copies, drafts, credit: AT_FIRST, guessed: 0, accepted: 0 }
    }
}

/// The share of guesses that held.
#[derive(Debug)]
struct Held {
    share: f64,
    /// Tokens since one was last guessed.
    idle: usize,
}

impl Pace {
    /// The way of guessing that promises the most tokens for the time, and how many guesses: at most `copies` or `drafts`, and no more
    /// than may all fail.
    pub(super) fn best(&self, copies: usize, drafts: usize, costs: Costs) -> (Way, usize) {
        let of = |way, held: &Held, most: usize| {
            let each = costs.of(way);
            let (n, promised) = held.best(most.min((self.credit / each) as usize), each);
            (way, n, promised)
        };
        let (copies, drafts) = (of(Way::Copies, &self.copies, copies), of(Way::Drafts, &self.drafts, drafts));
        let (way, n, promised) = if drafts.2 > copies.2 { drafts } else { copies };
        if promised >= PAYS { (way, n) } else { (Way::Plain, 0) }
    }

    /// A pass with `guessed` guesses gave `new` tokens, of which `held` had been guessed.
    pub(super) fn see(&mut self, way: Way, guessed: usize, held: usize, new: usize, costs: Costs) {
        self.guessed += guessed;
        self.accepted += held;
        self.copies.idle += new;
        self.drafts.idle += new;
        match way {
            Way::Plain => {}
            Way::Copies => self.copies.see(guessed, held),
            Way::Drafts => self.drafts.see(guessed, held),
        }
        let won = new.saturating_sub(1) as f64 - guessed as f64 * costs.of(way);
        self.credit = (self.credit + won + A_TOKEN * new as f64).min(OF_WON);
    }
}

impl Held {
    /// The number of guesses, up to `most`, that promises the most tokens for the time of a plain step, and how many; each costs
    /// `each`. Where that is not enough any more, one guess after a while, if there is nothing better to do.
    fn best(&self, most: usize, each: f64) -> (usize, f64) {
        // The first token is always right, the next if its guess held, ...
        let promised = |n: usize| (0..=n).map(|i| self.share.powi(i as i32)).sum::<f64>() / (1.0 + n as f64 * each);
        let all = (0..=most).map(|n| (n, promised(n)));
        let best = all.max_by(|(_, a), (_, b)| a.total_cmp(b)).unwrap_or((0, 1.0));
        if best.1 < PAYS && self.idle >= AGAIN && most > 0 { (1, PAYS) } else { best }
    }

    fn see(&mut self, guessed: usize, accepted: usize) {
        for i in 0..guessed.min(accepted + 1) {
            let held = if i < accepted { 1.0 } else { 0.0 };
            self.share += (held - self.share) * 0.1;
        }
        self.idle = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const COSTS: Costs = Costs { row: 0.1, draft: 0.33 };

    /// A pass of which the first `holding` guesses hold; the guesses.
    fn pass(pace: &mut Pace, copies: usize, drafts: usize, holding: usize) -> (Way, usize) {
        let (way, guessed) = pace.best(copies, drafts, COSTS);
        let held = holding.min(guessed);
        pace.see(way, guessed, held, held + 1, COSTS);
        (way, guessed)
    }

    proptest! {
        /// Whoever decides which guesses hold: over any stretch of a session, what guessing lost is bounded.
        #[test]
        fn guessing_loses_no_more_than_it_may(
            passes in prop::collection::vec((0usize..=8, 0usize..=8, 0usize..=8), 40..400),
            row in 0.05..0.5f64,
            draft in 0.1..0.45f64,
        ) {
            let costs = Costs { row, draft };
            let mut pace = Pace::default();
            // What was lost since the start, and at the moment at which it was least.
            let (mut lost, mut least, mut guesses) = (0f64, 0f64, 0);
            for (copies, drafts, holding) in passes {
                let (way, guessed) = pace.best(copies, drafts, costs);
                let held = holding.min(guessed);
                pace.see(way, guessed, held, held + 1, costs);
                // A pass and its guesses, beside the plain passes that it stands for.
                lost += 1.0 + guessed as f64 * costs.of(way) - (1.0 + A_TOKEN) * (held + 1) as f64;
                least = least.min(lost);
                guesses += guessed;
                prop_assert!(lost <= AT_FIRST + 1e-9, "lost {lost}");
                prop_assert!(lost - least <= OF_WON + 1e-9, "lost {lost} since {least}");
            }
            prop_assert!(guesses > 0, "nothing was tried");
        }
    }

    #[test]
    fn guesses_that_hold_become_more() {
        let mut pace = Pace::default();
        let (way, first) = pass(&mut pace, 0, 8, 8);
        (0..20).for_each(|_| _ = pass(&mut pace, 0, 8, 8));
        let (_, then) = pass(&mut pace, 0, 8, 8);
        assert!(way == Way::Drafts && (1..=2).contains(&first) && then > 5, "{first}, {then}");
    }

    #[test]
    fn guesses_that_do_not_hold_end_and_are_tried_again() {
        let mut pace = Pace::default();
        let guesses: Vec<usize> = (0..400).map(|_| pass(&mut pace, 8, 0, 0).1).collect();
        let tried = guesses[100..].iter().sum::<usize>();
        assert!(guesses[0] > 1 && (5..=15).contains(&tried), "{tried}: {guesses:?}");
    }

    #[test]
    fn the_better_way_is_taken() {
        // Copies are free, so they come first; where only drafts hold, they stay.
        let mut pace = Pace::default();
        assert_eq!(pass(&mut pace, 8, 8, 0).0, Way::Copies);
        let only_drafts = |pace: &mut Pace| {
            let (way, guessed) = pace.best(8, 8, COSTS);
            let held = if way == Way::Drafts { guessed } else { 0 };
            pace.see(way, guessed, held, held + 1, COSTS);
            way
        };
        (0..20).for_each(|_| _ = only_drafts(&mut pace));
        let drafts = (0..100).filter(|_| only_drafts(&mut pace) == Way::Drafts).count();
        assert!(drafts > 80, "{drafts}");
        // And where only copies do, these.
        let mut pace = Pace::default();
        let copies = (0..100).filter(|_| pass(&mut pace, 8, 8, 8).0 == Way::Copies).count();
        assert!(copies > 90, "{copies}");
    }
}
