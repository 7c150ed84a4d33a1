// One agent's session, shown from its events alone: what is on the page follows from the events so far, so a reload, which reads
// them from the beginning, shows the same. An event has an id, its position: a connection that breaks goes on behind the last one.

const parameters = new URLSearchParams(location.search);
const service = parameters.get("service") ?? "agent";
const session = parameters.get("session") ?? "agent-1";
const path = `/v1/services/${encodeURIComponent(service)}/sessions/${encodeURIComponent(session)}`;

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
/** The position of the last event. */
let position = "0";
let retry;

function begin() {
  const source = new EventSource(`${path}/events?after=${encodeURIComponent(position)}`);
  const on = (name, handle) =>
    source.addEventListener(name, (event) => {
      // What is shown is behind `position`: the two change together, so nothing is shown twice.
      if (event.lastEventId) position = event.lastEventId;
      handle(event);
    });
  for (const [kind, handle] of Object.entries(kinds)) {
    on(kind, (event) => handle(JSON.parse(event.data).body));
  }
  on("slotd.deleted", () => {
    log.replaceChildren();
    answers.clear();
    status.textContent = "a new session";
  });
  source.onopen = () => {
    if (status.textContent.startsWith("connect")) status.textContent = "connected";
  };
  source.onerror = () => {
    // The browser connects again by itself where the connection broke, and not where it was refused.
    if (source.readyState === EventSource.CLOSED) {
      status.textContent = "connecting again";
      clearTimeout(retry);
      retry = setTimeout(begin, 1000);
    }
  };
}

/** Sends a message until it is acknowledged, or refused for good: always with the same key, so that it is handled once. */
async function send(message) {
  const key = crypto.randomUUID?.() ?? String(Math.random()).slice(2);
  const request = {
    method: "POST",
    headers: { "content-type": "application/json", "idempotency-key": key },
    body: JSON.stringify(message),
  };
  for (;;) {
    const answer = await fetch(`${path}/messages`, request).catch(() => null);
    if (answer?.ok) return;
    if (answer) {
      // What is not slotd's own answer is a proxy's, whose node may be back soon.
      const problem = await answer.json().catch(() => ({ retriable: answer.status >= 500 }));
      if (!problem.retriable) {
        show("note", problem.detail ?? `refused: ${answer.status}`);
        return;
      }
    }
    await new Promise((wake) => setTimeout(wake, 500));
  }
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

begin();
