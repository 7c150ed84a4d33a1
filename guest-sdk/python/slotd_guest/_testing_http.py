"""The harness's part of requests over HTTP: what a node refuses, and what a test says of answers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from ._host import Request, RequestOptions
from ._http import Headers, HttpAnswer, HttpFailure, Response
from ._json import decode, to_json
from ._reply import Reply

_TEXT = "text/plain; charset=utf-8"
_OCTETS = "application/octet-stream"
_WORD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_SECRET = re.compile(r"\{\{secret:(.*?)\}\}")

#: Headers of an answer that are always kept.
_KEPT = (
    "content-language",
    "content-type",
    "date",
    "etag",
    "last-modified",
    "link",
    "location",
    "request-id",
    "retry-after",
)

#: Headers that a node writes itself, or that concern one connection.
_NOT_THE_CALLERS = (
    "accept-encoding",
    "connection",
    "content-length",
    "expect",
    "host",
    "idempotency-key",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
)


class http_limits:
    #: Requests over HTTP that one message makes.
    REQUESTS_MAX = 16
    REQUEST_ID_BYTES_MAX = 128
    REQUEST_BODY_BYTES_MAX = 256 * 1024
    #: Method, URL and headers.
    REQUEST_HEAD_BYTES_MAX = 32 * 1024
    REQUEST_METHOD_BYTES_MAX = 32
    REQUEST_URL_BYTES_MAX = 8 * 1024
    REQUEST_HEADERS_MAX = 64
    REQUEST_HEADER_BYTES_MAX = 16 * 1024
    REQUEST_TIMEOUT_MAX_MS = 600_000
    REQUEST_DEADLINE_MAX_MS = 86_400_000
    REQUEST_ATTEMPTS_MAX = 20
    REQUEST_REDIRECTS_MAX = 10
    REQUEST_KEEP_HEADERS_MAX = 16
    REQUEST_KEEP_HEADER_BYTES_MAX = 64
    STREAM_PATH_BYTES_MAX = 256
    ANSWER_BYTES_MAX = 1024 * 1024
    #: How often the message that an answer becomes is tried.
    ANSWER_ATTEMPTS_MAX = 20


@dataclass(frozen=True)
class Requested:
    """A request over HTTP that a message made."""

    #: The sequence number of the message that made it.
    seq: int
    id: str
    method: str
    url: str
    #: As pairs too: ``headers.pairs``.
    headers: Headers
    body: bytes
    options: RequestOptions

    def parse(self) -> Any:
        """The body from JSON."""
        return decode(self.body)


@dataclass
class Open:
    """A request that is open."""

    request: Requested
    #: How often it was made.
    attempts: int = 1
    #: What of its answer was shown, by part.
    shown: list[str] = field(default_factory=list)
    #: How often the handler has failed its answer.
    failures: int = 0


def request_fault(request: Request) -> str | None:
    """Why the call ends, if it can't be a request at all."""
    most, options = http_limits, request.options
    size = len(request.body)
    if size > most.REQUEST_BODY_BYTES_MAX:
        allowed = f"a body may have {most.REQUEST_BODY_BYTES_MAX} bytes"
        return f"limit: requests: {allowed}; this one has {size}"
    texts = [request.method, request.url, *(text for pair in request.headers for text in pair)]
    size = sum(len(text.encode()) for text in texts)
    if size > most.REQUEST_HEAD_BYTES_MAX:
        allowed = f"the method, URL and headers of one may have {most.REQUEST_HEAD_BYTES_MAX} bytes"
        return f"limit: requests: {allowed}; these have {size}"
    names, name_bytes = options.keep_headers, most.REQUEST_KEEP_HEADER_BYTES_MAX
    too_long = any(len(name.encode()) > name_bytes for name in names)
    if len(names) > most.REQUEST_KEEP_HEADERS_MAX or too_long:
        allowed = f"{most.REQUEST_KEEP_HEADERS_MAX} headers more, with {name_bytes} bytes in a name"
        return f"limit: requests: an answer may be asked to keep {allowed}"
    method = request.method
    if len(method) > most.REQUEST_METHOD_BYTES_MAX or not _WORD.fullmatch(method):
        return f"invalid method {method!r}"
    if method in ("CONNECT", "TRACE"):
        return f"{method} is not for requests of handlers"
    return _url_fault(request.url) or _headers_fault(request.headers) or _secret_fault(request)


