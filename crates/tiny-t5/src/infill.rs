//! Filling gaps: what pretrained checkpoints do before any fine-tuning.

use crate::error::{Error, Result};
use crate::generate::Finish;
use crate::input::Source;
use crate::options::Generate;
use crate::t5::{Sequence, T5};
use serde::Serialize;

/// A text whose gaps are filled.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Infilled {
    /// The source with each sentinel replaced by its span, and nothing else changed: a span begins with no space of its own.
    pub text: String,
    /// The text of each gap, in the order of the sentinels; empty where the model gave none.
    pub spans: Vec<String>,
    /// What the model generated: sentinels, each followed by its span.
    pub ids: Vec<u32>,
    /// The source's ids.
    pub input_ids: Vec<u32>,
    /// Why what the model generated ended.
    pub finish: Finish,
    /// It ended at a limit that nobody asked for: transformers' default of 20 tokens.
    pub default_limit: bool,
}

impl T5 {
    /// Fills the gaps `<extra_id_0>`, `<extra_id_1>`, ... of a text.
    ///
    /// ```no_run
    /// # fn main() -> tiny_t5::Result<()> {
    /// let t5 = tiny_t5::T5::open("google/t5-efficient-tiny")?;
    /// let filled = t5.infill("The <extra_id_0> sat on the mat.", &Default::default())?;
    /// println!("{} {:?}", filled.text, filled.spans);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// `logprobs` are not kept. ByT5 was trained with its last bytes, the ids 258, 257, ..., for gaps, and not with the sentinels that
    /// its tokenizer has: give [`T5::generate`] such ids.
    ///
    /// # Errors
    /// As [`T5::generate`]; and where the text has no gap, the tokenizer no sentinels, or the caller asks for several sequences.
    pub fn infill(&self, text: &str, options: &Generate) -> Result<Infilled> {
        let tokenizer = self.need_tokenizer()?;
        let sentinels: Vec<u32> = (0..).map_while(|i| tokenizer.sentinel(i)).collect();
        if sentinels.is_empty() {
            let needs = "a tokenizer with <extra_id_0>, <extra_id_1>, ...";
            return Err(Error::Unsupported { call: "infill", needs, has: "has none".into() });
        }
        let source = self.ids_of("source", Source::Text(text))?;
        let gap = |id: &u32| sentinels.iter().position(|s| s == id);
        let gaps = source.iter().filter_map(gap).max().map_or(0, |last| last + 1);
        if gaps == 0 {
            return Err(Error::input("source", "no gap", "a text with <extra_id_0>, <extra_id_1>, ..."));
        }
        if let Some(n) = options.num_return_sequences.filter(|n| *n != 1) {
            return Err(Error::option("num_return_sequences", n, "1: infill gives one text"));
        }
        let generated = self.generate(&source, options)?;
        let best = generated.sequences.into_iter().next().expect("a search finds a sequence");
        let Sequence { ids, finish, default_limit, .. } = best;
        // Each sentinel begins its span; what stands before the first belongs to none.
        let mut spans: Vec<Vec<u32>> = vec![Vec::new(); gaps];
        let mut current = None;
        for id in &ids {
            match gap(id) {
                Some(i) => current = Some(i),
                None if !tokenizer.is_special(*id) => {
                    if let Some(span) = current.and_then(|i: usize| spans.get_mut(i)) {
                        span.push(*id);
                    }
                }
                None => {}
            }
        }
        let spans = spans.iter().map(|ids| tokenizer.decode(ids, true)).collect::<Result<Vec<_>, _>>()?;
        Ok(Infilled { text: filled(text, &spans), spans, ids, input_ids: source, finish, default_limit })
    }
}

/// A text with each `<extra_id_N>` that there is a span for replaced by it.
fn filled(text: &str, spans: &[String]) -> String {
    const BEGIN: &str = "<extra_id_";
    let mut pieces = text.split(BEGIN);
    let mut filled = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let gap = piece.split_once('>').and_then(|(number, after)| {
            let span = number.parse().ok().and_then(|i: usize| spans.get(i).filter(|_| i.to_string() == number));
            span.map(|span| [span, after])
        });
        filled.extend(gap.unwrap_or([BEGIN, piece]));
    }
    filled
}

#[cfg(test)]
mod tests {
    use super::filled;

    #[test]
    fn gaps_are_filled_and_the_rest_stays_as_it_is() {
        let spans = ["a cat".to_owned(), String::new(), "<extra_id_0>".to_owned()];
        let cases = [
            ("<extra_id_+1> <extra_id_01>", "<extra_id_+1> <extra_id_01>"),
            ("½ {The}  <extra_id_0> ~ `sat`<extra_id_1>.", "½ {The}  a cat ~ `sat`."),
            ("<extra_id_2><extra_id_0><extra_id_0>", "<extra_id_0>a cata cat"),
            (
                "<extra_id_3> <extra_id_ <extra_id_> <extra_id_x> <extra_id_0",
                "<extra_id_3> <extra_id_ <extra_id_> <extra_id_x> <extra_id_0",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(filled(text, &spans), expected);
        }
    }
}
