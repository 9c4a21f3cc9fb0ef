//! The house's shape, kept by a test: reads the sources and fails on an import that breaks the layers of `ARCHITECTURE.md`.
//!
//! Owns the table of rooms (which module may name which), the crates that may only be named in certain rooms, and the checks of
//! style that clippy has no lint for. Each rule has a planted violation below it that must be caught.
//! Start at [`ROOMS`]; `layers/source.rs` says what a file names.

#[path = "layers/source.rs"]
mod source;

use std::{collections::BTreeSet, fs, path::Path};

use source::{Named, Runs, Source, read};
use walkdir::WalkDir;

/// A module that owns something, and the other rooms that it may name. `time` may be named from everywhere.
struct Room {
    name: &'static str,
    may_name: &'static [&'static str],
}

const fn room(name: &'static str, may_name: &'static [&'static str]) -> Room {
    Room { name, may_name }
}

/// What an edge stands on: the door, what lies below it, and the JSON shapes that the text protocols share.
const EDGE_FLOOR: &[&str] = &["frame", "queue", "delivery", "router", "edge", "edge::json"];

/// The rooms, lowest layer first. A room may name those listed with it and itself, nothing else.
const ROOMS: &[Room] = &[
    room("time", &[]),
    room("frame", &[]),
    room("queue", &["frame"]),
    room("delivery", &["frame", "queue"]),
    room("mqtt", &["frame"]),
    room("router", &["frame", "queue", "delivery"]),
    room("store", &["frame", "queue", "delivery", "router"]),
    room("rpc", &["frame"]),
    room("native", &["frame"]),
    room("edge", &["frame", "queue", "delivery", "router"]),
    room("edge::json", &["frame", "queue", "delivery", "router", "edge"]),
    room("edge::http", EDGE_FLOOR),
    room("edge::websocket", EDGE_FLOOR),
    room("edge::webhook", EDGE_FLOOR),
    room("edge::grpc", &["frame", "queue", "delivery", "router", "edge", "rpc"]),
    room(
        "edge::quic",
        &["frame", "queue", "delivery", "router", "edge", "native"],
    ),
    room("edge::mqtt", &["frame", "queue", "delivery", "router", "edge", "mqtt"]),
    room("client", &["frame", "rpc", "native"]),
    room(
        "node",
        &[
            "frame",
            "queue",
            "router",
            "store",
            "edge",
            "edge::json",
            "edge::http",
            "edge::websocket",
            "edge::webhook",
            "edge::grpc",
            "edge::quic",
            "edge::mqtt",
            "native",
        ],
    ),
    room("cli", &["frame", "router", "client", "node"]),
    // main.rs and lib.rs: they open the rooms and live in none.
    room("", &["client", "node", "cli"]),
];

/// Crates that only some rooms may name in the program (their tests may use what they like).
struct Fenced {
    crates: &'static [&'static str],
    only_in: &'static [&'static str],
    why: &'static str,
}

const FENCED: &[Fenced] = &[
    Fenced {
        crates: &[
            "tonic",
            "tonic_health",
            "tonic_prost",
            "tonic_reflection",
            "tonic_types",
            "prost",
            "prost_types",
        ],
        only_in: &["rpc", "edge::grpc", "client", "node"],
        why: "protobuf types stay at the gRPC edge and in the client",
    },
    Fenced {
        crates: &[
            "axum",
            "hyper",
            "http_body_util",
            "tower_http",
            "utoipa",
            "utoipa_swagger_ui",
        ],
        only_in: &[
            "edge",
            "edge::json",
            "edge::http",
            "edge::websocket",
            "edge::webhook",
            "node",
            "cli",
        ],
        why: "HTTP types stay at the HTTP edges",
    },
    Fenced {
        crates: &["tungstenite", "flate2"],
        only_in: &["edge::websocket"],
        why: "frames of RFC 6455 and their compression stay at the WebSocket edge",
    },
    Fenced {
        crates: &["mqtt_protocol_core"],
        only_in: &["mqtt"],
        why: "edges and the client speak of MQTT packets by the house's own types",
    },
    Fenced {
        crates: &["hyper_util"],
        only_in: &["edge::http", "edge::websocket", "edge::webhook", "client"],
        why: "HTTP types stay at the HTTP edges; the client wraps a stream for its calls in one",
    },
    Fenced {
        crates: &["redis", "sqlx", "redb"],
        only_in: &["store"],
        why: "only a store knows how it stores",
    },
    Fenced {
        crates: &["quinn"],
        only_in: &["native", "edge::quic", "client"],
        why: "QUIC types stay at its edge, in links and in the client",
    },
    Fenced {
        crates: &[
            "metrics",
            "metrics_exporter_prometheus",
            "metrics_process",
            "opentelemetry",
        ],
        only_in: &["node"],
        why: "inner layers hold plain counters",
    },
    Fenced {
        crates: &["clap", "clap_complete", "comfy_table"],
        only_in: &["node", "cli", ""],
        why: "the command line is the outermost layer",
    },
];

