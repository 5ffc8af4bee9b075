//! spiece.model: SentencePiece's protobuf, of which a T5 tokenizer needs the pieces, the character
//! map and a few numbers.
//!
//! Read alone it becomes what transformers 5 makes of it as `T5Tokenizer`: the character map,
//! white space split, a blank before every word, the sentinels appended, then the added tokens of
//! tokenizer_config.json or added_tokens.json, `</s>` at the end. Like there, `add_dummy_prefix` and
//! `remove_extra_whitespaces` change nothing, and pieces for single bytes are ordinary pieces: a
//! character without a piece is unknown.

use super::added::{AddedToken, AddedTokens};
use super::charsmap::Charsmap;
use super::config::{self, Config};
use super::error::{TokenizerError, quoted};
use super::normalizer::{Normalizer, Step};
use super::pieces::{Pieces, Strings};
use super::pipeline::{Decoder, Metaspace, Pipeline, Prepend, Words};
use super::protobuf::{Fields, Value};
use super::unigram::Unigram;
use std::collections::HashSet;

/// Sentinels where tokenizer_config.json does not say (mT5 has 0).
const EXTRA_IDS: usize = 100;

// sentencepiece_model.proto: SentencePiece.Type and TrainerSpec.ModelType.
const UNKNOWN: u64 = 2;
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;
const UNIGRAM: u64 = 1;
const MODEL_TYPES: [&str; 5] = ["0", "UNIGRAM (1)", "BPE (2)", "WORD (3)", "CHAR (4)"];

/// What a model file says.
#[derive(Default)]
struct Model<'a> {
    strings: Strings,
    scores: Vec<f64>,
    unknown: Option<u32>,
    /// Pieces that are cut out of a text before the model sees it; special or not.
    control: Vec<(u32, bool)>,
    /// Pieces that look like sentinels.
    sentinels: HashSet<&'a str>,
    charsmap: &'a [u8],
    model_type: Option<u64>,
    unescaped: bool,
    eos_id: Option<u32>,
    unk_id: Option<u32>,
}

/// The pipeline of a spiece.model; `file` names it in errors.
pub(super) fn pipeline(bytes: &[u8], config: &Config, file: &str) -> Result<Pipeline, TokenizerError> {
    let bad = |found: String, expected| TokenizerError::format(file, found, expected);
    let mut model = read(bytes).map_err(|found| bad(found, "a SentencePiece model"))?;
    let model_type = model.model_type.unwrap_or(UNIGRAM);
    if model_type != UNIGRAM {
        let name = MODEL_TYPES.get(model_type as usize);
        let name = name.map_or_else(|| model_type.to_string(), |name| (*name).to_owned());
        return Err(bad(format!("model_type {name}"), "UNIGRAM (1), T5's"));
    }
    if model.unescaped {
        return Err(bad("escape_whitespaces false".into(), "true, as T5 has it"));
    }
    let trained = model.strings.len();
    if trained == 0 {
        return Err(bad("no pieces".into(), "a SentencePiece model"));
    }

    // Sentinels follow the pieces, the last one first; a model that has one as a piece keeps that.
    let sentinels = (0..config.extra_ids.unwrap_or(EXTRA_IDS)).rev().map(sentinel);
    let missing: Vec<String> = sentinels.filter(|s| !model.sentinels.contains(s.as_str())).collect();
    let many = |limit| bad(format!("more than {limit}"), "fewer pieces and extra_ids");
    (missing.iter().try_for_each(|s| model.strings.push(s))).map_err(many)?;
    model.scores.resize(model.strings.len(), 0.0);
    let pieces = Pieces::new(model.strings)
        .map_err(|twice| bad(format!("the piece {} twice", quoted(&twice)), "distinct pieces"))?;

    let named = |token: &Option<super::config::Token>, default: &str| match token {
        Some(token) => token.content.clone(),
        None => default.to_owned(),
    };
    let in_model = |id: Option<u32>| id.filter(|&id| (id as usize) < trained);
    let eos = named(&config.eos_token, "</s>");
    let unk = named(&config.unk_token, "<unk>");
    let pad = named(&config.pad_token, "<pad>");
    let eos_id = (pieces.find(&eos).or(in_model(model.eos_id)))
        .ok_or_else(|| bad(format!("no end token {}", quoted(&eos)), "a piece for it, or its eos_id"))?;
    let unknown = (model.unknown.or_else(|| pieces.find(&unk)).or(in_model(model.unk_id)))
        .ok_or_else(|| bad("no unknown piece".into(), "one of type UNKNOWN"))?;

    // Every piece at most once; a token of the settings that is no piece gets an id of its own.
    let mut tokens: Vec<AddedToken> = Vec::new();
    let mut seen = vec![false; pieces.len()];
    let mut others = HashSet::new();
    let mut add = |token: AddedToken| {
        let repeated = match pieces.find(&token.content) {
            Some(id) => std::mem::replace(&mut seen[id as usize], true),
            None => !others.insert(token.content.clone()),
        };
        if !repeated {
            tokens.push(token);
        }
    };
    let special = |id| AddedToken::special(pieces.get(id).unwrap_or_default());
    add(special(eos_id));
    add(special(unknown));
    // Padding that is no piece would take an id behind all rows; nothing can ask for it.
    (pieces.find(&pad).into_iter()).for_each(|id| add(special(id)));
    // Those that were added later, in the order of their ids, which follow the pieces'.
    config.added(config::NAME)?.into_iter().for_each(|(_, token)| add(token.added((false, false))));
    (config.more_special()).for_each(|token| add(token.added((false, false))));
    for &(id, is_special) in &model.control {
        add(AddedToken { special: is_special, ..special(id) });
    }
    missing.into_iter().map(AddedToken::special).for_each(&mut add);

    let mut normalizer = Normalizer::default();
    if !model.charsmap.is_empty() {
        let map = Charsmap::new(model.charsmap.to_vec(), file)?;
        normalizer.steps.push(Step::Charsmap(map));
    }
    let model = Unigram::new(pieces, model.scores, Some(unknown));
    let metaspace = Metaspace { blank: '▁', prepend: Prepend::Always, split: true };
    Ok(Pipeline {
        added: AddedTokens::new(tokens, &model, &normalizer).map_err(|found| bad(found, "distinct tokens"))?,
        normalizer,
        words: Words { at_whitespace: true, metaspace: Some(metaspace) },
        model,
        before: Vec::new(),
        after: vec![eos_id],
        decoder: Decoder::Metaspace(metaspace),
    })
}

