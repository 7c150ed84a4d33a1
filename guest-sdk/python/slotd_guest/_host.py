"""What stands behind a context: the imports of the component, or the harness of a test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from ._client import Client

#: Its name, the time that it is for, the content type, the body, how often that failed.
SetTimer = tuple[str, int, str, bytes, int]


@dataclass(frozen=True)
class RequestOptions:
    """How a request is made. What is ``None`` is as the host has it."""

    timeout_ms: int | None
    deadline_ms: int | None
    attempts: int | None
    redirects: int | None
    answer_bytes: int | None
    keep_headers: list[str]
    #: The kind of its events, their form (``text``, ``data`` or ``joined``), and the path of the
    #: last.
    stream: tuple[str, str, str | None] | None


@dataclass(frozen=True)
class Request:
    """A request over HTTP."""

    method: str
    url: str
    headers: list[tuple[str, str]]
    body: bytes
    options: RequestOptions


class Host(Protocol):
    """The functions of slotd's interface that a handler causes to be called."""

    def get(self, key: str) -> bytes | None: ...
    def set(self, key: str, value: bytes) -> None: ...
    def delete(self, key: str) -> None: ...
    def scan(self, prefix: str, after: str | None, limit: int) -> list[tuple[str, bytes]]: ...
    def emit(self, kind: str, content_type: str, body: bytes) -> None: ...
    def notify(self, kind: str, content_type: str, body: bytes) -> None: ...
    def expire(self, at: int | None) -> str | None:
        """What is wrong with the time."""

    def close(self) -> None: ...
    def watch_subscribers(self, wanted: bool) -> None: ...
    def schedule(
        self, name: str, kind: str, value: Any, content_type: str, body: bytes
    ) -> int | str:
        """The time that it is for, or what is wrong with it."""

    def cancel(self, name: str) -> bool: ...
    def timer(self, name: str) -> SetTimer | None: ...
    def timers(self, after: str | None, limit: int) -> list[SetTimer]: ...
    def send(
        self, service: str, session: str, content_type: str, body: bytes, reply_as: str | None
    ) -> str | None:
        """What is wrong with the address or the name."""

    def request(self, id: str, request: Request) -> str | None:
        """What is wrong with the id or the options."""

    def cancel_request(self, id: str) -> bool: ...
    def open_requests(self) -> list[str]: ...
    def client(self) -> Client | None: ...
    def log(self, level: int, message: str) -> None: ...
