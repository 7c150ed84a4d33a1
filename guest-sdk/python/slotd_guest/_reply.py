"""A body of any type."""

from __future__ import annotations

from typing import Any

from ._json import decode, to_json

#: Inside of `Reply` the name is a method's.
Bytes = bytes


class Reply:
    """What the sender gets once its message is durable."""

    __slots__ = ("content_type", "body")

    content_type: str
    body: Bytes

    def __init__(self, content_type: str, body: bytes | bytearray | memoryview) -> None:
        if not isinstance(body, (bytes, bytearray, memoryview)):
            raise TypeError(f"a reply's body is bytes, not {type(body).__name__}")
        self.content_type = content_type
        self.body = bytes(body)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Reply):
            return NotImplemented
        return self.content_type == other.content_type and self.body == other.body

    def __repr__(self) -> str:
        return f"Reply({self.content_type!r}, {self.body!r})"

    @classmethod
    def json(cls, value: object) -> Reply:
        return cls("application/json", to_json(value))

    @classmethod
    def text(cls, text: str) -> Reply:
        return cls("text/plain; charset=utf-8", text.encode())

    @classmethod
    def bytes(cls, body: Bytes) -> Reply:
        return cls("application/octet-stream", body)

    def parse(self) -> Any:
        """The body from JSON, for tests."""
        return decode(self.body)
