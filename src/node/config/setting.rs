//! One setting as somebody wrote it, with where it was written; and what is wrong with one.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

/// A kind of place that settings come from, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    Default,
    File,
    /// The file `.env` in the working directory.
    #[serde(rename = ".env")]
    DotEnv,
    Env,
    Flag,
}

impl Origin {
    const fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::File => "file",
            Self::DotEnv => ".env",
            Self::Env => "env",
            Self::Flag => "flag",
        }
    }
}

/// Where a setting was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Source {
    pub kind: Origin,
    /// The file with its key where that has another name, the variable, or the flag; empty for a default.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
}

/// The source of what nobody wrote.
pub static DEFAULT: Source = Source {
    kind: Origin::Default,
    name: String::new(),
};

impl Source {
    pub fn new(kind: Origin, name: impl Into<String>) -> Self {
        Self {
            kind,
            name: name.into(),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.name())?;
        if self.name.is_empty() {
            return Ok(());
        }
        write!(f, " {}", self.name)
    }
}

/// What a setting changes.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A value with a type of its own (YAML).
    Typed(Value),
    /// Text whose type the setting decides (environment, flags).
    Text(String),
    /// Only the host of a listener.
    Host(String),
    /// Only the port of a listener.
    Port(u16),
}

/// A setting as somebody wrote it.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// Section and key, joined by dots.
    pub key: String,
    pub change: Change,
    pub source: Source,
}

/// What is wrong with a setting, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// `file weft.yaml: htpp.listen` or `env WEFT_HTPP__LISTEN`.
    pub place: String,
    pub message: String,
    pub fix: String,
}

impl Problem {
    pub fn new(place: impl Into<String>, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            place: place.into(),
            message: message.into(),
            fix: fix.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)?;
        if !self.fix.is_empty() {
            write!(f, " ({})", self.fix)?;
        }
        Ok(())
    }
}

/// True for settings whose values are never shown: not by `config show`, not in errors.
pub fn is_secret(key: &str) -> bool {
    let name = key.rsplit('.').next().unwrap_or(key).to_ascii_lowercase();
    // A file's name is no secret.
    !name.ends_with("_file")
        && ["secret", "password", "token", "private_key"]
            .iter()
            .any(|word| name.contains(word))
}

/// A value as errors and `config show` may print it.
pub fn shown(key: &str, value: &Value) -> String {
    match value {
        Value::Null => "(unset)".into(),
        Value::String(text) if is_secret(key) && text.is_empty() => "(unset)".into(),
        _ if is_secret(key) => "(secret)".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_masked_by_the_name_of_their_key() {
        let value = Value::from("hunter2");
        for key in [
            "webhook.signing_secret",
            "store.password",
            "http.api_token",
            "tls.private_key",
        ] {
            assert_eq!(shown(key, &value), "(secret)", "{key}");
        }
        assert_eq!(shown("node.id", &value), "hunter2");
        assert_eq!(shown("webhook.signing_secret", &Value::Null), "(unset)");
    }
}
