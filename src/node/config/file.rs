//! Reads the YAML file and `.env`, and takes YAML apart into settings. What keys exist is told by the tree of defaults.

use std::{fs, io::Read, path::Path};

use config::{FileFormat, Format, ValueKind};
use serde_json::{Map, Value};

use super::{
    protocols,
    setting::{Change, Origin, Problem, Setting, Source},
    suggest,
};
use crate::node::failure::{Exit, Failure};

/// The file that is read where `--config` names none and the working directory has it.
pub const DEFAULT_FILE: &str = "weft.yaml";
/// The file of environment variables that is read from the working directory.
pub const DOTENV_FILE: &str = ".env";
/// Largest configuration file or secret, in bytes: far above any real one, small enough to read at once.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// A text file, refused above [`FILE_BYTES_MAX`].
pub fn read_text(path: &Path) -> Result<String, Failure> {
    let refuse =
        |exit, cause: String, fix: &str| Failure::new(exit, format!("cannot read {}", path.display()), cause, fix);
    let mut text = String::new();
    let file = fs::File::open(path).map_err(|error| {
        refuse(
            Exit::NoInput,
            error.to_string(),
            "name a file that exists and that you may read",
        )
    })?;
    file.take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(|error| refuse(Exit::Io, error.to_string(), "name a text file in UTF-8"))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        let cause = format!("it has more than {FILE_BYTES_MAX} bytes");
        return Err(refuse(
            Exit::Data,
            cause,
            "configuration files are small: is this the right one?",
        ));
    }
    Ok(text)
}

/// Takes a YAML text apart. `known` is the tree of defaults.
pub fn settings(name: &str, text: &str, known: &Value, out: &mut Vec<Setting>, problems: &mut Vec<Problem>) {
    let root = match FileFormat::Yaml.parse(None, text) {
        Ok(root) => Value::Object(root.into_iter().map(|(key, value)| (key, plain(value))).collect()),
        Err(_)
            if text
                .lines()
                .all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) =>
        {
            return;
        }
        Err(error) => {
            let fix = "write `section:` lines with indented `key: value` lines below, see docs/configuration.md";
            problems.push(Problem::new(
                format!("file {name}"),
                format!("is not YAML sections: {error}"),
                fix,
            ));
            return;
        }
    };
    let Value::Object(mut sections) = root else { return };
    // What the seed's `protocols:` says is weaker than the section of our own in the same file, so it comes first.
    if let Some(written) = sections.remove(protocols::SECTION) {
        protocols::settings(name, &written, out, problems);
    }
    walk(name, "", &Value::Object(sections), known, out, problems);
}

/// One level of the file beside the same level of the defaults.
fn walk(name: &str, path: &str, written: &Value, known: &Value, out: &mut Vec<Setting>, problems: &mut Vec<Problem>) {
    let (Value::Object(written), Value::Object(known)) = (written, known) else {
        return;
    };
    for (key, value) in written {
        let path = if path.is_empty() {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        let place = || format!("file {name}: {path}");
        match (known.get(key), value) {
            (None, _) => problems.push(Problem::new(
                place(),
                "is not a setting",
                suggest::fix(&path, suggest::Form::Key),
            )),
            (Some(Value::Object(inner)), Value::Object(_)) if !inner.is_empty() => {
                walk(name, &path, value, &known[key], out, problems);
            }
            // A section without keys.
            (Some(Value::Object(inner)), Value::Null) if !inner.is_empty() => {}
            (Some(Value::Object(inner)), _) if !inner.is_empty() => {
                let fix = format!(
                    "write its keys below it, indented, such as {}",
                    inner.keys().take(3).cloned().collect::<Vec<_>>().join(", ")
                );
                problems.push(Problem::new(place(), "is a section, not a value", fix));
            }
            (Some(_), _) => out.push(Setting {
                key: path,
                change: Change::Typed(value.clone()),
                source: Source::new(Origin::File, name),
            }),
        }
    }
}

/// The library's value as a plain one.
fn plain(value: config::Value) -> Value {
    match value.kind {
        ValueKind::Nil => Value::Null,
        ValueKind::Boolean(value) => value.into(),
        ValueKind::I64(value) => value.into(),
        ValueKind::U64(value) => value.into(),
        // YAML has no integers of this size here; as text they are refused with the key's name.
        ValueKind::I128(value) => value.to_string().into(),
        ValueKind::U128(value) => value.to_string().into(),
        ValueKind::Float(value) => value.into(),
        ValueKind::String(value) => value.into(),
        ValueKind::Array(values) => Value::Array(values.into_iter().map(plain).collect()),
        ValueKind::Table(table) => Value::Object(table.into_iter().map(|(k, v)| (k, plain(v))).collect::<Map<_, _>>()),
    }
}

/// The variables of a `.env` text: `NAME=value` lines, `#` comments, an optional `export`, optional quotes around the value.
pub fn dotenv(text: &str, problems: &mut Vec<Problem>) -> Vec<(String, String)> {
    let mut variables = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match line.strip_prefix("export ").unwrap_or(line).split_once('=') {
            Some((name, value)) => variables.push((name.trim().into(), unquoted(value.trim()).into())),
            None => {
                // The line itself may hold a secret, so it is not shown.
                let place = format!("{DOTENV_FILE} line {}", number + 1);
                problems.push(Problem::new(
                    place,
                    "is not NAME=value",
                    "write one variable a line, comments after #",
                ));
            }
        }
    }
    variables
}

/// A value without its quotes, or without the comment behind it.
fn unquoted(value: &str) -> &str {
    for quote in ['"', '\''] {
        if let Some((inside, _)) = value.strip_prefix(quote).and_then(|rest| rest.split_once(quote)) {
            return inside;
        }
    }
    value.split(" #").next().unwrap_or(value).trim_end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dotenv_reads_what_compose_reads() {
        let mut problems = Vec::new();
        let text = "# comment\n\nA=1\nexport B = two\nC=\"a # b\" # why\nD='x'\nE=v # why\nF=\nG=a=b\nbroken\n";
        let read = dotenv(text, &mut problems);
        let expected = [
            ("A", "1"),
            ("B", "two"),
            ("C", "a # b"),
            ("D", "x"),
            ("E", "v"),
            ("F", ""),
            ("G", "a=b"),
        ];
        assert_eq!(
            read,
            expected.map(|(name, value)| (name.to_string(), value.to_string()))
        );
        assert_eq!(problems.len(), 1);
        assert!(problems[0].place.contains("line 10"), "{:?}", problems[0]);
    }
}
