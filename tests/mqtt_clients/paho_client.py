"""Everything that paho-mqtt 2 does with a broker: python3 paho_client.py MQTT MQTTS HTTP CERTIFICATE (ports, and a file).

Each check runs in 3.1.1 and 5 over TCP, TLS and WebSocket, and says `ok` when it held. The first that does not is named and ends it all.
"""

import faulthandler
import queue
import socket
import ssl
import sys
import time

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

# Seconds for one answer, and for one check: only a hang meets them.
PATIENCE = 30
CHECK_PATIENCE = 90
PLAIN, TLS, WEB = map(int, sys.argv[1:4])
CERTIFICATE = sys.argv[4]
TRANSPORTS = {"tcp": ("tcp", PLAIN), "tls": ("tcp", TLS), "ws": ("websockets", WEB)}
MIB = bytes(range(256)) * 4096


def same(came, expected):
    assert came == expected, f"came {came!r}, expected {expected!r}"


def properties_of(kind, **fields):
    properties = Properties(kind)
    for name, value in fields.items():
        setattr(properties, name, value)
    return properties


class Client:
    """A connection whose messages wait in a queue. `will` is topic, QoS, retain flag and delay; `lasting` keeps the session."""

    def __init__(self, place, name, lasting=False, will=None, manual=False, messages=None):
        version, transport = place.version, place.transport
        self.five = version == 5
        self.messages = messages or queue.Queue()
        self.connected, self.acknowledged = queue.Queue(), queue.Queue()
        self.mine = []
        protocol = mqtt.MQTTv5 if self.five else mqtt.MQTTv311
        kind, port = TRANSPORTS[transport]
        # A connection that ends is not made again in silence.
        more = {"manual_ack": manual, "reconnect_on_failure": False}
        if not self.five:
            more["clean_session"] = not lasting
        api = mqtt.CallbackAPIVersion.VERSION2
        self.client = mqtt.Client(api, client_id=place.name(name), protocol=protocol, transport=kind, **more)
        self.client.on_connect = lambda c, u, flags, reason, p: self.connected.put((flags.session_present, reason))
        self.client.on_subscribe = lambda c, u, mid, reasons, p: self.acknowledged.put(reasons)
        self.client.on_message = lambda c, u, message: self.hear(message)
        if kind == "websockets":
            self.client.ws_set_options(path="/mqtt")
        if transport == "tls":
            self.client.tls_set(ca_certs=CERTIFICATE, cert_reqs=ssl.CERT_REQUIRED)
        if will:
            topic, qos, retain, delay = will
            delayed = properties_of(PacketTypes.WILLMESSAGE, WillDelayInterval=delay) if self.five else None
            self.client.will_set(topic, b"gone", qos=qos, retain=retain, properties=delayed)
        options = {}
        if self.five:
            options["clean_start"] = not lasting
            options["properties"] = properties_of(PacketTypes.CONNECT, SessionExpiryInterval=3600 if lasting else 0)
        self.client.connect("localhost", port, keepalive=60, **options)
        self.client.loop_start()
        self.present, reason = self.connected.get(timeout=PATIENCE)
        assert not reason.is_failure, reason

    def hear(self, message):
        self.mine.append(message)
        self.messages.put(message)

    def subscribe(self, topic, qos):
        self.client.subscribe(topic, options=SubscribeOptions(qos)) if self.five else self.client.subscribe(topic, qos)
        reasons = self.acknowledged.get(timeout=PATIENCE)
        same([reason.value for reason in reasons], [qos])

    def publish(self, topic, payload, qos, retain=False, properties=None):
        sent = self.client.publish(topic, payload, qos, retain, properties)
        sent.wait_for_publish(PATIENCE)
        assert sent.is_published(), f"no acknowledgement of {topic} at QoS {qos}"

    def take(self):
        return self.messages.get(timeout=PATIENCE)

    def numbers(self, count):
        return [int(self.take().payload) for _ in range(count)]

    def end(self):
        self.client.disconnect()
        self.client.loop_stop()

    def cut(self):
        """The connection ends without a DISCONNECT, a TLS alert or a Close frame."""
        with socket.socket(fileno=socket.dup(self.client.socket().fileno())) as raw:
            raw.shutdown(socket.SHUT_RDWR)
        self.client.loop_stop()


