//! Printing: tables for people, JSON for programs, failures for both. Owns how text from the network is made harmless.

use std::io::{self, Write};

use clap::ValueEnum;
use comfy_table::{Table, presets::NOTHING};
use serde_json::{Value, json};

use crate::node::failure::Failure;

/// Who reads the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Table,
    Json,
}

/// Why a command ended early.
#[derive(Debug)]
pub(super) enum Stop {
    Failed(Box<Failure>),
    /// Whoever read the output went away (`weft … | head`): nothing to say, and nobody to say it to.
    ReaderGone,
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(Box::new(failure))
    }
}

/// Where a command's answer goes.
pub(super) struct Printer {
    pub format: Format,
    out: Box<dyn Write>,
}

impl Printer {
    pub fn stdout(format: Format) -> Self {
        Self {
            format,
            out: Box::new(io::stdout()),
        }
    }

    /// One answer: `value` for programs, or for people what `text` makes.
    pub fn answer(&mut self, value: &Value, text: impl FnOnce() -> String) -> Result<(), Stop> {
        match self.format {
            Format::Json => self.json(value),
            Format::Table => self.line(&text()),
        }
    }

    /// A listing: a line of JSON for each row, or one table. `row` gives a value's cells.
    pub fn listing<T>(
        &mut self,
        heads: &[&str],
        items: &[T],
        value: impl Fn(&T) -> Value,
        row: impl Fn(&T) -> Vec<String>,
    ) -> Result<(), Stop> {
        match self.format {
            Format::Json => items.iter().try_for_each(|item| self.json(&value(item))),
            Format::Table if items.is_empty() => self.line("(none)"),
            Format::Table => {
                let mut table = Table::new();
                table
                    .load_style(NOTHING)
                    .set_header(heads.iter().map(|head| head.to_uppercase()));
                table.add_rows(
                    items
                        .iter()
                        .map(|item| row(item).iter().map(|cell| harmless(cell)).collect::<Vec<_>>()),
                );
                let text = table.to_string();
                let lines: Vec<_> = text
                    .lines()
                    .map(|line| line.trim_end().strip_prefix(' ').unwrap_or_default())
                    .collect();
                self.bytes(format!("{}\n", lines.join("\n")).as_bytes())
            }
        }
    }

    /// One line of JSON.
    fn json(&mut self, value: &Value) -> Result<(), Stop> {
        self.bytes(format!("{}\n", escaped_json(value)).as_bytes())
    }

    /// Text for people.
    fn line(&mut self, text: &str) -> Result<(), Stop> {
        self.bytes(format!("{}\n", harmless(text)).as_bytes())
    }

    /// Bytes as they are, written at once so that a reader of a stream sees them.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        self.out.write_all(bytes)?;
        self.out.flush()?;
        Ok(())
    }
}

/// Prints a failure on standard error.
pub(super) fn print_failure(format: Format, failure: &Failure) {
    let text = match format {
        Format::Table => harmless(&failure.to_string()),
        Format::Json => escaped_json(&json!({"error": {
            "what": failure.what, "cause": failure.cause, "fix": failure.fix,
            "code": failure.code, "exit": failure.exit as u8,
        }})),
    };
    // There is no third place to report to.
    let _unprinted = writeln!(io::stderr(), "{text}");
}

/// Text that cannot steer a terminal: control characters but line breaks and tabs as escapes.
fn harmless(text: &str) -> String {
    let mut harmless = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\n' && c != '\t' {
            harmless.extend(c.escape_default());
        } else {
            harmless.push(c);
        }
    }
    harmless
}

/// JSON in which every control character is an escape; serde leaves those above U+007E.
fn escaped_json(value: &Value) -> String {
    let mut escaped = String::new();
    for c in value.to_string().chars() {
        if c.is_control() {
            escaped.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            escaped.push(c);
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_the_network_cannot_steer_a_terminal() {
        let hostile = "\u{1b}[31mred\u{9b}2J";
        assert!(!harmless(hostile).contains(['\u{1b}', '\u{9b}']));
        let json = escaped_json(&json!({"name": hostile}));
        assert!(!json.contains(['\u{1b}', '\u{9b}']), "{json}");
        let read: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(read["name"], hostile);
    }
}
