"""The component's side: the generated bindings, and a handler behind them. Only here while a
component is built and when it runs."""

from __future__ import annotations

import os
from typing import Any

import wit_world  # type: ignore[import-not-found]
from componentize_py_types import Err  # type: ignore[import-not-found]
from wit_world.imports import (  # type: ignore[import-not-found]
    client,
    effects,
    http,
    log,
    sends,
    session,
    state,
    timers,
    types,
)

from . import _build, _trace
from ._call import Program
from ._client import Client
from ._context import Context, Firing, MigrateContext, Origin, QueryContext
from ._errors import Rejection
from ._host import Request, SetTimer
from ._http import Headers, HttpAnswer, HttpFailure, Response
from ._instance import Chance, Fresh
from ._logging import to_log
from ._sends import Address, Answer, Delivery, Refusal

_LEVELS = (log.Level.TRACE, log.Level.DEBUG, log.Level.INFO, log.Level.WARN, log.Level.ERROR)


_MOMENTS = {
    "at": timers.Moment_At,
    "after": timers.Moment_After,
    "every": timers.Moment_Every,
    "cron": lambda value: timers.Moment_Cron(timers.Cron(*value)),
}


def _timer(timer: Any) -> SetTimer:
    return timer.name, timer.due_ms, timer.content_type, timer.body, timer.failures


def _stream(stream: tuple[str, str, str | None] | None) -> Any:
    if stream is None:
        return None
    kind, form, path = stream
    if form == "joined":
        return http.Streaming(kind, http.StreamForm_Joined(path))
    return http.Streaming(
        kind, http.StreamForm_Data() if form == "data" else http.StreamForm_Text()
    )


def _response(response: Any) -> Response | None:
    return None if response is None else Response(response.status, Headers(response.headers))


def _http_answer(of: Any) -> HttpAnswer:
    response, failure = None, None
    if isinstance(of.outcome, http.Outcome_Response):
        response = _response(of.outcome.value)
    else:
        of_failure = of.outcome.value
        code, reason = _fields(of_failure, "code", "reason")
        failure = HttpFailure(code, reason, _response(of_failure.response))
    return HttpAnswer(of.id, response, failure, of.attempts, of.attempt)


def _fields(value: Any, *names: str) -> list[Any]:
    return [getattr(value, name) for name in names]


class _Imports:
    """The host, through the component's imports."""

    get = staticmethod(state.get)
    set = staticmethod(state.set)
    delete = staticmethod(state.delete)
    scan = staticmethod(state.scan)

    @staticmethod
    def emit(kind: str, content_type: str, body: bytes) -> None:
        effects.emit(types.Event(kind, content_type, body))

    @staticmethod
    def notify(kind: str, content_type: str, body: bytes) -> None:
        session.notify(types.Event(kind, content_type, body))

    @staticmethod
    def expire(at: int | None) -> str | None:
        try:
            session.expire(at)
            return None
        except Err as error:
            return str(error.value)

    close = staticmethod(session.close)
    watch_subscribers = staticmethod(session.watch_subscribers)

    @staticmethod
    def schedule(name: str, kind: str, value: Any, content_type: str, body: bytes) -> int | str:
        try:
            due: int = timers.schedule(name, _MOMENTS[kind](value), content_type, body)
            return due
        except Err as error:
            return str(error.value)

    cancel = staticmethod(timers.cancel)

    @staticmethod
    def timer(name: str) -> SetTimer | None:
        found = timers.get(name)
        return None if found is None else _timer(found)

    @staticmethod
    def timers(after: str | None, limit: int) -> list[SetTimer]:
        return [_timer(found) for found in timers.list(after, limit)]

    @staticmethod
    def send(
        service: str, session: str, content_type: str, body: bytes, reply_as: str | None
    ) -> str | None:
        try:
            sends.send(sends.Address(service, session), content_type, body, reply_as)
            return None
        except Err as error:
            return str(error.value)

    @staticmethod
    def request(id: str, request: Request) -> str | None:
        of = request.options
        options = http.Options(
            timeout_ms=of.timeout_ms,
            deadline_ms=of.deadline_ms,
            attempts=of.attempts,
            redirects=of.redirects,
            answer_bytes=of.answer_bytes,
            keep_headers=of.keep_headers,
            stream=_stream(of.stream),
        )
        try:
            http.request(
                id,
                http.Details(request.method, request.url, request.headers, request.body, options),
            )
            return None
        except Err as error:
            return str(error.value)

    cancel_request = staticmethod(http.cancel)
    open_requests = staticmethod(http.open)

    @staticmethod
    def client() -> Client | None:
        of = client.current()
        return None if of is None else Client(of.kind, of.subject, dict(of.claims))

    @staticmethod
    def log(level: int, message: str) -> None:
        # Half a surrogate pair has no UTF-8: not worth losing the line, or the call.
        log.write(_LEVELS[level], message.encode("utf-8", "replace").decode())


