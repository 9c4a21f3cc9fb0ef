//! A connection's transport: windows, MTU, segmentation offload, timeouts, and the socket under it.
//!
//! The defaults were measured: 8 MiB a stream and 32 MiB a connection saturate a core, more gains nothing; other congestion
//! controllers, more streams or larger batches gained nothing either. Start at [`Link`].

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use quinn::{EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use thiserror::Error;

use super::BATCH_STREAMS_MAX;

/// The smallest MTU that QUIC allows (RFC 9000 §14), with which every connection begins.
pub const MTU_MIN: u16 = 1200;
/// The largest: the kernel takes 64 KiB in one segmented send, and quinn puts at most 10 datagrams into one.
pub const MTU_MAX: u16 = 6500;

/// What both ends may set, each for itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Link {
    /// Largest UDP payload that is tried and taken, in bytes, 1,200 to 6,500. 1,452 fits the Internet; 6,400 on loopback and
    /// where the path has jumbo frames takes half the CPU, if both ends have it. What the path carries is found by probing.
    pub mtu: u16,
    /// Hands the kernel many datagrams in one call (UDP_SEGMENT). Switch it off where a driver loses them: falling back by
    /// itself does not work upstream.
    pub segmentation_offload: bool,
    /// Bytes of one stream that may be under way unread.
    pub stream_window_bytes: u32,
    /// Bytes of all streams of a connection that may be under way unread, and of those sent and not confirmed.
    pub connection_window_bytes: u32,
    /// Receive and send buffer of the socket, in bytes; the kernel may cap it (`net.core.rmem_max`).
    pub socket_buffer_bytes: usize,
    /// How long a connection may be silent before it is given up, in milliseconds.
    pub idle_timeout_ms: u64,
    /// How often a quiet connection says that it lives, in milliseconds; 0: never. A third of the peer's idle timeout or less.
    pub keep_alive_ms: u64,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            mtu: 1452,
            segmentation_offload: true,
            stream_window_bytes: 8 * 1024 * 1024,
            connection_window_bytes: 32 * 1024 * 1024,
            socket_buffer_bytes: 4 * 1024 * 1024,
            idle_timeout_ms: 30_000,
            keep_alive_ms: 10_000,
        }
    }
}

/// An MTU that no connection can have. The caller's fault; never worth a retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("is {0}, but must be {MTU_MIN} to {MTU_MAX} bytes")]
pub struct MtuError(pub u16);

impl Link {
    /// Refuses what no connection can have. Whoever takes a link from outside asks this before anything is bound.
    pub const fn check(&self) -> Result<(), MtuError> {
        match self.mtu {
            MTU_MIN..=MTU_MAX => Ok(()),
            mtu => Err(MtuError(mtu)),
        }
    }

    /// The transport's settings. A peer that is not known yet may have `unread_bytes_max` under way, and no one-way streams
    /// where `streams` is 0; both are raised once it is known.
    pub fn transport(&self, unread_bytes_max: u32, streams: u32) -> TransportConfig {
        let mut transport = TransportConfig::default();
        let mut probing = MtuDiscoveryConfig::default();
        probing.upper_bound(self.mtu.clamp(MTU_MIN, MTU_MAX));
        transport
            .stream_receive_window(VarInt::from_u32(self.stream_window_bytes))
            .receive_window(VarInt::from_u32(unread_bytes_max))
            .send_window(self.connection_window_bytes.into())
            .mtu_discovery_config(Some(probing))
            .enable_segmentation_offload(self.segmentation_offload)
            .max_concurrent_uni_streams(VarInt::from_u32(streams))
            // No datagrams: their buffers would be memory for nothing.
            .datagram_receive_buffer_size(None)
            .max_idle_timeout(IdleTimeout::try_from(Duration::from_millis(self.idle_timeout_ms)).ok())
            .keep_alive_interval((self.keep_alive_ms > 0).then(|| Duration::from_millis(self.keep_alive_ms)));
        transport
    }

    /// The transport's settings of a client, which trusts the node that it chose.
    pub fn client_transport(&self) -> Arc<TransportConfig> {
        let mut transport = self.transport(self.connection_window_bytes, BATCH_STREAMS_MAX);
        transport.max_concurrent_bidi_streams(VarInt::from_u32(0));
        Arc::new(transport)
    }

    /// The endpoint's settings: how large a datagram it takes.
    pub fn endpoint(&self) -> EndpointConfig {
        let mut endpoint = EndpointConfig::default();
        let bytes = self.mtu.clamp(MTU_MIN, MTU_MAX).max(1472);
        endpoint
            .max_udp_payload_size(bytes)
            .expect("it is at least 1,200, as QUIC asks");
        endpoint
    }

    /// A bound UDP socket with large buffers. Where the kernel gives smaller ones, bursts are lost and sent again.
    pub fn bind(&self, address: SocketAddr) -> io::Result<std::net::UdpSocket> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        self.enlarge(&socket);
        socket.bind(&address.into())?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    }

    fn enlarge(&self, socket: &Socket) {
        let socket = SockRef::from(socket);
        let enlarged = socket
            .set_recv_buffer_size(self.socket_buffer_bytes)
            .and_then(|()| socket.set_send_buffer_size(self.socket_buffer_bytes));
        if let Err(error) = enlarged {
            tracing::warn!(%error, bytes = self.socket_buffer_bytes, "the socket's buffers stay as they were");
        }
    }
}
