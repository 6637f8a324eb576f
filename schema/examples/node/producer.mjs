// A producer of usage events: confirms, mandatory, each event kept until RabbitMQ has confirmed it.
//   node producer.mjs < calls.ndjson > confirmed-ids.txt
// Reads one call of a model a line, as a JSON object; prints the id of each event that is confirmed. While the broker is
// away, or has no queue, it keeps what it has and tries again. What is in memory is lost if this process is killed.
import { randomUUID } from "node:crypto";
import { EventEmitter, once } from "node:events";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import amqp from "amqplib";

const EVENTS_MAX = 50; // in a message: so many of the largest events stay below the limit of 1 MiB
const [IN_FLIGHT_MAX, KEPT_MAX] = [64, 20_000]; // messages that wait for confirmation; events in memory
const [BACKOFF_MS, BACKOFF_MS_MAX] = [100, 10_000];

class UsageProducer extends EventEmitter {
  #waiting = []; // events that are not on their way
  #inFlight = new Set(); // ids of messages that wait for their confirmation
  #returned = new Set(); // ids of messages that came back
  #failures = 0; // since the last confirmation
  #connection = null;
  #channel = null;
  kept = 0; // events that are not confirmed

  constructor(url, exchange) {
    super();
    Object.assign(this, { url, exchange });
  }

  // Never waits. Id and time are made here, once: however often the event is sent, it counts once.
  record(call) {
    const event = { id: uuid7(), created_at: new Date().toISOString(), ...call };
    this.#waiting.push({ id: event.id, text: JSON.stringify(event) });
    this.kept += 1;
    this.#pump();
  }

  // Waits until there is room for one more; with 1, until all is confirmed.
  async room(keptMax = KEPT_MAX) {
    while (this.kept >= keptMax) await once(this, "settled");
  }

  async run() {
    for (;;) {
      try {
        await this.#session();
      } catch (error) {
        console.error(`usage: ${this.kept} events kept, trying again: ${error.message || error.code}`);
      }
      this.#failures += 1;
      const longest = Math.min(BACKOFF_MS_MAX, BACKOFF_MS * 2 ** this.#failures);
      await sleep(longest * (0.5 + Math.random() / 2)); // jitter: a restarted broker is not met by all at once
    }
  }

  // One connection, until it is lost, or RabbitMQ says that it cannot take the events.
  async #session() {
    this.#connection = await amqp.connect(this.url, { timeout: 10_000 });
    try {
      await new Promise((_, reject) => {
        const lost = (error) => {
          this.#channel = null;
          reject(error);
        };
        this.#connection.on("error", lost).on("close", () => lost(new Error("the connection was closed")));
        const opened = (channel) => {
          channel.on("error", lost); // such as: there is no exchange of this name
          channel.on("return", (message) => this.#returned.add(message.properties.messageId));
          this.#channel = { channel, lost };
          this.#pump();
        };
        this.#connection.createConfirmChannel().then(opened).catch(lost);
      });
    } finally {
      await this.close();
    }
  }

  // That the connection may be broken already does not matter: what is not confirmed is kept.
  close = async () => this.#connection?.close().catch(() => {});

  #pump() {
    while (this.#channel && this.#waiting.length > 0 && this.#inFlight.size < IN_FLIGHT_MAX)
      this.#publish(this.#waiting.splice(0, EVENTS_MAX));
  }

  #publish(events) {
    const { channel, lost } = this.#channel;
    const messageId = randomUUID(); // tells which message came back
    const body = Buffer.from(`[${events.map((event) => event.text).join(",")}]`);
    const properties = { contentType: "application/json", appId: "node-example", messageId, persistent: true };
    this.#inFlight.add(messageId);
    channel.publish(this.exchange, "usage.recorded", body, { ...properties, mandatory: true }, (refused) => {
      this.#inFlight.delete(messageId);
      if (this.#returned.delete(messageId)) refused = new Error("the events came back: no queue is bound to the exchange");
      if (refused) {
        this.#waiting = events.concat(this.#waiting); // they may have arrived all the same: the ids tell
        return lost(refused);
      }
      this.#failures = 0;
      this.kept -= events.length;
      this.emit("settled", events);
      this.#pump();
    });
  }
}

// UUIDv7: it begins with its time, so rows of one time lie close together in the index.
function uuid7() {
  const time = Date.now().toString(16).padStart(12, "0");
  return `${time.slice(0, 8)}-${time.slice(8)}-7${randomUUID().slice(15)}`;
}

const { USAGE_AMQP_URL = "amqp://guest:guest@127.0.0.1/", USAGE_EXCHANGE = "usage" } = process.env;
const producer = new UsageProducer(USAGE_AMQP_URL, USAGE_EXCHANGE);
producer.on("settled", (events) => process.stdout.write(events.map((event) => `${event.id}\n`).join("")));
producer.run();
for await (const line of createInterface({ input: process.stdin })) {
  try {
    producer.record(JSON.parse(line));
  } catch (error) {
    console.error(`usage: a line is left out: ${error.message}`);
    process.exitCode = 3;
  }
  await producer.room();
}
await producer.room(1);
await producer.close();
process.exit();
