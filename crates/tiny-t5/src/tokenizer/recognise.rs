//! Which tokenizer.json files the own pipeline runs: exactly those whose every part it knows.
//! The rest is left to the `tokenizers` crate.

use super::added::{AddedToken, AddedTokens};
use super::base64;
use super::charsmap::Charsmap;
use super::error::{TokenizerError, one_line, quoted};
use super::json::{self, Added, File, Model, Part, Pattern, Post, Stage, VocabKind};
use super::normalizer::{Normalizer, Step};
use super::pieces::Pieces;
use super::pipeline::{Decoder, Metaspace, Pipeline, Prepend, Words};
use super::scan;
use super::unigram::Unigram;
use serde_json::error::Category;

/// Why there is no own pipeline.
pub(super) enum No {
    /// Nobody could read this file.
    Broken(TokenizerError),
    /// A part that the own pipeline does not know.
    Foreign(String),
}

impl From<TokenizerError> for No {
    fn from(error: TokenizerError) -> Self {
        Self::Broken(error)
    }
}

fn foreign<T>(what: impl Into<String>) -> Result<T, No> {
    Err(No::Foreign(what.into()))
}

/// The own pipeline of a tokenizer.json; `file` names it in errors.
pub(super) fn pipeline(bytes: &[u8], file: &str) -> Result<Pipeline, No> {
    // The vocabulary first, if it is laid out plainly; what is wrong in the rest is found again,
    // and placed in the whole file, the plain way.
    if let Some((rest, vocab)) = scan::ahead(bytes)
        && let Ok(mut parsed) = serde_json::from_slice::<File<'_>>(&rest)
        && parsed.model.vocab.kind == VocabKind::ReadAhead
    {
        parsed.model.vocab = vocab;
        return assemble(parsed, file);
    }
    let parsed = serde_json::from_slice(bytes).map_err(|error| {
        let message = one_line(&error.to_string());
        match error.classify() {
            Category::Data if json::is_limit(&message) => {
                No::Broken(TokenizerError::format(file, message, "a tokenizer's size"))
            }
            Category::Data => No::Foreign(message),
            _ => No::Broken(TokenizerError::format(file, message, "JSON")),
        }
    })?;
    assemble(parsed, file)
}

fn assemble(parsed: File<'_>, file: &str) -> Result<Pipeline, No> {
    if let Some(version) = parsed.version.filter(|version| version.0 != "1.0") {
        return foreign(format!("version {}", quoted(&version.0)));
    }

    let mut normalizer = Normalizer::default();
    if let Some(stage) = parsed.normalizer {
        add_steps(stage, file, &mut normalizer.steps)?;
    }
    let words = words(parsed.pre_tokenizer)?;
    let decoder = decoder(parsed.decoder)?;
    let (before, after) = template(parsed.post_processor)?;
    let model = model(parsed.model)?;
    let added = parsed.added_tokens.into_iter().map(added_token);
    let added = added.collect::<Result<Vec<_>, _>>()?;
    for token in added.iter().filter(|token| token.normalized) {
        normalizer.apply(&token.content)?; // nobody could
    }
    let added = AddedTokens::new(added, &model, &normalizer).map_err(No::Foreign)?;
    let pipeline = Pipeline { normalizer, words, model, added, before, after, decoder };
    match pipeline.unsupported() {
        Some(what) => foreign(what),
        None => Ok(pipeline),
    }
}

fn add_steps(stage: Stage<'_>, file: &str, steps: &mut Vec<Step>) -> Result<(), No> {
    let step = match stage.kind.0.as_ref() {
        "Sequence" => {
            for stage in stage.normalizers {
                add_steps(stage, file, steps)?;
            }
            return Ok(());
        }
        "Precompiled" => {
            let text = stage.precompiled_charsmap.unwrap_or_default().0;
            let blob = base64::decode(&text).ok_or_else(|| {
                let found = format!("precompiled_charsmap {}", quoted(&text));
                TokenizerError::format(file, found, "base64")
            })?;
            Step::Charsmap(Charsmap::new(blob, file)?)
        }
        "Lowercase" => Step::Lowercase,
        "Strip" => match (stage.strip_left, stage.strip_right) {
            (Some(left), Some(right)) => Step::Strip { left, right },
            _ => return foreign("a Strip without its sides"),
        },
        "Replace" => {
            let Some(content) = stage.content else {
                return foreign("a Replace without content");
            };
            let to = content.0.into_owned();
            match stage.pattern {
                Some(Pattern::String(from)) if !from.0.is_empty() => Step::Replace { from: from.0.into_owned(), to },
                Some(Pattern::Regex(regex)) if regex.0 == " {2,}" => Step::ReplaceBlanks { to },
                Some(Pattern::Regex(regex)) => {
                    return foreign(format!("a Replace of the regular expression {}", quoted(&regex.0)));
                }
                _ => return foreign("a Replace without a pattern"),
            }
        }
        kind => return foreign(format!("the normalizer {}", quoted(kind))),
    };
    steps.push(step);
    Ok(())
}

