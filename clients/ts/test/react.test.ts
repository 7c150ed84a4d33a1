import assert from "node:assert/strict";
import { after, test } from "node:test";
import { StrictMode, createElement, useState } from "react";
// @ts-expect-error: it has no types.
import { act, create } from "react-test-renderer";
import type { Client } from "../src/index.js";
import { useEvents, useSession, useStatus } from "../src/react.js";
import { json, standIn, until } from "./standin.js";

(globalThis as any).IS_REACT_ACT_ENVIRONMENT = true;
// It says that it is deprecated; it needs no page.
console.error = () => {};
// React's `act` leaves them open, and the process would not end.
const ports: MessagePort[] = [];
globalThis.MessageChannel = class extends MessageChannel {
  constructor() {
    super();
    ports.push(this.port1, this.port2);
  }
};
after(() => ports.forEach((port) => port.close()));

const statuses: string[] = [];

function Room({ client, room, limit }: { client: Client; room: string; limit?: number }) {
  const session = useSession(client, "chat", room, { after: "0" });
  const lines = useEvents<number>(session, "line", limit ? { limit } : {});
  const { status, reason } = useStatus(session);
  statuses.push(`${status} ${reason?.code ?? ""}`);
  const [drafts] = useState(0);
  return createElement("p", null, `${status} ${reason?.code ?? ""} ${drafts} ${lines.map(({ body }) => body).join(",")}`);
}

const shown = (rendered: any) => rendered.toJSON().children[0] as string;
const settle = () => act(async () => new Promise((resolve) => setTimeout(resolve, 5)));

test("components show the events and the status of a session, and close its connection when they go", async () => {
  const { client, sockets } = standIn(() => json({ position: "0" }));
  let rendered: any;
  // Strict mode mounts twice.
  const element = (room: string, limit?: number) => createElement(StrictMode, null, createElement(Room, { client, room, ...(limit ? { limit } : {}) }));
  await act(async () => (rendered = create(element("one"))));
  await settle();
  const open = () => sockets.filter(({ readyState }) => readyState === 1);
  assert.equal(open().length, 1);
  const [socket] = open();
  await act(async () => [1, 2, 3].forEach((seq) => socket!.event(seq)));
  await settle();
  assert.equal(shown(rendered), "open  0 1,2,3");
  await act(async () => rendered.update(element("one", 2)));
  await act(async () => socket!.event(4));
  await settle();
  assert.equal(shown(rendered), "open  0 3,4");
  await act(async () => socket!.end(1006));
  await settle();
  assert.ok(statuses.includes("retrying unreachable"), `${statuses}`);
  await until("open again", () => open().length === 1);
  await act(async () => rendered.update(element("two")));
  await settle();
  assert.equal(shown(rendered), "open  0 ");
  await until("one connection", () => open().length === 1 && open()[0]!.url.pathname.includes("two"));
  await act(async () => open()[0]!.say({ type: "deleted" }));
  await settle();
  await act(async () => rendered.unmount());
  assert.equal(open().length, 0);
});
