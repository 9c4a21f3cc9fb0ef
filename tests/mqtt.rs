//! MQTT 3.1.1 and 5 from outside: the specifications' statements, each by bytes over a socket. `mqtt/statements.tsv` says which test
//! shows which statement. With `WEFT_MQTT_PEER=mosquitto` they run against mosquitto.

#![cfg(feature = "server")]

#[path = "mqtt/attack.rs"]
mod attack;
#[path = "mqtt/connect.rs"]
mod connect;
#[path = "mqtt/delivery.rs"]
mod delivery;
mod mqtt_driver;
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