def _url_fault(url: str) -> str | None:
    if len(url.encode()) > http_limits.REQUEST_URL_BYTES_MAX:
        return f"limit: the URL of a request may have {http_limits.REQUEST_URL_BYTES_MAX} bytes"
    try:
        parts = urlsplit(_SECRET.sub("secret", url))
        parts.port  # noqa: B018 - it is looked at only when it is asked for
    except ValueError:
        return f"invalid URL {url!r}"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return f"the URL must begin with https:// or http:// and a host, not {url!r}"
    if parts.username or parts.password:
        return "put credentials in a header, not in the URL"
    return None


def _headers_fault(headers: list[tuple[str, str]]) -> str | None:
    most = http_limits
    if len(headers) > most.REQUEST_HEADERS_MAX:
        return f"limit: a request may have {most.REQUEST_HEADERS_MAX} headers"
    for name, value in headers:
        if not _WORD.fullmatch(name):
            return f"invalid header name {name!r}"
        if name.lower() in _NOT_THE_CALLERS:
            return f"slotd sets the header {name} itself"
        if any((c < " " and c != "\t") or c == "\x7f" for c in value):
            return f"the value of the header {name} has control characters"
    size = sum(len(text.encode()) for pair in headers for text in pair)
    if size > most.REQUEST_HEADER_BYTES_MAX:
        return f"limit: the headers of a request may have {most.REQUEST_HEADER_BYTES_MAX} bytes"
    return None


def _secret_fault(request: Request) -> str | None:
    for text in (request.url, *(value for _, value in request.headers)):
        for name in _SECRET.findall(text):
            if not re.fullmatch("[A-Za-z0-9_]{1,64}", name):
                return f"{name!r} is no name of a secret"
    return None


def request_problem(id: str, options: RequestOptions) -> str | None:
    """What is wrong with the id or the options: the handler's to see to."""
    most, size = http_limits, len(id.encode())
    if not 1 <= size <= most.REQUEST_ID_BYTES_MAX:
        allowed = f"1 to {most.REQUEST_ID_BYTES_MAX} bytes"
        return f"the id of a request must have {allowed}; this one has {size}"
    if any(unicodedata.category(c) == "Cc" for c in id):
        return f"the id of a request has no control characters, and {id!r} has"
    for what, value, greatest in (
        (
            "the timeout of an attempt, in milliseconds,",
            options.timeout_ms,
            most.REQUEST_TIMEOUT_MAX_MS,
        ),
        ("the deadline, in milliseconds,", options.deadline_ms, most.REQUEST_DEADLINE_MAX_MS),
        ("the number of attempts", options.attempts, most.REQUEST_ATTEMPTS_MAX),
        ("the size of the answer's body", options.answer_bytes, most.ANSWER_BYTES_MAX),
    ):
        if value is not None and not 1 <= value <= greatest:
            return f"{what} is 1 to {greatest}, not {value}"
    if options.redirects is not None and options.redirects > most.REQUEST_REDIRECTS_MAX:
        return f"at most {most.REQUEST_REDIRECTS_MAX} redirects are followed"
    path = options.stream[2] if options.stream is not None else None
    if path is None:
        return None
    if len(path.encode()) <= most.STREAM_PATH_BYTES_MAX and all(path.split(".")):
        return None
    allowed = f"{most.STREAM_PATH_BYTES_MAX} bytes at most: `choices.0.delta.content`"
    return f"a path has keys and numbers with dots between them, and {allowed}"


