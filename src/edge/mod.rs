//! L5: the edges, one adapter per protocol: protocol <-> frame, nothing else.
//!
//! Here stands what several edges share: the JSON shapes ([`json`]), who is asking ([`auth`]), which web pages may ask
//! ([`origin`]), what an error is called in google.rpc ([`code`]), how many connections there may be ([`gate`]), TLS
//! ([`tls`]), connections that hand on others' bytes ([`stream`]) and what each edge counts ([`counters`]). An edge must never
//! name a store, nor another edge: they meet in the router's door. Start at [`http`] for an example of a whole edge.

pub mod auth;
pub mod code;
pub mod counters;
pub mod gate;
pub mod grpc;
pub mod http;
pub mod json;
pub mod mqtt;
pub mod origin;
pub mod quic;
pub mod stream;
pub mod tls;
pub mod webhook;
pub mod websocket;
