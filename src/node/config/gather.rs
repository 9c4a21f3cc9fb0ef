//! Puts the sources on top of each other: defaults, file, `.env`, environment, flags. The last one that says a thing wins.
//!
//! Every value is tried on the defaults alone before it counts, so a wrong one is reported under its own key and source.

use std::{collections::BTreeMap, path::Path};

use serde_json::{Number, Value};

use super::{
    Config, environment, file,
    listen::Listen,
    rules,
    setting::{Change, DEFAULT, Problem, Setting, Source, shown},
};

/// Where the webhook secret is kept in the data directory, unless the settings say otherwise.
const WEBHOOK_SECRET_FILE: &str = "webhook.secret";

/// Everything that configuration is read from; no I/O happens after this was filled in, but for secrets in files.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// The YAML file's name and text.
    pub file: Option<(String, String)>,
    /// The text of `.env`.
    pub dotenv: Option<String>,
    /// Environment variables.
    pub environment: Vec<(String, String)>,
    /// What flags say.
    pub flags: Vec<Setting>,
}

/// The configuration in effect and where each value came from.
#[derive(Clone, Debug)]
pub struct Gathered {
    pub config: Config,
    /// Values that were skipped on purpose; worth a warning once logs work.
    pub warnings: Vec<String>,
    values: BTreeMap<String, Value>,
    sources: BTreeMap<String, Source>,
}

impl Gathered {
    /// Every setting in order of its key, with its value and its source.
    pub fn settings(&self) -> impl Iterator<Item = (&str, &Value, &Source)> {
        self.values
            .iter()
            .map(|(key, value)| (key.as_str(), value, self.sources.get(key).unwrap_or(&DEFAULT)))
    }

    /// Where a setting's value came from.
    pub fn source(&self, key: &str) -> &Source {
        self.sources.get(key).unwrap_or(&DEFAULT)
    }
}

/// Gathers the configuration, or says everything that is wrong with it at once.
pub fn gather(inputs: &Inputs) -> Result<Gathered, Vec<Problem>> {
    let defaults = Config::tree_of_defaults();
    let (mut written, mut problems, mut warnings) = (Vec::new(), Vec::new(), Vec::new());
    if let Some((name, text)) = &inputs.file {
        file::settings(name, text, &defaults, &mut written, &mut problems);
    }
    if let Some(text) = &inputs.dotenv {
        let variables = file::dotenv(text, &mut problems);
        let reader = environment::Reader::dotenv(&variables);
        reader.settings(&mut written, &mut problems, &mut warnings);
    }
    let reader = environment::Reader::process(&inputs.environment);
    reader.settings(&mut written, &mut problems, &mut warnings);
    written.extend(inputs.flags.iter().cloned());

    let mut tree = defaults.clone();
    let mut sources = BTreeMap::new();
    for setting in written {
        match apply(&setting, &defaults, &mut tree) {
            Ok(()) => note_source(&mut sources, setting),
            Err(problem) => problems.push(problem),
        }
    }
    derive(&mut tree, &sources);
    let config = Config::from_tree(&tree).map_err(|message| {
        // Each value was accepted alone, so only a rule inside a module's own reader can get here.
        vec![Problem::new("configuration", message, "")]
    });
    let config = match config {
        Ok(config) if problems.is_empty() => config,
        Ok(_) => return Err(problems),
        Err(more) => return Err([problems, more].concat()),
    };
    rules::check(&config, &sources, &mut problems);
    if !problems.is_empty() {
        return Err(problems);
    }
    let mut values = BTreeMap::new();
    flatten("", &tree, &mut values);
    Ok(Gathered {
        config,
        warnings,
        values,
        sources,
    })
}

/// Defaults that follow from other settings.
fn derive(tree: &mut Value, sources: &BTreeMap<String, Source>) {
    let unset = |key: &str| !sources.contains_key(key);
    // An endpoint on this machine is what a first try has; on a node that others reach it would let them reach this machine.
    if unset("webhook.allow_loopback") {
        let insecure = tree["node"]["insecure"] == Value::Bool(true);
        put(tree, "webhook.allow_loopback", Value::Bool(!insecure));
    }
    // Receivers verify pushes by the secret, so it must outlive a restart.
    if unset("webhook.secret_file") && unset("webhook.secret") && tree["node"]["memory"] == Value::Bool(false) {
        let file = tree["node"]["data_dir"]
            .as_str()
            .map(|folder| Path::new(folder).join(WEBHOOK_SECRET_FILE));
        put(
            tree,
            "webhook.secret_file",
            file.and_then(|path| path.to_str().map(Value::from)).unwrap_or_default(),
        );
    }
}

/// Half a listener keeps the other half's source.
fn note_source(sources: &mut BTreeMap<String, Source>, setting: Setting) {
    let mut source = setting.source;
    if matches!(setting.change, Change::Host(_) | Change::Port(_))
        && let Some(before) = sources.get(&setting.key)
        && before.kind == source.kind
    {
        source.name = format!("{}, {}", before.name, source.name);
    }
    sources.insert(setting.key, source);
}