def part_of(of: Open, pieces: tuple[object, ...]) -> tuple[str, list[str], str]:
    """The kind and the texts of a part's events, and what it adds to the body."""
    stream = of.request.options.stream
    if stream is None:
        raise ValueError(
            f"the request {of.request.id!r} was made without `stream`: nothing of its answer is "
            "shown"
        )
    kind, form, _ = stream
    if form == "data":
        texts = [piece if isinstance(piece, str) else to_json(piece).decode() for piece in pieces]
        # Of several lines each is a `data` of its own.
        lines = [[f"data: {line}\n" for line in text.split("\n")] for text in texts]
        return kind, texts, "".join("".join(of_one) + "\n" for of_one in lines)
    for piece in pieces:
        if not isinstance(piece, str):
            raise TypeError(f"what is shown of this stream is text, not {piece!r:.100}")
    text = "".join(map(str, pieces))
    return kind, [text] if text else [], text


#: What a test gives of an answer: as pairs where a header comes more than once.
AnswerHeaders = Mapping[str, str] | Iterable[tuple[str, str]] | None


def answer_of(
    of: Open,
    status: int,
    headers: AnswerHeaders,
    json: object,
    body: str | bytes | Reply | None,
    attempts: int | None,
) -> tuple[HttpAnswer, Reply]:
    """The message that an answer becomes."""
    response, content = _response_of(of, status, headers, json, body)
    return _told(of, attempts)(response=response), content


def failure_of(
    of: Open,
    code: str,
    reason: str,
    status: int | None,
    headers: AnswerHeaders,
    json: object,
    body: str | bytes | Reply | None,
    attempts: int | None,
) -> tuple[HttpAnswer, Reply]:
    """The message that a failure becomes; with a ``status`` some of the answer had come."""
    response, content = None, Reply(_OCTETS, b"")
    if status is not None:
        response, content = _response_of(of, status, headers, json, body)
    return _told(of, attempts)(failure=HttpFailure(code, reason, response)), content


def _told(of: Open, attempts: int | None) -> Callable[..., HttpAnswer]:
    made = of.attempts if attempts is None else attempts

    def told(**what: Any) -> HttpAnswer:
        return HttpAnswer(of.request.id, attempts=made, attempt=of.failures + 1, **what)

    return told


def _response_of(
    of: Open,
    status: int,
    headers: AnswerHeaders,
    json: object,
    body: str | bytes | Reply | None,
) -> tuple[Response, Reply]:
    if not isinstance(status, int) or not 100 <= status <= 599:
        raise ValueError(f"a status is 200 or the like, not {status!r:.100}")
    options = of.request.options
    form = options.stream[1] if options.stream is not None and 200 <= status < 300 else None
    content = _content(json, body)
    if content is None and form is not None:
        # What was shown is all that came, if the test says nothing else.
        shown = "".join(of.shown).encode()
        content = Reply(_TEXT if form == "text" else "text/event-stream", shown)
    given: Iterable[tuple[str, str]]
    given = headers.items() if isinstance(headers, Mapping) else headers or ()
    pairs = [(name.lower(), str(value)) for name, value in given]
    said = next((value for name, value in pairs if name == "content-type"), None)
    if said is None and content is not None:
        pairs.append(("content-type", content.content_type))
    content_type = said or (_OCTETS if content is None else content.content_type)
    if form == "joined":
        # What is joined is no longer what the server said that it is.
        content_type = _TEXT
    kept = [pair for pair in pairs if _is_kept(pair[0], options.keep_headers)]
    return Response(status, Headers(kept)), Reply(content_type, content.body if content else b"")


def _content(json: object, body: str | bytes | Reply | None) -> Reply | None:
    if json is not None and body is not None:
        raise TypeError("an answer has `json` or `body`, not both")
    if json is not None:
        return Reply.json(json)
    if isinstance(body, str):
        return Reply.text(body)
    return body if body is None or isinstance(body, Reply) else Reply.bytes(body)


def _is_kept(name: str, also: list[str]) -> bool:
    for kept in map(str.lower, also):
        if name.startswith(kept[:-1]) if kept.endswith("*") else name == kept:
            return True
    return name in _KEPT