class Place:
    """A version and a transport, with names of its own."""

    def __init__(self, version, transport, check):
        self.version, self.transport = version, transport
        self.base = f"paho/v{version}/{transport}/{check}"

    def name(self, client):
        return f"{self.base}/{client}".replace("/", "-")


def qos(place):
    """QoS 0, 1, 2 both ways: empty, small and 1 MiB; and the lower of two QoS."""
    client, topic = Client(place, "c"), f"{place.base}/t"
    client.subscribe(topic, 2)
    for level in range(3):
        for payload in (b"", b"small", MIB):
            client.publish(topic, payload, level)
            message = client.take()
            assert message.payload == payload, f"QoS {level}: {len(payload)} bytes became {len(message.payload)}"
            same((message.topic, message.qos, message.retain), (topic, level, False))
    client.subscribe(f"{place.base}/low", 1)
    client.publish(f"{place.base}/low", b"x", 2)
    same(client.take().qos, 1)
    client.end()


def retained(place):
    """Set, live, read by wildcard, replaced, cleared."""
    client, base = Client(place, "c"), f"{place.base}/kept"
    client.subscribe(f"{base}/1", 1)
    for level in range(3):
        client.publish(f"{base}/{level}", b"old", level, retain=True)
    client.publish(f"{base}/1", b"new", 1, retain=True)
    live = [client.take() for _ in range(2)]
    same([(message.payload, message.retain) for message in live], [(b"old", False), (b"new", False)])
    reader = Client(place, "r")
    reader.subscribe(f"{base}/+", 2)
    came = sorted((message.topic, message.payload, message.qos, message.retain) for message in (reader.take() for _ in range(3)))
    same(came, [(f"{base}/{level}", b"new" if level == 1 else b"old", level, True) for level in range(3)])
    reader.end()
    for level in range(3):
        client.publish(f"{base}/{level}", b"", level, retain=True)
    reader = Client(place, "r")
    reader.subscribe(f"{base}/#", 2)
    client.publish(f"{base}/fence", b"fence", 2)
    message = reader.take()
    same((message.payload, message.retain), (b"fence", False))
    reader.end()
    client.end()


def will(place):
    """Of a cut connection, at each QoS, one of them retained; none behind a DISCONNECT."""
    witness, topic = Client(place, "w"), f"{place.base}/will"
    witness.subscribe(topic, 2)
    for level in range(3):
        Client(place, "dies", will=(topic, level, level == 2, 0)).cut()
        message = witness.take()
        same((message.topic, message.payload, message.qos, message.retain), (topic, b"gone", level, False))
    late = Client(place, "late")
    late.subscribe(topic, 2)
    same(late.take().retain, True)
    late.end()
    Client(place, "leaves", will=(topic, 2, False, 0)).end()
    Client(place, "fence").publish(topic, b"fence", 2)
    same(witness.take().payload, b"fence")
    witness.end()


def will_delay(place):
    """It comes no sooner than its delay, and never where its client is back before."""
    witness, topic = Client(place, "w"), f"{place.base}/will"
    witness.subscribe(topic, 1)
    dies = Client(place, "dies", lasting=True, will=(topic, 1, False, 1))
    cut_at = time.monotonic()
    dies.cut()
    same(witness.take().payload, b"gone")
    assert time.monotonic() - cut_at >= 0.9, "sooner than its delay of a second"
    Client(place, "back", lasting=True, will=(topic, 1, False, 600)).cut()
    back = Client(place, "back", lasting=True)
    same(back.present, True)
    back.publish(topic, b"fence", 1)
    same(witness.take().payload, b"fence")
    back.end()
    witness.end()


def shared(place):
    """Each message goes to one member; what a member that dies had not acknowledged goes to another."""
    publisher, together = Client(place, "p"), queue.Queue()
    members = [Client(place, f"m{number}", messages=together) for number in range(2)]
    for member in members:
        member.subscribe(f"$share/group/{place.base}/once", 2)
    for number in range(30):
        publisher.publish(f"{place.base}/once", str(number), number % 3)
    same(sorted(members[0].numbers(30)), list(range(30)))
    for member in members:
        assert member.mine, "a member got nothing"
        member.end()
    assert together.empty(), "a message came twice"
    for level in (1, 2):
        topic = f"{place.base}/again/{level}"
        # It reads nothing of QoS 2 (paho sends PUBREC by itself), and acknowledges nothing of QoS 1.
        dies, stays = Client(place, f"d{level}", manual=True), Client(place, f"s{level}")
        for member in (dies, stays):
            member.subscribe(f"$share/group/{topic}", level)
        stays.subscribe(f"{topic}/fence", level)
        if level == 2:
            dies.client.loop_stop()
        for number in range(10):
            publisher.publish(topic, str(number), level)
        if level == 1:
            dies.take()
        publisher.publish(f"{topic}/fence", b"-1", level)
        before = []
        while -1 not in before:
            before += stays.numbers(1)
        assert len(before) < 11, "the member that died had got nothing"
        dies.cut()
        same(sorted(before + stays.numbers(11 - len(before))), list(range(-1, 10)))
        stays.end()
    publisher.end()


