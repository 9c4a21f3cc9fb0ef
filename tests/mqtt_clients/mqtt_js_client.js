// Everything that MQTT.js does with a broker: node mqtt_js_client.js MQTT MQTTS HTTP CERTIFICATE (ports, and a file).
"use strict";
const assert = require("node:assert");
const fs = require("node:fs");
const mqtt = require("mqtt");

const [plain, tls, web] = process.argv.slice(2, 5);
const ca = fs.readFileSync(process.argv[5]);
const PATIENCE_MS = 30_000;

async function connect(version, url, clientId, more = {}) {
  const client = await mqtt.connectAsync(url, { protocolVersion: version, clientId, reconnectPeriod: 0, ca, ...more });
  client.queue = [];
  client.waiting = [];
  return client;
}

// From before the connection, so that nothing is missed.
function listen(client) {
  client.heard = [];
  client.on("message", (topic, payload, packet) => {
    const reader = client.waiting.shift();
    if (reader) reader(packet);
    else client.heard.push(packet);
  });
  return client;
}

function take(client) {
  if (client.heard.length > 0) return Promise.resolve(client.heard.shift());
  return new Promise((resolve, reject) => {
    const late = setTimeout(() => reject(new Error("no message came")), PATIENCE_MS);
    client.waiting.push((packet) => (clearTimeout(late), resolve(packet)));
  });
}

async function run(version) {
  const tag = `${version}${process.pid}`;
  for (const url of [`mqtt://localhost:${plain}`, `mqtts://localhost:${tls}`, `ws://localhost:${web}/mqtt`]) {
    const client = listen(await connect(version, url, `j${tag}`));
    const topic = `js/${tag}/${url.split(":")[0]}`;
    await client.subscribeAsync(topic, { qos: 2 });
    for (const qos of [0, 1, 2]) {
      for (const payload of [Buffer.alloc(0), Buffer.from("small"), Buffer.alloc(1 << 20, "0123456789abcdef")]) {
        await client.publishAsync(topic, payload, { qos });
        const packet = await take(client);
        assert.deepStrictEqual([packet.qos, packet.retain, payload.equals(packet.payload)], [qos, false, true]);
      }
    }
    await client.endAsync();
    console.log(`MQTT.js v${version}: QoS 0, 1, 2 both ways and 1 MiB by ${url}`);
  }
  const url = `mqtt://localhost:${plain}`;
  const publisher = listen(await connect(version, url, `p${tag}`));
  await publisher.publishAsync(`js/${tag}/kept`, "kept", { qos: 1, retain: true });
  await publisher.subscribeAsync(`js/${tag}/+`, { qos: 1 });
  let packet = await take(publisher);
  assert.deepStrictEqual([packet.retain, packet.payload.toString()], [true, "kept"]);
  const dies = await connect(version, url, `d${tag}`, { will: { topic: `js/${tag}/will`, payload: Buffer.from("gone"), qos: 1 } });
  dies.stream.destroy();
  packet = await take(publisher);
  assert.deepStrictEqual([packet.topic, packet.payload.toString()], [`js/${tag}/will`, "gone"]);

  const members = [listen(await connect(version, url, `m${tag}`)), listen(await connect(version, url, `n${tag}`))];
  const numbers = [];
  for (const member of members) {
    member.on("message", (topic, payload) => numbers.push(Number(payload)));
    await member.subscribeAsync(`$share/group/js/shared/${tag}`, { qos: 1 });
  }
  for (let number = 0; number < 20; number += 1) await publisher.publishAsync(`js/shared/${tag}`, String(number), { qos: 1 });
  const started = Date.now();
  while (numbers.length < 20 && Date.now() - started < PATIENCE_MS) await new Promise((resolve) => setTimeout(resolve, 10));
  assert.deepStrictEqual(numbers.sort((a, b) => a - b), Array.from({ length: 20 }, (_, at) => at));
  for (const member of members) await member.endAsync();

  const lasting = { clean: false, properties: version === 5 ? { sessionExpiryInterval: 3600 } : undefined };
  let away = listen(await connect(version, url, `a${tag}`, lasting));
  await away.subscribeAsync(`js/away/${tag}`, { qos: 2 });
  await away.endAsync();
  for (let number = 0; number < 5; number += 1) await publisher.publishAsync(`js/away/${tag}`, String(number), { qos: 2 });
  // Messages may come with the CONNACK: the listener stands before it.
  away = mqtt.connect(url, { protocolVersion: version, clientId: `a${tag}`, reconnectPeriod: 0, ...lasting });
  away.waiting = [];
  listen(away);
  for (let number = 0; number < 5; number += 1) assert.strictEqual((await take(away)).payload.toString(), String(number));
  await away.endAsync();
  await publisher.endAsync();
  console.log(`MQTT.js v${version}: retained, will, shared, session resumed`);
}

(async () => {
  for (const version of [4, 5]) await run(version);
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