/// What the pure layers may not name: they take `now` and a seed, and do no I/O.
const PURE: &[&str] = &["frame", "queue", "delivery", "mqtt"];
const IMPURE: &[&str] = &[
    "tokio",
    "tokio_util",
    "tokio_stream",
    "rand",
    "getrandom",
    "rustix",
    "socket2",
    "std::fs",
    "std::net",
    "std::process",
    "std::env",
    "std::thread",
    "crate::time::now",
    "crate::time::monotonic",
];

/// What a pure layer may name all the same.
const PURE_EXCEPTIONS: &[(&str, &str, &str)] = &[(
    "queue",
    "std::thread",
    "a worker that has no runtime sleeps by parking its thread",
)];

/// Longest file, in lines, before it should be split at its second noun.
const FILE_LINES_MAX: usize = 800;
/// Files that are longer for a reason, said here.
const LONG_FILES: &[(&str, &str)] = &[];
/// Names of modules that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &["utils", "util", "helpers", "common", "misc"];

/// The room that a module of the crate belongs to, with edges told apart; `None` where the table has no such room.
fn room_of(module: &[String]) -> Option<&'static Room> {
    let first = module.first().map_or("", String::as_str);
    let edge = module.get(1).map(|second| format!("{first}::{second}"));
    let named = |name: &str| ROOMS.iter().find(|room| room.name == name);
    edge.and_then(|edge| named(&edge)).or_else(|| named(first))
}

/// All that breaks a rule in these files, one line each.
fn violations(sources: &[Source]) -> Vec<String> {
    let test_modules: Vec<&Vec<String>> = sources.iter().flat_map(|source| &source.test_modules).collect();
    let mut found = Vec::new();
    for source in sources {
        let all_tests = test_modules.iter().any(|module| source.module.starts_with(module));
        check_style(source, all_tests, &mut found);
        let Some(room) = room_of(&source.module) else {
            found.push(format!(
                "{}: no room of that name: add it to ROOMS in tests/layers.rs",
                source.file
            ));
            continue;
        };
        for named in &source.names {
            let runs = if all_tests { Runs::InTests } else { named.runs };
            if let Some(why) = broken_rule(room, named, runs) {
                found.push(format!(
                    "{}:{}: {}: {why}",
                    source.file,
                    named.line,
                    named.path.join("::")
                ));
            }
        }
    }
    found
}

/// The rule that naming this breaks in this room, if one is broken.
fn broken_rule(room: &Room, named: &Named, runs: Runs) -> Option<String> {
    if named.path[0] == "crate"
        && let Some(why) = broken_layer(room, &named.path[1..])
    {
        return Some(why);
    }
    if runs == Runs::InTests {
        return None;
    }
    if reads_clock(&named.path) && room.name != "time" {
        return Some("only time.rs reads the clock".into());
    }
    if PURE.contains(&room.name) {
        let text = named.path.join("::");
        let excepted = |name: &str| {
            PURE_EXCEPTIONS
                .iter()
                .any(|(room_name, crate_name, _)| *room_name == room.name && *crate_name == name)
        };
        let impure = |name: &&&str| (text == **name || text.starts_with(&format!("{name}::"))) && !excepted(name);
        if let Some(name) = IMPURE.iter().find(impure) {
            return Some(format!("`{}` is pure and may not name {name}", room.name));
        }
    }
    let fence = FENCED
        .iter()
        .find(|fence| fence.crates.contains(&named.path[0].as_str()))?;
    (!fence.only_in.contains(&room.name)).then(|| format!("`{}` may not name this crate: {}", room.name, fence.why))
}

