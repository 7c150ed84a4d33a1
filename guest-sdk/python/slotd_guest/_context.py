"""What a handler is given beside the message."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from enum import IntEnum
from typing import Literal

from ._client import Client
from ._expire import expire
from ._host import Host
from ._http import Http, HttpAnswer, HttpView
from ._json import to_json
from ._sends import Answer, Delivery, send
from ._state import State, StateView
from ._timers import Duration, Timers, TimersView

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class Level(IntEnum):
    """Levels of the node's log."""

    TRACE = 0
    DEBUG = 1
    INFO = 2
    WARN = 3
    ERROR = 4


@dataclass(frozen=True)
class Firing:
    """Which time of a timer a message is for."""

    #: The time that the timer was set for, milliseconds since the Unix epoch.
    due_ms: int
    #: How many later times of its period have passed, too, and have no message of their own.
    missed: int = 0
    #: How often it is tried, this time included: 1 the first time.
    attempt: int = 1

    @property
    def due(self) -> datetime:
        """:attr:`due_ms` as a ``datetime`` in UTC."""
        return _EPOCH + timedelta(milliseconds=self.due_ms)


@dataclass(frozen=True)
class Origin:
    """Where a message comes from: a client (``name`` is the one it gave, if any), a timer that this
    session set (its name), another session (``service/session``), the answer to a message that this
    session sent (the name in ``reply_as``), the answer to a request over HTTP (its id), or this
    session's subscribers, who have come or gone (``presence``)."""

    kind: Literal["client", "session", "answer", "timer", "http", "presence"]
    name: str | None
    #: Of a timer's message.
    firing: Firing | None = None
    #: Of another session's message. A client can't claim to be one.
    delivery: Delivery | None = None
    #: Of an answer.
    answer: Answer | None = None
    #: Of what came of a request over HTTP.
    http: HttpAnswer | None = None
    #: Of presence: there is a subscriber, and there was none; or the last one has gone.
    present: bool | None = None


class Log:
    """The node's log, for its operator. 100 lines a call, 2,048 bytes each; the rest is dropped."""

    __slots__ = ("_host",)

    def __init__(self, host: Host) -> None:
        self._host = host

    def __call__(self, level: Level, message: object) -> None:
        self._host.log(level, str(message))

    def trace(self, message: object) -> None:
        self._host.log(0, str(message))

    def debug(self, message: object) -> None:
        self._host.log(1, str(message))

    def info(self, message: object) -> None:
        self._host.log(2, str(message))

    def warn(self, message: object) -> None:
        self._host.log(3, str(message))

    def error(self, message: object) -> None:
        self._host.log(4, str(message))


