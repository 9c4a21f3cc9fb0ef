//! A bare QUIC relay: one publisher's batches are taken apart, each message is looked up in a table, and packed again for one
//! subscriber. A batch is a length and then messages, each with its length, all 32-bit little-endian.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{BufMut, Bytes, BytesMut};
use quinn::{
    ClientConfig, Endpoint, EndpointConfig, MtuDiscoveryConfig, RecvStream, ServerConfig, TokioRuntime,
    TransportConfig, VarInt,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::{
    sync::mpsc,
    task::{JoinHandle, JoinSet},
};

/// The windows that saturate a core: more gains nothing.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;
const BATCH_BYTES: usize = 64 * 1024;
/// Batches between reading and writing.
const BATCHES_WAITING_MAX: usize = 16;
const PROTOCOL: &[u8] = b"loadtest-relay";
/// Addresses in the table.
const ROUTES: u32 = 1_000;

fn transport(mtu: u16) -> Arc<TransportConfig> {
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(mtu);
    let mut transport = TransportConfig::default();
    transport
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES))
        .send_window(CONNECTION_WINDOW_BYTES.into())
        .initial_mtu(mtu)
        .mtu_discovery_config(Some(discovery));
    Arc::new(transport)
}

fn endpoint(mtu: u16, server: Option<ServerConfig>) -> Result<Endpoint, String> {
    let mut config = EndpointConfig::default();
    let sized = config.max_udp_payload_size(mtu.max(1_472));
    sized.map_err(|error| error.to_string())?;
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|error| error.to_string())?;
    let endpoint = Endpoint::new(config, server, socket, Arc::new(TokioRuntime));
    endpoint.map_err(|error| error.to_string())
}

/// Serves until the process is ended.
pub async fn serve(mtu: u16, certificate: &Path, key: &Path) -> Result<(), String> {
    let certificate = CertificateDer::from_pem_file(certificate).map_err(|error| error.to_string())?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| error.to_string())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .map_err(|error| error.to_string())?;
    tls.alpn_protocols = vec![PROTOCOL.to_vec()];
    let tls = quinn::crypto::rustls::QuicServerConfig::try_from(tls).map_err(|error| error.to_string())?;
    let mut config = ServerConfig::with_crypto(Arc::new(tls));
    config.transport_config(transport(mtu));
    let endpoint = endpoint(mtu, Some(config))?;
    super::say_ready(endpoint.local_addr().map_err(|error| error.to_string())?);
    let (batches, waiting) = mpsc::channel(BATCHES_WAITING_MAX);
    let waiting = Arc::new(tokio::sync::Mutex::new(waiting));
    let mut connections = JoinSet::new();
    while let Some(incoming) = endpoint.accept().await {
        let (batches, waiting) = (batches.clone(), waiting.clone());
        connections.spawn(async move {
            let connection = incoming.await.map_err(|error| error.to_string())?;
            tokio::select! {
                published = connection.accept_uni() => {
                    let published = published.map_err(|error| error.to_string())?;
                    relay(published, &batches).await
                }
                asked = connection.accept_bi() => {
                    let _asked = asked.map_err(|error| error.to_string())?;
                    let mut out = connection.open_uni().await.map_err(|error| error.to_string())?;
                    let mut waiting = waiting.lock().await;
                    while let Some(batch) = waiting.recv().await {
                        out.write_chunk(batch).await.map_err(|error| error.to_string())?;
                    }
                    Ok::<_, String>(())
                }
            }
        });
    }
    Ok(())
}

async fn relay(mut published: RecvStream, batches: &mpsc::Sender<Bytes>) -> Result<(), String> {
    let routes: HashMap<u32, usize> = (0..ROUTES).zip(0..).collect();
    let mut batch = vec![0; BATCH_BYTES * 2];
    loop {
        let length = next(&mut published, &mut batch).await?;
        let mut out = BytesMut::with_capacity(length + 4);
        out.put_u32_le(u32::try_from(length).unwrap_or(u32::MAX));
        let mut routed = 0;
        for message in messages(&batch[..length]) {
            routed += usize::from(routes.contains_key(&u32::from(message[4])));
            out.put_slice(message);
        }
        std::hint::black_box(routed);
        let sent = batches.send(out.freeze()).await;
        sent.map_err(|error| error.to_string())?;
    }
}

