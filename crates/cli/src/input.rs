//! Sources: texts, lists of ids, lines of a file or of standard input. Lines are read in chunks, so that a million of them
//! take the memory of a few hundred.

use crate::args::Ids;
use crate::failure::Failure;
use crate::output::Output;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};
use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Read};
use std::path::{Path, PathBuf};
use tiny_t5::{Error, Source};

/// Lines that are answered together: enough that the library finds texts of like length among them.
const CHUNK: usize = 256;
/// Bytes read ahead.
const AHEAD: usize = 1 << 16;
/// Bytes of a line. To read it as a text takes up to sixteen times as many, before its tokens can be counted.
const LONGEST_LINE: u64 = 16 << 20;

/// Where the sources come from.
#[derive(Debug, clap::Args)]
pub(crate) struct SourceArgs {
    /// Texts, each a source; with none, and no other sources, lines are read from standard input
    #[arg(value_name = "TEXT")]
    texts: Vec<String>,
    /// A source as ids, taken exactly so: 5,8,1; more than once for more sources
    #[arg(long, value_name = "IDS", conflicts_with_all = ["texts", "file"])]
    input_ids: Vec<Ids>,
    /// A file with a source on each line; - for standard input
    #[arg(long, value_name = "PATH", conflicts_with = "texts")]
    file: Option<PathBuf>,
}

/// A source as it was given.
#[derive(Debug, Clone)]
pub(crate) enum Given {
    Text(String),
    Ids(Vec<u32>),
}

impl Given {
    pub(crate) fn as_source(&self) -> Source<'_> {
        match self {
            Given::Text(text) => Source::Text(text),
            Given::Ids(ids) => Source::Ids(ids),
        }
    }
}

impl SourceArgs {
    /// Whether the sources are ids.
    pub(crate) fn is_ids(&self) -> bool {
        !self.input_ids.is_empty()
    }

    /// How many sources the command line itself holds; none where they come from a file.
    pub(crate) fn count(&self) -> Option<usize> {
        let count = self.texts.len() + self.input_ids.len();
        (count > 0).then_some(count)
    }

    /// Opens the sources.
    pub(crate) fn open(self) -> Result<Sources, Failure> {
        if !self.texts.is_empty() {
            return Ok(Sources::list(self.texts.into_iter().map(Given::Text)));
        }
        if !self.input_ids.is_empty() {
            return Ok(Sources::list(self.input_ids.into_iter().map(|ids| Given::Ids(ids.0))));
        }
        match self.file {
            Some(path) if path.as_os_str() != "-" => {
                let cannot = |e| Failure::Other(format!("--file {}: {e}", path.display()));
                let file = File::open(&path).map_err(cannot)?;
                let meta = file.metadata().map_err(cannot)?;
                if meta.is_dir() {
                    return Err(Failure::Other(format!("--file {}: is a folder, expected a file", path.display())));
                }
                Ok(Sources::lines(Box::new(file), path.display().to_string(), meta.is_file().then_some(meta.len())))
            }
            None if std::io::stdin().is_terminal() => {
                let line = "no source: give TEXT, --input-ids or --file, or lines on standard input; --help says more";
                Err(Failure::Usage(line.into()))
            }
            _ => {
                // A file that a shell put there has a length to show progress by.
                let len = std::fs::metadata(Path::new("/dev/stdin")).ok().filter(|m| m.is_file()).map(|m| m.len());
                Ok(Sources::lines(Box::new(std::io::stdin()), "standard input".into(), len))
            }
        }
    }
}

/// Sources, a chunk at a time.
pub(crate) enum Sources {
    /// From the command line: one batch.
    List { all: Option<Vec<Given>>, many: bool },
    /// From a file.
    Lines(Box<Lines>),
}

/// Lines of a file.
pub(crate) struct Lines {
    reader: BufReader<Box<dyn Read>>,
    name: String,
    /// Lines read.
    count: usize,
    /// Bytes read, and of the whole file where that is known.
    bytes: u64,
    len: Option<u64>,
    /// What went wrong behind the lines that were read well.
    pending: Option<Failure>,
}

impl Sources {
    fn list(all: impl Iterator<Item = Given>) -> Sources {
        let all: Vec<_> = all.collect();
        Sources::List { many: all.len() > 1, all: Some(all) }
    }

    fn lines(from: Box<dyn Read>, name: String, len: Option<u64>) -> Sources {
        let reader = BufReader::with_capacity(AHEAD, from);
        Sources::Lines(Box::new(Lines { reader, name, count: 0, bytes: 0, len, pending: None }))
    }

    /// Whether there is a single one, as far as that is known.
    pub(crate) fn is_one(&self) -> bool {
        matches!(self, Sources::List { many: false, .. })
    }

    /// The next sources; none at the end.
    fn chunk(&mut self) -> Result<Option<Vec<Given>>, Failure> {
        match self {
            Sources::List { all, .. } => Ok(all.take()),
            Sources::Lines(lines) => lines.chunk(),
        }
    }

    /// What an error says of a source: which one it was, where there are several.
    fn place(&self, index: usize) -> Option<String> {
        match self {
            Sources::List { many, .. } => many.then(|| format!("source {}", index + 1)),
            Sources::Lines(lines) => Some(format!("{}, line {}", lines.name, index + 1)),
        }
    }
}