fn broken_layer(room: &Room, module: &[String]) -> Option<String> {
    // `crate` alone is a visibility.
    module.first()?;
    let Some(other) = room_of(module) else {
        return Some("no room of that name: add it to ROOMS in tests/layers.rs".into());
    };
    let allowed = other.name == "time" || other.name == room.name || room.may_name.contains(&other.name);
    (!allowed).then(|| format!("`{}` may not name `{}`", room.name, other.name))
}

fn reads_clock(path: &[String]) -> bool {
    let ends = |ty: &str| path.ends_with(&[ty.to_owned(), "now".to_owned()]);
    ends("Instant") || ends("SystemTime")
}

fn check_style(source: &Source, all_tests: bool, found: &mut Vec<String>) {
    let file = &source.file;
    let long = source.lines > FILE_LINES_MAX && !LONG_FILES.iter().any(|(name, _)| name == file);
    if long {
        let lines = source.lines;
        found.push(format!("{file}: {lines} lines, above {FILE_LINES_MAX}: split it at its second noun, or name the reason in LONG_FILES"));
    }
    if !source.has_doc && !all_tests && file != "src/main.rs" {
        found.push(format!(
            "{file}: has no module doc (`//!`): what it owns, what it must never know, where to start"
        ));
    }
    if source.module.iter().any(|part| EMPTY_NAMES.contains(&part.as_str())) {
        found.push(format!("{file}: a module's name is a noun that says what is inside"));
    }
    for call in &source.macros {
        if matches!(call.path[0].as_str(), "todo" | "unimplemented") {
            found.push(format!("{file}:{}: {}! is left open", call.line, call.path[0]));
        }
    }
    for call in source
        .bare_calls
        .iter()
        .filter(|call| !all_tests && call.runs == Runs::Always)
    {
        match call.path[0].as_str() {
            "unwrap" => found.push(format!(
                "{file}:{}: unwrap() does not say its invariant: use expect()",
                call.line
            )),
            "elapsed" if file != "src/time.rs" => {
                found.push(format!("{file}:{}: elapsed() reads the clock: take `now`", call.line));
            }
            _ => {}
        }
    }
}

fn sources_of(package: &Path) -> Vec<Source> {
    let files = WalkDir::new(package.join("src")).sort_by_file_name();
    let read_file = |path: &Path| {
        let below = path.strip_prefix(package).expect("walked below the package");
        let text = fs::read_to_string(path).expect("a source file is readable UTF-8");
        read(&below.to_string_lossy().replace('\\', "/"), &text).expect("the sources compile, so they parse")
    };
    let entries = files
        .into_iter()
        .map(|entry| entry.expect("the source folder is readable"));
    let is_source = |path: &Path| path.extension().is_some_and(|extension| extension == "rs");
    entries
        .filter(|entry| is_source(entry.path()))
        .map(|entry| read_file(entry.path()))
        .collect()
}

#[test]
fn every_import_keeps_to_the_layers_and_every_file_to_the_style() {
    let sources = sources_of(Path::new(env!("CARGO_MANIFEST_DIR")));
    assert!(sources.len() > 10, "found only {} source files", sources.len());
    let found = violations(&sources);
    assert!(found.is_empty(), "{} violations:\n{}", found.len(), found.join("\n"));
}

#[test]
fn every_room_of_the_table_exists_and_every_exception_is_needed() {
    let sources = sources_of(Path::new(env!("CARGO_MANIFEST_DIR")));
    let lived_in: BTreeSet<&str> = sources
        .iter()
        .filter_map(|source| room_of(&source.module))
        .map(|room| room.name)
        .collect();
    let empty: Vec<&str> = ROOMS
        .iter()
        .map(|room| room.name)
        .filter(|name| !lived_in.contains(name))
        .collect();
    assert!(empty.is_empty(), "rooms without a source file: {empty:?}");
    for (file, reason) in LONG_FILES {
        let needed = sources
            .iter()
            .any(|source| source.file == *file && source.lines > FILE_LINES_MAX);
        assert!(
            needed,
            "{file} is not above {FILE_LINES_MAX} lines any more: take it out of LONG_FILES ({reason})"
        );
    }
}

