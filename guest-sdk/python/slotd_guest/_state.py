"""The session's state."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar, overload

from ._errors import Rejection
from ._host import Host
from ._json import NotJson, decode, to_json
from ._typed import Mismatch, reader_of

T = TypeVar("T")
D = TypeVar("D")

#: Most scans are short, or taken from the front: begin small, grow to the host's limit.
_PAGE_FIRST = 64
_PAGE_MAX = 1_000


def _value(key: str, data: bytes, kind: Any) -> Any:
    try:
        value = decode(data)
        reader = None if kind is None else reader_of(kind)
        return value if reader is None else reader(value, "")
    except (NotJson, Mismatch) as error:
        reason = f"the state under {key!r} is not what this plugin expects: {error}"
        raise Rejection("bad-state", reason) from None


class StateView:
    """The session's state, to read: a sorted map from text keys to bytes. Sees the writes of its
    own call. Values are JSON; the methods whose names end in ``_bytes`` take them as they are."""

    __slots__ = ("_host",)

    def __init__(self, host: Host) -> None:
        self._host = host

    @overload
    def get(self, key: str) -> Any: ...
    @overload
    def get(self, key: str, default: Any) -> Any: ...
    @overload
    def get(self, key: str, *, type: type[T]) -> T | None: ...
    @overload
    def get(self, key: str, default: D, *, type: type[T]) -> T | D: ...

    def get(self, key: str, default: Any = None, *, type: Any = None) -> Any:
        """The value under ``key``; ``default`` where there is none.

        With ``type`` (as for a message: ``int``, ``list[str]``, a dataclass ..) it is made sure
        of. What is no JSON, or of another type, raises the rejection ``bad-state``.
        """
        data = self._host.get(key)
        return default if data is None else _value(key, data, type)

    def get_bytes(self, key: str) -> bytes | None:
        """The bytes under ``key``; ``None`` where there is nothing."""
        return self._host.get(key)

    def __contains__(self, key: str) -> bool:
        return self._host.get(key) is not None

    def __getitem__(self, key: str) -> Any:
        data = self._host.get(key)
        if data is None:
            raise KeyError(key)
        return _value(key, data, None)

    @overload
    def scan(self, prefix: str = "", *, after: str | None = None) -> Iterator[tuple[str, Any]]: ...
    @overload
    def scan(
        self, prefix: str = "", *, after: str | None = None, type: type[T]
    ) -> Iterator[tuple[str, T]]: ...

    def scan(
        self, prefix: str = "", *, after: str | None = None, type: Any = None
    ) -> Iterator[tuple[str, Any]]:
        """The pairs whose key starts with ``prefix``, in order of the keys' bytes, from the first
        one that is greater than ``after``. Reads pages as it goes: a write behind it is not seen,
        one ahead of it may be."""
        for key, data in self.scan_bytes(prefix, after=after):
            yield key, _value(key, data, type)

    def scan_bytes(
        self, prefix: str = "", *, after: str | None = None
    ) -> Iterator[tuple[str, bytes]]:
        """As :meth:`scan`, with the values as bytes."""
        limit = _PAGE_FIRST
        # A page may end early; only an empty one says that there is no more.
        while page := self._host.scan(prefix, after, limit):
            yield from page
            after = page[-1][0]
            limit = min(limit * 4, _PAGE_MAX)

    def _page(self, prefix: str, after: str | None, limit: int) -> list[tuple[str, bytes]]:
        """One page of a scan as the host gives it."""
        return self._host.scan(prefix, after, limit)


class State(StateView):
    """The session's state, to read and to write. A key has 1,024 bytes at most, a value 1 MiB, and
    what one message writes 4 MiB; past a limit the call ends and nothing is kept."""

    __slots__ = ()

    def set(self, key: str, value: object) -> None:
        """Stores ``value`` under ``key`` as JSON."""
        self._host.set(key, to_json(value))

    def set_bytes(self, key: str, value: bytes | bytearray | memoryview) -> None:
        """Stores ``value`` under ``key`` as it is."""
        self._host.set(key, bytes(value))

    def delete(self, key: str) -> None:
        """Deleting what is not there is no error."""
        self._host.delete(key)

    def __setitem__(self, key: str, value: object) -> None:
        self._host.set(key, to_json(value))

    def __delitem__(self, key: str) -> None:
        self._host.delete(key)