impl Lines {
    /// The lines that are there, up to a chunk: who writes line by line and waits for answers gets them.
    fn chunk(&mut self) -> Result<Option<Vec<Given>>, Failure> {
        if let Some(failure) = self.pending.take() {
            return Err(failure);
        }
        let mut chunk = Vec::new();
        while chunk.len() < CHUNK && (chunk.is_empty() || self.reader.buffer().contains(&b'\n')) {
            match self.line() {
                Ok(Some(line)) => chunk.push(Given::Text(line)),
                Ok(None) => break,
                Err(failure) if chunk.is_empty() => return Err(failure),
                Err(failure) => {
                    self.pending = Some(failure);
                    break;
                }
            }
        }
        Ok((!chunk.is_empty()).then_some(chunk))
    }

    /// The next line without its end.
    fn line(&mut self) -> Result<Option<String>, Failure> {
        let mut line = Vec::new();
        let read = self.reader.by_ref().take(LONGEST_LINE + 1).read_until(b'\n', &mut line);
        if read.map_err(|e| Failure::Other(format!("{}: {e}", self.name)))? == 0 {
            return Ok(None);
        }
        if line.len() as u64 > LONGEST_LINE && !line.ends_with(b"\n") {
            let found = format!("{}, line {}: found over {LONGEST_LINE} bytes", self.name, self.count + 1);
            return Err(Failure::Other(format!("{found}, expected a source of at most as many")));
        }
        self.bytes += line.len() as u64;
        self.count += 1;
        // What some editors put before a file and behind a line is no part of a text.
        if self.count == 1 && line.starts_with("\u{feff}".as_bytes()) {
            line.drain(.."\u{feff}".len());
        }
        for end in [b'\n', b'\r'] {
            line.pop_if(|last| *last == end);
        }
        match String::from_utf8(line) {
            Ok(line) => Ok(Some(line)),
            Err(_) => {
                Err(Failure::Other(format!("{}, line {}: found bytes that are not UTF-8", self.name, self.count)))
            }
        }
    }

    /// A bar for a file that has more than what was read, on a terminal.
    fn progress(&self) -> Option<ProgressBar> {
        let len = self.len.filter(|len| *len > self.bytes)?;
        if !std::io::stderr().is_terminal() {
            return None;
        }
        let style = ProgressStyle::with_template("{bar:40} {percent:>3} %  {msg}  {eta} left");
        // It goes when it is dropped, also where an error line follows.
        let bar = ProgressBar::with_draw_target(Some(len), ProgressDrawTarget::stderr());
        let bar = bar.with_finish(ProgressFinish::AndClear);
        Some(style.map_or(bar.clone(), |style| bar.with_style(style)))
    }
}

/// Answers all sources, a chunk at a time, and prints the answers in the order of the sources.
///
/// `answer` gets sources and the number of the first of them; `print` gets each with its answer. Where a source is wrong,
/// those before it are answered all the same, and the error says which one it was.
pub(crate) fn answer_all<A>(
    mut sources: Sources,
    answer: impl Fn(&[Source<'_>], usize) -> tiny_t5::Result<Vec<A>>,
    mut print: impl FnMut(&mut Output, &Given, A) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut out = Output::new();
    let mut bar: Option<ProgressBar> = None;
    let mut done = 0;
    while let Some(chunk) = sources.chunk()? {
        if let (None, Sources::Lines(lines)) = (&bar, &sources) {
            bar = lines.progress();
        }
        let views: Vec<Source<'_>> = chunk.iter().map(Given::as_source).collect();
        let mut write = |answers: Vec<A>, first: usize, sources: &Sources| {
            for (i, answer) in answers.into_iter().enumerate() {
                let place = || sources.place(done + first + i);
                print(&mut out, &chunk[first + i], answer).map_err(|failure| at(place, failure))?;
            }
            out.flush()
        };
        match answer(&views, done) {
            Ok(answers) => match &bar {
                Some(bar) => bar.suspend(|| write(answers, 0, &sources))?,
                None => write(answers, 0, &sources)?,
            },
            Err(_) => {
                // One of them is wrong: those before it first.
                for i in 0..chunk.len() {
                    let answers = answer(&views[i..=i], done + i);
                    let answers = answers.map_err(|error| at(|| sources.place(done + i), error.into()))?;
                    write(answers, i, &sources)?;
                }
            }
        }
        done += chunk.len();
        if let (Some(bar), Sources::Lines(lines)) = (&bar, &sources) {
            bar.set_position(lines.bytes);
            bar.set_message(format!("{done} sources"));
        }
    }
    Ok(())
}

/// An error that is about a source says which; one about the model or an option would say nothing more by it.
fn at(place: impl Fn() -> Option<String>, failure: Failure) -> Failure {
    match (failure, place()) {
        (Failure::Library(error @ (Error::Input { .. } | Error::Tokenizer(_))), Some(place)) => {
            let error = error.to_string();
            Failure::Other(format!("{place}: {}", error.strip_prefix("source: ").unwrap_or(&error)))
        }
        (failure, _) => failure,
    }
}
