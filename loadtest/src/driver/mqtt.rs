//! MQTT 3.1.1 by hand: a client that costs little beside the node. An agent is a client of its id; its inbox is `$weft/inbox`.
//!
//! [`Socket`] is a session's connection; what it queues is written with the next flush, so many packets go as one write.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::tcp::{OwnedReadHalf, OwnedWriteHalf},
    sync::{Mutex as Turns, oneshot},
    task::JoinHandle,
    time::timeout,
};
use weft::frame::Qos;

use super::{Answer, Arrival, Failure, Outgoing, Receiving, connect};
use crate::{
    head::Head,
    mqtt::{self, Lasting, Packet},
    plan::Quality,
};

/// How long a node may take to welcome a session or to answer a subscription.
const OPEN_DEADLINE: Duration = Duration::from_secs(10);
/// Queued bytes above which a send writes by itself.
const QUEUED_BYTES_MAX: usize = 64 * 1024;
/// What a SUBACK says where a filter is refused.
const REFUSED: u8 = 0x80;

/// A session's connection.
#[derive(Debug)]
pub struct Socket {
    reader: Reader,
    writer: OwnedWriteHalf,
    queued: Vec<u8>,
}

#[derive(Debug)]
struct Reader {
    half: OwnedReadHalf,
    read: Vec<u8>,
    /// Up to where `read` has been handed out.
    taken: usize,
}

impl Socket {
    /// Connects under a client id and waits for the welcome; from this address of loopback where one is given.
    pub async fn open(host: &str, client: &str, source: Option<IpAddr>) -> Result<Self, Failure> {
        let opened = timeout(OPEN_DEADLINE, Self::handshake(host, client, source)).await;
        let opened = opened.unwrap_or_else(|_late| Err("no welcome in time".to_owned()));
        opened.map_err(|error| format!("mqtt://{host} as {client}: {error} (is `ulimit -n` high enough?)"))
    }

    async fn handshake(host: &str, client: &str, source: Option<IpAddr>) -> Result<Self, Failure> {
        let stream = connect(host, source).await.map_err(|error| error.to_string())?;
        let (half, writer) = stream.into_split();
        let mut socket = Self {
            reader: Reader {
                half,
                read: Vec::new(),
                taken: 0,
            },
            writer,
            queued: mqtt::connect(client, Lasting::Clean),
        };
        socket.flush().await?;
        match socket.reader.wait().await? {
            Packet::Connack(0) => Ok(socket),
            other => Err(format!("was answered {other:?}")),
        }
    }

    /// Subscribes to one filter; returns once that is in effect.
    pub async fn subscribe(&mut self, filter: &str, quality: Quality) -> Result<(), Failure> {
        self.queued.extend(mqtt::subscribe(filter, quality));
        self.flush().await?;
        let answer = timeout(OPEN_DEADLINE, self.reader.wait()).await;
        match answer.map_err(|_late| format!("no answer to the subscription to {filter} in time"))?? {
            Packet::Suback(granted) if granted < REFUSED => Ok(()),
            other => Err(format!("the subscription to {filter} was answered {other:?}")),
        }
    }

    /// Throws away what comes until the session ends.
    pub async fn idle(mut self) {
        while self.reader.wait().await.is_ok() {}
    }

    async fn flush(&mut self) -> Result<(), Failure> {
        if self.queued.is_empty() {
            return Ok(());
        }
        let written = self.writer.write_all(&self.queued).await;
        self.queued.clear();
        written.map_err(|error| error.to_string())
    }
}

impl Reader {
    /// The next packet, waiting for it.
    async fn wait(&mut self) -> Result<Packet<'_>, Failure> {
        while mqtt::read(&self.read[self.taken..])?.is_none() {
            self.more().await?;
        }
        self.buffered()?
            .ok_or_else(|| "a packet that was there is there".into())
    }

    /// The next packet where it is there.
    fn buffered(&mut self) -> Result<Option<Packet<'_>>, Failure> {
        Ok(mqtt::read(&self.read[self.taken..])?.map(|(packet, bytes)| {
            self.taken += bytes;
            packet
        }))
    }

    /// Reads more, and forgets what was handed out.
    async fn more(&mut self) -> Result<(), Failure> {
        self.read.drain(..self.taken);
        self.taken = 0;
        let read = self.half.read_buf(&mut self.read).await;
        match read.map_err(|error| error.to_string())? {
            0 => Err("the node closed the connection".into()),
            _ => Ok(()),
        }
    }
}

/// Producers that wait for the answer to a packet, by its identifier.
type Waiting = Arc<Mutex<HashMap<u16, oneshot::Sender<Result<(), Failure>>>>>;

