"""Everything that paho-mqtt 2 does with a broker: python3 paho_client.py MQTT MQTTS HTTP CERTIFICATE (ports, and a file)."""

import queue
import ssl
import sys
import uuid

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

PATIENCE = 30
PLAIN, TLS, WEB = map(int, sys.argv[1:4])
CERTIFICATE = sys.argv[4]


class Client:
    def __init__(self, version, name, lasting=False, transport="tcp", port=PLAIN, will=None):
        self.five = version == 5
        self.messages, self.connected, self.acknowledged = queue.Queue(), queue.Queue(), queue.Queue()
        arguments = {} if self.five else {"clean_session": not lasting}
        protocol = mqtt.MQTTv5 if self.five else mqtt.MQTTv311
        api = mqtt.CallbackAPIVersion.VERSION2
        self.client = mqtt.Client(api, client_id=name, protocol=protocol, transport=transport, **arguments)
        self.client.on_connect = lambda c, u, flags, reason, p: self.connected.put((flags.session_present, reason))
        self.client.on_message = lambda c, u, message: self.messages.put(message)
        self.client.on_subscribe = lambda c, u, mid, reasons, p: self.acknowledged.put(reasons)
        if transport == "websockets":
            self.client.ws_set_options(path="/mqtt")
        if port == TLS:
            self.client.tls_set(ca_certs=CERTIFICATE, cert_reqs=ssl.CERT_REQUIRED)
        if will:
            self.client.will_set(will, b"gone", qos=1)
        options = {}
        if self.five:
            options["clean_start"] = not lasting
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = 3600 if lasting else 0
            options["properties"] = properties
        self.client.connect("localhost", port, keepalive=60, **options)
        self.client.loop_start()
        self.present, reason = self.connected.get(timeout=PATIENCE)
        assert not reason.is_failure, reason

    def subscribe(self, topic, qos):
        self.client.subscribe(topic, options=SubscribeOptions(qos)) if self.five else self.client.subscribe(topic, qos)
        reasons = self.acknowledged.get(timeout=PATIENCE)
        assert [reason.value for reason in reasons] == [qos], reasons

    def publish(self, topic, payload, qos, retain=False, properties=None):
        sent = self.client.publish(topic, payload, qos, retain, properties)
        sent.wait_for_publish(PATIENCE)
        assert sent.is_published()

    def take(self):
        return self.messages.get(timeout=PATIENCE)

    def end(self):
        self.client.disconnect()
        self.client.loop_stop()

    def cut(self):
        self.client.loop_stop()
        self.client.socket().shutdown(2)
        self.client._sock_close()


def run(version):
    tag = uuid.uuid4().hex[:8]
    for transport, port in (("tcp", PLAIN), ("tcp", TLS), ("websockets", WEB)):
        client = Client(version, f"p{tag}", transport=transport, port=port)
        topic = f"paho/{tag}/{port}"
        client.subscribe(topic, 2)
        for qos in range(3):
            for payload in (b"", b"small", bytes(range(256)) * 4096):
                client.publish(topic, payload, qos)
                message = client.take()
                assert (message.qos, message.retain, message.payload == payload) == (qos, False, True), (port, qos)
        client.end()
        print(f"paho v{version}: QoS 0, 1, 2 both ways and 1 MiB by {transport} on {port}")

    client = Client(version, f"r{tag}")
    client.publish(f"paho/{tag}/kept", b"kept", 1, retain=True)
    client.subscribe(f"paho/{tag}/+", 1)
    message = client.take()
    assert (message.retain, message.payload) == (True, b"kept")
    Client(version, f"w{tag}", will=f"paho/{tag}/will").cut()
    message = client.take()
    assert (message.topic, message.payload) == (f"paho/{tag}/will", b"gone")
    client.end()

    members = [Client(version, f"s{tag}{number}") for number in range(2)]
    for member in members:
        member.subscribe(f"$share/group/paho/{tag}/shared", 1)
    publisher = Client(version, f"q{tag}")
    for number in range(20):
        publisher.publish(f"paho/{tag}/shared", str(number), 1)
    heard = set()
    while len(heard) < 20:
        for member in members:
            while not member.messages.empty():
                number = int(member.messages.get().payload)
                assert number not in heard
                heard.add(number)
    for member in members:
        member.end()

    away = Client(version, f"a{tag}", lasting=True)
    assert not away.present
    away.subscribe(f"paho/{tag}/away", 2)
    away.end()
    for number in range(5):
        publisher.publish(f"paho/{tag}/away", str(number), 2)
    away = Client(version, f"a{tag}", lasting=True)
    assert away.present
    assert [int(away.take().payload) for _ in range(5)] == list(range(5))
    away.end()

    if version == 5:
        reader = Client(5, f"x{tag}")
        reader.subscribe(f"paho/{tag}/props", 1)
        properties = Properties(PacketTypes.PUBLISH)
        properties.UserProperty = [("a", "1"), ("a", "2")]
        properties.ResponseTopic = "answers"
        properties.CorrelationData = b"\x00\x01"
        properties.ContentType = "text/plain"
        publisher.publish(f"paho/{tag}/props", b"x", 1, properties=properties)
        came = reader.take().properties
        assert came.UserProperty == [("a", "1"), ("a", "2")]
        assert (came.ResponseTopic, came.CorrelationData, came.ContentType) == ("answers", b"\x00\x01", "text/plain")
        reader.end()
    publisher.end()
    print(f"paho v{version}: retained, will, shared, session resumed")


for version in (4, 5):
    run(version)
