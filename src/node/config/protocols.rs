//! The section `protocols:` as users of this stack have written it, mapped onto weft's own settings.
//!
//! What this build does not have is refused where it is switched on, and accepted where it is switched off. A setting of
//! weft's own section wins over its namesake here.

use serde_json::Value;

use super::setting::{Change, Origin, Problem, Setting, Source};

/// The section's name.
pub const SECTION: &str = "protocols";

/// What a key below `protocols` does.
#[derive(Clone, Copy)]
enum Meaning {
    /// Stands for this setting.
    Is(&'static str),
    /// Stands for this setting, which counts milliseconds; bare numbers here are seconds.
    Seconds(&'static str),
    /// Switches a protocol: false takes its listener away, true says what is the case anyway.
    Listener(&'static str),
    /// Switches a protocol whose listener is off by default: true puts it here.
    Switch(&'static str, &'static str),
    /// Must not be true: this feature does not exist yet.
    MissingSwitch(&'static str),
    /// Says more about a feature that is refused elsewhere when it is switched on.
    Detail,
    /// Does not exist yet.
    Missing(&'static str),
}

use Meaning::{Detail, Is, Listener, Missing, MissingSwitch, Seconds, Switch};

/// Every key below `protocols` that users of this stack know, but for those of custom protocols.
const KEYS: [(&str, Meaning); 22] = [
    ("websocket.enabled", Is("websocket.enabled")),
    ("websocket.max_connections", Is("websocket.max_connections")),
    (
        "websocket.heartbeat_interval",
        Seconds("websocket.heartbeat_interval_ms"),
    ),
    ("websocket.compression", Is("websocket.compression")),
    (
        "websocket.security.ssl_enabled",
        MissingSwitch("TLS on its own listeners (end TLS in a proxy on this machine)"),
    ),
    ("websocket.security.certificate_path", Detail),
    ("websocket.security.key_path", Detail),
    ("http.enabled", Listener("http.listen")),
    ("http.timeout", Seconds("http.request_timeout_ms")),
    ("http.retry_attempts", Is("webhook.failures_max")),
    (
        "http.rate_limiting.requests_per_minute",
        Missing("rate limits of HTTP requests"),
    ),
    (
        "http.rate_limiting.burst_limit",
        Missing("rate limits of HTTP requests"),
    ),
    (
        "http.security.ssl_enabled",
        MissingSwitch("TLS on its own listeners (end TLS in a proxy on this machine)"),
    ),
    ("http.security.certificate_path", Detail),
    ("http.security.key_path", Detail),
    ("mqtt.enabled", Switch("mqtt.listen", "127.0.0.1:1883")),
    ("mqtt.broker_url", Detail),
    ("mqtt.client_id", Detail),
    ("mqtt.keepalive", Detail),
    ("mqtt.qos_levels.default", Detail),
    ("mqtt.qos_levels.high_priority", Detail),
    ("grpc.enabled", Listener("grpc.listen")),
];

/// Takes the section apart.
pub fn settings(file: &str, written: &Value, out: &mut Vec<Setting>, problems: &mut Vec<Problem>) {
    let section = Section { file };
    let Value::Object(protocols) = written else {
        if !written.is_null() {
            problems.push(section.problem(
                "",
                "is a section, not a value",
                "write the protocols below it, indented",
            ));
        }
        return;
    };
    for (protocol, value) in protocols {
        if is_known(protocol) {
            section.walk(protocol, value, out, problems);
        } else if let Err(problem) = section.custom(protocol, value) {
            problems.push(problem);
        }
    }
}

fn is_known(protocol: &str) -> bool {
    KEYS.iter().any(|(key, _)| key.split('.').next() == Some(protocol))
}

struct Section<'a> {
    file: &'a str,
}

impl Section<'_> {
    fn problem(&self, path: &str, message: impl Into<String>, fix: impl Into<String>) -> Problem {
        let path = format!("{SECTION}.{path}");
        Problem::new(
            format!("file {}: {}", self.file, path.trim_end_matches('.')),
            message,
            fix,
        )
    }

    fn walk(&self, path: &str, value: &Value, out: &mut Vec<Setting>, problems: &mut Vec<Problem>) {
        if let Some((_, meaning)) = KEYS.iter().find(|(key, _)| *key == path) {
            match self.setting(path, *meaning, value) {
                Ok(setting) => out.extend(setting),
                Err(problem) => problems.push(problem),
            }
            return;
        }
        match value {
            Value::Object(fields) if is_prefix(path) => {
                for (key, value) in fields {
                    self.walk(&format!("{path}.{key}"), value, out, problems);
                }
            }
            Value::Null if is_prefix(path) => {}
            _ if is_prefix(path) => {
                problems.push(self.problem(path, "is a section, not a value", "write its keys below it"))
            }
            _ => problems.push(self.problem(path, "is not a setting", advice(path))),
        }
    }

    fn setting(&self, path: &str, meaning: Meaning, value: &Value) -> Result<Option<Setting>, Problem> {
        let setting = |key: &str, change| {
            Ok(Some(Setting {
                key: key.into(),
                change,
                source: Source::new(Origin::File, format!("{} ({SECTION}.{path})", self.file)),
            }))
        };
        let switch = || {
            let fix = "write true or false";
            value
                .as_bool()
                .ok_or_else(|| self.problem(path, format!("is {value}, but must be true or false"), fix))
        };
        match meaning {
            Is(key) => setting(key, Change::Typed(value.clone())),
            Seconds(key) => match (value.as_f64(), value.as_str()) {
                (Some(seconds), _) if seconds >= 0.0 => {
                    setting(key, Change::Text(format!("{}", (seconds * 1000.0).round())))
                }
                (_, Some(text)) => setting(key, Change::Text(text.into())),
                _ => Err(self.problem(
                    path,
                    format!("is {value}, but must be a duration"),
                    "write seconds, or 500ms, 20s, 5m",
                )),
            },
            Listener(key) if !switch()? => setting(key, Change::Text("off".into())),
            Switch(key, on) => setting(key, Change::Text(if switch()? { on } else { "off" }.into())),
            MissingSwitch(what) if switch()? => Err(self.missing(path, what)),
            Listener(_) | MissingSwitch(_) | Detail => Ok(None),
            Missing(what) => Err(self.missing(path, what)),
        }
    }

    fn missing(&self, path: &str, what: &str) -> Problem {
        let message = format!("asks for {what}, which this build does not have yet");
        let fix = if path.ends_with("enabled") {
            "write false, or remove it"
        } else {
            "remove it"
        };
        self.problem(path, message, fix)
    }

    /// A protocol of the user's own: anything, as long as it is switched off.
    fn custom(&self, protocol: &str, value: &Value) -> Result<(), Problem> {
        match value.get("enabled") {
            Some(Value::Bool(false)) => Ok(()),
            Some(Value::Bool(true)) => Err(self.missing(&format!("{protocol}.enabled"), "custom protocols")),
            _ => Err(self.problem(
                protocol,
                "is a protocol that this build does not know",
                format!("{}; or write `enabled: false` below it", advice(protocol)),
            )),
        }
    }
}

/// True for a section below `protocols`.
fn is_prefix(path: &str) -> bool {
    KEYS.iter()
        .any(|(key, _)| key.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
}

fn advice(path: &str) -> String {
    let protocols = KEYS.iter().filter_map(|(key, _)| key.split('.').next());
    let nearest = KEYS
        .iter()
        .map(|(key, _)| *key)
        .chain(protocols)
        .map(|key| (strsim::normalized_damerau_levenshtein(path, key), key))
        .max_by(|left, right| left.0.total_cmp(&right.0));
    match nearest {
        Some((similarity, key)) if similarity > 0.6 => format!("did you mean `{SECTION}.{key}`?"),
        _ => "remove it; docs/configuration.md lists what may stand here".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::config::known_keys;

    #[test]
    fn every_key_that_stands_for_a_setting_names_one_that_exists() {
        for (path, meaning) in KEYS {
            if let Is(key) | Seconds(key) | Listener(key) | Switch(key, _) = meaning {
                assert!(known_keys().contains(key), "{path}: {key}");
            }
        }
    }
}