fn lock(waiting: &Waiting) -> MutexGuard<'_, HashMap<u16, oneshot::Sender<Result<(), Failure>>>> {
    waiting
        .lock()
        .expect("nothing panics while it holds the answers that are waited for")
}

/// A session that sends; a task of its own reads the answers.
#[derive(Debug)]
pub struct MqttSender {
    /// The task of the answers writes too, at QoS 2.
    writer: Arc<Turns<OwnedWriteHalf>>,
    queued: Vec<u8>,
    waiting: Waiting,
    /// Messages above QoS 0.
    numbered: u64,
    reading: JoinHandle<()>,
}

impl MqttSender {
    pub async fn open(host: &str, agent: &str) -> Result<Self, Failure> {
        let Socket { reader, writer, queued } = Socket::open(host, agent, None).await?;
        let (writer, waiting) = (Arc::new(Turns::new(writer)), Waiting::default());
        Ok(Self {
            reading: tokio::spawn(read_answers(reader, writer.clone(), waiting.clone())),
            writer,
            queued,
            waiting,
            numbered: 0,
        })
    }

    pub async fn send(&mut self, message: Outgoing<'_>) -> Result<Answer, Failure> {
        let to = message.to.as_str();
        let topic = mqtt::topic_of(to).ok_or_else(|| format!("MQTT has no topic for {to}"))?;
        let id = mqtt::id_of(self.numbered);
        let answer = match message.qos {
            Qos::AtMostOnce => Answer::Done,
            Qos::AtLeastOnce | Qos::ExactlyOnce => {
                self.numbered += 1;
                let (answered, answer) = oneshot::channel();
                lock(&self.waiting).insert(id, answered);
                Answer::Receipt(answer)
            }
        };
        mqtt::publish(&topic, message.qos.into(), id, &message.body, &mut self.queued);
        if self.queued.len() > QUEUED_BYTES_MAX {
            self.flush().await?;
        }
        Ok(answer)
    }

    pub async fn flush(&mut self) -> Result<(), Failure> {
        let written = self.writer.lock().await.write_all(&self.queued).await;
        self.queued.clear();
        written.map_err(|error| error.to_string())
    }

    /// Writes what is queued and ends the session in order.
    pub async fn close(mut self) {
        self.queued.extend(mqtt::DISCONNECT);
        // A session that is gone needs no goodbye.
        let _ = self.flush().await;
    }
}

impl Drop for MqttSender {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

/// Hands answers to those who wait, and goes on with what is sent exactly once, until the session ends.
async fn read_answers(mut reader: Reader, writer: Arc<Turns<OwnedWriteHalf>>, waiting: Waiting) {
    let mut released = Vec::new();
    while let Ok(packet) = reader.buffered() {
        match packet {
            Some(Packet::Answer(mqtt::Answer::Puback | mqtt::Answer::Pubcomp, id)) => {
                if let Some(answered) = lock(&waiting).remove(&id) {
                    // Whoever no longer waits needs no answer.
                    let _ = answered.send(Ok(()));
                }
            }
            Some(Packet::Answer(mqtt::Answer::Pubrec, id)) => mqtt::answer(mqtt::Answer::Pubrel, id, &mut released),
            Some(_) => {}
            None => {
                if !released.is_empty() && writer.lock().await.write_all(&released).await.is_err() {
                    break;
                }
                released.clear();
                if reader.more().await.is_err() {
                    break;
                }
            }
        }
    }
    lock(&waiting).clear();
}

/// A session that receives.
#[derive(Debug)]
pub struct MqttReceiver {
    socket: Socket,
    /// Answers to what was received and not acknowledged.
    taken: Vec<u8>,
}

impl MqttReceiver {
    pub async fn open(host: &str, agent: &str, receiving: &Receiving) -> Result<Self, Failure> {
        let mut socket = Socket::open(host, agent, None).await?;
        let inbox = [mqtt::INBOX.to_owned()];
        let filters = if receiving.topics.is_empty() {
            &inbox[..]
        } else {
            &receiving.topics
        };
        for filter in filters {
            socket.subscribe(filter, receiving.qos.into()).await?;
        }
        Ok(Self {
            socket,
            taken: Vec::new(),
        })
    }

    pub async fn receive(&mut self, into: &mut Vec<Arrival>, max: usize) -> Result<(), Failure> {
        let before = into.len();
        loop {
            while into.len() - before < max
                && let Some(packet) = self.socket.reader.buffered()?
            {
                match packet {
                    Packet::Publish { quality, id, body } => {
                        into.push(Head::read(body));
                        match quality {
                            Quality::AtMostOnce => {}
                            Quality::AtLeastOnce => mqtt::answer(mqtt::Answer::Puback, id, &mut self.taken),
                            Quality::ExactlyOnce => mqtt::answer(mqtt::Answer::Pubrec, id, &mut self.taken),
                        }
                    }
                    Packet::Answer(mqtt::Answer::Pubrel, id) => {
                        mqtt::answer(mqtt::Answer::Pubcomp, id, &mut self.socket.queued);
                    }
                    other => return Err(format!("a consumer was sent {other:?}")),
                }
            }
            if into.len() > before {
                return Ok(());
            }
            self.socket.flush().await?;
            self.socket.reader.more().await?;
        }
    }

