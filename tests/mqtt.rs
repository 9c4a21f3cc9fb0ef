//! MQTT 3.1.1 and 5 from outside: the specifications' statements, each by bytes over a socket. `mqtt/statements.tsv` says which test
//! shows which statement. With `WEFT_MQTT_PEER=mosquitto` they run against mosquitto.
//!
//! Where mosquitto 2.0.11 fails, the specifications do not back it: it says nothing of a takeover by a 3.1.1 client (0x8E); accepts
//! authentication data without a method, `$share//a`, no-local on shared subscriptions, reserved bits of several fixed headers, DUP with
//! QoS 0, doubled properties and subscription identifiers; refuses the 21st QoS 2 message instead of ending its sender (0x93), counts a
//! message as done at PUBREC, calls a wrong alias malformed, ends who sends a QoS 2 message again, sends retained messages to shared
//! subscriptions, lets a message expire that was sent once, and keeps a delayed will past its session's end.

#![cfg(feature = "server")]

#[path = "mqtt/attack.rs"]
mod attack;
#[path = "mqtt/away.rs"]
mod away;
#[path = "mqtt/connect.rs"]
mod connect;
#[path = "mqtt/delivery.rs"]
mod delivery;
#[path = "mqtt/handshake.rs"]
mod handshake;
#[path = "mqtt/long.rs"]
mod long;
mod mqtt_driver;
#[path = "mqtt/policy.rs"]
mod policy;
#[path = "mqtt/properties.rs"]
mod properties;
#[path = "mqtt/publish.rs"]
mod publish;
#[path = "mqtt/retain.rs"]
mod retain;
#[path = "mqtt/session.rs"]
mod session;
#[path = "mqtt/share.rs"]
mod share;
#[path = "mqtt/strings.rs"]
mod strings;
#[path = "mqtt/subscribe.rs"]
mod subscribe;
#[path = "mqtt/table.rs"]
mod table;
#[path = "mqtt/web.rs"]
mod web;
#[path = "mqtt/will.rs"]
mod will;
