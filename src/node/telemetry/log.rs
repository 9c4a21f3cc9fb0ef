//! Logs: lines for people on a terminal, JSON for programs elsewhere, on standard error.
//!
//! Fields are values, never markup: control characters are escaped in both formats, and `<`, `>` and `&` in JSON, so that
//! a name taken from the network can neither steer a terminal nor a page that shows logs.

use std::io::{self, IsTerminal, Write};

use serde::{Deserialize, Serialize};
use tracing::Subscriber;
use tracing_subscriber::{EnvFilter, Layer, fmt, layer::SubscriberExt, registry::LookupSpan, util::SubscriberInitExt};

/// Settings of the logs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `error`, `warn`, `info`, `debug`, `trace`, or levels by module: `info,weft::router=debug`.
    pub level: String,
    pub format: Format,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            level: "info".into(),
            format: Format::Auto,
        }
    }
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `pretty` on a terminal, `json` elsewhere.
    Auto,
    Pretty,
    Json,
}

/// Starts logging to standard error. Later calls in one process change nothing.
pub fn start(config: &Config) -> Result<(), String> {
    let terminal = io::stderr().is_terminal();
    let filter = parse_level(&config.level)?;
    let layer = match (config.format, terminal) {
        (Format::Json, _) | (Format::Auto, false) => json(|| Escaping(io::stderr())),
        (Format::Pretty, _) | (Format::Auto, true) => {
            pretty(io::stderr, if terminal { Colour::On } else { Colour::Off })
        }
    };
    // Fails only where a subscriber is there already (tests in one process).
    let _already = tracing_subscriber::registry().with(filter).with(layer).try_init();
    Ok(())
}

/// The filter that a level names.
pub fn parse_level(level: &str) -> Result<EnvFilter, String> {
    EnvFilter::builder()
        .parse(level)
        .map_err(|error| format!("is {level:?}: {error}"))
}

#[derive(Clone, Copy)]
enum Colour {
    On,
    Off,
}

fn pretty<S, W>(writer: W, colour: Colour) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'w> fmt::MakeWriter<'w> + Send + Sync + 'static,
{
    fmt::layer()
        .with_writer(writer)
        .with_ansi(matches!(colour, Colour::On))
        .boxed()
}

fn json<S, W>(writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'w> fmt::MakeWriter<'w> + Send + Sync + 'static,
{
    fmt::layer()
        .json()
        .flatten_event(true)
        .with_span_list(false)
        .with_writer(writer)
        .boxed()
}

/// Writes JSON with the characters of markup as escapes. In JSON they stand only inside strings, so the meaning stays.
struct Escaping<W>(W);

impl<W: Write> Write for Escaping<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut escaped = Vec::with_capacity(bytes.len());
        for byte in bytes {
            match byte {
                b'<' => escaped.extend_from_slice(b"\\u003c"),
                b'>' => escaped.extend_from_slice(b"\\u003e"),
                b'&' => escaped.extend_from_slice(b"\\u0026"),
                other => escaped.push(*other),
            }
        }
        self.0.write_all(&escaped)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Page {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    const HOSTILE: &str = "\u{1b}[31m<script>alert(1)</script>\nERROR forged";

    #[test]
    fn a_json_line_carries_ids_as_fields_and_no_markup() {
        let page = Page::default();
        let writer = page.clone();
        let layer = json(move || Escaping(writer.clone()));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::info!(message_id = "msg_789", agent_id = HOSTILE, "accepted");
        });
        let text = page.text();
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(!text.contains(['<', '>', '\u{1b}']), "{text}");
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["message_id"], "msg_789");
        assert_eq!(line["agent_id"], HOSTILE);
        assert_eq!(line["message"], "accepted");
    }

    #[test]
    fn a_line_for_people_cannot_steer_their_terminal() {
        let page = Page::default();
        let writer = page.clone();
        let layer = pretty(move || writer.clone(), Colour::Off);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::info!(agent_id = HOSTILE, "accepted {HOSTILE}");
        });
        assert!(!page.text().contains('\u{1b}'), "{}", page.text());
    }

    #[test]
    fn a_level_that_is_none_is_refused() {
        assert!(parse_level("info,weft::router=debug").is_ok());
        assert!(parse_level("info,weft=loud").is_err());
    }
}
