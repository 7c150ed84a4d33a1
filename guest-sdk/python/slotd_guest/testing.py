"""Runs a handler under the host's rules, so that its tests need no WebAssembly.

What the host promises holds here too: a message is applied whole or not at all (a rejection, an
exception or a passed limit leaves no write and no event behind), the sequence number rises only on
success, a query can't change anything, a call sees its own writes, a scan is in order of the keys'
bytes, ``random`` begins anew with each message, and ``time.time()`` stands at the session's clock.

Not modelled: the deadline and the memory limit, ``datetime.now()`` and ``os.urandom`` (they are
this machine's), and that imports must be at the top.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar
from unittest import mock

from . import _trace
from ._call import AnyHandler, Program
from ._context import Context, Level, MigrateContext, Origin, QueryContext
from ._errors import Rejection
from ._handler import Reply
from ._json import decode, to_json

__all__ = [
    "Event",
    "Failure",
    "Harness",
    "LogLine",
    "Refused",
    "Rejected",
    "Session",
    "Trapped",
    "limits",
]

T = TypeVar("T")


class limits:
    """The host's limits, as its own defaults have them."""

    HOST_CALLS_MAX = 100_000
    STATE_KEY_BYTES_MAX = 1_024
    STATE_VALUE_BYTES_MAX = 1024 * 1024
    STATE_WRITE_BYTES_MAX = 4 * 1024 * 1024
    STATE_SCAN_ENTRIES_MAX = 1_000
    REPLY_BYTES_MAX = 1024 * 1024
    EVENTS_MAX = 256
    EVENT_BYTES_MAX = 1024 * 1024
    NOTIFIED_MAX = 64
    NOTIFIED_BYTES_MAX = 256 * 1024
    EVENT_KIND_BYTES_MAX = 64
    REJECTION_CODE_BYTES_MAX = 64
    REJECTION_MESSAGE_BYTES_MAX = 4_096
    CONTENT_TYPE_BYTES_MAX = 128
    LOG_LINES_MAX = 100
    LOG_LINE_BYTES_MAX = 2_048


@dataclass(frozen=True)
class Event:
    """An event that a message emitted, or sent in passing."""

    #: The message's sequence number.
    seq: int
    kind: str
    content_type: str
    body: bytes

    def parse(self) -> Any:
        """The body from JSON."""
        return decode(self.body)


@dataclass(frozen=True)
class LogLine:
    """A line that a call logged."""

    level: Level
    message: str


class Failure(Exception):
    """A call failed. Nothing that it did was kept."""


class Rejected(Failure):
    """The handler's own refusal."""

    def __init__(self, rejection: Rejection) -> None:
        super().__init__(f"rejected: {rejection}")
        self.rejection = rejection

    @property
    def code(self) -> str:
        return self.rejection.code


class Refused(Failure):
    """``migrate``'s own refusal: the session would stay on the version before."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"refused to migrate: {reason}")
        self.reason = reason


class Trapped(Failure):
    """An exception, a passed limit, or something that is not allowed; the text says which. Where
    it was an exception of the handler, that is its ``__cause__``."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"trapped: {reason}")
        self.reason = reason


class _Trap(BaseException):
    """Ends a call from within the host, whatever the handler catches."""


@dataclass
class Session:
    """A session: all that is left of it between two calls. A test may change it between two."""

    name: str = "session"
    #: The last message's sequence number.
    seq: int = 0
    #: The clock, milliseconds since the Unix epoch.
    time_ms: int = 1_700_000_000_000
    state: dict[str, bytes] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    #: What its messages sent in passing (``cx.notify``); a real session keeps nothing of it.
    notified: list[Event] = field(default_factory=list)