#[test]
fn a_room_names_only_rooms_that_stand_above_it_in_the_table() {
    for (index, room) in ROOMS.iter().enumerate() {
        for name in room.may_name {
            let other = ROOMS.iter().position(|other| other.name == *name);
            assert!(
                other.is_some_and(|other| other < index) || room.name.is_empty(),
                "`{}` names `{name}`",
                room.name
            );
        }
    }
}

#[test]
fn the_load_test_reaches_the_fabric_through_its_client_alone() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("loadtest");
    let outside = ["client", "frame", "time"];
    for source in sources_of(&package) {
        for named in source.names.iter().filter(|named| named.path[0] == "weft") {
            let ok = named.path.get(1).is_none_or(|room| outside.contains(&room.as_str()));
            assert!(
                ok,
                "loadtest/{}:{}: {} is inside the fabric",
                source.file,
                named.line,
                named.path.join("::")
            );
        }
    }
}

/// The dependencies that a section of the manifest names, as the code spells them.
fn dependencies_of(manifest: &str, section: &str) -> Vec<String> {
    let lines = manifest.lines().skip_while(|line| line.trim() != section).skip(1);
    let entries = lines.take_while(|line| !line.starts_with('['));
    let name = |line: &str| line.split_once('=').map(|(name, _)| name.trim().replace('-', "_"));
    entries.filter(|line| !line.starts_with('#')).filter_map(name).collect()
}

/// Dependencies that no source names, each with what it is there for.
const UNNAMED_DEPENDENCIES: &[(&str, &str)] = &[];

#[test]
fn every_dependency_is_named_by_some_source() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = fs::read_to_string(package.join("Cargo.toml")).expect("the package has a manifest");
    let sources = sources_of(package);
    let named: BTreeSet<&str> = sources
        .iter()
        .flat_map(|source| &source.names)
        .map(|named| named.path[0].as_str())
        .collect();
    let dependencies = dependencies_of(&manifest, "[dependencies]");
    assert!(dependencies.len() > 20, "found only {dependencies:?}");
    let excused = |name: &str| UNNAMED_DEPENDENCIES.iter().any(|(excused, _)| *excused == name);
    let unused: Vec<&String> = dependencies
        .iter()
        .filter(|name| !named.contains(name.as_str()) && !excused(name))
        .collect();
    assert!(
        unused.is_empty(),
        "nothing in src/ names these dependencies: {unused:?}"
    );
    for (name, reason) in UNNAMED_DEPENDENCIES {
        assert!(
            !named.contains(name),
            "{name} is named now: take it out of UNNAMED_DEPENDENCIES ({reason})"
        );
    }
}

// --- planted violations: each must be caught, by the line that says why -----------------------------------------------

/// The violations of one planted file, with a module doc in front so that only the planted fault counts.
fn planted(file: &str, code: &str) -> Vec<String> {
    let text = format!("//! Planted.\n{code}\n");
    violations(&[read(file, &text).expect("planted code parses")])
}

#[track_caller]
fn assert_caught(file: &str, code: &str, why: &str) {
    let found = planted(file, code);
    assert!(found.len() == 1 && found[0].contains(why), "{file}: {code}: {found:?}");
}

#[track_caller]
fn assert_clean(file: &str, code: &str) {
    let found = planted(file, code);
    assert!(found.is_empty(), "{file}: {code}: {found:?}");
}

