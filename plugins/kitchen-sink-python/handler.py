"""The plugin ``kitchen-sink``, in Python: each operation uses one thing of the SDK or of the
language, so that the conformance suite can ask for it.

A body of the content type ``application/json`` is ``{"op": ..}``; any other is echoed as it is.

A timer's message emits ``fired``, with what it says of itself, and replies with that. Where its
body is an ``{"op": ..}``, that is done before; where it has ``{"fails": N}``, N attempts are
rejected for now. Another session's message does the same with ``received``, and an answer with
``answered``, where what is done is the ``answer`` of the body that was answered.

What came of a request over HTTP is added to the list under the key ``answers``, and emits
``answered``; where there is a key ``fail-answers``, it is rejected for now. Whether there are
subscribers is added to the list under ``presence``, and emits ``presence``.
"""

import os
import random
import time
from datetime import timedelta
from typing import Any

from slotd_guest import (
    Answer,
    Context,
    Delivery,
    Firing,
    HttpAnswer,
    Level,
    MigrateContext,
    QueryContext,
    RawHandler,
    Rejection,
    Reply,
    State,
    StateView,
    Stream,
    TimersView,
    from_json,
)

LEVELS = {level.name.lower(): level for level in Level}


class Op:
    """An operation and its fields, each of the type that is asked for."""

    def __init__(self, fields: Any, code: str) -> None:
        self._code = code
        if not isinstance(fields, dict):
            raise self.bad("it is no object")
        self._fields: dict[str, Any] = fields

    def bad(self, why: str) -> Rejection:
        return Rejection(self._code, why)

    def any(self, name: str) -> Any:
        if name not in self._fields:
            raise self.bad(f"{name} is missing")
        return self._fields[name]

    def _typed(self, name: str, *kinds: type) -> Any:
        value = self.any(name)
        if type(value) not in kinds:
            raise self.bad(f"{name} is {value!r:.40}")
        return value

    def text(self, name: str) -> str:
        return str(self._typed(name, str))

    def flag(self, name: str) -> bool:
        return bool(self._typed(name, bool))

    def number(self, name: str) -> int:
        number = int(self._typed(name, int))
        if not 0 <= number < 2**64:
            raise self.bad(f"{name} is {number}")
        return number

    def optional(self, name: str) -> str | None:
        return None if self._fields.get(name) is None else self.text(name)

    def has(self, name: str) -> bool:
        """Also as null."""
        return name in self._fields

    def is_given(self, name: str) -> bool:
        return self._fields.get(name) is not None

    def duration(self, name: str) -> timedelta:
        try:
            return timedelta(milliseconds=self.number(name))
        except OverflowError:
            raise self.bad(f"{name} is {self.number(name)}") from None

    def object(self, name: str) -> "Op":
        return Op(self.any(name), self._code)

    def hex(self, name: str) -> bytes:
        try:
            return bytes.fromhex(self.text(name))
        except ValueError:
            raise self.bad(f"{name} is not hexadecimal") from None


class KitchenSink(RawHandler):
    def handle(self, cx: Context, body: bytes) -> Reply:
        origin = cx.origin
        if origin.answer is not None:
            return Reply.json(answered(cx, origin.answer, body))
        if origin.http is not None:
            return Reply.json(fetched(cx, origin.http, body))
        if origin.present is not None:
            append(cx.state, "presence", origin.present)
            cx.emit("presence", origin.present)
            return Reply.json(origin.present)
        if cx.content_type != "application/json":
            return Reply(cx.content_type, body)
        value = from_json(body, code="bad-message")
        if origin.firing is not None:
            return Reply.json(fired(cx, origin.firing, value))
        if origin.delivery is not None:
            return Reply.json(received(cx, origin.delivery, value))
        return Reply.json(change(cx, Op(value, "bad-message")))

    def query(self, cx: QueryContext, body: bytes) -> Reply:
        if cx.content_type != "application/json":
            return Reply(cx.content_type, body)
        return Reply.json(ask(cx, Op(from_json(body, code="bad-query"), "bad-query")))

    def migrate(self, cx: MigrateContext, from_version: str) -> str | None:
        if from_version == "0.0.9":
            return "no way from 0.0.9"
        if from_version == "0.0.8":
            raise ValueError("thrown from migrate")
        cx.state.set("migrated", {"from": from_version})
        return None


