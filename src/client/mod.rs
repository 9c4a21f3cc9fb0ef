//! What users link: a client of a weft server, over QUIC or gRPC, as the URL says.
//!
//! Owns connecting, single calls ([`Client`]), the long-lived stream with reconnect and resend ([`Session`]) and the types
//! that both speak in. Must never know the server's inside: only `frame`, `time`, `native` and `rpc`. Start at [`Client::connect`].
//!
//! ```no_run
//! # async fn run() -> Result<(), weft::client::Error> {
//! use weft::{client::{Client, Message, SessionOptions}, frame::AgentId};
//! let client = Client::connect("grpc://127.0.0.1:50051").await?;
//! let (alice, bob) = (AgentId::new("alice").unwrap(), AgentId::new("bob").unwrap());
//! let session = client.session(&bob, SessionOptions::default()).await?;
//! client.send(Message::to_agent(&bob).from(&alice).text("hello")).await?;
//! let delivery = session.recv().await?;
//! println!("{}: {:?}", delivery.from(), delivery.body());
//! delivery.ack().await?;
//! # Ok(()) }
//! ```

mod connect;
mod error;
mod groups;
mod message;
mod native;
mod problem;
mod registry;
mod session;
mod settle;
mod tls;
mod unary;

pub use crate::{
    frame::{CommunicationMode, MemberPermissions},
    native::link::Link,
};
pub use connect::{Client, ClientBuilder, Health};
pub use error::{Error, Refused};
pub use groups::{Group, GroupDraft};
pub use message::{Accepted, Delivery, DeliveryId, Message, Received, Refusal, Status};
pub use registry::{Agent, AgentFilter, Connection, Page, Registered, Registration};
pub use session::{Acks, Inbox, Reconnect, SendHandle, Session, SessionOptions, SessionState, SessionStats};
pub use tls::Pin;
pub use unary::{KeptMessage, MessageStatus, ReceiveOptions, Sent, SettleOutcome, StatusQuery};