/// Puts one setting into the tree, if it fits there.
fn apply(setting: &Setting, defaults: &Value, tree: &mut Value) -> Result<(), Problem> {
    let mut first_error = None;
    for candidate in candidates(setting, tree, defaults) {
        let mut trial = defaults.clone();
        put(&mut trial, &setting.key, candidate.clone());
        match Config::from_tree(&trial) {
            Ok(_) => {
                put(tree, &setting.key, candidate);
                return Ok(());
            }
            Err(error) => {
                first_error.get_or_insert((candidate, error));
            }
        }
    }
    let (value, error) = first_error.unwrap_or((Value::Null, "expected a value".into()));
    let place = if setting.source.kind == super::setting::Origin::File {
        format!("{}: {}", setting.source, setting.key)
    } else {
        format!("{} (setting {})", setting.source, setting.key)
    };
    let message = format!("is {:?}, but must be {}", shown(&setting.key, &value), expected(&error));
    let default = shown(&setting.key, at(defaults, &setting.key));
    Err(Problem::new(place, message, format!("the default is {default}")))
}

/// What a setting may mean, likeliest first. Text has no type of its own: the first reading that the setting accepts is taken.
fn candidates(setting: &Setting, tree: &Value, defaults: &Value) -> Vec<Value> {
    let listen = || {
        at(tree, &setting.key)
            .as_str()
            .and_then(|text| text.parse().ok())
            .unwrap_or(Listen::Off)
    };
    let default_port = || match at(defaults, &setting.key).as_str().map(str::parse) {
        Some(Ok(Listen::At { port, .. })) => port,
        _ => 0,
    };
    match &setting.change {
        Change::Typed(value) => {
            let scaled = value.as_str().and_then(|text| scaled(&setting.key, text));
            scaled.into_iter().chain([value.clone()]).collect()
        }
        Change::Text(text) => readings(&setting.key, text),
        Change::Host(host) => vec![listen().with_host(host, default_port()).to_string().into()],
        Change::Port(port) => vec![listen().with_port(*port).to_string().into()],
    }
}

/// The readings of a text: number, size or duration, truth, text, list.
fn readings(key: &str, text: &str) -> Vec<Value> {
    let number = text
        .parse::<u64>()
        .map(Number::from)
        .or_else(|_| text.parse::<i64>().map(Number::from))
        .ok()
        .or_else(|| text.parse::<f64>().ok().and_then(Number::from_f64));
    let list = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    [
        number.map(Value::Number),
        scaled(key, text),
        environment::truth(text).map(Value::Bool),
        Some(Value::from(text)),
        Some(list.map(Value::from).collect()),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// `20s` where a key counts milliseconds or seconds, `8MiB` where it counts bytes.
fn scaled(key: &str, text: &str) -> Option<Value> {
    let name = key.rsplit('.').next().unwrap_or(key);
    let span = || humantime::parse_duration(text).ok();
    if name.ends_with("_ms") {
        return span()
            .and_then(|span| u64::try_from(span.as_millis()).ok())
            .map(Value::from);
    }
    if name.ends_with("_seconds") {
        return span().map(|span| span.as_secs().into());
    }
    if name.split('_').any(|word| word == "bytes") {
        return text.parse::<bytesize::ByteSize>().ok().map(|size| size.as_u64().into());
    }
    None
}

/// The part of the reader's error that says what would have been right, in words that users know.
fn expected(error: &str) -> String {
    let Some((_, expected)) = error.split_once("expected ") else {
        return error.into();
    };
    let expected = expected.trim_end_matches(|c: char| c.is_ascii_digit() || c.is_whitespace());
    match expected.trim_end_matches(" at line") {
        "u" | "usize" | "u8" | "u16" | "u32" | "u64" => "a whole number, 0 or more".into(),
        "i" | "isize" | "i32" | "i64" => "a whole number".into(),
        "f" | "f32" | "f64" => "a number".into(),
        "a boolean" => "true or false".into(),
        "a string" | "path string" => "text".into(),
        "a sequence" => "a list".into(),
        other => other.into(),
    }
}

/// The value under a dotted key; null where there is none.
fn at<'a>(tree: &'a Value, key: &str) -> &'a Value {
    key.split('.').fold(tree, |value, part| &value[part])
}

/// Sets the value under a dotted key.
fn put(tree: &mut Value, key: &str, value: Value) {
    let mut place = tree;
    for part in key.split('.') {
        place = &mut place[part];
    }
    *place = value;
}

/// All values that are not sections themselves, by dotted key.
pub(super) fn flatten(path: &str, value: &Value, out: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (key, value) in fields {
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                flatten(&path, value, out);
            }
        }
        other => {
            out.insert(path.into(), other.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_are_read_where_the_key_names_a_unit() {
        assert_eq!(scaled("router.ttl_max_ms", "20s"), Some(Value::from(20_000)));
        assert_eq!(scaled("webhook.timeout_seconds", "2m"), Some(Value::from(120)));
        assert_eq!(scaled("router.message_bytes_max", "1MiB"), Some(Value::from(1_048_576)));
        assert_eq!(scaled("router.max_deliver", "20s"), None);
        assert_eq!(scaled("router.ttl_max_ms", "soon"), None);
    }

    #[test]
    fn what_was_expected_is_said_in_words() {
        assert_eq!(
            expected("invalid type: string \"x\", expected u64"),
            "a whole number, 0 or more"
        );
        assert_eq!(
            expected("invalid type: string \"x\", expected a boolean"),
            "true or false"
        );
        assert_eq!(expected("\"x\" is not `host:port`"), "\"x\" is not `host:port`");
    }
}
