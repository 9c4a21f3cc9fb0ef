// Everything that MQTT.js does with a broker: node mqtt_js_client.js MQTT MQTTS HTTP CERTIFICATE (ports, and a file).
//
// Each check runs in 3.1.1 and 5 over TCP, TLS and WebSocket, and says `ok` when it held. The first that does not is named and ends it all.
"use strict";
const assert = require("node:assert");
const fs = require("node:fs");
const mqtt = require("mqtt");

// Milliseconds for one answer, and for one check: only a hang meets them.
const PATIENCE_MS = 30_000;
const CHECK_PATIENCE_MS = 90_000;
const [plain, tls, web] = process.argv.slice(2, 5);
const ca = fs.readFileSync(process.argv[5]);
const URLS = { tcp: `mqtt://localhost:${plain}`, tls: `mqtts://localhost:${tls}`, ws: `ws://localhost:${web}/mqtt` };
const MIB = Buffer.alloc(1 << 20, "0123456789abcdef");
const LEVELS = [0, 1, 2];

const same = (came, expected) => assert.deepStrictEqual(came, expected);
const range = (from, to) => Array.from({ length: to - from }, (_, at) => from + at);
const inOrder = (numbers) => [...numbers].sort((a, b) => a - b);

function within(ms, what, promise) {
  let timer;
  const late = new Promise((_, reject) => (timer = setTimeout(() => reject(new Error(`${what}: nothing for ${ms} ms`)), ms)));
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

// Messages and those who wait for them; members of a group may have one together.
class Heard {
  packets = [];
  readers = [];

  put(packet) {
    const reader = this.readers.shift();
    if (reader) reader(packet);
    else this.packets.push(packet);
  }

  take() {
    if (this.packets.length > 0) return Promise.resolve(this.packets.shift());
    return within(PATIENCE_MS, "a message", new Promise((resolve) => this.readers.push(resolve)));
  }

  async numbers(count) {
    const numbers = [];
    for (let at = 0; at < count; at += 1) numbers.push(Number((await this.take()).payload));
    return numbers;
  }
}

// A version and a transport, with names of its own.
class Place {
  constructor(version, transport, check) {
    this.version = version;
    this.transport = transport;
    this.base = `js/v${version}/${transport}/${check}`;
  }

  name(client) {
    return `${this.base}/${client}`.replaceAll("/", "-");
  }

  // `holds` acknowledges nothing, `lasting` keeps the session, `will` is an MQTT.js will.
  async connect(name, { holds, lasting, will, heard = new Heard() } = {}) {
    const options = { protocolVersion: this.version, clientId: this.name(name), reconnectPeriod: 0, ca, will, clean: !lasting };
    if (this.version === 5 && lasting) options.properties = { sessionExpiryInterval: 3600 };
    const client = mqtt.connect(URLS[this.transport], options);
    client.heard = heard;
    client.mine = 0;
    const hear = (packet) => ((client.mine += 1), heard.put(packet));
    // Messages may come with the CONNACK: whoever listens stands before it.
    client.on("message", (topic, payload, packet) => hear(packet));
    // It is asked before an acknowledgement; MQTT.js reads on once it was answered.
    if (holds) client.options.customHandleAcks = (topic, payload, packet) => hear(packet);
    client.on("error", (error) => (client.failure = error));
    const connack = new Promise((resolve, reject) => {
      client.once("connect", resolve);
      client.once("error", reject);
      client.once("close", () => reject(new Error("closed before its CONNACK")));
    });
    client.present = (await within(PATIENCE_MS, "a CONNACK", connack)).sessionPresent;
    return client;
  }
}

async function subscribe(client, topic, qos) {
  const granted = await within(PATIENCE_MS, "a SUBACK", client.subscribeAsync(topic, { qos }));
  same(granted.map((one) => one.qos), [qos]);
}

const publish = (client, topic, payload, qos, more = {}) =>
  within(PATIENCE_MS, `an acknowledgement of ${topic}`, client.publishAsync(topic, payload, { qos, ...more }));

async function end(client) {
  await within(PATIENCE_MS, "an end", client.endAsync());
  if (client.failure) throw client.failure;
}

// The connection below MQTT ends: without a DISCONNECT, and without a Close frame.
async function cut(client) {
  const closed = new Promise((resolve) => client.once("close", resolve));
  (client.stream.socket?._socket ?? client.stream).destroy();
  await within(PATIENCE_MS, "a close", closed);
  client.end(true);
}

const gone = (topic, qos, more = {}) => ({ topic, payload: Buffer.from("gone"), qos, ...more });
const text = (packet) => packet.payload.toString();

const checks = {
  // QoS 0, 1, 2 both ways: empty, small and 1 MiB; and the lower of two QoS.
  async qos(place) {
    const client = await place.connect("c");
    const topic = `${place.base}/t`;
    await subscribe(client, topic, 2);
    for (const qos of LEVELS) {
      for (const payload of [Buffer.alloc(0), Buffer.from("small"), MIB]) {
        await publish(client, topic, payload, qos);
        const packet = await client.heard.take();
        same([packet.topic, packet.qos, packet.retain, payload.equals(packet.payload)], [topic, qos, false, true]);
      }
    }
    await subscribe(client, `${place.base}/low`, 1);
    await publish(client, `${place.base}/low`, "x", 2);
    same((await client.heard.take()).qos, 1);
    await end(client);
  },

  // Set, live, read by wildcard, replaced, cleared.
  async retained(place) {
    const base = `${place.base}/kept`;
    const client = await place.connect("c");
    await subscribe(client, `${base}/1`, 1);
    for (const qos of LEVELS) await publish(client, `${base}/${qos}`, "old", qos, { retain: true });
    await publish(client, `${base}/1`, "new", 1, { retain: true });
    for (const payload of ["old", "new"]) {
      const packet = await client.heard.take();
      same([text(packet), packet.retain], [payload, false]);
    }
    let reader = await place.connect("r");
    await subscribe(reader, `${base}/+`, 2);
    const came = [];
    for (const _ of LEVELS) came.push(await reader.heard.take());
    came.sort((a, b) => a.qos - b.qos);
    same(
      came.map((packet) => [packet.topic, text(packet), packet.qos, packet.retain]),
      LEVELS.map((qos) => [`${base}/${qos}`, qos === 1 ? "new" : "old", qos, true]),
    );
    await end(reader);
    for (const qos of LEVELS) await publish(client, `${base}/${qos}`, "", qos, { retain: true });
    reader = await place.connect("r");
    await subscribe(reader, `${base}/#`, 2);
    await publish(client, `${base}/fence`, "fence", 2);
    const packet = await reader.heard.take();
    same([text(packet), packet.retain], ["fence", false]);
    await end(reader);
    await end(client);
  },

  // Of a cut connection, at each QoS, one of them retained; none behind a DISCONNECT.
  async will(place) {
    const topic = `${place.base}/will`;
    const witness = await place.connect("w");
    await subscribe(witness, topic, 2);
    for (const qos of LEVELS) {
      await cut(await place.connect("dies", { will: gone(topic, qos, { retain: qos === 2 }) }));
      const packet = await witness.heard.take();
      same([packet.topic, text(packet), packet.qos, packet.retain], [topic, "gone", qos, false]);
    }
    const late = await place.connect("late");
    await subscribe(late, topic, 2);
    same((await late.heard.take()).retain, true);
    await end(late);
    await end(await place.connect("leaves", { will: gone(topic, 2) }));
    await publish(witness, topic, "fence", 2);
    same(text(await witness.heard.take()), "fence");
    await end(witness);
  },

  // It comes no sooner than its delay, and never where its client is back before.
  async will_delay(place) {
    const topic = `${place.base}/will`;
    const witness = await place.connect("w");
    await subscribe(witness, topic, 1);
    const delayed = (willDelayInterval) => ({ lasting: true, will: gone(topic, 1, { properties: { willDelayInterval } }) });
    const dies = await place.connect("dies", delayed(1));
    const cutAt = performance.now();
    await cut(dies);
    same(text(await witness.heard.take()), "gone");
    assert(performance.now() - cutAt >= 900, "sooner than its delay of a second");
    await cut(await place.connect("back", delayed(600)));
    const back = await place.connect("back", { lasting: true });
    same(back.present, true);
    await publish(back, topic, "fence", 1);
    same(text(await witness.heard.take()), "fence");
    await end(back);
    await end(witness);
  },

  // Each message goes to one member; what a member that dies had not acknowledged goes to another.
  async shared(place) {
    const publisher = await place.connect("p");
    const heard = new Heard();
    const members = [await place.connect("m0", { heard }), await place.connect("m1", { heard })];
    for (const member of members) await subscribe(member, `$share/group/${place.base}/once`, 2);
    for (const number of range(0, 30)) await publish(publisher, `${place.base}/once`, String(number), number % 3);
    same(inOrder(await heard.numbers(30)), range(0, 30));
    for (const member of members) {
      assert(member.mine > 0, "a member got nothing");
      await end(member);
    }
    same(heard.packets, []);
    for (const qos of [1, 2]) {
      const topic = `${place.base}/again/${qos}`;
      const dies = await place.connect(`d${qos}`, { holds: true });
      const stays = await place.connect(`s${qos}`);
      for (const member of [dies, stays]) await subscribe(member, `$share/group/${topic}`, qos);
      await subscribe(stays, `${topic}/fence`, qos);
      for (const number of range(0, 10)) await publish(publisher, topic, String(number), qos);
      await dies.heard.take();
      await publish(publisher, `${topic}/fence`, "-1", qos);
      const before = [];
      while (!before.includes(-1)) before.push(...(await stays.heard.numbers(1)));
      assert(before.length < 11, "the member that died had got nothing");
      await cut(dies);
      same(inOrder([...before, ...(await stays.heard.numbers(11 - before.length))]), range(-1, 10));
      await end(stays);
    }
    await end(publisher);
  },

  // What is queued while a client is away comes when it is back, in order, also what it had not acknowledged.
  async resume(place) {
    const publisher = await place.connect("p");
    for (const qos of [1, 2]) {
      const topic = `${place.base}/${qos}`;
      let away = await place.connect(`a${qos}`, { lasting: true });
      same(away.present, false);
      await subscribe(away, topic, qos);
      await end(away);
      for (const number of range(0, 5)) await publish(publisher, topic, String(number), qos);
      away = await place.connect(`a${qos}`, { lasting: true, holds: true });
      same(away.present, true);
      // It reads no further than what it holds.
      same(await away.heard.numbers(1), [0]);
      await cut(away);
      await publish(publisher, topic, "5", qos);
      away = await place.connect(`a${qos}`, { lasting: true });
      same(away.present, true);
      const again = [];
      for (const _ of range(0, 6)) again.push(await away.heard.take());
      same(again.map((packet) => Number(packet.payload)), range(0, 6));
      same([again[0].dup, again[5].dup], [true, false]);
      await end(away);
      const fresh = await place.connect(`a${qos}`);
      same(fresh.present, false);
      await end(fresh);
    }
    await end(publisher);
  },

  // An agent's inbox by its name, and a reply by way of it.
  async addresses(place) {
    const [alice, bob] = [await place.connect("alice"), await place.connect("bob")];
    for (const client of [alice, bob]) await subscribe(client, "$weft/inbox", 1);
    await publish(alice, `$weft/agent/${place.name("bob")}`, "question", 1);
    const packet = await bob.heard.take();
    same([packet.topic, text(packet)], ["$weft/inbox", "question"]);
    await publish(bob, `$weft/agent/${place.name("alice")}`, "answer", 2);
    same(text(await alice.heard.take()), "answer");
    await end(alice);
    await end(bob);
  },

  // Each property of a PUBLISH as it was sent; a reply to its response topic.
  async properties(place) {
    const [reader, writer] = [await place.connect("r"), await place.connect("w")];
    await subscribe(reader, `${place.base}/t`, 1);
    await subscribe(writer, `${place.base}/answers`, 1);
    const sent = {
      userProperties: { a: ["1", "2"], b: "" },
      responseTopic: `${place.base}/answers`,
      correlationData: Buffer.from([0, 1]),
      contentType: "text/plain",
      payloadFormatIndicator: true,
    };
    await publish(writer, `${place.base}/t`, "x", 1, { properties: { ...sent, messageExpiryInterval: 600 } });
    const { messageExpiryInterval, ...came } = (await reader.heard.take()).properties;
    same({ ...came, userProperties: { ...came.userProperties } }, sent);
    assert(messageExpiryInterval > 0 && messageExpiryInterval <= 600, `expiry ${messageExpiryInterval}`);
    await publish(reader, came.responseTopic, "answer", 1, { properties: { correlationData: came.correlationData } });
    const answer = await writer.heard.take();
    same([text(answer), answer.properties.correlationData], ["answer", sent.correlationData]);
    await end(reader);
    await end(writer);
  },
};
const OF_5 = ["will_delay", "properties"];

async function run(version, transport, name) {
  const named = `mqtt.js v${version} ${transport} ${name}`;
  try {
    await within(CHECK_PATIENCE_MS, named, checks[name](new Place(version, transport, name)));
  } catch (error) {
    console.error(`FAILED ${named}:`, error);
    process.exit(1);
  }
  console.log(`ok ${named}`);
}

(async () => {
  for (const version of [4, 5]) {
    for (const transport of Object.keys(URLS)) {
      for (const name of Object.keys(checks)) if (version === 5 || !OF_5.includes(name)) await run(version, transport, name);
    }
  }
})();
