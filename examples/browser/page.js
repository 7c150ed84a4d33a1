// A chat room. slotd is on another origin: the page talks to it with the token that this page's own server gives it.
// An editor checks it against what the plugin says of its messages (chat.ts).
// @ts-check

import { connect } from "./slotd.js";

const log = document.getElementById("log");
const status = document.getElementById("status");
const name = new URLSearchParams(location.search).get("name");
document.getElementById(name ? "say" : "join").hidden = false;

/** Asked for again by the library before it ends. */
async function token() {
  const answer = await fetch("/token", { method: "POST", body: JSON.stringify({ name }) });
  if (!answer.ok) throw Object.assign(new Error(await answer.text()), { retriable: answer.status >= 500 });
  const { token, expires_ms: expiresAt } = await answer.json();
  return { token, expiresAt };
}

/** @param {string} kind @param {string} who @param {string} text */
function show(kind, who, text) {
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  const line = document.createElement("p");
  line.className = kind;
  const author = document.createElement("b");
  author.textContent = who;
  line.append(author, " ", text);
  log.append(line);
  if (atEnd) log.scrollTop = log.scrollHeight;
  return line;
}

async function join() {
  const { slotd, room } = await (await fetch("/config")).json();
  const client = connect(slotd, { token, deadline: Infinity });
  /** @type {import("./slotd.js").Session<import("./chat.ts").Types>} */
  const lobby = client.session("chat", room, { after: "0" });
  lobby.onStatus((state, reason) => {
    status.textContent = state === "closed" && reason ? reason.message : state;
  });
  lobby.on("line", ({ body }) => show(body.from === name ? "own" : "line", body.from ?? "", body.text));

  document.getElementById("say").addEventListener("submit", (event) => {
    event.preventDefault();
    const input = /** @type {HTMLInputElement} */ (document.getElementById("text"));
    const text = input.value.trim();
    input.value = "";
    if (text === "") return;
    const waiting = show("waiting", name, text);
    // The room shows it as an event, as it does what others say. Without a network it waits, and goes once.
    lobby.send({ kind: "say", text }).then(
      () => waiting.remove(),
      (error) => (waiting.className = "failed", waiting.append(` (${error.message})`)),
    );
  });
}

if (name) join().catch((error) => (status.textContent = `${error.message}; reload the page`));
