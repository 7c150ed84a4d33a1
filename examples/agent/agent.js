// One agent's session, shown from its events alone: what is on the page follows from the events so far, so a reload, which reads
// them from the beginning, shows the same. That each comes once, and in order, is the client library's part.

import { connect } from "./slotd.js";

const parameters = new URLSearchParams(location.search);
const service = parameters.get("service") ?? "agent";
const session = parameters.get("session") ?? "agent-1";

const log = document.getElementById("log");
const status = document.getElementById("status");
document.getElementById("session").textContent = session;

/** The answers that are being written, by request: what of them is shown now. */
const answers = new Map();

function show(kind, text) {
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  const line = document.createElement("div");
  line.className = kind;
  line.textContent = text;
  log.append(line);
  if (atEnd) log.scrollTop = log.scrollHeight;
  return line;
}

function add(line, text) {
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  // A text node a token: nothing that is there is written again.
  line.append(text);
  if (atEnd) log.scrollTop = log.scrollHeight;
}

/** What was shown of an answer is no part of the conversation. */
function strike(request) {
  answers.get(request)?.classList.replace("assistant", "void");
  answers.set(request, null);
}

/** What each kind of event does to the page. */
const kinds = {
  thinking({ request }) {
    answers.set(request, null);
    current = request;
    status.textContent = "thinking";
  },
  // A chunk of the model's answer, as the model has sent it.
  delta(chunk) {
    if (chunk === "[DONE]") return;
    const text = JSON.parse(chunk).choices?.[0]?.delta?.content;
    if (!text) return;
    if (!answers.get(current)) answers.set(current, show("assistant", ""));
    add(answers.get(current), text);
    status.textContent = "writing";
  },
  // The request is made again: what was shown of its answer is void.
  "slotd.restarted"({ id }) {
    strike(id);
    status.textContent = "again";
  },
  appended({ role, content, request }) {
    if (request) answers.delete(request);
    else show(role === "user" ? "user" : role === "tool" ? "note result" : "assistant", content);
  },
  calling({ name, to, arguments: given }) {
    show("note", `${name} → ${to} ${JSON.stringify(given)}`);
    status.textContent = "waiting for a tool";
  },
  question({ question }) {
    show("question", question);
    status.textContent = "waiting for you";
  },
  answered({ tokens, spent }) {
    show("note", `${tokens} tokens, ${spent} so far`);
    status.textContent = "ready";
  },
  failed({ code, reason }) {
    strike(current);
    show("note", `${code}: ${reason}`);
    status.textContent = "failed";
  },
  cancelled() {
    strike(current);
    show("note", "stopped");
    status.textContent = "ready";
  },
  closed() {
    strike(current);
    status.textContent = "closed";
  },
};

/** The request whose answer comes. */
let current = null;

// Proxies pass on event streams as they are; sockets they have to be told of.
const slotd = connect(location.origin, { transport: "sse", deadline: Infinity });
const conversation = slotd.session(service, session, { after: "0" });

conversation.onStatus((state, reason) => {
  if (state === "open" && status.textContent.startsWith("connect")) status.textContent = "connected";
  if (state === "retrying") status.textContent = "connecting again";
  if (state === "closed") status.textContent = reason?.message ?? state;
});
conversation.onDeleted(() => {
  log.replaceChildren();
  answers.clear();
  status.textContent = "a new session";
});
conversation.on("*", ({ kind, body }) => kinds[kind]?.(body));

/** It is sent until it is acknowledged, or refused for good. */
function send(message) {
  conversation.send(message).catch((error) => show("note", error.message));
}

document.getElementById("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const input = document.getElementById("text");
  const content = input.value.trim();
  if (content === "") return;
  input.value = "";
  send({ do: "ask", content });
});
document.getElementById("cancel").addEventListener("click", () => send({ do: "cancel" }));