def obey(cx: Context, attempt: int, body: Any) -> None:
    """Does what a body that was sent earlier says, if it says something."""
    if isinstance(body, dict):
        fails = body.get("fails")
        if isinstance(fails, int) and attempt <= fails:
            raise told_to()
        if "op" in body:
            change(cx, Op(body, "bad-message"))


def told_to() -> Rejection:
    return Rejection("told-to", "As told.", retriable=True)


def received(cx: Context, delivery: Delivery, body: Any) -> Any:
    obey(cx, delivery.attempt, body)
    said = {
        "from": delivery.sender,
        "attempt": delivery.attempt,
        "reply": delivery.reply_wanted,
        "body": body,
    }
    cx.emit("received", said)
    return said


def answered(cx: Context, answer: Answer, data: bytes) -> Any:
    body: Any = None
    if answer.refusal is None:
        is_json = cx.content_type == "application/json"
        body = from_json(data, code="bad-message") if is_json else data.hex()
    # What was answered is part of another kitchen sink's reply.
    asked = body.get("body") if isinstance(body, dict) else None
    obey(cx, answer.attempt, asked.get("answer") if isinstance(asked, dict) else None)
    said = {
        "name": answer.name,
        "from": answer.sender,
        "attempt": answer.attempt,
        "refusal": answer.refusal,
        "body": body,
    }
    cx.emit("answered", said)
    return said


def fetched(cx: Context, answer: HttpAnswer, data: bytes) -> Any:
    if "fail-answers" in cx.state:
        raise told_to()
    said: dict[str, Any] = {"id": answer.id}
    if answer.response is not None:
        said["status"] = answer.response.status
    elif answer.failure is not None:
        said["failure"] = answer.failure.code
    said["body"] = data.decode("utf-8", "replace")
    said |= {"attempts": answer.attempts, "attempt": answer.attempt}
    append(cx.state, "answers", said)
    cx.emit("answered", said)
    return said


def append(state: State, key: str, value: Any) -> None:
    state.set(key, [*state.get(key, []), value])


def fired(cx: Context, firing: Firing, body: Any) -> Any:
    obey(cx, firing.attempt, body)
    said = {
        "name": cx.origin.name,
        "due": firing.due_ms,
        "missed": firing.missed,
        "attempt": firing.attempt,
        "body": body,
    }
    cx.emit("fired", said)
    return said