#[test]
fn upward_and_sideways_imports_are_caught_in_every_spelling() {
    assert_caught(
        "src/frame/wire.rs",
        "use crate::router::Fabric;",
        "`frame` may not name `router`",
    );
    assert_caught(
        "src/queue/mod.rs",
        "use super::delivery::Lease;",
        "`queue` may not name `delivery`",
    );
    assert_caught(
        "src/delivery/step.rs",
        "use super::super::router::Fabric;",
        "`delivery` may not name `router`",
    );
    assert_caught(
        "src/delivery/mod.rs",
        "fn f() { crate::store::step(); }",
        "`delivery` may not name `store`",
    );
    assert_caught(
        "src/store/log.rs",
        "use crate::{frame::Frame, edge::http::Problem};",
        "`store` may not name `edge::http`",
    );
    assert_caught(
        "src/router/fabric.rs",
        "use crate::store as kept;",
        "`router` may not name `store`",
    );
    assert_caught(
        "src/router/fabric.rs",
        "type S = dyn crate::store::Log;",
        "`router` may not name `store`",
    );
    assert_caught(
        "src/router/fabric.rs",
        "fn f() { assert!(crate::store::open()); }",
        "`router` may not name `store`",
    );
    assert_caught(
        "src/frame/id.rs",
        "#[serde(with = \"crate::edge::json::id\")] struct Id;",
        "`frame` may not name `edge::json`",
    );
    assert_caught(
        "src/client/mod.rs",
        "mod inner { use super::super::router::Fabric; }",
        "`client` may not name `router`",
    );
    assert_caught(
        "src/client/mod.rs",
        "macro_rules! m { () => { $crate::edge::grpc::serve() } }",
        "`client` may not name `edge::grpc`",
    );
    assert_caught("src/node/mod.rs", "use crate::cli::run;", "`node` may not name `cli`");
}

#[test]
fn edges_name_neither_each_other_nor_stores() {
    assert_caught(
        "src/edge/http/mod.rs",
        "use crate::edge::websocket::upgrade;",
        "`edge::http` may not name `edge::websocket`",
    );
    assert_caught(
        "src/edge/websocket/session.rs",
        "use super::super::http::Problem;",
        "may not name `edge::http`",
    );
    assert_caught(
        "src/edge/webhook.rs",
        "use super::http::Problem;",
        "`edge::webhook` may not name `edge::http`",
    );
    assert_caught(
        "src/edge/grpc/publish.rs",
        "use crate::store::Embedded;",
        "`edge::grpc` may not name `store`",
    );
    assert_caught(
        "src/edge/http/send.rs",
        "use crate::rpc::v1::SendRequest;",
        "`edge::http` may not name `rpc`",
    );
    assert_caught(
        "src/edge/json/mod.rs",
        "use super::http::Problem;",
        "`edge::json` may not name `edge::http`",
    );
    assert_clean("src/edge/websocket/mod.rs", "use crate::edge::json::Problem;");
    assert_clean(
        "src/edge/grpc/publish.rs",
        "use crate::{rpc::v1::SendRequest, router::Fabric}; use tonic::Status;",
    );
}

#[test]
fn a_name_brought_by_an_import_is_followed() {
    let code = "use crate::edge; fn f() { edge::http::serve(); }";
    let found = planted("src/edge/grpc/mod.rs", code);
    assert!(
        found.len() == 1 && found[0].contains("`edge::grpc` may not name `edge::http`"),
        "{found:?}"
    );
    assert_caught(
        "src/edge/mod.rs",
        "pub mod http; fn f() { http::serve(); }",
        "`edge` may not name `edge::http`",
    );
}

#[test]
fn protocol_and_store_crates_are_kept_out_of_the_inner_layers() {
    assert_caught(
        "src/router/error.rs",
        "use tonic::Status;",
        "`router` may not name this crate",
    );
    assert_caught(
        "src/delivery/mod.rs",
        "fn f(_: &axum::body::Body) {}",
        "`delivery` may not name this crate",
    );
    assert_caught(
        "src/router/link.rs",
        "use quinn::Connection;",
        "`router` may not name this crate",
    );
    assert_caught(
        "src/router/link.rs",
        "use redis::aio;",
        "`router` may not name this crate",
    );
    assert_caught(
        "src/router/mod.rs",
        "fn f() { tokio::select! { _ = hyper::rt::tick() => {} } }",
        "`router` may not name this crate",
    );
    assert_caught(
        "src/frame/wire.rs",
        "impl prost::Message for Frame {}",
        "`frame` may not name this crate",
    );
    assert_caught(
        "src/store/mod.rs",
        "fn f() { metrics::counter!(\"x\"); }",
        "`store` may not name this crate",
    );
}

