//! The options of generation: one argument for each key of [`Generate::OPTIONS`], with the same words as its help.

use crate::failure::Failure;
use clap::builder::{PossibleValue, TypedValueParser};
use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::Value;
use std::ffi::OsStr;
use std::sync::LazyLock;
use tiny_t5::{Error, Generate};

/// What stands below them in the help.
pub(crate) const AFTER_OPTIONS: &str = "What is left out is what the checkpoint says, and then transformers' default. IDS are as in 5,8,1; \
    JSON as in [[5,8],[7]] or, with numbers, [[[5,8],-2.5]].";

/// What the command line says about generation.
#[derive(Debug, Default)]
pub(crate) struct Options {
    /// As the library wants it.
    pub(crate) generate: Generate,
    /// The names that were given.
    given: Vec<&'static str>,
}

impl Options {
    /// An error about an option that the command line gave is an error of usage, in the command line's words.
    pub(crate) fn explain(&self, failure: Failure) -> Failure {
        match failure {
            Failure::Library(error) => usage(error, &self.given),
            failure => failure,
        }
    }
}

/// The library's word on one of the options `given` in the command line's words.
pub(crate) fn usage(error: Error, given: &[&str]) -> Failure {
    match error {
        Error::Option { option, found, expected, .. } if given.contains(&option.as_str()) => {
            Failure::Usage(format!("--{}: found {found}, expected {expected}", kebab(&option)))
        }
        error => error.into(),
    }
}

/// Why there is no option of that name, as the command line has it, where transformers' `generate()` has one.
pub(crate) fn elsewhere(name: &str) -> Option<Failure> {
    match Generate::default().set(&name.replace('-', "_"), &Value::Null) {
        Err(Error::Option { expected, .. }) => {
            Some(Failure::Usage(format!("--{name}: {}", expected.strip_prefix("absent: ")?)))
        }
        _ => None,
    }
}

/// An option's name as the command line has it.
fn kebab(name: &str) -> String {
    name.replace('_', "-")
}

/// A value as JSON, or where it is no JSON, as a string: `0.5`, `[[5],[7,8]]`, `true`, `never`.
fn value(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::from(text))
}

/// An option's value: a text as it is, [`value`], or a list without its brackets.
fn value_of(name: &str, text: &str) -> Result<Value, Error> {
    let can = |value: Value| Generate::default().set(name, &value).map(|()| value);
    if Generate::OPTIONS.iter().any(|(option, rust_type, _)| *option == name && *rust_type == "String") {
        return can(Value::from(text));
    }
    // JSON's null would be no value, and so no error.
    can(Some(value(text)).filter(|value| !value.is_null()).unwrap_or_else(|| Value::from(text)))
        .or_else(|error| can(value(&format!("[{text}]"))).or_else(|_| can(Value::from(text))).map_err(|_| error))
}

/// A text whose words that are options' names, as the library has them, are as the command line has them.
pub(crate) fn in_kebab(text: &str) -> String {
    let is_option = |word: &str| word.contains('_') && Generate::OPTIONS.iter().any(|(name, ..)| *name == word);
    let words = text.split_inclusive(|c: char| !(c.is_alphanumeric() || c == '_'));
    let word = |word: &str| match word.trim_end_matches(|c: char| !(c.is_alphanumeric() || c == '_')) {
        name if is_option(name) => format!("--{}{}", kebab(name), &word[name.len()..]),
        _ => word.to_owned(),
    };
    words.map(word).collect()
}

/// The value of a type that [`value_name`] does not know.
const STRANGE: &str = "VALUE";

/// What stands for an option's value in its help; none for a flag, which may stand without one. A test finds the types that are not here.
fn value_name(name: &str, rust_type: &str) -> Option<&'static str> {
    match rust_type {
        "bool" => None,
        "f64" => Some("NUMBER"),
        "String" => Some("TEXT"),
        "OneOrMany" | "Vec<u32>" => Some("IDS"),
        "u32" if name.ends_with("_id") => Some("ID"),
        "u32" | "u64" | "usize" => Some("N"),
        "(usize, f64)" => Some("N,NUMBER"),
        "Vec<Vec<u32>>" | "Vec<(Vec<u32>, f32)>" => Some("JSON"),
        "EarlyStopping" | "Speculation" => Some("HOW"),
        _ => Some(STRANGE),
    }
}

/// The options' names and docs as the command line has them: clap wants them for the life of the process, and several commands have them.
static WORDS: LazyLock<Vec<[String; 2]>> = LazyLock::new(|| {
    let words = |(name, _, doc): &(&str, _, &str)| [kebab(name), in_kebab(doc.trim().trim_end_matches('.'))];
    Generate::OPTIONS.iter().map(words).collect()
});

/// The value of an option of the library.
#[derive(Debug, Clone, Copy)]
struct OptionValue {
    name: &'static str,
}

impl TypedValueParser for OptionValue {
    type Value = Value;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, text: &OsStr) -> Result<Value, clap::Error> {
        let name = self.name;
        let parse = move |text: &str| match value_of(name, text) {
            Ok(value) => Ok(value),
            Err(Error::Option { expected, .. }) => Err(expected),
            Err(error) => Err(error.to_string()),
        };
        // With clap's own words around ours.
        parse.parse_ref(command, arg, text)
    }

    /// For completion: where an option takes a few words, those of its docs.
    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let (_, rust_type, doc) = Generate::OPTIONS.iter().find(|(name, ..)| *name == self.name)?;
        let is_one = |word: &&str| !word.is_empty() && Generate::default().set(self.name, &value(word)).is_ok();
        let words = doc.split(|c: char| !c.is_alphanumeric()).filter(is_one).map(PossibleValue::new);
        (value_name(self.name, rust_type) == Some("HOW"))
            .then(|| Box::new(words) as Box<dyn Iterator<Item = PossibleValue>>)
    }
}

impl clap::Args for Options {
    fn augment_args(command: Command) -> Command {
        Generate::OPTIONS.iter().zip(&*WORDS).fold(command, |command, ((name, rust_type, _), [long, doc])| {
            let arg = Arg::new(*name).long(long.as_str()).help(doc.as_str()).help_heading("Generation");
            // The help tells them in a sentence.
            let arg = arg.value_parser(OptionValue { name }).hide_possible_values(true);
            command.arg(match value_name(name, rust_type) {
                None => arg.value_name("BOOL").num_args(0..=1).require_equals(true).default_missing_value("true"),
                Some(value) => arg.value_name(value).action(ArgAction::Set).allow_negative_numbers(true),
            })
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for Options {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut options = Options::default();
        options.update_from_arg_matches(matches)?;
        Ok(options)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for (name, ..) in Generate::OPTIONS {
            if let Some(value) = matches.get_one::<Value>(name) {
                let set = self.generate.set(name, value);
                set.map_err(|e| clap::Error::raw(clap::error::ErrorKind::InvalidValue, e))?;
                self.given.push(name);
            }
        }
        Ok(())
    }
}