def change(cx: Context, op: Op) -> Any:
    match op.text("op"):
        case "context":
            return {
                "session": cx.session,
                "seq": cx.seq,
                "id": cx.id,
                "sender": cx.sender,
                "content_type": cx.content_type,
            }
        case "set":
            cx.state.set(op.text("key"), op.any("value"))
        case "delete":
            cx.state.delete(op.text("key"))
        case "set-bytes":
            cx.state.set_bytes(op.text("key"), op.hex("hex"))
        case "fill":
            prefix, text = op.text("prefix"), "x" * op.number("bytes")
            for i in range(op.number("count")):
                cx.state.set(f"{prefix}{i:05}", text)
        case "emit":
            kind, value = op.text("kind"), op.any("value")
            for _ in range(op.number("times")):
                cx.emit(kind, value)
        case "notify":
            kind, value = op.text("kind"), op.any("value")
            for _ in range(op.number("times")):
                cx.notify(kind, value)
        case "timer":
            return {"due": set_timer(cx, op)}
        case "cancel-timer":
            return {"was": cx.timers.cancel(op.text("name"))}
        case "expire":
            expire(cx, op)
        case "keep":
            cx.keep()
        case "send":
            send(cx, op)
        case "request":
            return request(cx, op)
        case "cancel-request":
            return cx.http.cancel(op.text("id"))
        case "close":
            cx.close()
        case "watch":
            cx.watch_subscribers(op.flag("wanted"))
        case "log":
            level = LEVELS.get(op.text("level"))
            if level is None:
                raise op.bad("there is no such level")
            cx.log(level, op.text("text"))
        case "print":
            print(op.text("text"))
        case "add64":
            return {"sum": add64(cx.state, op)}
        case "reject":
            write(cx.state, op)
            raise refusal(op)
        case "throw":
            write(cx.state, op)
            raise ValueError(op.text("message"))
        case "deep":
            deep(op.number("depth"))
        case "spin":
            while True:
                pass
        case "allocate":
            kept = []
            while True:
                kept.append(bytearray(1024 * 1024))
        case "big":
            return {"text": "x" * op.number("bytes")}
        case _:
            return look(cx, cx.state, cx.timers, op)
    return {}


def ask(cx: QueryContext, op: Op) -> Any:
    match op.text("op"):
        case "context":
            return {"session": cx.session, "seq": cx.seq, "content_type": cx.content_type}
        case "throw":
            raise ValueError(op.text("message"))
        # What a query may not do.
        case "set":
            cx._forbidden().state.set(op.text("key"), op.any("value"))
        case "delete":
            cx._forbidden().state.delete(op.text("key"))
        case "emit":
            cx._forbidden().emit(op.text("kind"), op.any("value"))
        case "notify":
            cx._forbidden().notify(op.text("kind"), op.any("value"))
        case "timer":
            set_timer(cx._forbidden(), op)
        case "cancel-timer":
            cx._forbidden().timers.cancel(op.text("name"))
        case "expire":
            expire(cx._forbidden(), op)
        case "keep":
            cx._forbidden().keep()
        case "send":
            send(cx._forbidden(), op)
        case "request":
            return request(cx._forbidden(), op)
        case "cancel-request":
            return cx._forbidden().http.cancel(op.text("id"))
        case "close":
            cx._forbidden().close()
        case "watch":
            cx._forbidden().watch_subscribers(op.flag("wanted"))
        case _:
            return look(cx, cx.state, cx.timers, op)
    return {}


def look(cx: Context | QueryContext, state: StateView, timers: TimersView, op: Op) -> Any:
    """What a message and a query can both ask for."""
    match op.text("op"):
        case "echo":
            return {"value": op.any("value")}
        case "get":
            return {"value": state.get(op.text("key"))}
        case "get-bytes":
            data = state.get_bytes(op.text("key"))
            return {"hex": None if data is None else data.hex()}
        case "scan":
            prefix, after, limit = op.text("prefix"), op.optional("after"), op.number("limit")
            page = state._page(prefix, after, limit)
            return {"pairs": [[key, from_json(data, code="bad-state")] for key, data in page]}
        case "scan-all":
            keys = [key for key, _ in state.scan(op.text("prefix"))]
            first, last = (keys[0], keys[-1]) if keys else (None, None)
            return {"count": len(keys), "first": first, "last": last}
        case "timers":
            return [
                {"name": timer.name, "due": timer.due_ms, "failures": timer.failures}
                for timer in timers.list()
            ]
        case "client":
            client = cx.client
            if client is None:
                return None
            claims = dict(client.claims)
            return {"kind": client.kind, "subject": client.subject, "claims": claims}
        case "open-requests":
            return cx.http.open()
        case "clock":
            return {"time_ms": cx.time_ms, "native_ms": round(time.time() * 1000)}
        case "random":
            return {"hex": os.urandom(16).hex(), "native": repr(random.random())}
        case "reject":
            raise refusal(op)
        case unknown:
            raise op.bad(f"there is no operation {unknown!r:.40}")


