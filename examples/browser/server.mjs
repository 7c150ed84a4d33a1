// The page's own server: it serves the page, and gives each visitor a token for the room. A backend of yours does the same, behind
// its login. What the page sends and sees does not come by here: it talks to slotd itself.

import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { fileURLToPath } from "node:url";

const slotd = process.env.SLOTD_URL ?? "http://127.0.0.1:7070";
/** The backend's own token, which may mint others: `slotd token create`. It never leaves this process. */
const secret = process.env.BACKEND_TOKEN;
if (!secret) {
  console.error("BACKEND_TOKEN is not set: BACKEND_TOKEN=$(slotd token create backend --allow mint,send,read,subscribe --on chat)");
  process.exit(2);
}
const port = Number(process.env.PORT ?? 8080);
/** The client library in one file. */
const client = process.env.CLIENT_FILE ?? fileURLToPath(new URL("../../clients/ts/dist/slotd.js", import.meta.url));

const room = "lobby";
const TTL = process.env.TOKEN_TTL ?? "10m";
const BODY_BYTES_MAX = 1024;
const NAME = /^[\p{L}\p{N} _-]{1,32}$/u;

const here = (name) => fileURLToPath(new URL(name, import.meta.url));
const files = {
  "/": ["text/html", here("index.html")],
  "/page.js": ["text/javascript", here("page.js")],
  "/page.css": ["text/css", here("page.css")],
  "/slotd.js": ["text/javascript", client],
};

async function body(request) {
  let text = "";
  for await (const piece of request.setEncoding("utf8")) {
    text += piece;
    if (text.length > BODY_BYTES_MAX) throw Object.assign(new Error("too large"), { status: 413 });
  }
  return JSON.parse(text);
}

/** A token for one visitor and one room. Who the visitor is, a real backend knows from its own session. */
async function mint(name) {
  if (!NAME.test(name)) throw Object.assign(new Error("a name has 1 to 32 letters"), { status: 400 });
  const answer = await fetch(`${slotd}/v1/services/chat/sessions/${room}/token`, {
    method: "POST",
    headers: { authorization: `Bearer ${secret}`, "content-type": "application/json" },
    body: JSON.stringify({ subject: name, verbs: ["send", "read", "subscribe"], ttl: TTL }),
  });
  if (!answer.ok) throw new Error(`slotd: ${answer.status} ${await answer.text()}`);
  return answer.json();
}

async function answer(request, response) {
  const { pathname } = new URL(request.url, "http://page");
  const json = (value) => response.setHeader("content-type", "application/json").end(JSON.stringify(value));
  if (request.method === "POST" && pathname === "/token") return json(await mint(String((await body(request)).name)));
  if (pathname === "/config") return json({ slotd, room });
  const [type, file] = files[pathname] ?? [];
  if (!file) throw Object.assign(new Error("no such page"), { status: 404 });
  response.setHeader("content-type", `${type}; charset=utf-8`).end(await readFile(file));
}

const server = createServer((request, response) => {
  answer(request, response).catch((error) => {
    if (!error.status) console.error(error);
    response.writeHead(error.status ?? 502, { "content-type": "text/plain" }).end(`${error.message}\n`);
  });
});
server.listen(port, "127.0.0.1", () => console.log(`http://127.0.0.1:${server.address().port}/`));