/// The next batch, into this buffer; its length.
async fn next(stream: &mut RecvStream, into: &mut Vec<u8>) -> Result<usize, String> {
    let mut length = [0; 4];
    let read = stream.read_exact(&mut length).await;
    read.map_err(|error| error.to_string())?;
    let length = u32::from_le_bytes(length) as usize;
    if into.len() < length {
        into.resize(length, 0);
    }
    let read = stream.read_exact(&mut into[..length]).await;
    read.map_err(|error| error.to_string())?;
    Ok(length)
}

/// The messages of a batch, each with its length before it. What is cut off at the end is left out.
fn messages(mut batch: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = batch.first_chunk::<4>()?;
        let whole = 4 + u32::from_le_bytes(*length) as usize;
        let (message, rest) = batch.split_at_checked(whole)?;
        batch = rest;
        Some(message)
    })
}

/// A publisher that sends what the connection takes, and a subscriber that counts.
#[derive(Debug)]
pub struct Clients {
    endpoint: Endpoint,
    tasks: [JoinHandle<Result<(), String>>; 2],
}

impl Clients {
    /// Starts both.
    pub async fn start(
        server: SocketAddr,
        mtu: u16,
        authority_pem: &str,
        body_bytes: usize,
        delivered: Arc<AtomicU64>,
    ) -> Result<Self, String> {
        let mut tls = (*super::super::wire::trusting(authority_pem)?).clone();
        tls.alpn_protocols = vec![PROTOCOL.to_vec()];
        let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls).map_err(|error| error.to_string())?;
        let mut config = ClientConfig::new(Arc::new(tls));
        config.transport_config(transport(mtu));
        let mut endpoint = endpoint(mtu, None)?;
        endpoint.set_default_client_config(config);
        let connect = async || {
            let connecting = endpoint
                .connect(server, "localhost")
                .map_err(|error| error.to_string())?;
            connecting.await.map_err(|error| error.to_string())
        };
        let subscriber = connect().await?;
        let (mut ask, _answer) = subscriber.open_bi().await.map_err(|error| error.to_string())?;
        ask.write_all(b"subscribe").await.map_err(|error| error.to_string())?;
        let publisher = connect().await?;
        let counting = tokio::spawn(async move {
            let mut stream = subscriber.accept_uni().await.map_err(|error| error.to_string())?;
            let mut batch = vec![0; BATCH_BYTES * 2];
            loop {
                let length = next(&mut stream, &mut batch).await?;
                let count = messages(&batch[..length]).count();
                delivered.fetch_add(count as u64, Ordering::Relaxed);
            }
        });
        let publishing = tokio::spawn(async move {
            let mut stream = publisher.open_uni().await.map_err(|error| error.to_string())?;
            let message = vec![b'.'; body_bytes];
            loop {
                let batch = batch_of(&message);
                stream.write_chunk(batch).await.map_err(|error| error.to_string())?;
            }
        });
        Ok(Self {
            endpoint,
            tasks: [counting, publishing],
        })
    }

    /// Stops both.
    pub fn stop(self) {
        for task in self.tasks {
            task.abort();
        }
        self.endpoint.close(VarInt::from_u32(0), b"over");
    }
}

/// A batch of as many copies of a message as fit.
fn batch_of(message: &[u8]) -> Bytes {
    let whole = message.len() + 4;
    let count = (BATCH_BYTES / whole).max(1);
    let mut batch = BytesMut::with_capacity(count * whole + 4);
    batch.put_u32_le(u32::try_from(count * whole).unwrap_or(u32::MAX));
    for _ in 0..count {
        batch.put_u32_le(u32::try_from(message.len()).unwrap_or(u32::MAX));
        batch.put_slice(message);
    }
    batch.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_comes_apart_into_the_messages_that_it_was_made_of() {
        let batch = batch_of(b"hello");
        let parts: Vec<&[u8]> = messages(&batch[4..]).collect();
        assert_eq!(parts.len(), BATCH_BYTES / 9);
        assert!(parts.iter().all(|part| &part[4..] == b"hello"));
        assert_eq!(messages(&batch[4..10]).count(), 0);
    }
}
