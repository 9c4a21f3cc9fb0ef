//! The `Session` stream: a reader task that takes the client's frames, and a writer that the connection polls.
//!
//! The reader does what frames ask, in their order; it stops reading while the fabric takes no more, which is the
//! back-pressure. The writer drains deliveries and receipts into items. They speak over one bounded channel. Start at
//! [`open`]; `reader` has the protocol's rules, `writer` how a stream ends.

mod reader;
mod writer;

use std::pin::Pin;

use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::Door;
use crate::{
    router::{
        SessionHandle, SessionReceiver,
        surface::{Principal, Protocol},
    },
    rpc::v1::{self, server_frame},
};

/// Frames from the reader that the writer has not taken: beyond it the reader waits, and with it the client.
const HAND_OVERS_MAX: usize = 64;

/// The frames of a stream, as the connection takes them.
pub type ServerFrames = Pin<Box<dyn Stream<Item = Result<v1::ServerFrame, Status>> + Send>>;

/// What the reader tells the writer. Small: a channel makes room for 32 of them before the first.
enum HandOver {
    /// A frame to be written.
    Frame(Box<server_frame::Frame>),
    /// The session began: welcome it and deliver.
    Attached(Box<Attached>),
    /// The client is done: end once everything is answered, with a goodbye or without.
    Finish(Option<Box<v1::Goodbye>>),
    /// The client broke the rules: end now.
    Fail(Status),
}

/// A session's sending side.
struct Attached {
    welcome: v1::Welcome,
    handle: SessionHandle,
    receiver: SessionReceiver,
    acks: Acks,
}

/// Who acknowledges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Acks {
    Client,
    /// The writer, once an item was handed to the transport.
    Writer,
}

/// Serves one stream.
pub fn open(
    door: &Door,
    principal: Principal,
    inbound: Streaming<v1::ClientFrame>,
    shutdown: CancellationToken,
) -> ServerFrames {
    let (hand_over, from_reader) = mpsc::channel(HAND_OVERS_MAX);
    let (publisher, answers) = door.fabric.publisher(principal.clone(), Protocol::Grpc);
    let stop = CancellationToken::new();
    let reader = reader::Reader::new(inbound, door.clone(), principal, publisher, hand_over);
    tokio::spawn(reader.run(stop.clone()));
    Box::pin(writer::frames(door.clone(), from_reader, answers, stop, shutdown))
}
