//! Settings from environment variables: `WEFT_SECTION__KEY`, and below them the names that users of this stack already have.
//!
//! A name whose feature this build does not have is refused, so that nobody believes in an encryption or a cluster that is not
//! there. Empty values count as unset, as Compose passes them for variables that nobody filled in.

use std::path::Path;

use super::{
    file, known_keys,
    setting::{Change, Origin, Problem, Setting, Source, is_secret},
    suggest,
};

/// What weft's own variables start with.
pub const PREFIX: &str = "WEFT_";
/// Variables of ours that are no settings: they are read by the command line.
pub const COMMAND_LINE: [&str; 4] = ["WEFT_CONFIG", "WEFT_SERVER", "WEFT_TLS_CA", "WEFT_TLS_PIN"];
/// Suffix of a variable that names a file with the value.
const FILE_SUFFIX: &str = "_FILE";

/// What a user's name does here.
enum Meaning {
    Changes(&'static str, Change),
    /// Says what is the case anyway.
    Nothing,
    /// Skipped, with a warning.
    Skipped(String),
    /// A feature that this build does not have.
    Missing(&'static str),
    Wrong(&'static str),
}

/// Reads one set of variables.
#[derive(Debug)]
pub struct Reader<'a> {
    variables: &'a [(String, String)],
    origin: Origin,
}

impl<'a> Reader<'a> {
    /// The variables of `.env`.
    pub const fn dotenv(variables: &'a [(String, String)]) -> Self {
        Self {
            variables,
            origin: Origin::DotEnv,
        }
    }

    /// The process's own variables.
    pub const fn process(variables: &'a [(String, String)]) -> Self {
        Self {
            variables,
            origin: Origin::Env,
        }
    }

    /// The settings in these variables, the users' names before weft's own: the later ones win.
    pub fn settings(&self, out: &mut Vec<Setting>, problems: &mut Vec<Problem>, warnings: &mut Vec<String>) {
        for (name, meaning) in USER_NAMES {
            match self.get(name).map(meaning) {
                Some(Meaning::Skipped(why)) => warnings.push(format!("{} is skipped: {why}", self.source(name))),
                Some(meaning) => self
                    .user_name(name, meaning)
                    .map_or_else(|problem| problems.push(problem), |s| out.extend(s)),
                None => {}
            }
        }
        let mut own: Vec<_> = self
            .variables
            .iter()
            .filter(|(name, value)| {
                name.starts_with(PREFIX) && !value.is_empty() && !COMMAND_LINE.contains(&name.as_str())
            })
            .collect();
        own.sort();
        for (name, value) in own {
            match self.own_name(name, value) {
                Ok(Some(setting)) => out.push(setting),
                // Not written as a setting, nor nearly one: Kubernetes injects WEFT_PORT and the like for a service called weft.
                Ok(None) => {}
                Err(problem) => problems.push(problem),
            }
        }
    }

    /// A variable that has a value.
    fn get(&self, name: &str) -> Option<&'a str> {
        let found = self
            .variables
            .iter()
            .rfind(|(known, value)| known == name && !value.is_empty());
        found.map(|(_, value)| value.as_str())
    }

    fn source(&self, name: &str) -> Source {
        Source::new(self.origin, name)
    }

    /// `WEFT_SECTION__KEY`, or `WEFT_SECTION__KEY_FILE` for a secret.
    fn own_name(&self, name: &str, value: &str) -> Result<Option<Setting>, Problem> {
        let place = self.source(name).to_string();
        if !name.contains("__") {
            return match suggest::variable_like(name) {
                Some(meant) => Err(Problem::new(
                    place,
                    "is not a setting",
                    format!("did you mean `{meant}`?"),
                )),
                None => Ok(None),
            };
        }
        let key = name[PREFIX.len()..].to_ascii_lowercase().replace("__", ".");
        let text = |key: String, text: String| Setting {
            key,
            change: Change::Text(text),
            source: self.source(name),
        };
        let secret = name
            .strip_suffix(FILE_SUFFIX)
            .map(|name| (name, key[..key.len() - FILE_SUFFIX.len()].to_string()));
        match secret {
            Some((plain, key)) if known_keys().contains(&key) && is_secret(&key) => {
                if self.get(plain).is_some() {
                    let fix = format!("keep one of {plain} and {name}");
                    return Err(Problem::new(place, "is set beside the variable itself", fix));
                }
                let read = file::read_text(Path::new(value));
                let read = read.map_err(|failure| Problem::new(place, failure.what, failure.cause))?;
                Ok(Some(text(key, read.trim_end_matches(['\r', '\n']).into())))
            }
            _ if known_keys().contains(&key) => Ok(Some(text(key, value.into()))),
            Some((_, key)) if known_keys().contains(&key) => Err(Problem::new(
                place,
                "names a file, but this setting is no secret",
                format!("set {}", suggest::variable(&key)),
            )),
            _ if key.starts_with("protocols.") => {
                let fix = "write it in the file, or set the variable of the section that it stands for";
                Err(Problem::new(
                    place,
                    "cannot be set here: `protocols` is read from the file only",
                    fix,
                ))
            }
            _ => Err(Problem::new(
                place,
                "is not a setting",
                suggest::fix(&key, suggest::Form::Variable),
            )),
        }
    }

    fn user_name(&self, name: &str, meaning: Meaning) -> Result<Option<Setting>, Problem> {
        let place = self.source(name).to_string();
        match meaning {
            Meaning::Changes(key, change) => Ok(Some(Setting {
                key: key.into(),
                change,
                source: self.source(name),
            })),
            Meaning::Nothing | Meaning::Skipped(_) => Ok(None),
            Meaning::Missing(what) => {
                let undo = match self.origin {
                    Origin::DotEnv => format!("remove the line from {}", file::DOTENV_FILE),
                    _ => format!("unset {name}"),
                };
                let message = format!("asks for {what}, which this build does not have yet");
                Err(Problem::new(place, message, format!("{undo} to start without it")))
            }
            // The value is not shown: some of these names hold secrets.
            Meaning::Wrong(expected) => {
                let message = format!("has a value that is not {expected}");
                Err(Problem::new(place, message, "correct or unset it"))
            }
        }
    }
}

/// Reads the value of one name.
type Reading = fn(&str) -> Meaning;

/// Names that users of this stack already have, with what each does.
const USER_NAMES: [(&str, Reading); 19] = [
    ("APP_HOST", |value| {
        Meaning::Changes("http.listen", Change::Host(value.into()))
    }),
    ("APP_PORT", port),
    ("APP_DEBUG", |value| switch(value, text("log.level", "debug"))),
    ("LOG_LEVEL", |value| text("log.level", &level(value))),
    ("HTTP_TIMEOUT", |value| seconds("http.request_timeout_ms", value)),
    ("WEBSOCKET_MAX_CONNECTIONS", |value| {
        text("websocket.max_connections", value)
    }),
    ("METRICS_ENABLED", |value| text("metrics.enabled", value)),
    ("SHARD_COUNT", |value| text("router.workers", value)),
    ("REDIS_URL", |_| Meaning::Missing("Redis or Valkey as the store")),
    ("REDIS_CLUSTER", |value| {
        switch(value, Meaning::Missing("a Redis cluster as the store"))
    }),
    ("POSTGRES_URL", |_| Meaning::Missing("PostgreSQL as the store")),
    ("RABBITMQ_URL", |_| Meaning::Missing("a RabbitMQ bridge")),
    ("JWT_SECRET_KEY", |_| Meaning::Missing("authentication by JWT")),
    ("ENABLE_ENCRYPTION", |value| {
        switch(value, Meaning::Missing("encryption of stored bodies"))
    }),
    ("ENCRYPTION_KEY", |_| Meaning::Missing("encryption of stored bodies")),
    ("MQTT_KEEPALIVE", |_| Meaning::Missing("MQTT")),
    ("TRACING_ENABLED", |value| {
        switch(value, Meaning::Missing("export of traces"))
    }),
    ("ENABLE_SHARDING", |value| {
        switch(value, Meaning::Missing("sharding over several nodes"))
    }),
    ("LOAD_BALANCER", |value| match value {
        "none" => Meaning::Nothing,
        _ => Meaning::Missing("the setting-up of a load balancer"),
    }),
];

/// Names that users of this stack already have.
pub fn user_names() -> impl Iterator<Item = &'static str> {
    USER_NAMES.iter().map(|(name, _)| *name)
}