def export(entry: str) -> type:
    """The class that componentize-py looks for, over the handler that ``entry`` names: a module, or
    ``module:Class``. Runs while the component is built; its memory then is what instances begin
    with."""
    host = _Imports()
    chance = Chance()
    program = Program(_build.load(entry))
    _build.warm_up()
    fresh = Fresh(chance)
    out, err = to_log(host)
    kinds = {
        types.Origin_Client: "client",
        types.Origin_Session: "session",
        types.Origin_Timer: "timer",
        types.Origin_Http: "http",
    }

    def origin_of(origin: Any) -> Origin:
        kind = kinds[type(origin)]
        # Each message of a timer, a session and a request has one.
        if kind == "timer":
            firing = Firing(*_fields(timers.current(), "due_ms", "missed", "attempt"))
            return Origin("timer", origin.value, firing)
        if kind == "session":
            arrival = sends.current()
            if arrival is not None:
                return from_session(arrival)
            # What is no other session's says whether this one has subscribers.
            present = session.current() == session.Presence.PRESENT
            return Origin("presence", origin.value, present=present)
        if kind == "http":
            return Origin("http", origin.value, http=_http_answer(http.current()))
        return Origin(kind, origin.value)  # type: ignore[arg-type]

    def from_session(arrival: Any) -> Origin:
        of = arrival.value
        sender = Address(f"{of.sender.service}/{of.sender.session}")
        if isinstance(arrival, sends.Arrival_Message):
            delivery = Delivery(sender, of.attempt, of.reply_wanted)
            return Origin("session", sender, delivery=delivery)
        refusal = None
        if of.refusal is not None:
            refusal = Refusal(*_fields(of.refusal, "code", "message", "retriable"))
        return Origin("answer", of.name, answer=Answer(of.name, sender, refusal, of.attempt))

    def failed(error: BaseException) -> Any:
        """The result for a rejection; does not return for anything else."""
        if type(error) is Rejection or isinstance(error, Rejection):
            message = error.message.encode("utf-8", "replace").decode()
            return Err(types.Rejection(error.code, message, error.retriable))
        try:
            out.end()
            err.end()
            for line in _trace.lines(error):
                host.log(4, line)
        except BaseException as broken:
            host.log(4, f"{type(error).__name__} (and no trace of it: {type(broken).__name__})")
        # A trap, without the words that the runtime has for an exception.
        os.abort()

    class WitWorld(wit_world.WitWorld):  # type: ignore[misc]
        def handle(self, message: Any) -> Any:
            try:
                fresh.begin(("handle", message.session, message.seq))
                cx = Context(
                    host,
                    message.session,
                    message.seq,
                    message.id,
                    origin_of(message.origin),
                    message.content_type,
                    message.time_ms,
                )
                reply = program.handle(cx, message.body)
                out.end()
                err.end()
                return types.Reply(reply.content_type, reply.body)
            except BaseException as error:
                rejection = failed(error)
            out.end()
            err.end()
            raise rejection

        def query(self, query: Any) -> Any:
            try:
                fresh.begin(("query", query.session, query.seq))
                cx = QueryContext(host, query.session, query.seq, query.content_type, query.time_ms)
                reply = program.query(cx, query.body)
                out.end()
                err.end()
                return types.Reply(reply.content_type, reply.body)
            except BaseException as error:
                rejection = failed(error)
            out.end()
            err.end()
            raise rejection

        def migrate(self, from_: str) -> None:
            try:
                fresh.begin(None)
                refused = program.migrate(MigrateContext(host), from_)
                out.end()
                err.end()
            except BaseException as error:
                refused = failed(error).value.message
            if refused is not None:
                raise Err(refused.encode("utf-8", "replace").decode())
            if program.has_migrate:
                # The host takes a `migrate` that never looks at the state for none.
                host.scan("", None, 0)

    _build.settle()
    return WitWorld
