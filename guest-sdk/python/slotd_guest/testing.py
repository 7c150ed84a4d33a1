"""Runs a handler under the host's rules, so that its tests need no WebAssembly.

What the host promises holds here too: a message is applied whole or not at all (a rejection, an
exception or a passed limit leaves no write and no event behind), the sequence number rises only on
success, a query can't change anything, a call sees its own writes, a scan is in order of the keys'
bytes, ``random`` begins anew with each message, and ``time.time()`` stands at the session's clock.
That is the test's: :meth:`Harness.advance` moves it on and has timers fire. What a session sends to
others goes nowhere: the test looks at :attr:`Harness.sent`, and says what comes back. So it is with
requests over HTTP: :attr:`Harness.requests`, :meth:`Harness.respond` and :meth:`Harness.fail`.

Not modelled: the deadline, the memory limit, the times of cron expressions, which services may send
to which and which hosts they may reach, secrets, how many messages may be on their way and requests
open, the deadlines of requests, ``datetime.now()`` and ``os.urandom`` (they are this machine's), and
that imports must be at the top.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import random
import re
import time
import unicodedata
import zoneinfo
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar
from unittest import mock

from . import _trace
from ._call import AnyHandler, Program
from ._client import Client
from ._context import Context, Firing, Level, MigrateContext, Origin, QueryContext
from ._errors import Rejection
from ._host import Request
from ._http import Headers, HttpAnswer
from ._json import decode, to_json
from ._reply import Reply
from ._schema import Types
from ._sends import Address, Answer, Delivery, Refusal
from ._testing_http import (
    AnswerHeaders,
    Open,
    Requested,
    answer_of,
    failure_of,
    http_limits,
    part_of,
    request_fault,
    request_problem,
)
from ._timers import Duration, Timer, to_ms

__all__ = [
    "Closed",
    "Dead",
    "Event",
    "Failure",
    "Fired",
    "Harness",
    "LogLine",
    "Refused",
    "Rejected",
    "Requested",
    "Sent",
    "Session",
    "SetTimer",
    "Trapped",
    "Types",
    "limits",
]

T = TypeVar("T")


class limits(http_limits):
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
    SERVICE_NAME_BYTES_MAX = 64
    SESSION_ID_BYTES_MAX = 256
    #: Messages to other sessions that one message may send.
    SENDS_MAX = 256
    SEND_BODY_BYTES_MAX = 256 * 1024
    #: Bytes of the name that a reply comes back under.
    SEND_NAME_BYTES_MAX = 128
    SEND_ATTEMPTS_MAX = 20
    TIMERS_MAX = 1_000
    TIMER_NAME_BYTES_MAX = 128
    TIMER_BYTES_MAX = 1024 * 1024
    TIMER_BODY_BYTES_MAX = 64 * 1024
    #: Timers that a message may set or cancel.
    TIMER_CHANGES_MAX = 256
    TIMER_PERIOD_MIN_MS = 100
    #: The last time that a timer can be set for, or a session can expire at: the year 9000 or so.
    TIMER_MS_MAX = 221_845_392_000_000
    TIMER_CRON_BYTES_MAX = 128
    TIMER_ATTEMPTS_MAX = 20
    #: The longest that a timer's message waits after a failure.
    TIMER_RETRY_MAX_MS = 5 * 60 * 1_000
    #: Messages of timers in one :meth:`Harness.advance`: the harness's own limit.
    FIRED_MAX = 100_000
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


class Closed(Failure):
    """The session was closed before, and takes no more messages."""

    code = "session-closed"

    def __init__(self, session: str) -> None:
        super().__init__(f"the session {session!r} is closed")


class _Trap(BaseException):
    """Ends a call from within the host, whatever the handler catches."""


@dataclass(frozen=True)
class SetTimer:
    """A timer of a :class:`Session`."""

    #: ``at``, ``after``, ``every`` or ``cron``, and what that was given: milliseconds, or an
    #: expression and a zone.
    kind: str
    value: Any
    #: The time that it is for next. Of a cron timer it is not known: see :meth:`Harness.fire`.
    due_ms: int
    #: When that is tried: at ``due_ms``, or later when it has failed.
    next_ms: int
    content_type: str
    body: bytes
    failures: int = 0

    def _next(self, now_ms: int) -> tuple[Firing, SetTimer | None]:
        """Which of its times its message is for, and the timer that is left."""
        due_ms, missed, after = self.due_ms, 0, None
        if self.kind == "every":
            period = max(self.value, limits.TIMER_PERIOD_MIN_MS)
            missed = max(0, now_ms - due_ms) // period
            after = due_ms + period * (missed + 1)
        elif self.kind == "cron":
            # Its times are the test's.
            due_ms, after = due_ms if self.failures else now_ms, now_ms
        left = None
        if after is not None and after <= limits.TIMER_MS_MAX:
            left = replace(self, due_ms=after, next_ms=after, failures=0)
        return Firing(due_ms, missed, self.failures + 1), left


def _first(kind: str, value: Any, now_ms: int, earliest_ms: int) -> int | str:
    """The first time of a timer, which is not before ``earliest_ms``; or what is wrong with it."""
    if kind == "cron":
        return _cron_problem(*value) or max(now_ms, earliest_ms)
    if kind == "every" and value < limits.TIMER_PERIOD_MIN_MS:
        return f"a period has {limits.TIMER_PERIOD_MIN_MS} ms at least, not {value}"
    first = int(value) if kind == "at" else now_ms + int(value)
    if first > limits.TIMER_MS_MAX:
        last = f"the last is {limits.TIMER_MS_MAX} ms since the Unix epoch"
        return f"{first} is no time that a timer can be set for: {last}"
    return max(first, earliest_ms)


#: The least and the greatest number of each field.
_CRON_FIELDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))


@functools.cache
def _zones() -> set[str]:
    """None where this machine has no database of them: then any name may be one."""
    return zoneinfo.available_timezones()


def _cron_problem(expression: str, zone: str) -> str | None:
    """Why it is no cron expression, as far as it can be said here: the rest is the node's."""
    most = limits.TIMER_CRON_BYTES_MAX
    if max(len(expression.encode()), len(zone.encode())) > most:
        return f"a cron expression and a time zone may have {most} bytes each"
    fields = expression.split()
    if len(fields) != len(_CRON_FIELDS):
        names = "minute, hour, day of the month, month, day of the week"
        return f'a cron expression has five fields ({names}); "{expression}" has {len(fields)}'
    zones = _zones()
    if zone not in zones if zones else not zone:
        return f'there is no time zone "{zone}"; an example is "Europe/Berlin"'
    for field_, (least, greatest) in zip(fields, _CRON_FIELDS):
        for part in field_.split(","):
            base = re.split("[/#]", part)[0]
            numbers = [int(end) for end in base.split("-") if end.isascii() and end.isdigit()]
            fits = all(least <= number <= greatest for number in numbers)
            if not (base and fits and re.fullmatch(r"[A-Za-z0-9*/#?-]+", part)):
                return f'"{expression}" is no cron expression'
    return None


