//! rumqttc's two clients behind one: a connection is driven by a task of its own, which tells what comes.

use std::{collections::VecDeque, fmt, time::Duration};

pub use rumqttc::v5::mqttbytes::v5::PublishProperties;
use rumqttc::{TlsConfiguration, v5, v5::mqttbytes::v5 as packets};
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::JoinHandle,
    time::timeout,
};

/// For one answer: only a hang meets it.
const PATIENCE: Duration = Duration::from_secs(30);
/// A payload of 1 MiB and its packet around it.
const PACKET_BYTES_MAX: usize = 2 << 20;
/// Requests that wait for the task.
const REQUESTS: usize = 10;
const SESSION_EXPIRY_S: u32 = 3600;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V4,
    V5,
}

#[derive(Clone, Copy)]
pub enum Transport {
    Tcp,
    Tls,
    Ws,
}

/// Where the broker listens, and who signed its certificate.
pub struct Broker {
    ports: [u16; 3],
    authority: Vec<u8>,
}

impl Broker {
    pub fn from_arguments() -> Self {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let [mqtt, mqtts, http, certificate] = &arguments[..] else {
            panic!("usage: rumqttc-client MQTT MQTTS HTTP CERTIFICATE");
        };
        Self {
            ports: [mqtt, mqtts, http].map(|port| port.parse().expect("a port")),
            authority: std::fs::read(certificate).expect("a certificate"),
        }
    }
}

/// A version and a transport, with names of its own.
#[derive(Clone, Copy)]
pub struct Place {
    broker: &'static Broker,
    pub version: Version,
    transport: Transport,
    check: &'static str,
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = match self.version {
            Version::V4 => "v4",
            Version::V5 => "v5",
        };
        let transport = match self.transport {
            Transport::Tcp => "tcp",
            Transport::Tls => "tls",
            Transport::Ws => "ws",
        };
        write!(out, "rumqttc {version} {transport} {}", self.check)
    }
}

impl Place {
    pub fn new(broker: &'static Broker, version: Version, transport: Transport, check: &'static str) -> Self {
        Self {
            broker,
            version,
            transport,
            check,
        }
    }

    pub fn topic(&self, name: &str) -> String {
        format!("{}/{name}", self.to_string().replace(' ', "/"))
    }

    pub fn client_id(&self, name: &str) -> String {
        self.topic(name).replace('/', "-")
    }

    pub async fn connect(&self, name: &str) -> Client {
        self.connect_as(name, Options::default()).await
    }

    /// The CONNACK has come.
    pub async fn connect_as(&self, name: &str, options: Options) -> Client {
        let (tell, told) = unbounded_channel();
        let (own, messages) = unbounded_channel();
        let out = Out {
            tell,
            messages: options.together.clone().unwrap_or(own),
        };
        let [mqtt, mqtts, http] = self.broker.ports;
        let (host, port, transport) = match self.transport {
            Transport::Tcp => ("localhost".into(), mqtt, rumqttc::Transport::Tcp),
            Transport::Tls => {
                let ca = self.broker.authority.clone();
                let tls = TlsConfiguration::SimpleNative { ca, client_auth: None };
                ("localhost".into(), mqtts, rumqttc::Transport::Tls(tls))
            }
            Transport::Ws => (format!("ws://localhost:{http}/mqtt"), http, rumqttc::Transport::Ws),
        };
        let id = self.client_id(name);
        let (handle, task) = match self.version {
            Version::V4 => {
                let mut set = rumqttc::MqttOptions::new(id, host, port);
                set.set_transport(transport);
                set.set_max_packet_size(PACKET_BYTES_MAX, PACKET_BYTES_MAX);
                set.set_clean_session(!options.lasting).set_manual_acks(options.holds);
                if let Some(will) = options.will {
                    let level = rumqttc::qos(will.qos).expect("a QoS");
                    set.set_last_will(rumqttc::LastWill::new(will.topic, "gone", level, will.retain));
                }
                let (client, events) = rumqttc::AsyncClient::new(set, REQUESTS);
                (Handle::V4(client), tokio::spawn(drive_4(events, out)))
            }
            Version::V5 => {
                let mut set = v5::MqttOptions::new(id, host, port);
                set.set_transport(transport);
                set.set_max_packet_size(u32::try_from(PACKET_BYTES_MAX).ok());
                set.set_clean_start(!options.lasting).set_manual_acks(options.holds);
                set.set_session_expiry_interval(options.lasting.then_some(SESSION_EXPIRY_S));
                if let Some(will) = options.will {
                    let level = v5::mqttbytes::qos(will.qos).expect("a QoS");
                    let properties = will.delay_s.map(|delay| packets::LastWillProperties {
                        delay_interval: Some(delay),
                        payload_format_indicator: None,
                        message_expiry_interval: None,
                        content_type: None,
                        response_topic: None,
                        correlation_data: None,
                        user_properties: Vec::new(),
                    });
                    set.set_last_will(packets::LastWill::new(
                        will.topic,
                        "gone",
                        level,
                        will.retain,
                        properties,
                    ));
                }
                let (client, events) = v5::AsyncClient::new(set, REQUESTS);
                (Handle::V5(client), tokio::spawn(drive_5(events, out)))
            }
        };
        let mut client = Client {
            handle,
            task,
            told,
            messages,
            present: false,
        };
        match client.told("a CONNACK").await {
            Told::Connected { present } => client.present = present,
            other => panic!("{other:?} in place of a CONNACK"),
        }
        client
    }
}