    pub async fn settle(&mut self) -> Result<(), Failure> {
        self.socket.queued.append(&mut self.taken);
        self.socket.flush().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;
    use weft::frame::{Address, Priority, TopicName};

    /// A server that says these bytes once it has read so many, one after the other; returns all that it read.
    async fn scripted(script: Vec<(usize, Vec<u8>)>) -> (String, JoinHandle<Vec<u8>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let host = listener.local_addr().expect("bound").to_string();
        let serving = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a client");
            let mut heard = Vec::new();
            for (bytes, says) in script {
                let mut part = vec![0; bytes];
                stream.read_exact(&mut part).await.expect("what the client must say");
                heard.extend(part);
                stream.write_all(&says).await.expect("written");
            }
            heard
        });
        (host, serving)
    }

    const CONNECT_BYTES: usize = 15;
    const CONNACK: &[u8] = b"\x20\x02\0\0";

    #[tokio::test]
    async fn a_message_that_is_sent_exactly_once_is_answered_after_its_release() {
        let body = Head {
            run: 1,
            producer: 2,
            number: 3,
            intended_ns: 4,
        }
        .body(32);
        let publish_bytes = 2 + 3 + 2 + body.len();
        let script = vec![
            (CONNECT_BYTES, CONNACK.to_vec()),
            (publish_bytes, b"\x50\x02\0\x01".to_vec()),
            (4, b"\x70\x02\0\x01".to_vec()),
        ];
        let (host, serving) = scripted(script).await;
        let mut sender = MqttSender::open(&host, "x").await.expect("welcome");
        let to = Address::topic(&TopicName::new("t").expect("a topic"));
        let message = Outgoing {
            to: &to,
            body,
            qos: Qos::ExactlyOnce,
            priority: Priority::Normal,
        };
        let answer = sender.send(message).await.expect("queued");
        sender.flush().await.expect("written");
        assert_eq!(answer.settled().await, Ok(()));
        let heard = serving.await.expect("the server ends");
        assert_eq!(heard[CONNECT_BYTES..][..7], *b"\x34\x25\0\x01t\0\x01");
        assert_eq!(heard[heard.len() - 4..], *b"\x62\x02\0\x01");
    }

    #[tokio::test]
    async fn what_was_received_is_acknowledged_when_it_is_settled() {
        let mut publications = Vec::new();
        for id in [7, 8] {
            mqtt::publish("t", Quality::AtLeastOnce, id, b"no head", &mut publications);
        }
        let subscribe_bytes = mqtt::subscribe("t", Quality::AtLeastOnce).len();
        let script = vec![
            (CONNECT_BYTES, CONNACK.to_vec()),
            (subscribe_bytes, [b"\x90\x03\0\x01\x01", &publications[..]].concat()),
            (8, Vec::new()),
        ];
        let (host, serving) = scripted(script).await;
        let receiving = Receiving {
            topics: vec!["t".to_owned()],
            qos: Qos::AtLeastOnce,
        };
        let mut receiver = MqttReceiver::open(&host, "x", &receiving).await.expect("subscribed");
        let mut arrivals = Vec::new();
        while arrivals.len() < 2 {
            receiver.receive(&mut arrivals, 10).await.expect("messages");
        }
        assert_eq!(arrivals, [None, None]);
        receiver.settle().await.expect("written");
        let heard = serving.await.expect("the server ends");
        assert_eq!(heard[heard.len() - 8..], *b"\x40\x02\0\x07\x40\x02\0\x08");
    }

    #[tokio::test]
    async fn a_session_that_is_not_welcome_or_refused_a_filter_says_so() {
        let (host, _serving) = scripted(vec![(CONNECT_BYTES, b"\x20\x02\0\x05".to_vec())]).await;
        let refused = Socket::open(&host, "x", None).await;
        assert!(refused.is_err_and(|error| error.contains("Connack(5)")));
        let script = vec![(CONNECT_BYTES, CONNACK.to_vec()), (8, b"\x90\x03\0\x01\x80".to_vec())];
        let (host, _serving) = scripted(script).await;
        let mut socket = Socket::open(&host, "x", None).await.expect("welcome");
        let refused = socket.subscribe("t", Quality::AtMostOnce).await;
        assert!(refused.is_err_and(|error| error.contains("Suback(128)")));
    }
}