@dataclass(frozen=True)
class Sent:
    """A message that a session sent to another."""

    #: The sequence number of the message that sent it.
    seq: int
    to: Address
    content_type: str
    body: bytes
    #: The name that the outcome comes back under, if it does.
    reply_as: str | None = None

    def parse(self) -> Any:
        """The body from JSON."""
        return decode(self.body)


@dataclass
class _Asked:
    """What waits for its outcome, and how often the handler has failed that."""

    sent: Sent
    failures: int = 0


def _address_problem(service: str, session: str) -> str | None:
    """Why it is no address, in the host's words."""
    size, most = len(service.encode()), limits.SERVICE_NAME_BYTES_MAX
    if not 1 <= size <= most:
        return f"a service name must have 1 to {most} bytes; this one has {size}"
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", service):
        uses = "use a-z, 0-9, '-', '_' and '.', starting with a letter or digit"
        return f'service name "{service}": {uses}'
    size, most = len(session.encode()), limits.SESSION_ID_BYTES_MAX
    if not 1 <= size <= most:
        return f"a session id must have 1 to {most} bytes; this one has {size}"
    if _has_control(session):
        return f"session id {session!r} has a control character"
    return None


def _reply_name_problem(name: str) -> str | None:
    size, most = len(name.encode()), limits.SEND_NAME_BYTES_MAX
    if not 1 <= size <= most:
        return f"the name of a reply must have 1 to {most} bytes; this one has {size}"
    if _has_control(name):
        return f"the name of a reply has no control characters, and {name!r} has"
    return None