/// How to connect; as nothing says otherwise with a clean session that ends with its connection.
#[derive(Default)]
pub struct Options {
    pub lasting: bool,
    /// It acknowledges nothing.
    pub holds: bool,
    pub will: Option<Will>,
    /// Where messages go that several clients take together.
    pub together: Option<UnboundedSender<Message>>,
}

/// Its payload is `gone`.
pub struct Will {
    pub topic: String,
    pub qos: u8,
    pub retain: bool,
    /// Version 5.
    pub delay_s: Option<u32>,
}

#[derive(Clone, Debug)]
pub struct Message {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: u8,
    pub retain: bool,
    pub dup: bool,
    pub properties: PublishProperties,
}

impl Message {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).expect("UTF-8")
    }

    pub fn number(&self) -> i32 {
        self.text().parse().expect("a number")
    }
}

/// What is no message.
#[derive(Debug)]
enum Told {
    Connected {
        present: bool,
    },
    /// The QoS that was granted.
    Subscribed(Option<u8>),
    Acknowledged,
    Failed(String),
}

#[derive(Clone)]
struct Out {
    tell: UnboundedSender<Told>,
    messages: UnboundedSender<Message>,
}

impl Out {
    fn tell(&self, told: Told) {
        // Nobody listens any more once a check is through with its client.
        let _ = self.tell.send(told);
    }

    fn hear(&self, message: Message) {
        let _ = self.messages.send(message);
    }
}

async fn drive_4(mut events: rumqttc::EventLoop, out: Out) {
    use rumqttc::{Event, Outgoing, Packet, SubscribeReasonCode::Success};
    loop {
        match events.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(ack))) => out.tell(Told::Connected {
                present: ack.session_present,
            }),
            Ok(Event::Incoming(Packet::SubAck(ack))) => out.tell(Told::Subscribed(match ack.return_codes[..] {
                [Success(level)] => Some(level as u8),
                _ => None,
            })),
            Ok(Event::Incoming(Packet::PubAck(_) | Packet::PubComp(_))) => out.tell(Told::Acknowledged),
            Ok(Event::Incoming(Packet::Publish(publish))) => out.hear(Message {
                topic: publish.topic,
                payload: publish.payload.to_vec(),
                qos: publish.qos as u8,
                retain: publish.retain,
                dup: publish.dup,
                properties: PublishProperties::default(),
            }),
            Ok(Event::Outgoing(Outgoing::Disconnect)) => return,
            Ok(_) => {}
            Err(error) => return out.tell(Told::Failed(error.to_string())),
        }
    }
}

async fn drive_5(mut events: v5::EventLoop, out: Out) {
    use packets::{Packet, SubscribeReasonCode::Success};
    use rumqttc::Outgoing;
    use v5::Event;
    loop {
        match events.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(ack))) => out.tell(Told::Connected {
                present: ack.session_present,
            }),
            Ok(Event::Incoming(Packet::SubAck(ack))) => out.tell(Told::Subscribed(match ack.return_codes[..] {
                [Success(level)] => Some(level as u8),
                _ => None,
            })),
            Ok(Event::Incoming(Packet::PubAck(_) | Packet::PubComp(_))) => out.tell(Told::Acknowledged),
            Ok(Event::Incoming(Packet::Publish(publish))) => out.hear(Message {
                topic: String::from_utf8(publish.topic.to_vec()).expect("a topic is UTF-8"),
                payload: publish.payload.to_vec(),
                qos: publish.qos as u8,
                retain: publish.retain,
                dup: publish.dup,
                properties: publish.properties.unwrap_or_default(),
            }),
            Ok(Event::Outgoing(Outgoing::Disconnect)) => return,
            Ok(_) => {}
            Err(error) => return out.tell(Told::Failed(error.to_string())),
        }
    }
}

