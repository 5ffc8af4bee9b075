//! `clean_up_tokenization_spaces`: English punctuation loses the blank before it. Fine-tuned
//! checkpoints saved by transformers 4.30 to 4.44 ask for it, and transformers 5 still obeys.

const RULES: [(&str, &str); 10] = [
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
];

/// Applies the rules, each to the whole text, in order.
pub(super) fn clean(text: &str) -> String {
    let mut text = text.to_owned();
    for (from, to) in RULES {
        if text.contains(from) {
            text = text.replace(from, to);
        }
    }
    text
}

/// The end of the part of `text` that can be cleaned by itself: whatever follows, cleaning the two
/// parts and joining them gives the cleaned whole.
///
/// It lies before a blank that follows a letter or digit. Rules begin with a blank, so one that
/// reaches across would have to hold that letter and what comes after the blank: only " n't" could,
/// where " ' t" has lost its blanks before; so not after a word "n". What comes before the first blank is beyond all rules.
pub(super) fn settled(text: &str) -> usize {
    let mut end = text.len();
    while let Some(at) = text[..end].rfind(' ') {
        let before = &text[..at];
        if before.ends_with(char::is_alphanumeric) && !before.ends_with(" n") {
            return at;
        }
        end = at;
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever follows, the two parts are cleaned as the whole is; and a text without blanks need not wait.
    #[test]
    fn settled_parts_are_cleaned_as_the_whole() {
        assert_eq!(settled("漢字かな"), "漢字かな".len());
        assert_eq!([settled("it 's"), settled(", ."), settled(" n't"), settled("a n ' t")], [2, 1, 0, 1]);
        let pieces = ["a", " ", ".", "'", "n", "t", "s", ",", "é", "re"];
        let text = |mut number: usize| {
            let mut text = String::new();
            while number > 0 {
                text += pieces[number % pieces.len()];
                number /= pieces.len();
            }
            text
        };
        for number in 0..200_000 {
            let text = text(number);
            let (first, rest) = text.split_at(settled(&text));
            assert_eq!(clean(first) + &clean(rest), clean(&text), "{text:?}");
            for end in (0..text.len()).filter(|end| text.is_char_boundary(*end)) {
                let (now, later) = text.split_at(settled(&text[..end]));
                assert_eq!(clean(now) + &clean(later), clean(&text), "{text:?} at {end}");
            }
        }
    }
}