def _has_control(text: str) -> bool:
    return any(unicodedata.category(c) == "Cc" for c in text)


def _address(of: str) -> Address:
    """Of whom the test says that it has sent something."""
    address = Address(of)
    wrong = _address_problem(address.service, address.session)
    if wrong is not None:
        raise ValueError(f'{of!r} is no "service/session": {wrong}')
    return address


def _as_reply(value: object) -> Reply:
    """What another session sends or replies: JSON, or a ``Reply`` as it is."""
    return value if isinstance(value, Reply) else Reply.json(value)


@dataclass(frozen=True)
class Dead:
    """A timer's message that was given up: after 20 attempts, or a rejection that is not retriable.
    On a node it is kept for an operator."""

    name: str
    due_ms: int
    #: How often it was tried.
    attempts: int
    content_type: str
    body: bytes
    #: What the last attempt ended with.
    failure: Failure


@dataclass(frozen=True)
class Fired:
    """What became of a timer's message."""

    name: str
    #: The time that the timer was set for.
    due_ms: int
    missed: int
    attempt: int
    #: When it was tried: the session's clock.
    time_ms: int
    #: The reply, which nobody gets; ``None`` where it failed.
    reply: Reply | None
    #: What the handler failed with, if it did.
    failure: Failure | None
    events: list[Event]
    notified: list[Event]

    def parse(self) -> Any:
        """The reply from JSON; raises :attr:`failure` where there is one."""
        if self.reply is None:
            raise self.failure or Failure("there is no reply")
        return self.reply.parse()


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
    #: By name.
    timers: dict[str, SetTimer] = field(default_factory=dict)
    #: When it is deleted; ``None``: not at all.
    expires_ms: int | None = None
    #: Messages of timers that were given up.
    dead: list[Dead] = field(default_factory=list)
    #: What its messages sent to other sessions, in order.
    sent: list[Sent] = field(default_factory=list)
    #: Of that, what waits for its outcome.
    _asked: list[_Asked] = field(default_factory=list)
    #: All requests over HTTP that its messages made, in order.
    requests: list[Requested] = field(default_factory=list)
    #: Of them, those whose answer the handler has not had, by id.
    _open: dict[str, Open] = field(default_factory=dict)
    #: It takes no more messages.
    closed: bool = False
    #: It is told when its subscribers come and go.
    watches_subscribers: bool = False

    def _end_all(self) -> None:
        """What ends when it is closed."""
        self.timers.clear()
        self._asked.clear()
        self._open.clear()
        self.watches_subscribers = False


