//! One connection: handshake, greeting, then its session, streams of batches and streams of calls until it ends.

use std::{net::SocketAddr, sync::Arc};

use quinn::{Connection, RecvStream, SendStream, VarInt};
use tokio::{
    io::join,
    time::{Instant, timeout_at},
};

use super::{
    Edge,
    accept::Guest,
    problem::problem,
    session::{self, Greeted},
};
use crate::{
    edge::{auth::principal_of_token, counters::Counters, stream::Calls},
    native::{
        BATCH_STREAMS_MAX, Close, STREAM_CALLS, STREAM_CONTROL,
        control::{FRAME_BYTES_MAX, GREETING_BYTES_MAX, ToClient, ToNode},
        lanes::Lanes,
        reader::{ControlReader, ReadFailure},
    },
    router::{error::FabricError, surface::Principal},
    time::monotonic,
};

/// Serves a connection to its end.
pub(super) async fn serve(edge: Arc<Edge>, guest: Guest) {
    let Guest {
        incoming,
        pass,
        handshake,
    } = guest;
    let deadline = Instant::from_std(monotonic()) + edge.config.handshake_timeout();
    let peer = incoming.remote_address();
    let connection = match timeout_at(deadline, incoming).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return tracing::debug!(%peer, %error, "a QUIC handshake failed"),
        Err(_late) => return tracing::debug!(%peer, "a QUIC handshake took too long"),
    };
    // Boxed: what it needs is given back for the time of the session.
    let greeting = timeout_at(deadline, Box::pin(greet(&edge, &connection))).await;
    drop(handshake);
    let ended = match greeting {
        Err(_late) => Err(Close::Silent),
        Ok(Err(close)) => close.map_or(Ok(()), Err),
        Ok(Ok(greeted)) => session::serve(&edge, &connection, greeted).await,
    };
    let close = ended.err().unwrap_or(Close::Done);
    if !matches!(close, Close::Done | Close::Draining | Close::Ended) {
        Counters::add(&edge.door.counters.errors, 1);
        tracing::debug!(%peer, reason = close.reason(), "a QUIC connection was closed");
    }
    connection.close(close.code(), close.reason().as_bytes());
    drop(pass);
}

/// Reads the greeting and answers it. `Err(None)`: the connection is over by itself.
async fn greet(edge: &Edge, connection: &Connection) -> Result<Box<Greeted>, Option<Close>> {
    let (send, mut receive) = connection.accept_bi().await.map_err(|_| None)?;
    if first_byte(&mut receive).await? != STREAM_CONTROL {
        return Err(Some(Close::Control));
    }
    let mut control = ControlReader::new(receive, GREETING_BYTES_MAX);
    let hello = control.next().await.map_err(|error: ReadFailure| error.close())?;
    let Some(ToNode::Hello { token, program }) = hello else {
        return Err(Some(Close::Control));
    };
    let mut lanes = Lanes::new(connection.clone(), send);
    let principal = match identify(edge, &token) {
        Ok(principal) => principal,
        Err(error) => {
            lanes.control(&ToClient::Refused(problem(&error)));
            return Err(Some(refuse(&mut lanes).await));
        }
    };
    tracing::debug!(peer = %connection.remote_address(), program, "a QUIC connection is greeted");
    let config = edge.door.fabric.config();
    lanes.control(&ToClient::Ready {
        node: config.node_id.clone(),
        message_bytes_max: config.message_bytes_max as u64,
    });
    control.allow(FRAME_BYTES_MAX);
    connection.set_receive_window(VarInt::from_u32(edge.config.link.connection_window_bytes));
    connection.set_max_concurrent_uni_streams(VarInt::from_u32(BATCH_STREAMS_MAX));
    let calls = edge.door.calls.as_ref().map_or(0, |_| edge.config.call_streams_max);
    connection.set_max_concurrent_bi_streams(VarInt::from_u32(1 + calls));
    Ok(Box::new(Greeted {
        principal,
        control,
        lanes,
    }))
}

fn identify(edge: &Edge, token: &str) -> Result<Principal, FabricError> {
    match edge.shutdown.is_cancelled() {
        true => Err(FabricError::Draining),
        false => principal_of_token(&*edge.door.authenticator, token),
    }
}

/// Writes what is queued, waits until the client has it, and ends the connection.
pub(super) async fn refuse(lanes: &mut Lanes) -> Close {
    if lanes.flush().await.is_ok() {
        lanes.finish_control();
        lanes.control_taken().await;
    }
    Close::Refused
}

/// A stream's first byte, which says what it is.
pub(super) async fn first_byte(stream: &mut RecvStream) -> Result<u8, Option<Close>> {
    let mut first = [0];
    match stream.read_exact(&mut first).await {
        Ok(()) => Ok(first[0]),
        Err(quinn::ReadExactError::ReadError(quinn::ReadError::ConnectionLost(_))) => Err(None),
        Err(_) => Err(Some(Close::Control)),
    }
}

/// Hands a stream of calls to whoever serves them.
pub(super) async fn carry(edge: Arc<Edge>, peer: SocketAddr, send: SendStream, mut receive: RecvStream) {
    match first_byte(&mut receive).await {
        Ok(STREAM_CALLS) => {}
        Ok(_) | Err(Some(_)) => {
            // It was stopped by its peer already.
            let _stopped = receive.stop(Close::Control.code());
            return;
        }
        Err(None) => return,
    }
    let Some(calls) = &edge.door.calls else { return };
    let stream = Box::new(join(receive, send));
    if calls.send(Calls { stream, peer }).await.is_err() {
        tracing::debug!(%peer, "nobody serves calls any more");
    }
}