def resume(place):
    """What is queued while a client is away comes when it is back, in order, also what it had not acknowledged."""
    publisher = Client(place, "p")
    for level in (1, 2):
        topic = f"{place.base}/{level}"
        away = Client(place, f"a{level}", lasting=True)
        same(away.present, False)
        away.subscribe(topic, level)
        away.end()
        for number in range(5):
            publisher.publish(topic, str(number), level)
        away = Client(place, f"a{level}", lasting=True, manual=True)
        same(away.present, True)
        # QoS 2 is this client's with its PUBREC, which paho sends by itself.
        same(away.numbers(5), list(range(5)))
        away.cut()
        publisher.publish(topic, b"5", level)
        away = Client(place, f"a{level}", lasting=True)
        same(away.present, True)
        if level == 1:
            again = [away.take() for _ in range(6)]
            same([int(message.payload) for message in again], list(range(6)))
            same([message.dup for message in again], [True] * 5 + [False])
        else:
            same(away.numbers(1), [5])
        away.end()
        fresh = Client(place, f"a{level}")
        same(fresh.present, False)
        fresh.end()
    publisher.end()


def addresses(place):
    """An agent's inbox by its name, and a reply by way of it."""
    alice, bob = Client(place, "alice"), Client(place, "bob")
    for client in (alice, bob):
        client.subscribe("$weft/inbox", 1)
    alice.publish(f"$weft/agent/{place.name('bob')}", b"question", 1)
    message = bob.take()
    same((message.topic, message.payload), ("$weft/inbox", b"question"))
    bob.publish(f"$weft/agent/{place.name('alice')}", b"answer", 2)
    same(alice.take().payload, b"answer")
    alice.end()
    bob.end()


def properties(place):
    """Each property of a PUBLISH as it was sent; a reply to its response topic."""
    reader, writer = Client(place, "r"), Client(place, "w")
    reader.subscribe(f"{place.base}/t", 1)
    writer.subscribe(f"{place.base}/answers", 1)
    sent = properties_of(
        PacketTypes.PUBLISH,
        UserProperty=[("a", "1"), ("b", ""), ("a", "2")],
        ResponseTopic=f"{place.base}/answers",
        CorrelationData=b"\x00\x01",
        ContentType="text/plain",
        MessageExpiryInterval=600,
        PayloadFormatIndicator=1,
    )
    writer.publish(f"{place.base}/t", b"x", 1, properties=sent)
    came = reader.take().properties
    same(came.UserProperty, sent.UserProperty)
    same((came.ResponseTopic, came.CorrelationData, came.ContentType), (sent.ResponseTopic, b"\x00\x01", "text/plain"))
    same((0 < came.MessageExpiryInterval <= 600, came.PayloadFormatIndicator), (True, 1))
    answer = properties_of(PacketTypes.PUBLISH, CorrelationData=came.CorrelationData)
    reader.publish(came.ResponseTopic, b"answer", 1, properties=answer)
    message = writer.take()
    same((message.payload, message.properties.CorrelationData), (b"answer", b"\x00\x01"))
    reader.end()
    writer.end()


CHECKS = [qos, retained, will, shared, resume, addresses]
CHECKS_OF_5 = [will_delay, properties]

for version in (4, 5):
    for transport in TRANSPORTS:
        for check in CHECKS + (CHECKS_OF_5 if version == 5 else []):
            named = f"paho v{version} {transport} {check.__name__}"
            # Ends the process where it hangs, with where it stands.
            faulthandler.dump_traceback_later(CHECK_PATIENCE, exit=True)
            try:
                check(Place(version, transport, check.__name__))
            except BaseException as error:
                print(f"FAILED {named}: {type(error).__name__} {error}", file=sys.stderr, flush=True)
                raise
            print(f"ok {named}", flush=True)
faulthandler.cancel_dump_traceback_later()
