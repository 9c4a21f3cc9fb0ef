//! README's quick start, run as it is printed there against a real node: a newcomer's first minutes must not fail.
//!
//! The section `## Quick start` holds pairs of blocks: `bash`, which is run, and right below it `json`, which is what it answers
//! (`…` stands for anything). All of them run in one shell, so what one block sets the next one has. Only the address is exchanged.

mod real_node;

use std::process::Command;

use real_node::{Listeners, RealNode};
use serde_json::Value;

/// Stands between the outputs of two blocks.
const MARK: &str = "--- next block ---";

/// A fenced block: its language and its text.
#[derive(Debug, PartialEq, Eq)]
struct Block {
    language: String,
    text: String,
}

/// The text between a heading and the next one of its level.
fn section<'a>(markdown: &'a str, heading: &str) -> &'a str {
    let start = markdown
        .find(heading)
        .unwrap_or_else(|| panic!("no section {heading:?}"));
    let rest = &markdown[start + heading.len()..];
    rest.find("\n## ").map_or(rest, |end| &rest[..end])
}

fn blocks(markdown: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut lines = markdown.lines();
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let text: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            let (language, text) = (language.to_owned(), text.join("\n"));
            found.push(Block { language, text });
        }
    }
    found
}

/// Whether an answer is what the page shows: the same keys and values, where `…` in a text stands for anything.
fn matches(shown: &Value, answer: &Value) -> bool {
    match (shown, answer) {
        (Value::String(shown), _) if shown == "…" => true,
        (Value::String(shown), Value::String(answer)) => match shown.strip_suffix('…') {
            Some(start) => answer.starts_with(start),
            None => shown == answer,
        },
        (Value::Array(shown), Value::Array(answer)) => {
            shown.len() == answer.len() && shown.iter().zip(answer).all(|(shown, answer)| matches(shown, answer))
        }
        (Value::Object(shown), Value::Object(answer)) => {
            let same = |(key, shown): (&String, &Value)| answer.get(key).is_some_and(|answer| matches(shown, answer));
            shown.len() == answer.len() && shown.iter().all(same)
        }
        _ => shown == answer,
    }
}

#[test]
fn the_quick_start_does_what_it_says() {
    let page = include_str!("../README.md");
    let blocks: Vec<Block> = blocks(section(page, "\n## Quick start\n"))
        .into_iter()
        .filter(|block| matches!(block.language.as_str(), "bash" | "json"))
        .collect();
    let languages: Vec<&str> = blocks.iter().map(|block| block.language.as_str()).collect();
    assert!(
        blocks.len() >= 12 && languages.chunks(2).all(|pair| pair == ["bash", "json"]),
        "{languages:?}"
    );

    let folder = tempfile::tempdir().expect("the system has a temporary folder");
    let node = RealNode::start(&folder.path().join("data"), Listeners::free());
    let commands = blocks
        .chunks(2)
        .map(|pair| format!("{}\necho; echo '{MARK}'\n", pair[0].text));
    let script = commands
        .collect::<String>()
        .replace("localhost:8000", &node.listeners.http.to_string());
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", &script])
        .output()
        .expect("bash is installed");
    let shown = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "the shell ended with {}\n{complaint}\n{shown}",
        output.status
    );

    for (pair, answer) in blocks.chunks(2).zip(shown.split(MARK)) {
        let (command, expected) = (&pair[0].text, &pair[1].text);
        let expected: Value = serde_json::from_str(expected).unwrap_or_else(|error| panic!("{error}: {expected}"));
        let answer: Value = serde_json::from_str(answer).unwrap_or_else(|error| panic!("{command}\n{error}: {answer}"));
        assert!(
            matches(&expected, &answer),
            "{command}\nREADME shows {expected}\nthe node says {answer}"
        );
    }
}

#[test]
fn a_block_that_shows_something_else_does_not_match() {
    let value = |text: &str| serde_json::from_str::<Value>(text).expect("the test's own JSON");
    let shown = value(r#"{"id": "reg_…", "status": "registered", "list": [1, "…"]}"#);
    assert!(matches(
        &shown,
        &value(r#"{"status": "registered", "id": "reg_1", "list": [1, {"a": 2}]}"#)
    ));
    for other in [
        r#"{"status": "registered", "id": "other", "list": [1, 2]}"#,
        r#"{"status": "gone", "id": "reg_1", "list": [1, 2]}"#,
        r#"{"status": "registered", "id": "reg_1", "list": [1, 2], "more": 1}"#,
        r#"{"status": "registered", "id": "reg_1"}"#,
        r#"{"status": "registered", "id": "reg_1", "list": [1]}"#,
    ] {
        assert!(!matches(&shown, &value(other)), "{other}");
    }
}

#[test]
fn blocks_are_found_in_their_section_only() {
    let page = "\n## One\n```bash\nx\n```\n\n## Two\n```bash\na\nb\n```\n```json\n{}\n```\n";
    let block = |language: &str, text: &str| Block {
        language: language.into(),
        text: text.into(),
    };
    assert_eq!(
        blocks(section(page, "\n## Two\n")),
        [block("bash", "a\nb"), block("json", "{}")]
    );
}