class _Transaction:
    """The host's side of one call."""

    def __init__(
        self, kind: str, seq: int, session: Session, is_firing: bool, client: Client | None
    ) -> None:
        """``is_firing``: of a timer's message. ``client``: who has sent it, or asks."""
        self.kind = kind
        self.seq = seq
        self.state = dict(session.state)
        self.set_timers = dict(session.timers)
        self.expires_ms = session.expires_ms
        self.events: list[Event] = []
        self.notified: list[Event] = []
        self.sent: list[Sent] = []
        self.requests: list[Requested] = []
        self.open = dict(session._open)
        self.closed = session.closed
        self.watches_subscribers = session.watches_subscribers
        self.lines: list[LogLine] = []
        #: Why the host ended the call, whatever the handler made of that.
        self.ended: str | None = None
        self._event_bytes = 0
        self._notified_bytes = 0
        self._written_bytes = 0
        self._time_ms = session.time_ms
        self._is_firing = is_firing
        self._client = client
        self._timer_changes = 0
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
        self._kind(kind)
        self.content_type(content_type, "an event")
        size = len(kind.encode()) + len(content_type.encode()) + len(body)
        return Event(self.seq, kind, content_type, body), size

    def _kind(self, kind: str) -> None:
        if not kind or any(c.isspace() or not c.isprintable() for c in kind):
            raise self._trap(f"an event's kind is a word, not {kind!r}")
        if kind == "error" or kind.startswith("slotd."):
            raise self._trap(f"the event kind {kind!r} is reserved: slotd uses it itself")
        if len(kind.encode()) > limits.EVENT_KIND_BYTES_MAX:
            raise self._trap(f"limit: a kind may have {limits.EVENT_KIND_BYTES_MAX} bytes")

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

    def expire(self, at: int | None) -> str | None:
        self._count()
        if self.kind != "handle":
            raise self._trap("only `handle` may have the session expire")
        if at is not None and at > limits.TIMER_MS_MAX:
            last = f"the last is {limits.TIMER_MS_MAX} ms since the Unix epoch"
            return f"{at} is no time at which a session can expire: {last}"
        self.expires_ms = None if at is None else max(at, self._time_ms)
        return None

    def schedule(
        self, name: str, kind: str, value: Any, content_type: str, body: bytes
    ) -> int | str:
        self._change_timer("set", name)
        self.content_type(content_type, "a timer")
        most = limits.TIMER_BODY_BYTES_MAX
        if len(body) > most:
            raise self._trap(
                f"limit: timers: a body may have {most} bytes; this one has {len(body)}"
            )
        # A timer that sets itself again is a period, however it does it.
        wait = limits.TIMER_PERIOD_MIN_MS if self._is_firing else 0
        first = _first(kind, value, self._time_ms, self._time_ms + wait)
        if isinstance(first, str):
            return first
        self._count_timer_change()
        self.set_timers[name] = SetTimer(kind, value, first, first, content_type, body)
        size = sum(
            len(name.encode()) + len(timer.content_type) + len(timer.body)
            for name, timer in self.set_timers.items()
        )
        if len(self.set_timers) > limits.TIMERS_MAX or size > limits.TIMER_BYTES_MAX:
            all_of_them = f"{limits.TIMERS_MAX} timers or {limits.TIMER_BYTES_MAX} bytes of them"
            raise self._trap(f"limit: more than {all_of_them}")
        return first

    def cancel(self, name: str) -> bool:
        self._change_timer("cancel", name)
        self._count_timer_change()
        return self.set_timers.pop(name, None) is not None

    def timer(self, name: str) -> tuple[str, int, str, bytes, int] | None:
        self._count()
        timer = self.set_timers.get(name)
        return None if timer is None else _shown(name, timer)

    def timers(self, after: str | None, limit: int) -> list[tuple[str, int, str, bytes, int]]:
        self._count()
        found = sorted(self.set_timers, key=str.encode)
        behind = [name for name in found if after is None or name.encode() > after.encode()]
        return [_shown(name, self.set_timers[name]) for name in behind[:limit]]

    def _change_timer(self, what: str, name: str) -> None:
        self._count()
        if self.kind != "handle":
            raise self._trap(f"only `handle` may {what} timers")
        size = len(name.encode())
        if not 1 <= size <= limits.TIMER_NAME_BYTES_MAX:
            most = limits.TIMER_NAME_BYTES_MAX
            raise self._trap(
                f"the name of a timer must have 1 to {most} bytes; this one has {size}"
            )
        if _has_control(name):
            raise self._trap(f"the name of a timer has no control characters, and {name!r} has")

    def _count_timer_change(self) -> None:
        self._timer_changes += 1
        if self._timer_changes > limits.TIMER_CHANGES_MAX:
            most = limits.TIMER_CHANGES_MAX
            raise self._trap(f"limit: more than {most} timers set or cancelled")

    def send(
        self, service: str, session: str, content_type: str, body: bytes, reply_as: str | None
    ) -> str | None:
        self._count()
        if self.kind != "handle":
            raise self._trap("only `handle` may send messages to other sessions")
        self.content_type(content_type, "a message")
        most = limits.SEND_BODY_BYTES_MAX
        if len(body) > most:
            raise self._trap(
                f"limit: sends: a body may have {most} bytes; this one has {len(body)}"
            )
        wrong = _address_problem(service, session)
        if wrong is None and reply_as is not None:
            wrong = _reply_name_problem(reply_as)
        if wrong is not None:
            return wrong
        if len(self.sent) >= limits.SENDS_MAX:
            raise self._trap(f"limit: sends: a message may send at most {limits.SENDS_MAX}")
        to = Address(f"{service}/{session}")
        self.sent.append(Sent(self.seq, to, content_type, body, reply_as))
        return None

    def request(self, id: str, request: Request) -> str | None:
        self._count_request("make")
        fault = request_fault(request)
        if fault is not None:
            raise self._trap(fault)
        if request.options.stream is not None:
            self._kind(request.options.stream[0])
        wrong = request_problem(id, request.options)
        if wrong is not None:
            return wrong
        if len(self.requests) >= limits.REQUESTS_MAX:
            most = limits.REQUESTS_MAX
            raise self._trap(f"limit: requests: a message may make at most {most}")
        requested = Requested(
            self.seq,
            id,
            request.method,
            request.url,
            Headers(request.headers),
            request.body,
            request.options,
        )
        self.requests.append(requested)
        self.open[id] = Open(requested)
        return None

    def cancel_request(self, id: str) -> bool:
        self._count_request("cancel")
        return self.open.pop(id, None) is not None

    def open_requests(self) -> list[str]:
        self._count()
        return sorted(self.open, key=str.encode)

    def _count_request(self, what: str) -> None:
        self._count()
        if self.kind != "handle":
            raise self._trap(f"only `handle` may {what} requests")

    def client(self) -> Client | None:
        self._count()
        return self._client

    def close(self) -> None:
        self._count()
        if self.kind != "handle":
            raise self._trap("only `handle` may close the session")
        self.closed = True

    def watch_subscribers(self, wanted: bool) -> None:
        self._count()
        if self.kind != "handle":
            raise self._trap("only `handle` may watch the session's subscribers")
        self.watches_subscribers = wanted

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


