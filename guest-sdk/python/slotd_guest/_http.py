"""Requests over HTTP."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from ._errors import Rejection
from ._host import Host, Request
from ._host import RequestOptions as HostOptions
from ._json import NotJson, decode, to_json
from ._reply import Reply
from ._timers import Duration, to_ms

#: Headers of a request: by name, or as pairs where a name comes more than once.
GivenHeaders = Mapping[str, str] | Iterable[tuple[str, str]]

if TYPE_CHECKING:
    from typing_extensions import Unpack

_U32 = 2**32 - 1
_SECRET = re.compile("[A-Za-z0-9_]{1,64}")


def secret(name: str) -> str:
    """What stands in a URL or the value of a header for the operator's secret of that name:
    ``{{secret:NAME}}``. The handler never sees the secret itself, and neither does the session's
    history."""
    if not isinstance(name, str) or not _SECRET.fullmatch(name):
        raise ValueError(
            f"a secret's name has letters, digits and _, 64 at most, not {name!r:.100}"
        )
    return f"{{{{secret:{name}}}}}"


@dataclass(frozen=True)
class Stream:
    """How an answer is shown to the session's subscribers while it comes: as events that have their
    place in the session's history."""

    #: Of the events, as in ``Context.emit``.
    kind: str
    #: ``text``: as text, as it comes. ``data``: the ``data`` of each server-sent event, one event
    #: each.
    form: Literal["text", "data"] = "text"
    #: In place of a form: the text at this path of each server-sent event's data, which is JSON:
    #: ``choices.0.delta.content``. All of it joined is the body of the answer.
    joined: str | None = None


class Headers(Mapping[str, str]):
    """Headers of an answer, by name in whatever case. Where there are several of a name they are
    joined with ``", "``."""

    __slots__ = ("pairs",)

    #: One by one, with names in lower case.
    pairs: tuple[tuple[str, str], ...]

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        self.pairs = tuple((name.lower(), value) for name, value in pairs)

    def __getitem__(self, name: str) -> str:
        values = [value for other, value in self.pairs if other == name.lower()]
        if not values:
            raise KeyError(name)
        return ", ".join(values)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name for name, _ in self.pairs))

    def __len__(self) -> int:
        return len({name for name, _ in self.pairs})

    def __repr__(self) -> str:
        return f"Headers({list(self.pairs)!r})"


@dataclass(frozen=True)
class Response:
    """An answer without its body."""

    status: int
    #: Those that are kept.
    headers: Headers = field(default_factory=Headers)

    @property
    def ok(self) -> bool:
        """Whether the status is 200 to 299."""
        return 200 <= self.status < 300


@dataclass(frozen=True)
class HttpFailure:
    """Why a request has no answer."""

    #: ``refused``, ``invalid``, ``secret-unknown``, ``busy``, ``dns``, ``connect``, ``tls``,
    #: ``timeout``, ``too-large``, ``redirect``, ``protocol`` or ``deadline``; later versions may
    #: have more.
    code: str
    #: One sentence, for people.
    reason: str
    #: Of an answer that did not come to its end: the body is what had come of it.
    response: Response | None = None


@dataclass(frozen=True)
class HttpAnswer:
    """What came of a request: an answer, whatever its status, or why there is none. One of
    :attr:`response` and :attr:`failure` is there."""

    #: As in ``cx.http``.
    id: str
    response: Response | None = None
    failure: HttpFailure | None = None
    #: How often the request was made.
    attempts: int = 1
    #: How often this message is tried, this time included: 1 the first time.
    attempt: int = 1

    @property
    def ok(self) -> bool:
        """Whether there is an answer with a status of 200 to 299."""
        return self.response is not None and self.response.ok


@dataclass(frozen=True)
class HttpBody:
    """The body of an answer; of a failure what had come of it."""

    content_type: str
    content: bytes

    def json(self) -> Any:
        """From JSON. Where it is none it raises the rejection ``bad-message``: the answer is then
        kept for an operator."""
        try:
            return decode(self.content)
        except NotJson as error:
            raise Rejection("bad-message", f"the answer is not JSON: {error}"[:1000]) from None

    @property
    def text(self) -> str:
        """As UTF-8; what is none is replaced."""
        return self.content.decode("utf-8", "replace")


class RequestOptions(TypedDict, total=False):
    """What :meth:`Http.request` takes by name."""

    headers: GivenHeaders | None
    json: object
    body: str | bytes | bytearray | memoryview | Reply | None
    timeout: Duration | None
    deadline: Duration | None
    attempts: int | None
    redirects: int | None
    answer_bytes: int | None
    keep_headers: Iterable[str]
    stream: Stream | None


class HttpView:
    """The session's requests, to read."""

    __slots__ = ("_host",)

    def __init__(self, host: Host) -> None:
        self._host = host

    def open(self) -> list[str]:
        """The ids of the requests whose answer the handler has not had, in order of their bytes."""
        return self._host.open_requests()


