//! A UDP relay between clients and a server that can be cut and mended: what a network does.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use tokio::{net::UdpSocket, task::JoinSet};

/// The largest datagram.
const DATAGRAM_BYTES_MAX: usize = 65_536;

pub struct Relay {
    pub address: SocketAddr,
    is_cut: Arc<AtomicBool>,
    _tasks: JoinSet<()>,
}

impl Relay {
    pub async fn start(server: SocketAddr) -> Self {
        let clients = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let (address, is_cut) = (clients.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
        let mut tasks = JoinSet::new();
        tasks.spawn(forward(clients, server, Arc::clone(&is_cut)));
        Self {
            address,
            is_cut,
            _tasks: tasks,
        }
    }

    /// From now on nothing gets through.
    pub fn cut(&self) {
        self.is_cut.store(true, SeqCst);
    }

    pub fn mend(&self) {
        self.is_cut.store(false, SeqCst);
    }
}

/// One socket to the server for each client; its answers go back to that client.
async fn forward(clients: Arc<UdpSocket>, server: SocketAddr, is_cut: Arc<AtomicBool>) {
    let mut upstream: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut answers = JoinSet::new();
    let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let (bytes, client) = clients.recv_from(&mut datagram).await.unwrap();
        if let Entry::Vacant(unknown) = upstream.entry(client) {
            let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
            socket.connect(server).await.unwrap();
            unknown.insert(Arc::clone(&socket));
            answers.spawn(answer(socket, Arc::clone(&clients), client, Arc::clone(&is_cut)));
        }
        if !is_cut.load(SeqCst) {
            // A server that is gone answers with an ICMP error: as good as lost.
            let _lost = upstream[&client].send(&datagram[..bytes]).await;
        }
    }
}

async fn answer(socket: Arc<UdpSocket>, clients: Arc<UdpSocket>, client: SocketAddr, is_cut: Arc<AtomicBool>) {
    let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let Ok(bytes) = socket.recv(&mut datagram).await else {
            continue;
        };
        if !is_cut.load(SeqCst) {
            let _lost = clients.send_to(&datagram[..bytes], client).await;
        }
    }
}