class _Transaction:
    """The host's side of one call."""

    def __init__(self, kind: str, seq: int, state: dict[str, bytes]) -> None:
        self.kind = kind
        self.seq = seq
        self.state = dict(state)
        self.events: list[Event] = []
        self.notified: list[Event] = []
        self.lines: list[LogLine] = []
        #: Why the host ended the call, whatever the handler made of that.
        self.ended: str | None = None
        self._event_bytes = 0
        self._notified_bytes = 0
        self._written_bytes = 0
        self._calls = 0

    def _trap(self, reason: str) -> _Trap:
        self.ended = self.ended or reason
        return _Trap(reason)

    def _count(self) -> None:
        self._calls += 1
        if self._calls > limits.HOST_CALLS_MAX:
            raise self._trap(f"limit: more than {limits.HOST_CALLS_MAX} host calls")

    def _key(self, key: str) -> bytes:
        if not isinstance(key, str):
            raise TypeError(f"a key of the state is a str, not {key!r}")
        data = key.encode()
        if not 1 <= len(data) <= limits.STATE_KEY_BYTES_MAX:
            raise self._trap(f"limit: a key of {len(data)} bytes")
        return data

    def _write(self, key: str, value: bytes) -> None:
        self._count()
        if self.kind == "query":
            raise self._trap("a query may not write state")
        key_bytes = len(self._key(key))
        if len(value) > limits.STATE_VALUE_BYTES_MAX:
            raise self._trap(f"limit: a value of {len(value)} bytes")
        self._written_bytes += key_bytes + len(value)
        if self._written_bytes > limits.STATE_WRITE_BYTES_MAX:
            raise self._trap(f"limit: more than {limits.STATE_WRITE_BYTES_MAX} bytes written")

    def get(self, key: str) -> bytes | None:
        self._count()
        self._key(key)
        return self.state.get(key)

    def set(self, key: str, value: bytes) -> None:
        self._write(key, value)
        self.state[key] = value

    def delete(self, key: str) -> None:
        self._write(key, b"")
        self.state.pop(key, None)

    def scan(self, prefix: str, after: str | None, limit: int) -> list[tuple[str, bytes]]:
        self._count()
        first = prefix.encode()
        behind = None if after is None else after.encode()
        pairs = ((key.encode(), key, value) for key, value in self.state.items())
        found = sorted(
            (data, key, value)
            for data, key, value in pairs
            if data.startswith(first) and (behind is None or data > behind)
        )
        limit = min(limit, limits.STATE_SCAN_ENTRIES_MAX)
        return [(key, value) for _, key, value in found[:limit]]

    def _event(self, what: str, kind: str, content_type: str, body: bytes) -> tuple[Event, int]:
        self._count()
        if self.kind != "handle":
            raise self._trap(f"only `handle` may {what}")
        if not kind or any(c.isspace() or not c.isprintable() for c in kind):
            raise self._trap(f"an event's kind is a word, not {kind!r}")
        if kind == "error" or kind.startswith("slotd."):
            raise self._trap(f"the event kind {kind!r} is reserved: slotd uses it itself")
        if len(kind.encode()) > limits.EVENT_KIND_BYTES_MAX:
            raise self._trap(f"limit: a kind may have {limits.EVENT_KIND_BYTES_MAX} bytes")
        self.content_type(content_type, "an event")
        size = len(kind.encode()) + len(content_type.encode()) + len(body)
        return Event(self.seq, kind, content_type, body), size

    def emit(self, kind: str, content_type: str, body: bytes) -> None:
        event, size = self._event("emit events", kind, content_type, body)
        self._event_bytes += size
        if len(self.events) >= limits.EVENTS_MAX or self._event_bytes > limits.EVENT_BYTES_MAX:
            most = f"{limits.EVENTS_MAX} events or {limits.EVENT_BYTES_MAX} bytes of them"
            raise self._trap(f"limit: more than {most}")
        self.events.append(event)

    def notify(self, kind: str, content_type: str, body: bytes) -> None:
        event, size = self._event("send ephemeral events", kind, content_type, body)
        self._notified_bytes += size
        over = self._notified_bytes > limits.NOTIFIED_BYTES_MAX
        if len(self.notified) >= limits.NOTIFIED_MAX or over:
            most = f"{limits.NOTIFIED_MAX} ephemeral events or {limits.NOTIFIED_BYTES_MAX} bytes"
            raise self._trap(f"limit: more than {most} of them")
        self.notified.append(event)

    def log(self, level: int, message: str) -> None:
        self._count()
        if len(self.lines) < limits.LOG_LINES_MAX:
            data = message.encode("utf-8", "replace")[: limits.LOG_LINE_BYTES_MAX]
            self.lines.append(LogLine(Level(level), data.decode("utf-8", "ignore")))

    def content_type(self, content_type: str, of: str) -> None:
        if len(content_type) > limits.CONTENT_TYPE_BYTES_MAX:
            raise self._trap(f"limit: the content type of {of} has {len(content_type)} bytes")
        if not all(" " <= c <= "~" for c in content_type):
            raise self._trap(f"the content type of {of} is printable ASCII, not {content_type!r}")

    def reply(self, reply: Reply) -> None:
        self.content_type(reply.content_type, "a reply")
        if len(reply.body) > limits.REPLY_BYTES_MAX:
            raise self._trap(f"limit: a reply of {len(reply.body)} bytes")

    def rejection(self, code: str, message: str) -> None:
        if len(code.encode()) > limits.REJECTION_CODE_BYTES_MAX:
            raise self._trap(f"limit: a rejection's code of {len(code.encode())} bytes")
        if len(message.encode()) > limits.REJECTION_MESSAGE_BYTES_MAX:
            raise self._trap(f"limit: a rejection's message of {len(message.encode())} bytes")