class Context:
    """The message that is handled, and what its handler can do."""

    __slots__ = (
        "_host",
        "session",
        "seq",
        "id",
        "origin",
        "content_type",
        "time_ms",
        "state",
        "timers",
        "http",
        "log",
    )

    #: The session's id within its service.
    session: str
    #: The sequence number that this message gets if it is not rejected. Parts of streams have
    #: numbers, too.
    seq: int
    #: The sender's idempotency key, if it gave one.
    id: str | None
    origin: Origin
    #: The body's type, as the sender gave it.
    content_type: str
    #: The time of the message, milliseconds since the Unix epoch; never goes back within a
    #: session. ``time.time()``, ``datetime.now()`` and the like stand at it too.
    time_ms: int
    #: The session's state, to read and to write.
    state: State
    #: The session's timers: messages that it sends itself later.
    timers: Timers
    #: The session's requests over HTTP.
    http: Http
    log: Log

    def __init__(
        self,
        host: Host,
        session: str,
        seq: int,
        id: str | None,
        origin: Origin,
        content_type: str,
        time_ms: int,
    ) -> None:
        self._host = host
        self.session = session
        self.seq = seq
        self.id = id
        self.origin = origin
        self.content_type = content_type
        self.time_ms = time_ms
        self.state = State(host)
        self.timers = Timers(host)
        self.http = Http(host)
        self.log = Log(host)

    @property
    def sender(self) -> str | None:
        """The name that a client gave as its sender, if the message is from a client and it gave
        one."""
        return self.origin.name if self.origin.kind == "client" else None

    @property
    def client(self) -> Client | None:
        """Who the client was shown to be that has sent the message: ``cx.client.subject``. ``None``
        where nobody was, and where the message is not from a client. The host is asked each time."""
        return self._host.client()

    @property
    def time(self) -> datetime:
        """:attr:`time_ms` as a ``datetime`` in UTC."""
        return _EPOCH + timedelta(milliseconds=self.time_ms)

    def emit(self, kind: str, value: object) -> None:
        """Tells the session's subscribers, once the message is durable. ``kind`` is a short name
        without spaces; the body is ``value`` as JSON. 256 events and 1 MiB of them a message."""
        self._host.emit(kind, "application/json", to_json(value))

    def emit_bytes(
        self, kind: str, content_type: str, body: bytes | bytearray | memoryview
    ) -> None:
        """As :meth:`emit`, with any body."""
        self._host.emit(kind, content_type, bytes(body))

    def notify(self, kind: str, value: object) -> None:
        """Tells whoever is subscribed to the session at that moment, in passing: an ephemeral
        event. It is sent once the message is durable, after what the message emitted, and at most
        once. It has no place in the history: nobody gets it later, and a subscriber that is slow
        misses it. ``kind`` and the body are as for :meth:`emit`; 64 of them and 256 KiB a
        message."""
        self._host.notify(kind, "application/json", to_json(value))

    def notify_bytes(
        self, kind: str, content_type: str, body: bytes | bytearray | memoryview
    ) -> None:
        """As :meth:`notify`, with any body."""
        self._host.notify(kind, content_type, bytes(body))

    def expire(self, *, after: Duration | None = None, at: datetime | int | None = None) -> None:
        """Has the session deleted at a time, with all that it has: its state and history, timers,
        and messages that are on their way. What expires begins anew with its next message. It is said
        with this message, or not at all. A later message may say another time, or call it off with
        :meth:`keep`; one that says nothing of it changes nothing.

        One of the two says when: so long after this message's time (``"10m"``, a ``timedelta``), or
        at a ``datetime`` with its time zone, or at milliseconds since the Unix epoch; one that has
        passed is now, once the message is durable. Raises the rejection ``bad-moment`` where there
        can be no such time."""
        expire(self._host, self.time_ms, after, at)

    def keep(self) -> None:
        """The session does not expire."""
        self._host.expire(None)

    def close(self) -> None:
        """Closes the session with this message: it takes no more of them, of whomever, and is still
        read and queried. Its timers and requests end, and it hears no more of what it has sent,
        which goes on its way. It still expires."""
        self._host.close()

    def watch_subscribers(self, wanted: bool = True) -> None:
        """Has :meth:`Handler.presence` told when the session's first subscriber comes, and when the
        last one has been gone for some seconds; with ``False`` not any more."""
        self._host.watch_subscribers(bool(wanted))

    def send(self, to: str, body: object = None, *, reply_as: str | None = None) -> None:
        """Sends a message to another session, or to this one: once this message is durable, and
        exactly once. What is sent to one session arrives in order. ``to`` is ``service/session``,
        which need not be there yet; the body is sent as JSON, a :class:`Reply` as it is.

        With ``reply_as`` (1 to 128 bytes, no control characters) the outcome comes back as a
        message of this session, under that name: see :meth:`Handler.answer`. Without it, what the
        other refuses is kept for an operator.

        A service sends only to those that its operator names in ``effects.send``. 256 messages that
        one message sends, 256 KiB a body; past a limit the call ends. Raises the rejection
        ``bad-send`` where the address or the name can't be one."""
        send(self._host, to, body, reply_as)


class QueryContext:
    """The query that is answered. It can't change anything."""

    __slots__ = (
        "_host",
        "session",
        "seq",
        "content_type",
        "time_ms",
        "state",
        "timers",
        "http",
        "log",
    )

    #: The session's id within its service.
    session: str
    #: The sequence number of the last message that the state reflects; 0 before the first.
    seq: int
    #: The body's type, as the asker gave it.
    content_type: str
    #: The time of the query, milliseconds since the Unix epoch.
    time_ms: int
    #: The session's state, to read.
    state: StateView
    #: The session's timers, to read.
    timers: TimersView
    #: The session's requests over HTTP, to read.
    http: HttpView
    log: Log

    def __init__(self, host: Host, session: str, seq: int, content_type: str, time_ms: int) -> None:
        self._host = host
        self.session = session
        self.seq = seq
        self.content_type = content_type
        self.time_ms = time_ms
        self.state = StateView(host)
        self.timers = TimersView(host)
        self.http = HttpView(host)
        self.log = Log(host)

    @property
    def client(self) -> Client | None:
        """As :attr:`Context.client`, of the client that asks."""
        return self._host.client()

    @property
    def time(self) -> datetime:
        """:attr:`time_ms` as a ``datetime`` in UTC."""
        return _EPOCH + timedelta(milliseconds=self.time_ms)

    def _forbidden(self) -> Context:
        """What a query is kept from doing, for tests of the host's own guard."""
        origin = Origin("client", None)
        return Context(
            self._host, self.session, self.seq, None, origin, self.content_type, self.time_ms
        )


class MigrateContext:
    """A session's migration from another version: its state, the log and nothing else."""

    __slots__ = ("_host", "state", "log")

    #: The session's state, to read and to write.
    state: State
    log: Log

    def __init__(self, host: Host) -> None:
        self._host = host
        self.state = State(host)
        self.log = Log(host)

    def _forbidden(self) -> Context:
        """What a migration is kept from doing, for tests of the host's own guard."""
        return Context(self._host, "", 0, None, Origin("client", None), "", 0)
