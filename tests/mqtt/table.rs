//! The table of normative statements (`statements.tsv`): complete, and true about its tests.

use std::collections::BTreeSet;

const TABLE: &str = include_str!("statements.tsv");
/// Modules that show statements.
const SOURCES: [(&str, &str); 13] = [
    ("attack", include_str!("attack.rs")),
    ("connect", include_str!("connect.rs")),
    ("delivery", include_str!("delivery.rs")),
    ("long", include_str!("long.rs")),
    ("properties", include_str!("properties.rs")),
    ("publish", include_str!("publish.rs")),
    ("retain", include_str!("retain.rs")),
    ("session", include_str!("session.rs")),
    ("share", include_str!("share.rs")),
    ("strings", include_str!("strings.rs")),
    ("subscribe", include_str!("subscribe.rs")),
    ("web", include_str!("web.rs")),
    ("will", include_str!("will.rs")),
];
/// Why a statement has no test: it speaks of clients alone, of what this server does not do, of what no test can bring about, or
/// nobody wrote it yet.
const REASONS: [&str; 4] = ["client", "optional", "untestable", "left"];
/// The sections of MQTT 5 that have numbered statements, with how many; 2.2.1-1 was never given.
const V5: &str = "1.5.4:3 1.5.5:1 1.5.7:1 2.1.3:1 2.2.1:6 2.2.2:1 3.1.0:2 3.1.2:30 3.1.3:12 3.1.4:6 3.2.0:2 3.2.2:22 3.3.1:13 3.3.2:20 \
    3.3.4:10 3.4.2:3 3.5.2:3 3.6.1:1 3.6.2:3 3.7.2:3 3.8.1:1 3.8.3:5 3.8.4:8 3.9.2:2 3.9.3:2 3.10.1:1 3.10.3:2 3.10.4:6 3.11.2:2 \
    3.11.3:2 3.12.4:1 3.14.0:1 3.14.1:1 3.14.2:4 3.14.4:3 3.15.1:1 3.15.2:3 4.1.0:2 4.2.0:1 4.3.1:1 4.3.2:5 4.3.3:13 4.4.0:2 4.5.0:2 \
    4.6.0:6 4.7.0:1 4.7.1:2 4.7.2:1 4.7.3:4 4.8.2:6 4.9.0:3 4.12.0:7 4.12.1:2 4.13.1:1 4.13.2:1 6.0.0:4";
/// Those of MQTT 3.1.1.
const V3: &str = "1.5.3:3 2.2.2:2 2.3.1:7 3.1.0:2 3.1.2:24 3.1.3:11 3.1.4:5 3.2.0:1 3.2.2:6 3.3.1:12 3.3.2:3 3.3.4:1 3.3.5:2 3.6.1:1 \
    3.8.1:1 3.8.3:3 3.8.4:6 3.9.3:2 3.10.1:1 3.10.3:2 3.10.4:6 3.12.4:1 3.14.1:1 3.14.4:3 4.1.0:2 4.3.1:1 4.3.2:2 4.3.3:2 4.4.0:1 \
    4.5.0:2 4.6.0:6 4.7.1:3 4.7.2:1 4.7.3:4 4.8.0:2 6.0.0:4 7.0.0:2 7.1.1:1 7.1.2:1";

/// Version, number and tests of each row.
fn rows() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    TABLE.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let fields: Vec<_> = line.split('\t').collect();
        assert_eq!(fields.len(), 4, "{line}");
        (fields[0], fields[1], fields[3])
    })
}

#[test]
fn every_statement_is_listed_once() {
    let mut known = BTreeSet::new();
    for (version, sections) in [("5.0", V5), ("3.1.1", V3)] {
        for section in sections.split_whitespace() {
            let (section, count) = section.split_once(':').expect("section:count");
            let count: u32 = count.parse().expect("a count");
            let numbers = (1..=count).filter(|number| (version, section, *number) != ("5.0", "2.2.1", 1));
            known.extend(numbers.map(|number| (version, format!("MQTT-{section}-{number}"))));
        }
    }
    let listed: Vec<_> = rows()
        .map(|(version, number, _)| (version, number.to_owned()))
        .collect();
    assert_eq!(listed.len(), known.len(), "a statement is listed twice, or is missing");
    assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), known);
}

#[test]
fn every_named_test_exists() {
    for (_, number, tests) in rows() {
        for test in tests.split_whitespace().filter(|test| !REASONS.contains(test)) {
            let (module, name) = test
                .split_once("::")
                .unwrap_or_else(|| panic!("{number}: {test} is neither a test nor a reason"));
            let source = SOURCES
                .iter()
                .find(|(known, _)| *known == module)
                .unwrap_or_else(|| panic!("{number}: no module {module}"))
                .1;
            assert!(
                source.contains(&format!("#[test]\nfn {name}() {{")),
                "{number}: no test {test}"
            );
        }
    }
}
