//! Real clients of MQTT against a node: paho-mqtt (Python), MQTT.js (Node), mosquitto's own; each in 3.1.1 and 5, by TCP, TLS and
//! WebSocket. The test command installs them (`check`, step `tools`); what is missing fails and is named.
//!
//! `WEFT_MQTT_PYTHON` names a python3 that has paho-mqtt, `WEFT_MQTT_NODE_PATH` the `node_modules` that has MQTT.js.

#![cfg(feature = "server")]

mod mqtt_driver;

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
};

use mqtt_driver::*;

/// Runs a client's script to its end.
#[track_caller]
fn ends_well(command: &mut Command) {
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}: run `./check tools`"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command:?}\n{}\n{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    eprintln!("{}", text(&output.stdout));
}

fn script(broker: &Broker, program: &str, file: &str) -> Command {
    let mut command = Command::new(program);
    command
        .arg(
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("tests/mqtt_clients")
                .join(file),
        )
        .args([broker.at.mqtt, broker.at.mqtts, broker.at.http].map(|address| address.port().to_string()))
        .arg(broker.certificate());
    command
}

#[test]
fn paho_mqtt() {
    let broker = Broker::start();
    let python = std::env::var("WEFT_MQTT_PYTHON").unwrap_or_else(|_| "python3".into());
    ends_well(&mut script(&broker, &python, "paho_client.py"));
}

#[test]
fn mqtt_js() {
    let broker = Broker::start();
    let mut command = script(&broker, "node", "mqtt_js_client.js");
    if let Ok(modules) = std::env::var("WEFT_MQTT_NODE_PATH") {
        command.env("NODE_PATH", modules);
    }
    ends_well(&mut command);
}

/// `mosquitto_sub` that has subscribed, and ends after a number of messages.
fn mosquitto_sub(broker: &Broker, arguments: &[&str]) -> (std::process::Child, BufReader<std::process::ChildStdout>) {
    let mut child = Command::new("mosquitto_sub")
        .args(["-h", "localhost", "-W", "60"])
        .args(arguments)
        .env("HOME", broker.certificate().parent().expect("a folder"))
        .stdout(Stdio::piped())
        .spawn()
        .expect("mosquitto_sub: run `./check tools`");
    let out = BufReader::new(child.stdout.take().expect("piped"));
    (child, out)
}

#[test]
fn mosquitto_clients() {
    let broker = Broker::start();
    let (plain, tls) = (broker.at.mqtt.port().to_string(), broker.at.mqtts.port().to_string());
    let certificate = broker.certificate();
    let certificate = certificate.to_str().expect("UTF-8");
    for (name, version) in [("mqttv311", Version::V3), ("mqttv5", Version::V5)] {
        for (port, more) in [(plain.as_str(), vec![]), (&tls, vec!["--cafile", certificate])] {
            for qos in ["0", "1", "2"] {
                let topic = format!("mosquitto/{name}/{port}/{qos}");
                // Retained, so that it does not matter who is first.
                let publish = [
                    &[
                        "-h",
                        "localhost",
                        "-p",
                        port,
                        "-V",
                        name,
                        "-q",
                        qos,
                        "-r",
                        "-t",
                        &topic,
                        "-s",
                    ][..],
                    &more,
                ]
                .concat();
                let big = vec![b'x'; 1 << 20];
                let mut child = Command::new("mosquitto_pub")
                    .args(&publish)
                    .stdin(Stdio::piped())
                    .spawn()
                    .expect("mosquitto_pub: run `./check tools`");
                child.stdin.take().expect("piped").write_all(&big).expect("it reads");
                assert!(child.wait().expect("it ends").success(), "{publish:?}");
                let subscribe = [
                    &[
                        "-p", port, "-V", name, "-q", qos, "-t", &topic, "-C", "1", "-F", "%q %r %l",
                    ][..],
                    &more,
                ]
                .concat();
                let (mut child, mut out) = mosquitto_sub(&broker, &subscribe);
                let mut line = String::new();
                out.read_line(&mut line).expect("a line");
                assert!(child.wait().expect("it ends").success(), "{subscribe:?}");
                assert_eq!(line.trim(), format!("{qos} 1 {}", 1 << 20));
            }
        }
        // A session that resumes: subscribed, away, back.
        let session = [
            "-p",
            &plain,
            "-V",
            name,
            "-q",
            "2",
            "-t",
            "mosquitto/away",
            "-c",
            "-i",
            name,
        ];
        let session = [&session[..], if version == Version::V5 { &["-x", "3600"] } else { &[] }].concat();
        ends_well(
            Command::new("mosquitto_sub")
                .args(["-h", "localhost"])
                .args(&session)
                .arg("-E"),
        );
        for number in ["1", "2", "3"] {
            ends_well(Command::new("mosquitto_pub").args([
                "-h",
                "localhost",
                "-p",
                &plain,
                "-V",
                name,
                "-q",
                "2",
                "-t",
                "mosquitto/away",
                "-m",
                number,
            ]));
        }
        let (mut child, out) = mosquitto_sub(&broker, &[&session[..], &["-C", "3"]].concat());
        let lines: Vec<String> = out.lines().map(|line| line.expect("UTF-8")).collect();
        assert!(child.wait().expect("it ends").success());
        assert_eq!(lines, ["1", "2", "3"]);
        // A will.
        let mut witness = broker.client(version, "witness");
        witness.subscribe("mosquitto/will", 1);
        let (mut dies, mut out) = mosquitto_sub(
            &broker,
            &[
                "-p",
                &plain,
                "-V",
                name,
                "-t",
                "mosquitto/dies",
                "-i",
                "dies",
                "--will-topic",
                "mosquitto/will",
                "--will-payload",
                "gone",
                "--will-qos",
                "1",
            ],
        );
        // It is connected once it takes a message.
        broker
            .client(version, "pub")
            .publish(Publish::new("mosquitto/dies", "x").qos(1, 0).retained());
        out.read_line(&mut String::new()).expect("a line");
        dies.kill().expect("it runs");
        dies.wait().expect("it ends");
        assert_eq!(witness.take().text(), "gone");
    }
}