/// `<extra_id_i>`.
pub(super) fn sentinel(i: usize) -> String {
    format!("<extra_id_{i}>")
}

/// Reads ModelProto; an error says what was found.
fn read(bytes: &[u8]) -> Result<Model<'_>, String> {
    let mut model = Model::default();
    let mut fields = Fields::new(bytes);
    while let Some((field, value)) = fields.next()? {
        match (field, value) {
            (1, Value::Bytes(piece)) => read_piece(piece, &mut model)?,
            (2, Value::Bytes(trainer)) => {
                let mut fields = Fields::new(trainer);
                while let Some((field, value)) = fields.next()? {
                    match (field, value) {
                        (3, Value::Varint(number)) => model.model_type = Some(number),
                        (40, Value::Varint(id)) => model.unk_id = u32::try_from(id).ok(),
                        (42, Value::Varint(id)) => model.eos_id = u32::try_from(id).ok(),
                        _ => {}
                    }
                }
            }
            (3, Value::Bytes(normalizer)) => {
                let mut fields = Fields::new(normalizer);
                while let Some((field, value)) = fields.next()? {
                    match (field, value) {
                        (2, Value::Bytes(charsmap)) => model.charsmap = charsmap,
                        (5, Value::Varint(escape)) => model.unescaped = escape == 0,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Ok(model)
}

fn read_piece<'a>(bytes: &'a [u8], model: &mut Model<'a>) -> Result<(), String> {
    let id = model.strings.len() as u32;
    let (mut text, mut score, mut kind) = (&[][..], 0.0f32, 0);
    let mut fields = Fields::new(bytes);
    while let Some((field, value)) = fields.next()? {
        match (field, value) {
            (1, Value::Bytes(bytes)) => text = bytes,
            (2, Value::Fixed32(bits)) => score = f32::from_bits(bits),
            (3, Value::Varint(number)) => kind = number,
            _ => {}
        }
    }
    let text = std::str::from_utf8(text).map_err(|_| format!("piece {id}, which is not UTF-8"))?;
    if text.is_empty() {
        return Err(format!("piece {id}, which is empty"));
    }
    if !score.is_finite() {
        return Err(format!("piece {id} with the score {score}"));
    }
    match kind {
        UNKNOWN if model.unknown.is_some() => return Err("two pieces of type UNKNOWN".into()),
        UNKNOWN => model.unknown = Some(id),
        CONTROL => model.control.push((id, true)),
        USER_DEFINED => model.control.push((id, false)),
        _ => {}
    }
    if text.starts_with("<extra_id_") {
        model.sentinels.insert(text);
    }
    model.strings.push(text).map_err(|limit| format!("more than {limit}"))?;
    model.scores.push(score.into());
    Ok(())
}