def _shown(name: str, timer: SetTimer) -> tuple[str, int, str, bytes, int]:
    return name, timer.due_ms, timer.content_type, timer.body, timer.failures


def _remove(waiting: list[_Asked], asked: _Asked) -> None:
    """That one, and none that is equal to it."""
    waiting[:] = [one for one in waiting if one is not asked]


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

    def send(
        self,
        message: object,
        *,
        sender: str | None = None,
        client: Client | None = None,
        id: str | None = None,
    ) -> Reply:
        """Sends a message with a JSON body. ``sender`` is what the client says of itself, ``client``
        who it is shown to be. Raises a :class:`Failure`; the session is then as it was."""
        body = to_json(message)
        return self.send_bytes(body, "application/json", sender=sender, client=client, id=id)

    def send_bytes(
        self,
        body: bytes,
        content_type: str = "application/octet-stream",
        *,
        sender: str | None = None,
        client: Client | None = None,
        id: str | None = None,
    ) -> Reply:
        """As :meth:`send`, with any body."""
        return self._handle(Origin("client", sender), body, content_type, id, client)

    def _handle(
        self,
        origin: Origin,
        body: bytes,
        content_type: str,
        id: str | None,
        client: Client | None = None,
    ) -> Reply:
        session = self.session
        if session.closed:
            raise Closed(session.name)

        def call(tx: _Transaction) -> Reply:
            cx = Context(tx, session.name, tx.seq, id, origin, content_type, session.time_ms)
            reply = self._program.handle(cx, body)
            tx.reply(reply)
            return reply

        is_firing = origin.kind == "timer"
        reply = self._call("handle", session.seq + 1, call, is_firing, client)
        session.seq += 1
        return reply

    def deliver(
        self, sender: str, message: object = None, *, attempt: int = 1, reply_wanted: bool = False
    ) -> Reply:
        """Has another session (``service/session``) send a message: JSON, a :class:`Reply` as it
        is. Gives the reply. Raises as :meth:`send`."""
        address, body = _address(sender), _as_reply(message)
        delivery = Delivery(address, attempt, reply_wanted)
        origin = Origin("session", address, delivery=delivery)
        return self._handle(origin, body.body, body.content_type, None)

    def answer(self, name: str, reply: object = None, *, sender: str | None = None) -> Reply:
        """Has the other session reply to what this one sent with ``reply_as=name``; of several, to
        the first that has no outcome yet, or to that which was sent to ``sender``. The reply is
        JSON, a :class:`Reply` as it is. Gives what the handler replies.

        Raises as :meth:`send`. The outcome can then be tried again, with the next ``attempt``; it
        is given up after 20 attempts, or a rejection that is not retriable. Raises ``KeyError``
        where nothing waits for it."""
        return self._outcome(name, sender, None, _as_reply(reply))

    def refuse(
        self,
        name: str,
        code: str,
        message: str,
        *,
        retriable: bool = False,
        sender: str | None = None,
    ) -> Reply:
        """As :meth:`answer`, where the other session refuses, or can't be reached."""
        # A node gives it no body, and no content type.
        return self._outcome(name, sender, Refusal(code, message, retriable), Reply("application/octet-stream", b""))

    def _outcome(
        self, name: str, sender: str | None, refusal: Refusal | None, reply: Reply
    ) -> Reply:
        waiting = self.session._asked
        of = None if sender is None else _address(sender)
        found = [one for one in waiting if one.sent.reply_as == name and of in (None, one.sent.to)]
        if not found:
            whose = "" if of is None else f" of {of}"
            what = [(one.sent.reply_as, str(one.sent.to)) for one in waiting]
            raise KeyError(
                f"nothing was sent that waits for an answer {name!r}{whose}; what does, and for "
                f"whose: {what}"
            )
        asked = found[0]
        answer = Answer(name, asked.sent.to, refusal, asked.failures + 1)
        origin = Origin("answer", name, answer=answer)
        try:
            result = self._handle(origin, reply.body, reply.content_type, None)
        except Failure as failed:
            asked.failures += 1
            is_final = isinstance(failed, Rejected) and not failed.rejection.retriable
            # A node keeps it for an operator then.
            if is_final or asked.failures >= limits.SEND_ATTEMPTS_MAX:
                _remove(waiting, asked)
            raise
        _remove(waiting, asked)
        return result

    def respond(
        self,
        id: str,
        status: int = 200,
        *,
        headers: AnswerHeaders = None,
        json: object = None,
        body: str | bytes | Reply | None = None,
        parts: Iterable[object] = (),
        attempts: int | None = None,
    ) -> Reply:
        """Has an open request answered. Gives what the handler replies.

        The body is ``json``, or ``body``: text, bytes, or a :class:`Reply` with its content type.
        Where there is none it is what was shown as parts; those that are given here come before.
        Headers that the request does not keep are left out, as a node does. ``attempts`` is how
        often the request was made.

        Raises as :meth:`send`. The request can then be answered again, with the next ``attempt``;
        it is given up after 20 attempts, or a rejection that is not retriable. Raises ``KeyError``
        where there is no such request."""
        of = self._of(id)
        self._parts(id, parts)
        return self._answer(of, *answer_of(of, status, headers, json, body, attempts))

    def fail(
        self,
        id: str,
        code: str,
        reason: str = "The test says so.",
        *,
        status: int | None = None,
        headers: AnswerHeaders = None,
        json: object = None,
        body: str | bytes | Reply | None = None,
        parts: Iterable[object] = (),
        attempts: int | None = None,
    ) -> Reply:
        """As :meth:`respond`, where the request fails for good: ``timeout``, ``connect`` ..; see
        ``HttpFailure``. With a ``status`` some of the answer had come."""
        of = self._of(id)
        self._parts(id, parts)
        told = failure_of(of, code, reason, status, headers, json, body, attempts)
        return self._answer(of, *told)

    def part(self, id: str, *pieces: object) -> list[Event]:
        """Has a part of a stream shown: what came of the answer at once. It is an entry of the
        history, with a sequence number. Pieces are text: of the form ``data`` each is one event,
        and may be JSON; else all of them are one."""
        of = self._of(id)
        kind, texts, shown = part_of(of, pieces)
        of.shown.append(shown)
        return self._show([(kind, Reply.text(text)) for text in texts])

    def restart(self, id: str) -> list[Event]:
        """Has a request made again after its connection broke: where something was shown, an event
        says that it is void."""
        of = self._of(id)
        of.attempts += 1
        if not of.shown:
            return []
        of.shown.clear()
        body = Reply.json({"id": id, "attempt": of.attempts})
        return self._show([("slotd.restarted", body)])

    def presence(self, present: bool) -> Reply:
        """Has the session's first subscriber come, or the last one go. Gives what the handler
        replies. Raises as :meth:`send`; what fails is not tried again. Raises ``ValueError`` where
        the handler does not watch."""
        if not self.session.watches_subscribers:
            raise ValueError(
                "the session does not watch its subscribers: its handler has not called "
                "cx.watch_subscribers()"
            )
        origin = Origin("presence", None, present=bool(present))
        return self._handle(origin, b"", "application/octet-stream", None)

    def _of(self, id: str) -> Open:
        found = self.session._open.get(id)
        if found is None:
            raise KeyError(f"no request {id!r} is open; there are {sorted(self.session._open)}")
        return found

    def _parts(self, id: str, parts: Iterable[object]) -> None:
        for part in parts:
            self.part(id, *(part if isinstance(part, (list, tuple)) else (part,)))

    def _show(self, events: list[tuple[str, Reply]]) -> list[Event]:
        """An entry of the history without a call of the handler."""
        session = self.session
        if events:
            session.seq += 1
        shown = [Event(session.seq, kind, of.content_type, of.body) for kind, of in events]
        session.events += shown
        return shown

    def _answer(self, of: Open, answer: HttpAnswer, content: Reply) -> Reply:
        # It has ended when its answer is handled, which may ask again.
        del self.session._open[answer.id]
        origin = Origin("http", answer.id, http=answer)
        try:
            return self._handle(origin, content.body, content.content_type, None)
        except Failure as failed:
            of.failures = answer.attempt
            # A node keeps it for an operator then.
            is_final = isinstance(failed, Rejected) and not failed.rejection.retriable
            if not is_final and of.failures < limits.ANSWER_ATTEMPTS_MAX:
                self.session._open[answer.id] = of
            raise

    def advance(self, by: Duration) -> list[Fired]:
        """Moves the session's clock on, and has the timers fire that are due meanwhile, in the
        order of their times, each at its time; also those that are tried again after a failure, and
        those that a timer's message sets. Gives what became of each; a handler that fails raises
        nothing here.

        A session that is to expire meanwhile is deleted at that time, after what is due by then:
        nothing is left of it but its name and the clock, and the next message is its first.

        Where a test changes the clock itself nothing fires: what is overdue then fires first at the
        next call, and what it missed is counted.

        Raises ``ValueError`` while a cron timer is set, since its times are not known here: see
        :meth:`fire`."""
        session = self.session
        end = session.time_ms + to_ms(by, "the time to advance by")
        fired: list[Fired] = []
        while True:
            for name, timer in session.timers.items():
                if timer.kind == "cron":
                    raise ValueError(
                        f"the timer {name!r} is a cron expression's: the harness does not compute "
                        f"its times, so `advance` can't say when it fires. Use fire({name!r}) at "
                        "its time (session.time_ms), and cancel it before `advance`"
                    )
            due = [(t.next_ms, name.encode(), name) for name, t in session.timers.items()]
            due = [one for one in due if one[0] <= end]
            expires_ms = session.expires_ms
            if expires_ms is not None and expires_ms <= end:
                if not due or expires_ms < min(due)[0]:
                    time_ms = max(session.time_ms, expires_ms)
                    vars(session).update(vars(Session(session.name, time_ms=time_ms)))
                    continue
            if not due:
                break
            name = min(due)[2]
            fired.append(self.fire(name))
            if len(fired) >= limits.FIRED_MAX:
                raise RuntimeError(
                    f"{len(fired)} timers fired, and the time is not over: the last was {name!r}"
                )
        session.time_ms = max(session.time_ms, end)
        return fired

    def fire(self, name: str) -> Fired:
        """Has one timer fire, and none before it: at its time, to which the clock moves on, or now
        if that has passed. A cron timer fires now. Raises ``KeyError`` where there is none."""
        session = self.session
        if name not in session.timers:
            raise KeyError(f"no timer {name!r} is set; there are {sorted(session.timers)}")
        timer = session.timers[name]
        if timer.kind != "cron" or timer.failures:
            session.time_ms = max(session.time_ms, timer.next_ms)
        now_ms = session.time_ms
        events, notified = len(session.events), len(session.notified)
        firing, left = timer._next(now_ms)
        self._put(name, left)
        reply, failure = None, None
        try:
            reply = self._handle(
                Origin("timer", name, firing), timer.body, timer.content_type, None
            )
        except Failure as failed:
            failure = failed
            is_final = isinstance(failed, Rejected) and not failed.rejection.retriable
            if is_final or firing.attempt >= limits.TIMER_ATTEMPTS_MAX:
                attempts, content_type = firing.attempt, timer.content_type
                dead = Dead(name, firing.due_ms, attempts, content_type, timer.body, failed)
                session.dead.append(dead)
                self._put(name, left)
            else:
                wait = min(limits.TIMER_RETRY_MAX_MS, 1_000 * 2**timer.failures)
                next_ms, failures = now_ms + wait, firing.attempt
                due_ms = firing.due_ms
                again = replace(timer, due_ms=due_ms, next_ms=next_ms, failures=failures)
                self._put(name, again)
        return Fired(
            name,
            firing.due_ms,
            firing.missed,
            firing.attempt,
            now_ms,
            reply,
            failure,
            session.events[events:],
            session.notified[notified:],
        )

    def _put(self, name: str, timer: SetTimer | None) -> None:
        if timer is None:
            self.session.timers.pop(name, None)
        else:
            self.session.timers[name] = timer

    @property
    def timers(self) -> list[Timer]:
        """The timers that are set, in order of the names' bytes."""
        names = sorted(self.session.timers, key=str.encode)
        return [Timer(*_shown(name, self.session.timers[name])) for name in names]

    @property
    def expires(self) -> int | None:
        """When the session is deleted, milliseconds since the Unix epoch; ``None``: not at all."""
        return self.session.expires_ms

    @property
    def dead(self) -> list[Dead]:
        """Every timer's message that was given up, in order."""
        return self.session.dead

    @property
    def sent(self) -> list[Sent]:
        """All that its messages sent to other sessions so far, in order."""
        return self.session.sent

    @property
    def unanswered(self) -> list[Sent]:
        """Of that, what waits for its outcome."""
        return [asked.sent for asked in self.session._asked]

    @property
    def requests(self) -> list[Requested]:
        """All requests over HTTP that its messages made so far, in order."""
        return self.session.requests

    @property
    def open_requests(self) -> list[Requested]:
        """Of them, those whose answer the handler has not had, in order of the ids' bytes."""
        ids = sorted(self.session._open, key=str.encode)
        return [self.session._open[id].request for id in ids]

    @property
    def closed(self) -> bool:
        """The session is closed: messages raise :class:`Closed`."""
        return self.session.closed

    @property
    def watches_subscribers(self) -> bool:
        """The handler is told of subscribers."""
        return self.session.watches_subscribers

    def query(self, query: object = None, *, client: Client | None = None) -> Reply:
        """Asks a query with a JSON body; ``client`` as for :meth:`send`. Raises a
        :class:`Failure`."""
        body = to_json({} if query is None else query)
        return self.query_bytes(body, "application/json", client=client)

    def query_bytes(
        self,
        body: bytes,
        content_type: str = "application/octet-stream",
        *,
        client: Client | None = None,
    ) -> Reply:
        """As :meth:`query`, with any body."""
        session = self.session

        def call(tx: _Transaction) -> Reply:
            cx = QueryContext(tx, session.name, session.seq, content_type, session.time_ms)
            reply = self._program.query(cx, body)
            tx.reply(reply)
            return reply

        return self._call("query", session.seq, call, client=client)

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

    def _call(
        self,
        kind: str,
        seq: int,
        call: Callable[[_Transaction], T],
        is_firing: bool = False,
        client: Client | None = None,
    ) -> T:
        session = self.session
        tx = _Transaction(kind, seq, session, is_firing, client)
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
        session.timers.clear()
        session.timers.update(tx.set_timers)
        session.expires_ms = tx.expires_ms
        session.events += tx.events
        session.notified += tx.notified
        session.sent += tx.sent
        session._asked += [_Asked(sent) for sent in tx.sent if sent.reply_as is not None]
        session.requests += tx.requests
        session._open.clear()
        session._open.update(tx.open)
        session.watches_subscribers = tx.watches_subscribers
        session.closed = tx.closed
        if session.closed:
            session._end_all()
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
