"""What stands behind a context: the imports of the component, or the harness of a test."""

from __future__ import annotations

from typing import Any, Protocol

#: Its name, the time that it is for, the content type, the body, how often that failed.
SetTimer = tuple[str, int, str, bytes, int]


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

    def log(self, level: int, message: str) -> None: ...
