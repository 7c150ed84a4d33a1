"""JSON as slotd's other SDKs have it: strict in what is read and written, exact in whole numbers,
compact, in UTF-8."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable
from typing import Any, NoReturn

from ._errors import Rejection

#: How deep arrays and objects may lie in each other. The same as in the other languages, and what
#: the stack of a component carries.
DEPTH_MAX = 128


class NotJson(ValueError):
    """The bytes are no JSON; the text says why."""


def _constant(name: str) -> NoReturn:
    raise NotJson(f"{name} is no JSON")


_decoder = json.JSONDecoder(parse_constant=_constant)


def decode(data: bytes) -> Any:
    """The value that ``data`` is the JSON of.

    Raises :class:`NotJson`: for what Python would read too (``NaN``, half of a surrogate pair),
    and for what is nested too deep.
    """
    if data.count(b"[") + data.count(b"{") > DEPTH_MAX:
        _check_depth(data)
    try:
        value = _decoder.decode(str(data, "utf-8"))
        if b"\\ud" in data or b"\\uD" in data:
            # Half a pair is no text: nothing could be done with it but to fail later.
            json.dumps(value, ensure_ascii=False).encode()
    except NotJson:
        raise
    except json.JSONDecodeError as error:
        raise NotJson(f"{error.msg} at line {error.lineno} column {error.colno}") from None
    except UnicodeDecodeError as error:
        raise NotJson(f"no UTF-8 at byte {error.start}") from None
    except UnicodeEncodeError:
        raise NotJson("half of a surrogate pair in a string") from None
    except (ValueError, RecursionError) as error:
        raise NotJson(str(error)) from None
    return value


_ESCAPES = re.compile(rb"\\.", re.DOTALL)
_STRINGS = re.compile(rb'"[^"]*"')
#: All brackets as square ones; whether they match is the decoder's to say.
_SQUARE = bytes.maketrans(b"{}", b"[]")
_OTHERS = bytes(byte for byte in range(256) if byte not in b"[]{}")


def _check_depth(data: bytes) -> None:
    rest = _STRINGS.sub(b"", _ESCAPES.sub(b"", data)).translate(_SQUARE, _OTHERS)
    # Each round takes off the innermost pairs: as many rounds as there are levels.
    for _ in range(DEPTH_MAX):
        fewer = rest.replace(b"[]", b"")
        if len(fewer) == len(rest):
            break
        rest = fewer
    # Without a match for each there are fewer levels than brackets.
    if len(rest) > DEPTH_MAX or b"[]" in rest:
        raise NotJson(f"nested deeper than {DEPTH_MAX}")


def _default(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    raise TypeError(f"{type(value).__name__} has no form in JSON: {value!r:.100}")


_encode = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_default
).encode


def to_json(value: object) -> bytes:
    """``value`` as compact JSON. Dataclasses become objects.

    Raises ``TypeError`` or ``ValueError`` for what has no form in JSON that comes back as it was
    (a ``set``, ``nan``, a key that is no ``str``, more than 128 levels): a mistake of the program,
    that ends the call if it is not caught.
    """
    _check_keys(value)
    data = _encode(value).encode()
    if data.count(b"[") + data.count(b"{") > DEPTH_MAX:
        try:
            _check_depth(data)
        except NotJson as error:
            raise ValueError(str(error)) from None
    return data


def _check_keys(value: object) -> None:
    """Refuses keys that Python's encoder would turn into strings."""
    if isinstance(value, (str, int, float)) or value is None:
        return
    open_: list[object] = [value]
    # Each is looked at once: one that holds itself is the encoder's to refuse.
    seen: set[int] = set()
    while open_:
        node = open_.pop()
        if isinstance(node, dict):
            children: Iterable[object] = node.values()
            for key in node:
                if not isinstance(key, str):
                    raise TypeError(f"a key of an object in JSON is a str, not {key!r:.100}")
        elif isinstance(node, (list, tuple)):
            children = node
        elif dataclasses.is_dataclass(node) and not isinstance(node, type):
            children = [getattr(node, f.name) for f in dataclasses.fields(node)]
        else:
            continue
        if id(node) not in seen:
            seen.add(id(node))
            open_.extend(children)


def from_json(data: bytes, *, code: str = "bad-message") -> Any:
    """The value that ``data`` is the JSON of, for handlers that take bytes.

    Raises a :class:`Rejection` with ``code`` where it is none.
    """
    try:
        return decode(data)
    except NotJson as error:
        what = "query" if code == "bad-query" else "message"
        raise Rejection(code, f"the {what} is not understood: {error}") from None
