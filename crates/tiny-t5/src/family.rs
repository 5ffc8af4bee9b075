//! The shapes of the T5 family by name, without weights.
//!
//! Sources: T5 (Raffel et al., 2020), T5 1.1 and Flan-T5, mT5 (Xue et al., 2021), ByT5 (Xue et al., 2022), UMT5 (Chung et al., 2023) and
//! T5-Efficient (Tay et al., 2021), as their released config.json have them.

use crate::complexity::{DecodedToken, Flops, Kv, Parameters};
use crate::error::{Error, Result, one_line};
use serde_json::json;
use tiny_t5_checkpoint::Config;

/// A shape of the family: what config.json says of it, and what else is known.
///
/// ```
/// # fn main() -> tiny_t5::Result<()> {
/// let shape = tiny_t5::Shape::named("t5-efficient-tiny-nl32")?;
/// assert_eq!(shape.parameters().total(), 66_986_752);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Shape {
    /// Its name, without an organisation.
    pub name: String,
    /// The shape; `raw` is a whole config.json.
    pub config: Config,
    /// Whether the output matrix is not the embedding.
    pub own_head: bool,
    /// The width of a head in the published card, where the released config.json has another.
    pub card_d_kv: Option<usize>,
    /// Whether checkpoints of this shape can be loaded.
    pub loads: bool,
    /// Whether each of its numbers is known: from a released config.json, or because the name says it. The notes tell what is not.
    pub certain: bool,
    /// What one should know of these numbers, a sentence each.
    pub notes: Vec<String>,
    kv: Kv,
}

