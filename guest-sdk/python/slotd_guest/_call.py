"""One call of a handler: the same in a component and under the harness."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

from ._context import Context, MigrateContext, QueryContext
from ._errors import Rejection
from ._handler import Handler, RawHandler, _Base
from ._http import HttpBody
from ._json import NotJson, decode, to_json
from ._reply import Reply
from ._typed import Mismatch, Reader, reader_of

AnyHandler = type[Handler] | type[RawHandler]


class Program:
    """A handler's class, looked at once."""

    def __init__(self, handler: AnyHandler) -> None:
        if not (isinstance(handler, type) and issubclass(handler, (Handler, RawHandler))):
            raise TypeError(f"{handler!r} is no subclass of slotd_guest.Handler or RawHandler")
        if handler.handle in (Handler.handle, RawHandler.handle):
            raise TypeError(f"{handler.__name__} has no method `handle`")
        for name in ("handle", "answer", "http_answer", "presence", "query", "migrate"):
            if inspect.iscoroutinefunction(getattr(handler, name, None)):
                raise TypeError(
                    f"{handler.__name__}.{name} is `async`: a call has nothing to wait for"
                )
        #: Whether the handler has a ``migrate`` of its own.
        self.has_migrate = handler.migrate is not _Base.migrate
        self._new: Callable[[], Any] = handler
        self._raw = issubclass(handler, RawHandler)
        self._message = None if self._raw else _reader(handler, "handle", ("message",))
        self._query = None if self._raw else _reader(handler, "query", ("query",))
        self._reply = None if self._raw else _reader(handler, "answer", ("answer", "reply"))
        if not self._raw:
            _check_parameters(handler, "http_answer", ("answer", "body"))
            _check_parameters(handler, "presence", ("present",))

    def handle(self, cx: Context, body: bytes) -> Reply:
        """Raises what the handler raises."""
        if self._raw:
            return _raw(self._new().handle(cx, body), "handle")
        answer = cx.origin.answer
        # What another service replies is no message of this one's, and a refusal has no body.
        if answer is not None:
            reply = None
            if answer.refusal is None:
                reply = _read(body, self._reply, "bad-message", "reply")
            return _reply(self._new().answer(cx, answer, reply))
        if cx.origin.http is not None:
            content = HttpBody(cx.content_type, body)
            return _reply(self._new().http_answer(cx, cx.origin.http, content))
        if cx.origin.present is not None:
            return _reply(self._new().presence(cx, cx.origin.present))
        message = _read(body, self._message, "bad-message", "message")
        return _reply(self._new().handle(cx, message))

    def query(self, cx: QueryContext, body: bytes) -> Reply:
        """Raises what the handler raises."""
        if self._raw:
            return _raw(self._new().query(cx, body), "query")
        query = _read(body, self._query, "bad-query", "query")
        return _reply(self._new().query(cx, query))

    def migrate(self, cx: MigrateContext, from_version: str) -> str | None:
        """The sentence with which the handler refuses, if it does."""
        try:
            refused = self._new().migrate(cx, from_version)
        except Rejection as rejection:
            return str(rejection)
        if refused is not None and not isinstance(refused, str):
            raise TypeError(f"`migrate` returned {refused!r:.100}: a str refuses, None agrees")
        return refused


def _reader(handler: AnyHandler, method: str, after_cx: tuple[str, ...]) -> Reader | None:
    """What reads the last of the parameters after `cx`, by its type hint."""
    function = getattr(handler, method)
    if function is getattr(Handler, method):
        return None
    names = _check_parameters(handler, method, after_cx)
    where, at = f"{handler.__name__}.{method}", len(after_cx) + 1
    try:
        hints = get_type_hints(function)
    except NameError as error:
        raise TypeError(f"a type hint of {where} is not known: {error}") from None
    try:
        return reader_of(hints.get(names[at], Any))
    except TypeError as error:
        raise TypeError(f"the type hint of `{names[at]}` of {where}: {error}") from None


def _check_parameters(handler: AnyHandler, method: str, after_cx: tuple[str, ...]) -> list[str]:
    """Their names. One that is missing would be noticed in production only."""
    names = list(inspect.signature(getattr(handler, method)).parameters)
    if len(names) <= len(after_cx) + 1:
        raise TypeError(f"{handler.__name__}.{method} takes (self, cx, {', '.join(after_cx)})")
    return names


def _read(body: bytes, reader: Reader | None, code: str, what: str) -> Any:
    try:
        value = decode(body)
        return value if reader is None else reader(value, "")
    except (NotJson, Mismatch) as error:
        raise Rejection(code, f"the {what} is not understood: {error}"[:1000]) from None


def _reply(value: object) -> Reply:
    if type(value) is Reply:
        return value
    return Reply("application/json", to_json(value))


def _raw(value: object, method: str) -> Reply:
    if isinstance(value, Reply):
        return value
    raise TypeError(f"`{method}` of a RawHandler returns a Reply, not {value!r:.100}")