enum Handle {
    V4(rumqttc::AsyncClient),
    V5(v5::AsyncClient),
}

pub struct Client {
    handle: Handle,
    task: JoinHandle<()>,
    told: UnboundedReceiver<Told>,
    messages: UnboundedReceiver<Message>,
    /// Session present.
    pub present: bool,
}

impl Client {
    async fn told(&mut self, what: &str) -> Told {
        let told = timeout(PATIENCE, self.told.recv()).await;
        let told = told.unwrap_or_else(|_| panic!("{what}: nothing for {PATIENCE:?}"));
        match told.unwrap_or_else(|| panic!("{what}: the connection has ended")) {
            Told::Failed(error) => panic!("{what}: {error}"),
            told => told,
        }
    }

    pub async fn subscribe(&mut self, topic: &str, qos: u8) {
        match &self.handle {
            Handle::V4(client) => client
                .subscribe(topic, rumqttc::qos(qos).expect("a QoS"))
                .await
                .expect("it runs"),
            Handle::V5(client) => client
                .subscribe(topic, v5::mqttbytes::qos(qos).expect("a QoS"))
                .await
                .expect("it runs"),
        }
        match self.told(topic).await {
            Told::Subscribed(granted) => assert_eq!(granted, Some(qos), "{topic}"),
            other => panic!("{other:?} in place of a SUBACK"),
        }
    }

    pub async fn publish(&mut self, topic: &str, payload: impl Into<Vec<u8>>, qos: u8) {
        self.publish_as(topic, payload.into(), qos, false, None).await;
    }

    pub async fn retain(&mut self, topic: &str, payload: &str, qos: u8) {
        self.publish_as(topic, payload.into(), qos, true, None).await;
    }

    /// Acknowledged in full, unless at QoS 0.
    pub async fn publish_as(
        &mut self,
        topic: &str,
        payload: Vec<u8>,
        qos: u8,
        retain: bool,
        properties: Option<PublishProperties>,
    ) {
        match &self.handle {
            Handle::V4(client) => {
                let level = rumqttc::qos(qos).expect("a QoS");
                client.publish(topic, level, retain, payload).await.expect("it runs");
            }
            Handle::V5(client) => {
                let level = v5::mqttbytes::qos(qos).expect("a QoS");
                let properties = properties.unwrap_or_default();
                let sent = client.publish_with_properties(topic, level, retain, payload, properties);
                sent.await.expect("it runs");
            }
        }
        if qos > 0 {
            match self.told(topic).await {
                Told::Acknowledged => {}
                other => panic!("{other:?} in place of an acknowledgement of {topic}"),
            }
        }
    }

    pub async fn take(&mut self) -> Message {
        take(&mut self.messages).await
    }

    pub async fn take_all(&mut self, count: usize) -> VecDeque<Message> {
        let mut messages = VecDeque::new();
        for _ in 0..count {
            messages.push_back(self.take().await);
        }
        messages
    }

    /// With a DISCONNECT.
    pub async fn end(self) {
        match &self.handle {
            Handle::V4(client) => client.disconnect().await.expect("it runs"),
            Handle::V5(client) => client.disconnect().await.expect("it runs"),
        }
        let ended = timeout(PATIENCE, self.task)
            .await
            .expect("a DISCONNECT is sent at once");
        ended.expect("the task does not panic");
    }

    /// The connection ends without a DISCONNECT, a TLS alert or a Close frame.
    pub async fn cut(self) {
        self.task.abort();
        // It has ended, and dropped its socket.
        let _ = self.task.await;
    }
}

pub async fn take(messages: &mut UnboundedReceiver<Message>) -> Message {
    let message = timeout(PATIENCE, messages.recv()).await;
    let message = message.unwrap_or_else(|_| panic!("no message for {PATIENCE:?}"));
    message.expect("a connection that stands")
}
