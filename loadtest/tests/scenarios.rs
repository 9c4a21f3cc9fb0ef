//! Every scenario over every protocol that it has, for a tiny count, against a real node: they end, and nothing is wrong.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
    time::Duration,
};

use loadtest::{
    node::{Node, Serve},
    plan::{Load, Plan, Protocol, Quality, Scenario},
    progress::Progress,
    report::{Report, Run, Verdict},
    scenario, sweep,
};

const PROTOCOLS: [Protocol; 4] = [Protocol::Grpc, Protocol::Websocket, Protocol::Http, Protocol::Mqtt];

/// The `weft` binary beside this test: built by whoever builds the workspace, else now.
static WEFT: LazyLock<PathBuf> = LazyLock::new(|| {
    let test = std::env::current_exe().expect("a test is a file");
    let profile = test.parent().and_then(Path::parent).expect("tests lie in PROFILE/deps");
    let name = match profile.file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        other => other.expect("profiles have names"),
    };
    let built = Command::new(env!("CARGO"))
        .args([
            "build",
            "--quiet",
            "--locked",
            "--package",
            "weft",
            "--bin",
            "weft",
            "--profile",
            name,
        ])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .status();
    assert!(built.expect("cargo runs").success(), "weft is built");
    profile.join("weft")
});

fn node() -> Node {
    let serve = Serve {
        protocols: PROTOCOLS.into(),
        ..Serve::new(&WEFT)
    };
    Node::serve(&serve).expect("a node starts")
}

/// A plan of a few hundred messages.
fn tiny(scenario: Scenario, protocol: Protocol) -> Plan {
    let mut plan = Plan::new(scenario, protocol);
    plan.bounds.warm_up = Duration::ZERO;
    plan.bounds.time = Duration::from_secs(20);
    plan.bounds.messages = 300;
    plan.agents = 3;
    plan
}

async fn run(node: &Node, plan: &Plan) -> Run {
    let run = scenario::run(node, plan, &Progress::silent()).await;
    run.unwrap_or_else(|error| panic!("{}: {error}", plan.title()))
}

fn assert_all_arrived(run: &Run) {
    assert_eq!(
        run.verdict(),
        Verdict::Clean,
        "{}: {:?} {:?}",
        run.title,
        run.findings,
        run.errors
    );
    assert_eq!(run.findings.lost, 0, "{}: {:?}", run.title, run.errors);
    assert!(run.delivered > 0, "{}", run.title);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_scenario_that_moves_messages_ends_with_all_of_them_over_every_protocol() {
    let node = node();
    for protocol in PROTOCOLS {
        for scenario in [
            Scenario::OneToOne,
            Scenario::NToN,
            Scenario::FanOut,
            Scenario::FanIn,
            Scenario::Groups,
            Scenario::Anycast,
            Scenario::RequestReply,
            Scenario::Durable,
            Scenario::OfflineDrain,
            Scenario::Priorities,
        ] {
            if (scenario, protocol) == (Scenario::Priorities, Protocol::Mqtt) {
                continue;
            }
            let mut plan = tiny(scenario, protocol);
            // Few enough that nothing is dropped for want of room: then a loss is a fault.
            plan.load = Load::Closed { in_flight: 8 };
            let run = run(&node, &plan).await;
            assert_all_arrived(&run);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn producers_and_consumers_may_use_different_protocols_unless_bytes_would_become_text() {
    let node = node();
    let mut plan = tiny(Scenario::OneToOne, Protocol::Http);
    plan.receive_over = Protocol::Grpc;
    plan.load = Load::Closed { in_flight: 8 };
    assert_all_arrived(&run(&node, &plan).await);
    plan.protocol = Protocol::Grpc;
    plan.receive_over = Protocol::Http;
    let refused = scenario::run(&node, &plan, &Progress::silent()).await;
    assert!(refused.is_err_and(|error| error.contains("http or websocket")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_over_mqtt_arrives_over_grpc_and_the_other_way_round() {
    let node = node();
    for (protocol, receive_over) in [(Protocol::Mqtt, Protocol::Grpc), (Protocol::Grpc, Protocol::Mqtt)] {
        for scenario in [
            Scenario::OneToOne,
            Scenario::FanOut,
            Scenario::Anycast,
            Scenario::Durable,
        ] {
            let mut plan = tiny(scenario, protocol);
            plan.receive_over = receive_over;
            plan.load = Load::Closed { in_flight: 8 };
            assert_all_arrived(&run(&node, &plan).await);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_mqtt_messages_may_be_sent_exactly_once_and_have_no_priorities() {
    let node = node();
    let mut plan = tiny(Scenario::OneToOne, Protocol::Mqtt);
    plan.quality = Quality::ExactlyOnce;
    plan.load = Load::Closed { in_flight: 8 };
    assert_all_arrived(&run(&node, &plan).await);
    plan.scenario = Scenario::Priorities;
    let refused = scenario::run(&node, &plan, &Progress::silent()).await;
    assert!(refused.is_err_and(|error| error.contains("no priority in MQTT")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_consumer_is_let_be_while_the_pair_beside_it_gets_everything() {
    let node = node();
    let mut plan = tiny(Scenario::SlowConsumer, Protocol::Grpc);
    plan.bounds.messages = 20_000;
    plan.bounds.time = Duration::from_secs(2);
    assert_all_arrived(&run(&node, &plan).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_loop_sends_what_was_due_and_no_more() {
    let node = node();
    let mut plan = tiny(Scenario::NToN, Protocol::Grpc);
    plan.quality = Quality::AtLeastOnce;
    plan.load = Load::Open { rate_per_s: 300.0 };
    plan.bounds.messages = 1_000_000;
    plan.bounds.time = Duration::from_secs(1);
    let run = run(&node, &plan).await;
    assert_all_arrived(&run);
    assert!((297..=306).contains(&run.sent), "{} were sent", run.sent);
    assert!(run.answer.is_some_and(|answer| answer.count == run.sent));
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_opened_and_held() {
    let node = node();
    for protocol in [Protocol::Grpc, Protocol::Websocket, Protocol::Mqtt] {
        for scenario in [Scenario::ConnectionStorm, Scenario::IdleConnections] {
            let mut plan = tiny(scenario, protocol);
            plan.agents = 20;
            let run = run(&node, &plan).await;
            assert_eq!(run.verdict(), Verdict::Clean, "{}: {:?}", run.title, run.errors);
            assert_eq!(run.latency["attach"].count, 20);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_offers_shares_of_the_saturation_and_its_report_is_written() {
    let node = node();
    let mut plan = tiny(Scenario::NToN, Protocol::Grpc);
    plan.bounds.messages = 2_000;
    plan.bounds.time = Duration::from_millis(500);
    plan.load = Load::Closed { in_flight: 8 };
    let mut report = Report::new(node.lifted());
    report.runs = sweep::run(&node, &plan, &[0.1, 0.5]).await.expect("the sweep ends");
    assert_eq!(
        report.runs.iter().map(|run| run.offered_share).collect::<Vec<_>>(),
        [None, Some(0.1), Some(0.5)]
    );
    assert_eq!(report.verdict(), Verdict::Clean);
    let folder = tempfile::tempdir().expect("a folder");
    report.write(folder.path()).expect("written");
    for file in ["report.json", "report.html"] {
        assert!(folder.path().join(file).is_file(), "{file}");
    }
}

#[test]
fn a_node_that_this_program_started_is_gone_when_it_is_dropped() {
    let node = node();
    let pid = node.pid().expect("started here");
    assert!(pid.sample().is_some());
    drop(node);
    assert!(pid.sample().is_none());
}
