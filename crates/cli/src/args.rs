//! What the command line may say, and which command it means.

use crate::failure::Failure;
use crate::{bench, classify, encode, family, generate, infill, info, options, output, report, score};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;
use tiny_t5::{Dtype, Load, T5};

#[derive(Debug, Parser)]
#[command(name = "tiny-t5", version, about, long_about = None, max_term_width = 100)]
#[command(override_usage = "tiny-t5 [OPTIONS] [TEXT]...\n       tiny-t5 <COMMAND> [OPTIONS] [TEXT]...")]
#[command(
    after_help = "A first word that is none of the commands is a text: `tiny-t5 TEXT...` is `tiny-t5 generate TEXT...`."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// A command with its arguments.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Generate a text from each source
    Generate(Box<generate::Args>),
    /// How likely a target is, given each source
    Score(score::Args),
    /// The encoder's hidden states or a vector for each source
    Encode(encode::Args),
    /// Classify each source, or its tokens, or find an answer in it
    Classify(classify::Args),
    /// Fill the gaps <extra_id_0>, <extra_id_1>, ... of each text
    Infill(Box<infill::Args>),
    /// What a checkpoint is: shape, parameters, memory, FLOPs, kernels
    Info(info::Args),
    /// What the shapes of the T5 family cost, by name, without weights
    Family(family::Args),
    /// Measure shapes of the T5 family on this machine: a table, JSON, CSV, a page with pictures
    Report(report::Args),
    /// What `report` starts for each shape
    #[command(hide = true)]
    ReportChild(report::ChildArgs),
    /// Measure speed with fixed work, for comparing engines
    Bench(bench::Args),
}

/// Which model, and how it is computed.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct ModelArgs {
    /// A checkpoint folder, or a hub name whose files are in the local Hugging Face cache; left out: the embedded English-to-IPA
    /// model
    #[arg(long, value_name = "DIR_OR_NAME")]
    pub(crate) model: Option<PathBuf>,
    /// Threads; left out: the processors that this process may use
    #[arg(long, value_name = "N", value_parser = at_least_one, allow_negative_numbers = true)]
    threads: Option<usize>,
    /// How wide weights are kept; computing is in f32 always
    #[arg(long, value_name = "DTYPE", default_value = "auto")]
    pub(crate) dtype: Width,
    /// Print one JSON object a source, one a line
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
    /// Tokens that a source may have, its end token included; left out: 16384
    #[arg(long, value_name = "N", value_parser = at_least_one, allow_negative_numbers = true)]
    max_source_tokens: Option<usize>,
    /// A folder where packed weights are kept, so that later starts pack nothing
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Read weight files instead of mapping them, so that they may change meanwhile
    #[arg(long)]
    no_mmap: bool,
}

/// How wide weights are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Width {
    /// The checkpoint's own precision
    Auto,
    /// As auto: exact
    F32,
    /// Rounded to bfloat16
    Bf16,
    /// Rounded to f16
    F16,
    /// Weights of 8 bits, and inputs of products; keys and values in f16: the fastest, not exact
    Int8,
}

impl Width {
    /// As the library has it.
    pub(crate) fn dtype(self) -> Dtype {
        match self {
            Width::Auto => Dtype::Auto,
            Width::F32 => Dtype::F32,
            Width::Bf16 => Dtype::Bf16,
            Width::F16 => Dtype::F16,
            Width::Int8 => Dtype::Int8,
        }
    }
}

impl ModelArgs {
    /// Loads the model, `once` for a single answer, and says what was noticed while loading.
    pub(crate) fn open(&self, once: bool) -> Result<T5, Failure> {
        self.open_as(self.dtype, once)
    }

    /// [`ModelArgs::open`] with another width of weights.
    pub(crate) fn open_as(&self, width: Width, once: bool) -> Result<T5, Failure> {
        let dtype = width.dtype();
        let (threads, max_source_tokens, cache) = (self.threads, self.max_source_tokens, self.cache.clone());
        let load = Load { dtype, threads, max_source_tokens, cache, no_mmap: self.no_mmap, in_place: once };
        let t5 = match &self.model {
            Some(model) => T5::open_with(model, &load),
            None => T5::embedded(&load),
        };
        let t5 = t5.map_err(|error| options::usage(error, &["threads", "cache"]))?;
        t5.notes().iter().for_each(|note| output::say("note", note));
        Ok(t5)
    }
}

/// A list of ids, separated by commas.
#[derive(Debug, Clone)]
pub(crate) struct Ids(pub(crate) Vec<u32>);

impl std::str::FromStr for Ids {
    type Err = String;

    fn from_str(text: &str) -> Result<Ids, String> {
        if text.trim().is_empty() {
            return Ok(Ids(Vec::new())); // the library's error, as for every other empty list
        }
        let id = |id: &str| id.trim().parse().map_err(|_| format!("found {id:?}, expected ids as in 5,8,1"));
        Ok(Ids(text.split(',').map(id).collect::<Result<_, _>>()?))
    }
}