/// The numbers of a size: layers of the encoder and of the decoder, d_model, d_ff, heads, d_kv.
type Size = (&'static str, [usize; 6]);

/// A series of sizes that are alike in all but their numbers.
struct Series {
    prefix: &'static str,
    model_type: &'static str,
    vocab_size: usize,
    /// Gated feed-forward and an output matrix of its own, as since T5 1.1.
    since_1_1: bool,
    sizes: &'static [Size],
}

const T5: [Size; 5] = [
    ("small", [6, 6, 512, 2048, 8, 64]),
    ("base", [12, 12, 768, 3072, 12, 64]),
    ("large", [24, 24, 1024, 4096, 16, 64]),
    ("3b", [24, 24, 1024, 16384, 32, 128]),
    ("11b", [24, 24, 1024, 65536, 128, 128]),
];

const T5_1_1: [Size; 5] = [
    ("small", [8, 8, 512, 1024, 6, 64]),
    ("base", [12, 12, 768, 2048, 12, 64]),
    ("large", [24, 24, 1024, 2816, 16, 64]),
    ("xl", [24, 24, 2048, 5120, 32, 64]),
    ("xxl", [24, 24, 4096, 10240, 64, 64]),
];

/// The decoder has a third of the encoder's layers.
const BYT5: [Size; 5] = [
    ("small", [12, 4, 1472, 3584, 6, 64]),
    ("base", [18, 6, 1536, 3968, 12, 64]),
    ("large", [36, 12, 1536, 3840, 16, 64]),
    ("xl", [36, 12, 2560, 6720, 32, 64]),
    ("xxl", [36, 12, 4672, 12352, 64, 64]),
];

/// There is no large one.
const UMT5: [Size; 4] = [T5_1_1[0], T5_1_1[1], T5_1_1[3], T5_1_1[4]];

const EFFICIENT: [Size; 7] = [
    ("tiny", [4, 4, 256, 1024, 4, 64]),
    ("mini", [4, 4, 384, 1536, 8, 64]),
    ("small", [6, 6, 512, 2048, 8, 64]),
    ("base", [12, 12, 768, 3072, 12, 64]),
    ("large", [24, 24, 1024, 4096, 16, 64]),
    ("xl", [24, 24, 1024, 16384, 32, 128]),
    ("xxl", [24, 24, 1024, 65536, 128, 128]),
];

const EFFICIENT_PREFIX: &str = "t5-efficient-";

/// `t5-` last: others begin with it too.
const SERIES: [Series; 7] = [
    Series { prefix: EFFICIENT_PREFIX, model_type: "t5", vocab_size: 32_128, since_1_1: false, sizes: &EFFICIENT },
    Series { prefix: "umt5-", model_type: "umt5", vocab_size: 256_384, since_1_1: true, sizes: &UMT5 },
    Series { prefix: "byt5-", model_type: "t5", vocab_size: 384, since_1_1: true, sizes: &BYT5 },
    Series { prefix: "mt5-", model_type: "mt5", vocab_size: 250_112, since_1_1: true, sizes: &T5_1_1 },
    Series { prefix: "flan-t5-", model_type: "t5", vocab_size: 32_128, since_1_1: true, sizes: &T5_1_1 },
    Series { prefix: "t5-v1_1-", model_type: "t5", vocab_size: 32_128, since_1_1: true, sizes: &T5_1_1 },
    Series { prefix: "t5-", model_type: "t5", vocab_size: 32_128, since_1_1: false, sizes: &T5 },
];

/// The known variations of T5-Efficient: what stands before the last number, and these numbers. Not each was seen on a public page.
const VARIATIONS: [(&str, &[u32]); 30] = [
    ("tiny-nl", &[2, 6, 8, 12, 16, 24, 32]),
    ("tiny-el", &[2, 6, 8, 12]),
    ("tiny-dl", &[2, 6, 8]),
    ("tiny-ff", &[2000, 3000, 6000, 9000, 12000]),
    ("tiny-nh", &[1, 8, 16, 32]),
    ("mini-nl", &[6, 8, 12, 24]),
    ("small-nl", &[2, 4, 8, 16, 20, 22, 24, 32, 36, 40, 48]),
    ("small-el", &[2, 4, 8, 12, 16, 32, 48, 64]),
    ("small-dl", &[2, 4, 8, 12, 16]),
    ("small-el8-dl", &[1, 2, 4]),
    ("small-el16-dl", &[1, 2, 4, 8]),
    ("small-dm", &[128, 256, 768, 1000, 2000]),
    ("small-ff", &[1000, 3000, 6000, 9000, 12000]),
    ("small-kv", &[16, 32, 128, 256]),
    ("base-nl", &[2, 4, 8, 16, 24, 32, 36, 40, 48]),
    ("base-el", &[2, 4, 6, 8, 16]),
    ("base-dl", &[2, 4, 6, 8]),
    ("base-dm", &[256, 512, 1000, 2000]),
    ("base-ff", &[1000, 2000, 6000, 9000, 12000]),
    ("base-nh", &[8, 16, 24, 32]),
    ("base-kv", &[16, 32, 128, 256]),
    ("large-nl", &[2, 4, 8, 10, 12, 16, 20, 32, 36]),
    ("large-el", &[2, 4, 6, 8, 12]),
    ("large-dl", &[2, 4, 6, 8, 12, 16, 32]),
    ("large-dm", &[128, 256, 512, 768, 2000]),
    ("large-nh", &[2, 4, 8, 12, 24, 32]),
    ("large-nh8-nl", &[32]),
    ("large-kv", &[16, 32, 128, 256]),
    ("xl-nl", &[2, 4, 6, 8, 12, 16, 28]),
    ("xxl-nl", &[4]),
];

/// Checkpoints that are not what their names say: what was released under these names. Of tiny-el12 and xxl-nl4 config.json says so, of
/// the others the size of their files, which fits these numbers and no others that are near.
const RELEASED_OTHERWISE: [Size; 10] = [
    ("tiny-el2", [2, 12, 256, 1024, 4, 64]),
    ("tiny-el6", [6, 12, 256, 1024, 4, 64]),
    ("tiny-el8", [8, 12, 256, 1024, 4, 64]),
    ("tiny-el12", [12, 12, 256, 1024, 4, 64]),
    ("tiny-dl2", [12, 2, 256, 1024, 4, 64]),
    ("tiny-dl6", [12, 6, 256, 1024, 4, 64]),
    ("tiny-dl8", [12, 8, 256, 1024, 4, 64]),
    ("tiny-ff2000", [4, 4, 256, 1024, 4, 64]),
    ("tiny-nh8", [4, 4, 256, 1024, 8, 32]),
    ("xxl-nl4", [4, 4, 1024, 65536, 32, 64]),
];

/// Those without a number.
const SHARED: [&str; 10] = [
    "tiny-sh",
    "small-sh",
    "base-sh",
    "large-sh",
    "xl-sh",
    "tiny-skv",
    "base-skv",
    "large-skv",
    "xl-skv",
    "small-shkv",
];

/// Whether T5-Efficient has a checkpoint of this name, as far as is known.
fn is_released(rest: &str) -> bool {
    let (before, number) = rest.split_at(rest.trim_end_matches(|c: char| c.is_ascii_digit()).len());
    let varied =
        || VARIATIONS.iter().any(|(known, all)| *known == before && number.parse().is_ok_and(|n| all.contains(&n)));
    EFFICIENT.iter().any(|(size, _)| *size == rest) || SHARED.contains(&rest) || varied()
}

impl Series {
    /// config.json of a shape of this series.
    fn config(&self, numbers: [usize; 6]) -> Result<Config> {
        let [encoder_layers, decoder_layers, d_model, d_ff, heads, d_kv] = numbers;
        let config = json!({
            "architectures": [format!("{}ForConditionalGeneration", self.model_type.to_uppercase())],
            "model_type": self.model_type,
            "vocab_size": self.vocab_size,
            "d_model": d_model,
            "d_kv": d_kv,
            "d_ff": d_ff,
            "num_layers": encoder_layers,
            "num_decoder_layers": decoder_layers,
            "num_heads": heads,
            "relative_attention_num_buckets": 32,
            "relative_attention_max_distance": 128,
            "feed_forward_proj": if self.since_1_1 { "gated-gelu" } else { "relu" },
            "tie_word_embeddings": !self.since_1_1,
            "decoder_start_token_id": 0,
        });
        Ok(Config::parse(&config.to_string())?)
    }
}

/// The names of the family: the sizes, or (`all`) the variations of T5-Efficient too. [`Shape::named`] takes them and any other
/// name that is made of T5-Efficient's suffixes.
///
/// ```
/// assert!(tiny_t5::family(false).contains(&"t5-small".to_owned()));
/// ```
#[must_use]
pub fn family(all: bool) -> Vec<String> {
    let in_order = SERIES[1..].iter().rev().chain(&SERIES[..1]);
    let sizes = in_order.flat_map(|series| series.sizes.iter().map(|(size, _)| format!("{}{size}", series.prefix)));
    let mut names: Vec<String> = sizes.collect();
    if all {
        for (before, numbers) in VARIATIONS {
            names.extend(numbers.iter().map(|n| format!("{EFFICIENT_PREFIX}{before}{n}")));
        }
        names.extend(SHARED.map(|name| format!("{EFFICIENT_PREFIX}{name}")));
    }
    names
}

impl Shape {
    /// The shape of a name, such as `t5-large`, `google/flan-t5-small` or `t5-efficient-small-el16-dl2`.
    ///
    /// A size of T5-Efficient may be followed by any of `-nlN` (layers of both stacks), `-elN`, `-dlN` (those of the encoder, of
    /// the decoder), `-dmN` (d_model), `-ffN` (d_ff), `-kvN` (d_kv), `-nhN` (heads), `-skv` (keys and values tied), `-sh`, `-shkv`. The
    /// shape is the one that the name says: under a few of these names another one was released, which a note tells.
    ///
    /// `t5-SIZE-lm-adapt` has the shape of `t5-v1_1-SIZE`.
    ///
    /// # Errors
    /// Where the name is not of the family, or a number is beyond what config.json may have.
    pub fn named(name: &str) -> Result<Shape> {
        let short = name.rsplit_once('/').map_or(name, |(_, short)| short);
        let adapted = short.strip_prefix("t5-").and_then(|rest| rest.strip_suffix("-lm-adapt"));
        let adapted = adapted.map(|size| format!("t5-v1_1-{size}"));
        let known = adapted.as_deref().unwrap_or(short);
        let series = SERIES.iter().find(|series| known.starts_with(series.prefix)).ok_or_else(|| {
            let prefixes: Vec<_> = SERIES.iter().map(|series| format!("{}SIZE", series.prefix)).collect();
            Error::input("shape", name, prefixes.join(", "))
        })?;
        let rest = &known[series.prefix.len()..];
        let (size, suffixes) = match rest.split_once('-') {
            Some((size, suffixes)) if series.prefix == EFFICIENT_PREFIX => (size, Some(suffixes)),
            _ => (rest, None),
        };
        let numbers = series.sizes.iter().find(|(known, _)| *known == size).ok_or_else(|| {
            let sizes: Vec<_> = series.sizes.iter().map(|(size, _)| *size).collect();
            Error::input("shape", name, format!("{} followed by {}", series.prefix, sizes.join(", ")))
        })?;
        let mut draft = Draft::new(numbers);
        for suffix in suffixes.into_iter().flat_map(|suffixes| suffixes.split('-')) {
            draft.vary(suffix).map_err(|expected| Error::input("shape", name, expected))?;
        }
        draft.finish(short, series, rest).map_err(|e| Error::input("shape", name, format!("a possible one ({e})")))
    }

    /// How many parameters it has.
    #[must_use]
    pub fn parameters(&self) -> Parameters {
        Parameters::count(&self.config, self.own_head, self.kv)
    }

    /// Floating-point operations of one source of `source` tokens with a target of `target` tokens.
    #[must_use]
    pub fn flops(&self, source: u64, target: u64) -> Flops {
        Flops::count(&self.config, self.kv, source, target)
    }

    /// What one of `target` tokens costs.
    #[must_use]
    pub fn decoded_token(&self, source: u64, target: u64) -> DecodedToken {
        DecodedToken::count(&self.config, self.kv, source, target)
    }
}

/// A shape while its name is read.
struct Draft {
    size: &'static str,
    numbers: [usize; 6],
    kv: Kv,
    loads: bool,
    certain: bool,
    notes: Vec<String>,
    seen: Vec<String>,
}

impl Draft {
    fn new((size, numbers): &Size) -> Draft {
        Draft {
            size,
            numbers: *numbers,
            kv: Kv::Apart,
            loads: true,
            certain: true,
            notes: Vec::new(),
            seen: Vec::new(),
        }
    }

    /// Applies a suffix, or says what was expected.
    fn vary(&mut self, suffix: &str) -> Result<(), String> {
        let (key, digits) = suffix.split_at(suffix.find(|c: char| c.is_ascii_digit()).unwrap_or(suffix.len()));
        let unknown = || {
            let suffix = one_line(suffix);
            format!("the suffixes nl, el, dl, dm, ff, kv, nh with a number, skv, sh and shkv, not {suffix:?}")
        };
        if self.seen.iter().any(|seen| seen == key) {
            return Err(format!("{key} once"));
        }
        if key == "nl" && self.seen.iter().any(|seen| seen == "el" || seen == "dl") {
            return Err("nl before el and dl, since it sets both".to_owned());
        }
        self.seen.push(key.to_owned());
        if matches!(key, "skv" | "sh" | "shkv") && digits.is_empty() {
            self.share(key);
            return Ok(());
        }
        if !matches!(key, "nl" | "el" | "dl" | "dm" | "ff" | "kv" | "nh") || !digits.bytes().all(|b| b.is_ascii_digit())
        {
            return Err(unknown());
        }
        let number: usize = digits.parse().map_err(|_| unknown())?;
        let number = if matches!(key, "dm" | "ff") { self.exact(suffix, number) } else { number };
        let [encoder_layers, decoder_layers, d_model, d_ff, heads, d_kv] = &mut self.numbers;
        match key {
            "nl" => (*encoder_layers, *decoder_layers) = (number, number),
            "el" => *encoder_layers = number,
            "dl" => *decoder_layers = number,
            "dm" => *d_model = number,
            "ff" => *d_ff = number,
            "kv" => *d_kv = number,
            _ => *heads = number,
        }
        Ok(())
    }

    /// The number that a rounded one in a name means: thousands are of 1024.
    fn exact(&mut self, suffix: &str, number: usize) -> usize {
        if number == 0 || !number.is_multiple_of(1000) {
            return number;
        }
        let exact = (number / 1000).saturating_mul(1024);
        let note = |known: &str| format!("{suffix} is a rounded name: {exact}, {known}");
        match (self.size, suffix) {
            ("small", "dm1000") | ("base", "ff1000" | "ff2000") => self.notes.push(note("by the released config.json")),
            ("tiny", "ff3000") | ("base", "dm1000") | (_, "dm2000" | "ff6000" | "ff9000" | "ff12000") => {
                self.notes.push(note("by the sizes of the released files"));
            }
            _ => self.doubt(note("presumably")),
        }
        exact
    }

    /// Notes what is not known for certain.
    fn doubt(&mut self, note: String) {
        self.certain = false;
        self.notes.push(note);
    }

    fn share(&mut self, key: &str) {
        self.loads = false;
        if key != "sh" {
            self.kv = Kv::Tied;
            self.notes.push(format!("{key}: counted with one matrix for keys and values; cannot be loaded"));
        }
        if key != "skv" {
            self.doubt(format!("{key}: what shared heads mean is not published; counted as if they were not shared"));
        }
    }

    /// `rest` of a `name` is what follows the prefix of its series.
    fn finish(self, name: &str, series: &Series, rest: &str) -> Result<Shape> {
        let is_efficient = series.prefix == EFFICIENT_PREFIX;
        let released = RELEASED_OTHERWISE.iter().find(|(name, _)| is_efficient && *name == rest);
        let card = is_efficient && matches!(self.size, "tiny" | "mini" | "small") && is_released(rest);
        let mut shape = Shape {
            name: name.to_owned(),
            config: series.config(self.numbers)?,
            own_head: series.since_1_1,
            card_d_kv: (card && released.is_none() && !self.seen.iter().any(|seen| seen == "kv")).then_some(32),
            loads: self.loads,
            certain: self.certain,
            notes: self.notes,
            kv: self.kv,
        };
        if let Some(d_kv) = shape.card_d_kv {
            let mut as_in_card = shape.clone();
            as_in_card.config.d_kv = d_kv;
            let total = as_in_card.parameters().total() as f64 / 1e6;
            let note = format!(
                "published cards of {} say d_kv {d_kv}, which would make {total:.2} M parameters; \
                 released config.json and the cards' own counts have {}",
                self.size, shape.config.d_kv
            );
            shape.notes.insert(0, note);
        }
        if let Some((_, numbers)) = released {
            let [encoder_layers, decoder_layers, _, d_ff, heads, d_kv] = numbers;
            let total = Parameters::count(&series.config(*numbers)?, shape.own_head, shape.kv).total() as f64 / 1e6;
            shape.notes.push(format!(
                "the checkpoint that was released under this name is another one: {encoder_layers} + {decoder_layers} layers, \
                 d_ff {d_ff}, {heads} heads of {d_kv}, {total:.2} M parameters"
            ));
        }
        Ok(shape)
    }
}
