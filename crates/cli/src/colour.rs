//! Colours, on terminals alone.

use std::io::IsTerminal;

/// Whether what goes there may have colours: a terminal that knows them, and nobody says no (<https://no-color.org>).
pub(crate) fn wanted(stream: &impl IsTerminal) -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let known = std::env::var_os("TERM").is_some_and(|terminal| terminal != "dumb");
    stream.is_terminal() && known && !refused
}

/// How a text is printed.
#[derive(Clone, Copy)]
pub(crate) enum Colour {
    Bold,
    /// And bold.
    Red,
}

impl Colour {
    pub(crate) fn paint(self, text: &str) -> String {
        let code = match self {
            Colour::Bold => "1",
            Colour::Red => "1;31",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}