#[test]
fn the_pure_layers_have_no_runtime_no_files_and_no_clock() {
    assert_caught(
        "src/queue/lanes.rs",
        "use tokio::sync::Notify;",
        "`queue` is pure and may not name tokio",
    );
    assert_caught(
        "src/delivery/mod.rs",
        "fn f() { std::fs::read(\"x\"); }",
        "`delivery` is pure and may not name std::fs",
    );
    assert_caught(
        "src/delivery/mod.rs",
        "fn f() { crate::time::now(); }",
        "`delivery` is pure and may not name crate::time::now",
    );
    assert_caught(
        "src/delivery/mod.rs",
        "use crate::time; fn f() { time::monotonic(); }",
        "`delivery` is pure",
    );
    assert_caught(
        "src/delivery/mod.rs",
        "use rand::Rng;",
        "`delivery` is pure and may not name rand",
    );
    assert_caught(
        "src/delivery/mod.rs",
        "use std::thread;",
        "`delivery` is pure and may not name std::thread",
    );
    assert_clean("src/queue/parker.rs", "use std::thread::Thread;");
    assert_clean("src/delivery/mod.rs", "use crate::time::Timestamp;");
    assert_clean(
        "src/queue/lanes.rs",
        "#[cfg(test)] mod tests { use tokio::sync::Notify; }",
    );
    assert_clean(
        "src/queue/lanes.rs",
        "#[cfg(all(test, not(loom)))] mod tests { use std::thread; }",
    );
    assert_caught(
        "src/queue/lanes.rs",
        "#[cfg(not(test))] mod real { use tokio::sync::Notify; }",
        "`queue` is pure",
    );
}

#[test]
fn only_time_reads_the_clock() {
    let why = "only time.rs reads the clock";
    assert_caught("src/router/worker.rs", "fn f() { std::time::Instant::now(); }", why);
    assert_caught(
        "src/router/worker.rs",
        "use std::time::Instant; fn f() { Instant::now(); }",
        why,
    );
    assert_caught("src/edge/http/mod.rs", "fn f() { tokio::time::Instant::now(); }", why);
    assert_caught(
        "src/node/mod.rs",
        "fn f() { println!(\"{:?}\", std::time::SystemTime::now()); }",
        why,
    );
    assert_caught(
        "src/node/mod.rs",
        "fn f(start: std::time::Instant) { start.elapsed(); }",
        "elapsed() reads the clock",
    );
    assert_clean(
        "src/time.rs",
        "use std::time::Instant; pub fn monotonic() -> Instant { Instant::now() }",
    );
}

#[test]
fn a_module_that_another_file_declares_for_tests_counts_as_tests() {
    let parent = read("src/queue/mod.rs", "//! Planted.\n#[cfg(test)]\nmod model;\n").expect("planted code parses");
    let child = read("src/queue/model.rs", "//! Planted.\nuse tokio::sync::Notify;\n").expect("planted code parses");
    assert_eq!(violations(&[parent, child]), Vec::<String>::new());
}

#[test]
fn breaches_of_style_are_caught() {
    let long = "fn f() {}\n".repeat(FILE_LINES_MAX);
    assert_caught("src/frame/long.rs", &long, "above 800");
    assert_caught("src/frame/open.rs", "fn f() { todo!() }", "todo! is left open");
    assert_caught(
        "src/frame/open.rs",
        "#[cfg(test)] mod tests { fn f() { unimplemented!() } }",
        "unimplemented! is left open",
    );
    assert_caught(
        "src/frame/open.rs",
        "fn f(x: Option<u8>) { x.unwrap(); }",
        "does not say its invariant",
    );
    assert_clean(
        "src/frame/open.rs",
        "#[cfg(test)] mod tests { fn f(x: Option<u8>) { x.unwrap(); } }",
    );
    assert_caught("src/frame/utils.rs", "", "a noun that says what is inside");
    assert_caught("src/pocket/mod.rs", "", "no room of that name");
    assert_caught("src/node/mod.rs", "use crate::pocket::X;", "no room of that name");
    let undocumented = read("src/frame/bare.rs", "fn f() {}\n").expect("planted code parses");
    assert!(violations(&[undocumented])[0].contains("has no module doc"));
}
