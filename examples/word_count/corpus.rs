//! The texts, cut into tasks; and counting, which is what the workers do with them.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Largest task, in bytes of text: small enough that every worker gets many.
const TASK_BYTES_MAX: usize = 16 * 1024;

/// How often each word occurs.
pub type Counts = BTreeMap<String, u64>;

/// Words of a text: runs of letters and digits, in lower case.
pub fn count(text: &str) -> Counts {
    let mut counts = Counts::new();
    let words = text
        .split(|letter: char| !letter.is_alphanumeric())
        .filter(|word| !word.is_empty());
    for word in words {
        *counts.entry(word.to_lowercase()).or_default() += 1;
    }
    counts
}

/// Adds what another text has.
pub fn add(sum: &mut Counts, more: &Counts) {
    for (word, count) in more {
        *sum.entry(word.clone()).or_default() += count;
    }
}

/// The texts of these files and folders, in pieces. Where none of them exists, this project's own sources.
pub fn tasks(places: &[PathBuf], files_max: usize) -> Vec<String> {
    let mut files: Vec<PathBuf> = places
        .iter()
        .flat_map(|place| files_below(place))
        .take(files_max)
        .collect();
    if files.is_empty() {
        files = files_below(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    }
    let texts = files.iter().filter_map(|file| fs::read(file).ok());
    texts.flat_map(|text| pieces(&String::from_utf8_lossy(&text))).collect()
}

fn files_below(place: &Path) -> Vec<PathBuf> {
    if place.is_file() {
        return vec![place.to_owned()];
    }
    let entries = fs::read_dir(place).into_iter().flatten().filter_map(Result::ok);
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    // A link to a folder could lead around in a circle.
    let below = |path: &PathBuf| {
        if path.is_symlink() && path.is_dir() {
            vec![]
        } else {
            files_below(path)
        }
    };
    paths.iter().flat_map(below).collect()
}

/// Cuts between words, so that no word is cut in two.
fn pieces(text: &str) -> Vec<String> {
    let mut pieces = vec![String::new()];
    for line in text.split_inclusive(char::is_whitespace) {
        let last = pieces.last_mut().expect("there is a piece from the start");
        if last.len() + line.len() > TASK_BYTES_MAX && !last.is_empty() {
            pieces.push(line.to_owned());
        } else {
            last.push_str(line);
        }
    }
    pieces
}