pub(crate) fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "expected a whole number, at least 1".into())
}

/// Everything that the command line may say.
pub(crate) fn command() -> clap::Command {
    // These print one whatever they are given.
    ["info", "bench"].into_iter().fold(Cli::command(), |command, name| {
        command.mut_subcommand(name, |command| command.mut_arg("json", |arg| arg.help("Print one JSON object")))
    })
}

/// The command that the command line means.
pub(crate) fn parse(argv: impl Iterator<Item = OsString>) -> Result<Command, Failure> {
    let mut command = command();
    command.build();
    let argv = with_command(argv.collect(), &command);
    let foreign: Vec<OsString> = argv.iter().filter(|arg| arg.to_str().is_none()).cloned().collect();
    let matches = command.try_get_matches_from_mut(argv).map_err(|error| match error.kind() {
        ErrorKind::InvalidUtf8 => Failure::Usage(format!("found {foreign:?}, which is not UTF-8, expected text")),
        ErrorKind::UnknownArgument => {
            unknown(&error).and_then(options::elsewhere).unwrap_or_else(|| with_owner(error, &command).into())
        }
        _ => error.into(),
    })?;
    Ok(Cli::from_arg_matches(&matches)?.command)
}

/// The option that clap does not know.
fn unknown(error: &clap::Error) -> Option<&str> {
    match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(found)) => found.strip_prefix("--"),
        _ => None,
    }
}

/// clap's error; where it is about an option that other commands have, it names them.
fn with_owner(mut error: clap::Error, cli: &clap::Command) -> clap::Error {
    let Some(found) = unknown(&error) else { return error };
    let is_it = |arg: &clap::Arg| arg.get_long() == Some(found);
    let owners = cli.get_subcommands().filter(|c| !c.is_hide_set() && c.get_arguments().any(is_it));
    let owners: Vec<&str> = owners.map(clap::Command::get_name).collect();
    if !owners.is_empty() {
        let tip = format!("it is an option of {}", owners.join(", "));
        error.remove(ContextKind::SuggestedArg);
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    } else if error.get(ContextKind::SuggestedArg).is_some() {
        // Who meant that option meant no text.
        error.remove(ContextKind::Suggested);
    }
    error
}

/// The command line with the command in first place: the first word, where it is a command, else `generate`. A flag's `true`
/// or `false` is joined to it on the way, since a text may stand there as well.
fn with_command(argv: Vec<OsString>, cli: &clap::Command) -> Vec<OsString> {
    let mut argv = argv.into_iter().peekable();
    let mut out: Vec<OsString> = vec![argv.next().unwrap_or_else(|| "tiny-t5".into())];
    let mut command: Option<OsString> = None;
    while let Some(arg) = argv.next() {
        match arg.to_str() {
            Some("--") => {
                command.get_or_insert_with(|| "generate".into());
                out.push(arg);
                out.extend(argv.by_ref());
            }
            // `tiny-t5 --help` is about all commands.
            Some("--help" | "-h" | "--version" | "-V") if out.len() == 1 && command.is_none() => {
                out.push(arg);
                out.extend(argv);
                return out;
            }
            Some(option) if option.starts_with('-') && option != "-" => {
                let takes = Takes::of(option, cli);
                match (takes, argv.peek().and_then(|next| next.to_str())) {
                    (Takes::Flag, Some(value @ ("true" | "false"))) => {
                        out.push(format!("{option}={value}").into());
                        argv.next();
                    }
                    (Takes::Value, Some(_)) => {
                        out.push(arg);
                        out.extend(argv.next());
                    }
                    _ => out.push(arg),
                }
            }
            word => {
                let is_command = word.is_some_and(|word| word == "help" || cli.find_subcommand(word).is_some());
                match &command {
                    None if is_command => command = Some(arg),
                    _ => {
                        command.get_or_insert_with(|| "generate".into());
                        out.push(arg);
                    }
                }
            }
        }
    }
    out.insert(1, command.unwrap_or_else(|| "generate".into()));
    out
}

/// What follows an option.
enum Takes {
    Nothing,
    Flag,
    Value,
}

impl Takes {
    /// An option has one meaning in all the commands that have it.
    fn of(option: &str, cli: &clap::Command) -> Takes {
        let Some(name) = option.strip_prefix("--") else { return Takes::Nothing };
        let arg = cli.get_subcommands().flat_map(|c| c.get_arguments()).find(|arg| arg.get_long() == Some(name));
        match arg {
            Some(arg) if arg.is_require_equals_set() => Takes::Flag,
            Some(arg) if arg.get_action().takes_values() => Takes::Value,
            _ => Takes::Nothing,
        }
    }
}