class Http(HttpView):
    """The session's requests over HTTP. One is made once this message is durable, **at least**
    once: each attempt has the same header ``idempotency-key``, which no other request has. Its
    answer, or why there is none, is a message of this session: see ``Handler.http_answer``.

    A service reaches only the hosts that its operator names in ``effects.http``; a request to
    another one, or with a secret that is not for that host, ends the call (403
    ``request-refused``). 16 requests that one message makes, 100 that are open, 256 KiB a body;
    past a limit, and where URL, method or headers can't be any, the call ends.
    """

    __slots__ = ()

    def request(
        self,
        id: str,
        method: str,
        url: str,
        *,
        headers: GivenHeaders | None = None,
        json: object = None,
        body: str | bytes | bytearray | memoryview | Reply | None = None,
        timeout: Duration | None = None,
        deadline: Duration | None = None,
        attempts: int | None = None,
        redirects: int | None = None,
        answer_bytes: int | None = None,
        keep_headers: Iterable[str] = (),
        stream: Stream | None = None,
    ) -> None:
        """Makes a request, in place of an open one of that id (1 to 128 bytes, no control
        characters). What is not given is as the node has it.

        The body is ``json``, or ``body``: text, bytes, or a :class:`Reply` with its content type.
        ``timeout`` is of one attempt, with all of its answer (60 s if not given, 10 minutes at
        most), ``deadline`` of all of them together (10 minutes, a day). It is tried ``attempts``
        times (5, 20), with so many ``redirects`` (5, 10; with 0 one is an answer), and the answer's
        body has so many bytes (1 MiB, which is the most). ``keep_headers`` of the answer are kept
        beside those that always are, by name or by ``prefix*``. With a :class:`Stream` the answer
        is shown to subscribers while it comes.

        Raises the rejection ``bad-request`` where the id or an option can't be so."""
        content_type, data = _content(json, body)
        pairs = _pairs(headers)
        if content_type is not None and all(n.lower() != "content-type" for n, _ in pairs):
            pairs.append(("content-type", content_type))
        if isinstance(keep_headers, str):
            raise TypeError(f"`keep_headers` is a list of names, not the text {keep_headers!r}")
        options = HostOptions(
            timeout_ms=_duration(timeout, "a request's timeout"),
            deadline_ms=_duration(deadline, "a request's deadline"),
            attempts=_count(attempts, "attempts", _U32),
            redirects=_count(redirects, "redirects", 255),
            answer_bytes=_count(answer_bytes, "answer_bytes", _U32),
            keep_headers=[_text(name, "a header's name") for name in keep_headers],
            stream=_stream(stream),
        )
        method, url = _text(method, "a method"), _text(url, "a URL")
        request = Request(method, url, pairs, data, options)
        wrong = self._host.request(_text(id, "a request's id"), request)
        if wrong is not None:
            raise Rejection("bad-request", wrong)

    def get(self, id: str, url: str, **options: Unpack[RequestOptions]) -> None:
        """As :meth:`request`."""
        self.request(id, "GET", url, **options)

    def post(self, id: str, url: str, **options: Unpack[RequestOptions]) -> None:
        """As :meth:`request`."""
        self.request(id, "POST", url, **options)

    def put(self, id: str, url: str, **options: Unpack[RequestOptions]) -> None:
        """As :meth:`request`."""
        self.request(id, "PUT", url, **options)

    def patch(self, id: str, url: str, **options: Unpack[RequestOptions]) -> None:
        """As :meth:`request`."""
        self.request(id, "PATCH", url, **options)

    def delete(self, id: str, url: str, **options: Unpack[RequestOptions]) -> None:
        """As :meth:`request`."""
        self.request(id, "DELETE", url, **options)

    def cancel(self, id: str) -> bool:
        """Ends a request: its answer will not come, though it may have been made. Whether there was
        one."""
        return self._host.cancel_request(_text(id, "a request's id"))


def _content(json: object, body: object) -> tuple[str | None, bytes]:
    if json is not None:
        if body is not None:
            raise TypeError("a request has `json` or `body`, not both")
        return "application/json", to_json(json)
    if body is None:
        return None, b""
    if isinstance(body, Reply):
        return body.content_type, body.body
    if isinstance(body, str):
        return "text/plain; charset=utf-8", body.encode()
    if isinstance(body, (bytes, bytearray, memoryview)):
        return None, bytes(body)
    raise TypeError(f"a request's body is str or bytes, not {type(body).__name__}")


def _pairs(headers: GivenHeaders | None) -> list[tuple[str, str]]:
    if headers is None:
        return []
    given = headers.items() if isinstance(headers, Mapping) else headers
    return [
        (_text(name, "a header's name"), _text(value, f"the value of the header {name}"))
        for name, value in given
    ]


def _stream(stream: Stream | None) -> tuple[str, str, str | None] | None:
    if stream is None:
        return None
    if not isinstance(stream, Stream):
        raise TypeError(f"`stream` of a request is a Stream, not {stream!r:.100}")
    kind = _text(stream.kind, "the kind of a stream's events")
    if stream.joined is not None:
        return kind, "joined", _text(stream.joined, "a path")
    if stream.form not in ("text", "data"):
        raise ValueError(f'the form of a stream is "text" or "data", not {stream.form!r:.100}')
    return kind, stream.form, None


def _duration(duration: Duration | None, what: str) -> int | None:
    # What is more than the interface can say is as much too much.
    return None if duration is None else min(to_ms(duration, what), _U32)


def _count(count: int | None, name: str, most: int) -> int | None:
    if count is None:
        return None
    if isinstance(count, bool) or not isinstance(count, int):
        raise TypeError(f"`{name}` of a request is an int, not {count!r:.100}")
    if count < 0:
        raise ValueError(f"`{name}` of a request is not negative, and {count} is")
    return min(count, most)


def _text(value: str, what: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{what} is a str, not {value!r:.100}")
    return value
