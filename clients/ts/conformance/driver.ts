// The driver of the conformance suite for this library: ../../CONFORMANCE.md says what it is told and what it answers.

import { createInterface } from "node:readline";
import { type Client, type Session, SlotdError, connect } from "../src/index.js";

type Command = { do: string; id: number; [name: string]: any };
interface Followed {
  session: Session;
  events: object[];
  notifications: object[];
  deletions: number;
  opened: number;
  off: (() => void)[];
}

const clients = new Map<string, Client>();
const sessions = new Map<string, Followed>();

const commands: Record<string, (command: Command) => unknown> = {
  connect({ client, url, token, tokens, transport, ...rest }) {
    let asked = 0;
    // The last one again and again.
    const source = tokens ? () => tokens[Math.min(asked++, tokens.length - 1)] : token;
    clients.set(client, connect(url, {
      ...(source === undefined ? {} : { token: source }),
      ...(rest.sender === undefined ? {} : { sender: rest.sender }),
      transport: transport ?? "auto",
      attemptTimeout: rest.attempt_timeout_ms ?? 20_000,
      heartbeat: rest.heartbeat_ms ?? 25_000,
      backoff: { base: rest.backoff_base_ms ?? 200, max: rest.backoff_max_ms ?? 10_000 },
      queue: { messages: rest.queue_messages ?? 1_000, bytes: rest.queue_bytes ?? 8 * 1024 * 1024 },
    }));
    return {};
  },
  session({ client, session, service, name, after }) {
    const made = clients.get(client)!.session(service, name, after === undefined ? {} : { after });
    const followed: Followed = { session: made, events: [], notifications: [], deletions: 0, opened: 0, off: [] };
    sessions.set(session, followed);
    made.onDeleted(() => {
      followed.deletions++;
      followed.events.push({ deleted: true });
    });
    made.onStatus((status) => {
      if (status === "open") followed.opened++;
    });
    return {};
  },
  on(command) {
    const followed = at(command);
    const { session, events, notifications } = followed;
    followed.off.push(
      // The first one throws: the others must not mind.
      session.on(command.kind, () => {
        throw new Error("as told");
      }),
      session.on(command.kind, ({ seq, index, position, kind, body }) => {
        events.push({ seq, index, position, kind, body });
      }),
      session.onNotify("*", ({ kind, body, sender }) => void notifications.push({ kind, body, sender })),
    );
    return {};
  },
  off(command) {
    for (const off of at(command).off.splice(0)) off();
    return {};
  },
  async send({ body, text, content_type, key, deadline_ms, ordered, ...command }) {
    const reply = await at(command).session.send(text ?? body, {
      ...(key === undefined ? {} : { idempotencyKey: key }),
      ...(deadline_ms === undefined ? {} : { deadline: deadline_ms }),
      ...(content_type === undefined ? {} : { contentType: content_type }),
      ...(ordered === undefined ? {} : { ordered }),
    });
    return { seq: reply.seq, position: reply.position, replayed: reply.replayed, key: reply.idempotencyKey, body: reply.body };
  },
  async query(command) {
    return { body: await at(command).session.query(command.body) };
  },
  async notify(command) {
    await at(command).session.notify(command.kind, command.body);
    return {};
  },
  async history(command) {
    const { after, limit } = command;
    const entries = [];
    const options = { ...(after === undefined ? {} : { after }), ...(limit === undefined ? {} : { limit }) };
    for await (const { seq, id, body, reply, events } of at(command).session.history(options)) {
      entries.push({ seq, key: id, body, reply, events: events.length });
    }
    return { entries };
  },
  async describe(command) {
    const { seq, position } = await at(command).session.describe();
    return { seq, position };
  },
  async delete(command) {
    await at(command).session.delete();
    return {};
  },
  events(command) {
    const { session, events, notifications, deletions, opened } = at(command);
    const { status, reason, position } = session;
    return {
      events: events.slice(command.from ?? 0),
      notifications,
      deletions,
      opened,
      status,
      reason: reason?.code ?? null,
      position: position ?? null,
    };
  },
  close({ client }) {
    clients.get(client)!.close();
    return {};
  },
};

function at({ session }: { [name: string]: any }): Followed {
  const found = sessions.get(session ?? "");
  if (!found) throw new Error(`there is no session ${session}`);
  return found;
}

const say = (answer: object) => process.stdout.write(`${JSON.stringify(answer)}\n`);

// What a listener throws is told to nobody here.
console.error = () => {};

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line) as Command;
  const { id } = command;
  // Several at a time: a send is answered when it is decided.
  void (async () => commands[command.do]!(command))().then(
    (ok) => say({ id, ok }),
    (error) => {
      const { code, status, retriable, rejection } = error instanceof SlotdError ? error : ({ code: "driver" } as SlotdError);
      say({ id, error: { code, status: status ?? 0, retriable: retriable ?? false, rejection: rejection?.code ?? null, message: `${error}` } });
    },
  );
}
process.exit(0);
