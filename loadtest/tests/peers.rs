//! The comparison's command line: what it refuses.

use std::process::{Command, Output};

fn peers(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .arg("peers")
        .args(arguments)
        // Nothing is on this path.
        .env("PATH", env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("the program runs")
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

#[test]
fn a_program_that_is_not_there_is_refused_before_anything_is_run() {
    let output = peers(&["--serve", "weft", "--program", "slimctl=/nowhere/slimctl"]);
    assert!(!output.status.success());
    assert!(
        said(&output).contains("there is no file /nowhere/slimctl"),
        "{}",
        said(&output)
    );
}

#[test]
fn a_goal_that_does_not_exist_is_refused_with_those_that_do() {
    let output = peers(&["--serve", "weft", "--goals", "P99"]);
    assert!(!output.status.success());
    let said = said(&output);
    assert!(said.contains("no goal P99") && said.contains("P12"), "{said}");
}