fn words(stage: Option<Stage<'_>>) -> Result<Words, No> {
    let mut words = Words { at_whitespace: false, metaspace: None };
    let Some(stage) = stage else { return Ok(words) };
    let stages = match stage.kind.0.as_ref() {
        "Sequence" => stage.pretokenizers,
        _ => vec![stage],
    };
    for stage in stages {
        match stage.kind.0.as_ref() {
            "WhitespaceSplit" if words.metaspace.is_none() => words.at_whitespace = true,
            "Metaspace" if words.metaspace.is_none() => words.metaspace = Some(metaspace(&stage)?),
            kind => return foreign(format!("the pre-tokenizer {} in its place", quoted(kind))),
        }
    }
    Ok(words)
}

fn metaspace(stage: &Stage<'_>) -> Result<Metaspace, No> {
    let Some(blank) = stage.replacement else {
        return foreign("a Metaspace without replacement");
    };
    let scheme = stage.prepend_scheme.as_ref().map(|scheme| scheme.0.as_ref());
    let prepend = match (scheme, stage.add_prefix_space) {
        (Some("never"), _) => Prepend::Never,
        // Old files know only the flag; beside a scheme that it contradicts the crate errs.
        (None | Some("always"), Some(true) | None) => Prepend::Always,
        (Some("first"), Some(true) | None) => Prepend::First,
        _ => return foreign("a Metaspace whose add_prefix_space and prepend_scheme disagree"),
    };
    Ok(Metaspace { blank, prepend, split: stage.split.unwrap_or(true) })
}

fn decoder(stage: Option<Stage<'_>>) -> Result<Decoder, No> {
    let Some(stage) = stage else {
        return foreign("no decoder");
    };
    match stage.kind.0.as_ref() {
        "Metaspace" => metaspace(&stage).map(Decoder::Metaspace),
        "Fuse" => Ok(Decoder::Fuse),
        kind => foreign(format!("the decoder {}", quoted(kind))),
    }
}

/// Ids before and after the text.
fn template(post: Option<Post<'_>>) -> Result<(Vec<u32>, Vec<u32>), No> {
    let Some(post) = post else { return Ok(Default::default()) };
    if post.kind.0 != "TemplateProcessing" {
        return foreign(format!("the post-processor {}", quoted(&post.kind.0)));
    }
    let (mut before, mut after, mut texts) = (Vec::new(), Vec::new(), 0);
    for part in &post.single {
        match part {
            Part::Sequence(part) if part.id.0 == "A" => texts += 1,
            Part::Sequence(_) => return foreign("a template of two texts"),
            Part::SpecialToken(part) => {
                let mut defined = post.special_tokens.iter().rev();
                let Some((_, token)) = defined.find(|(name, _)| name.0 == part.id.0) else {
                    return foreign(format!("a template with the undefined {}", quoted(&part.id.0)));
                };
                let side = if texts == 0 { &mut before } else { &mut after };
                side.extend_from_slice(&token.ids);
            }
        }
    }
    if texts != 1 {
        return foreign(format!("a template with {texts} times the text"));
    }
    Ok((before, after))
}

fn model(model: Model<'_>) -> Result<Unigram, No> {
    if model.kind.0 != "Unigram" || model.vocab.kind != VocabKind::List {
        return foreign(format!("the model {}", quoted(&model.kind.0)));
    }
    if model.byte_fallback {
        return foreign("a Unigram with byte_fallback");
    }
    let pieces =
        Pieces::new(model.vocab.strings).map_err(|twice| No::Foreign(format!("the piece {} twice", quoted(&twice))))?;
    let unknown = match model.unk_id {
        Some(id) if id >= pieces.len() => {
            return foreign(format!("unk_id {id} in a vocabulary of {}", pieces.len()));
        }
        id => id.map(|id| id as u32),
    };
    Ok(Unigram::new(pieces, model.vocab.scores, unknown))
}

fn added_token(token: Added<'_>) -> Result<AddedToken, No> {
    if token.single_word {
        return foreign("an added token that must be a single word");
    }
    Ok(AddedToken {
        content: token.content.0.into_owned(),
        lstrip: token.lstrip,
        rstrip: token.rstrip,
        normalized: token.normalized,
        special: token.special,
    })
}