class Harness:
    """One session under a handler::

    poll = Harness(Poll)
    reply = poll.send({"vote": "tea"}, sender="ann")
    assert reply.parse() == {"votes": 1}
    """

    def __init__(self, handler: AnyHandler, session: Session | None = None) -> None:
        """A new session, at a fixed time; or one that is already there: another version's, say."""
        self._program = Program(handler)
        self.session = Session() if session is None else session
        self._log: list[LogLine] = []

    def reset(self) -> None:
        """Forgets the session and what was logged: the test begins with a new one."""
        self.session = Session()
        self._log = []

    def send(self, message: object, *, sender: str | None = None, id: str | None = None) -> Reply:
        """Sends a message with a JSON body. Raises a :class:`Failure`; the session is then as it
        was."""
        return self.send_bytes(to_json(message), "application/json", sender=sender, id=id)

    def send_bytes(
        self,
        body: bytes,
        content_type: str = "application/octet-stream",
        *,
        sender: str | None = None,
        id: str | None = None,
    ) -> Reply:
        """As :meth:`send`, with any body."""
        session = self.session
        origin = Origin("client", sender)

        def call(tx: _Transaction) -> Reply:
            cx = Context(tx, session.name, tx.seq, id, origin, content_type, session.time_ms)
            reply = self._program.handle(cx, body)
            tx.reply(reply)
            return reply

        reply = self._call("handle", session.seq + 1, call)
        session.seq += 1
        return reply

    def query(self, query: object = None) -> Reply:
        """Asks a query with a JSON body. Raises a :class:`Failure`."""
        return self.query_bytes(to_json({} if query is None else query), "application/json")

    def query_bytes(self, body: bytes, content_type: str = "application/octet-stream") -> Reply:
        """As :meth:`query`, with any body."""
        session = self.session

        def call(tx: _Transaction) -> Reply:
            cx = QueryContext(tx, session.name, session.seq, content_type, session.time_ms)
            reply = self._program.query(cx, body)
            tx.reply(reply)
            return reply

        return self._call("query", session.seq, call)

    def migrate(self, from_version: str) -> None:
        """Runs ``migrate`` over the session, as the host does before its first message under this
        version (and never for a session without a message). Raises a :class:`Failure`; the session
        is then as it was."""

        def call(tx: _Transaction) -> None:
            refused = self._program.migrate(MigrateContext(tx), from_version)
            if refused is not None:
                tx.rejection("migrate-refused", refused)
                raise Refused(refused)

        self._call("migrate", self.session.seq, call)

    def swap(self, handler: AnyHandler, from_version: str) -> Harness:
        """The session under another handler, after that one's ``migrate``."""
        after = Harness(handler, self.session)
        after.migrate(from_version)
        return after

    def get(self, key: str) -> Any:
        """The value under ``key`` of the session's state, from JSON; ``None`` if there is none."""
        data = self.session.state.get(key)
        return None if data is None else decode(data)

    @property
    def state(self) -> dict[str, bytes]:
        """The session's whole state."""
        return self.session.state

    @property
    def seq(self) -> int:
        """The last message's sequence number."""
        return self.session.seq

    @property
    def events(self) -> list[Event]:
        """Every event so far, in order."""
        return self.session.events

    @property
    def notified(self) -> list[Event]:
        """Every ephemeral event so far (``cx.notify``), in order."""
        return self.session.notified

    def take_log(self) -> list[LogLine]:
        """What was logged since the last look, by failed calls too."""
        lines, self._log = self._log, []
        return lines

    def _call(self, kind: str, seq: int, call: Callable[[_Transaction], T]) -> T:
        session = self.session
        tx = _Transaction(kind, seq, session.state)
        try:
            with _as_in_a_call(session, kind, seq):
                result = call(tx)
            if tx.ended is not None:
                # The handler caught what should have ended it; in a component it can't.
                raise Trapped(tx.ended)
        except Rejection as rejection:
            try:
                tx.rejection(rejection.code, rejection.message)
            except _Trap as trap:
                raise Trapped(str(trap)) from None
            if tx.ended is not None:
                raise Trapped(tx.ended) from None
            raise Rejected(rejection) from None
        except Failure:
            raise
        except _Trap as trap:
            raise Trapped(str(trap)) from None
        except (Exception, SystemExit) as error:
            if tx.ended is not None:
                raise Trapped(tx.ended) from None
            lines = _trace.lines(error)
            tx.lines += [LogLine(Level.ERROR, line) for line in lines]
            raise Trapped(lines[0]) from error
        finally:
            self._log += tx.lines
        session.state.clear()
        session.state.update(tx.state)
        session.events += tx.events
        session.notified += tx.notified
        return result


@contextlib.contextmanager
def _as_in_a_call(session: Session, kind: str, seq: int) -> Iterator[None]:
    """Time and chance are the message's."""
    before = random.getstate()
    seed = hashlib.sha256(f"{session.name}\0{kind}\0{seq}".encode()).digest()
    random.seed(int.from_bytes(seed, "little"))
    ms = session.time_ms
    clocks = {"time": ms / 1000, "monotonic": ms / 1000, "perf_counter": ms / 1000}
    try:
        with contextlib.ExitStack() as stack:
            for name, seconds in clocks.items():
                stack.enter_context(mock.patch.object(time, name, lambda s=seconds: s))
                ns = lambda: ms * 1_000_000  # noqa: E731
                stack.enter_context(mock.patch.object(time, f"{name}_ns", ns))
            yield
    finally:
        random.setstate(before)
