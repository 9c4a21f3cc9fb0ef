//! The table of normative statements: complete, and true about its tests.

use std::collections::BTreeSet;

const TABLE: &str = include_str!("statements.tsv");
/// What shows a statement, in this folder and beside it.
const SOURCES: [&str; 17] = [
    include_str!("attack.rs"),
    include_str!("connect.rs"),
    include_str!("delivery.rs"),
    include_str!("properties.rs"),
    include_str!("publish.rs"),
    include_str!("retain.rs"),
    include_str!("session.rs"),
    include_str!("share.rs"),
    include_str!("strings.rs"),
    include_str!("subscribe.rs"),
    include_str!("web.rs"),
    include_str!("will.rs"),
    "",
    "",
    "",
    "",
    "",
];
/// Why a statement has no test.
const REASONS: [&str; 4] = ["client", "untestable", "optional", "left"];
/// Sections of each specification and how many statements each has; a number that is never given is in `GAPS`.
const SECTIONS: [(&str, &[(&str, u32)]); 2] = [("3.1.1", &V3), ("5.0", &V5)];