def set_timer(cx: Context, op: Op) -> int:
    """One of the four says when; in milliseconds."""
    name, body = op.text("name"), op.any("body")
    match [when for when in ("after", "at", "every", "cron") if op.is_given(when)]:
        case ["after"]:
            return cx.timers.after(name, op.duration("after"), body)
        case ["at"]:
            return cx.timers.at(name, op.number("at"), body)
        case ["every"]:
            return cx.timers.every(name, op.duration("every"), body)
        case ["cron"]:
            match op.any("cron"):
                case [str() as expression, str() as zone]:
                    return cx.timers.cron(name, expression, zone, body)
            raise op.bad("cron is no expression and zone")
    raise op.bad("it takes one of after, at, every and cron")


def expire(cx: Context, op: Op) -> None:
    """One of the two says when; in milliseconds."""
    match [when for when in ("after", "at") if op.is_given(when)]:
        case ["after"]:
            cx.expire(after=op.duration("after"))
        case ["at"]:
            cx.expire(at=op.number("at"))
        case _:
            raise op.bad("it takes one of after and at")


def send(cx: Context, op: Op) -> None:
    to, reply_as = op.text("to"), op.optional("reply")
    if op.has("body") == op.is_given("hex"):
        raise op.bad("it takes one of body and hex")
    body = op.any("body") if op.has("body") else Reply.bytes(op.hex("hex"))
    for _ in range(op.number("times") if op.is_given("times") else 1):
        cx.send(to, body, reply_as=reply_as)


def request(cx: Context, op: Op) -> Any:
    """What is wrong with it, if something is."""
    id, method, url = op.text("id"), op.text("method"), op.text("url")
    headers = pairs(op, "headers") if op.is_given("headers") else []
    # As bytes: text would say in a header that it is text.
    body = op.text("body").encode() if op.is_given("body") else None
    options = of_request(op.object("options")) if op.is_given("options") else {}
    try:
        cx.http.request(id, method, url, headers=headers, body=body, **options)
    except Rejection as rejection:
        if rejection.code == "bad-request":
            return {"problem": rejection.message}
        raise
    return None


def of_request(op: Op) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name in ("timeout", "deadline"):
        if op.is_given(f"{name}_ms"):
            options[name] = op.duration(f"{name}_ms")
    for name in ("attempts", "redirects", "answer_bytes"):
        if op.is_given(name):
            options[name] = op.number(name)
    if op.is_given("keep_headers"):
        options["keep_headers"] = [str(name) for name in op.any("keep_headers")]
    if op.is_given("stream"):
        stream = op.object("stream")
        kind = stream.text("kind")
        match stream.any("form"):
            case "text" | "data" as form:
                options["stream"] = Stream(kind, form)
            case {"joined": str() as path}:
                options["stream"] = Stream(kind, joined=path)
            case other:
                raise op.bad(f"form is {other!r:.40}")
    return options


def pairs(op: Op, name: str) -> list[tuple[str, str]]:
    found = []
    for pair in op.any(name):
        match pair:
            case [str() as first, str() as second]:
                found.append((first, second))
            case _:
                raise op.bad(f"{name} is no list of pairs")
    return found


def write(state: State, op: Op) -> None:
    key = op.optional("set")
    if key is not None:
        state.set(key, "written")


def refusal(op: Op) -> Rejection:
    return Rejection(op.text("code"), op.text("message"), retriable=op.flag("retriable"))


def add64(state: State, op: Op) -> str:
    key, n = op.text("key"), op.text("n")
    if not (n.isascii() and n.isdigit() and int(n) < 2**64):
        raise op.bad("n is no u64")
    total = (state.get(key, 0, type=int) + int(n)) % 2**64
    state.set(key, total)
    return str(total)


def deep(depth: int) -> int:
    return 0 if depth == 0 else 1 + deep(depth - 1)