fn text(key: &'static str, value: &str) -> Meaning {
    Meaning::Changes(key, Change::Text(value.into()))
}

/// True does as said, false does nothing: it says what is the case anyway.
fn switch(value: &str, when_true: Meaning) -> Meaning {
    match truth(value) {
        Some(true) => when_true,
        Some(false) => Meaning::Nothing,
        None => Meaning::Wrong("true or false"),
    }
}

fn port(value: &str) -> Meaning {
    if value.contains("://") {
        return Meaning::Skipped(format!("{value} is a Kubernetes service link, not a port"));
    }
    let port = value
        .parse()
        .map(|port| Meaning::Changes("http.listen", Change::Port(port)));
    port.unwrap_or(Meaning::Wrong("a port (0 to 65535)"))
}

/// The level names of other stacks in ours.
fn level(value: &str) -> String {
    match value.to_ascii_lowercase().as_str() {
        "warning" => "warn".into(),
        "critical" | "fatal" => "error".into(),
        other => other.into(),
    }
}

/// Seconds, perhaps with a fraction or a unit, as milliseconds.
fn seconds(key: &'static str, value: &str) -> Meaning {
    /// An hour: a longer request timeout is a mistake of units.
    const SECONDS_MAX: f64 = 3600.0;
    let plain = value
        .parse::<f64>()
        .ok()
        .or_else(|| humantime::parse_duration(value).ok().map(|span| span.as_secs_f64()));
    match plain.filter(|seconds| *seconds > 0.0 && *seconds <= SECONDS_MAX) {
        Some(seconds) => Meaning::Changes(key, Change::Text(format!("{}", (seconds * 1000.0).round()))),
        None => Meaning::Wrong("a duration of up to an hour, in seconds"),
    }
}

/// True or false, in the words that environment files use.
pub fn truth(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Some(true),
        "false" | "no" | "off" | "0" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_users_that_changes_a_setting_names_one_that_exists() {
        for (name, meaning) in USER_NAMES {
            for value in ["true", "1", "debug"] {
                if let Meaning::Changes(key, _) = meaning(value) {
                    assert!(known_keys().contains(key), "{name}: {key}");
                }
            }
        }
    }

    #[test]
    fn truth_is_read_as_environment_files_write_it() {
        assert_eq!(truth("Yes"), Some(true));
        assert_eq!(truth("0"), Some(false));
        assert_eq!(truth("maybe"), None);
    }
}
