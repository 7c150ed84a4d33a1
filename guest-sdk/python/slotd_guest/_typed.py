"""Values of JSON as what a type hint says: what a handler is given has been looked at."""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

Reader = Callable[[Any, str], Any]


class Mismatch(ValueError):
    """The value is not of the type; the text says where and why."""


def read(hint: Any, value: Any) -> Any:
    """``value`` as ``hint`` has it. Raises :class:`Mismatch`."""
    reader = reader_of(hint)
    return value if reader is None else reader(value, "")


_readers: dict[Any, Reader | None] = {}


def reader_of(hint: Any) -> Reader | None:
    """What reads a value of the type ``hint``; none where anything will do.

    Raises ``TypeError`` for a type that has no form in JSON.
    """
    try:
        return _readers[hint]
    except KeyError:
        pass
    except TypeError:  # Not hashable: a Literal of a list, say. Rare.
        return _make(hint)
    if dataclasses.is_dataclass(hint) or typing.is_typeddict(hint):
        # It may hold itself: what is found meanwhile is read through this.
        _readers[hint] = lambda value, at: made(value, at) if made else value
    try:
        made = _readers[hint] = _make(hint)
    except BaseException:
        _readers.pop(hint, None)
        raise
    return made


def _describe(value: Any) -> str:
    names = {dict: "an object", list: "an array", type(None): "null"}
    if type(value) in names:
        return names[type(value)]
    text = repr(value) if not isinstance(value, bool) else str(value).lower()
    return text if len(text) <= 40 else text[:37] + "..."


def _fail(at: str, expected: str, value: Any) -> Mismatch:
    where = f"{at.lstrip('.')}: " if at else ""
    return Mismatch(f"{where}expected {expected}, not {_describe(value)}")


def _plain(kind: type, expected: str) -> Reader:
    def reader(value: Any, at: str) -> Any:
        if type(value) is kind:
            return value
        raise _fail(at, expected, value)

    return reader


def _float(value: Any, at: str) -> float:
    if type(value) is float:
        return value
    if type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise _fail(at, "a number that a float can hold", value) from None
    raise _fail(at, "a number", value)


_PLAIN: dict[Any, Reader] = {
    str: _plain(str, "a string"),
    bool: _plain(bool, "true or false"),
    int: _plain(int, "a whole number"),
    float: _float,
    type(None): _plain(type(None), "null"),
    None: _plain(type(None), "null"),
    dict: _plain(dict, "an object"),
    list: _plain(list, "an array"),
}


def _make(hint: Any) -> Reader | None:
    if hint is Any or hint is object:
        return None
    if hint in _PLAIN:
        return _PLAIN[hint]
    if isinstance(hint, typing.NewType):
        return reader_of(hint.__supertype__)
    if typing.is_typeddict(hint):
        return _typed_dict(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _dataclass(hint)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _enum(hint)
    if hasattr(hint, "__value__"):  # type X = ...
        return reader_of(hint.__value__)
    origin, args = get_origin(hint), get_args(hint)
    if origin is typing.Annotated:
        return reader_of(args[0])
    if origin is Literal:
        return _literal(args)
    if origin is Union or origin is types.UnionType:
        return _union(args)
    if origin in (list, Sequence, Iterable):
        return _list(reader_of(args[0]))
    if origin in (dict, Mapping):
        if args[0] is not str:
            raise TypeError(f"{hint}: the keys of an object are str")
        return _dict(reader_of(args[1]))
    if origin is tuple:
        return _tuple(args)
    raise TypeError(f"{hint} has no form in JSON")


def _list(item: Reader | None) -> Reader:
    def reader(value: Any, at: str) -> Any:
        if type(value) is not list:
            raise _fail(at, "an array", value)
        if item is None:
            return value
        return [item(v, f"{at}[{i}]") for i, v in enumerate(value)]

    return reader


def _tuple(args: tuple[Any, ...]) -> Reader:
    if len(args) == 2 and args[1] is ...:
        items = _list(reader_of(args[0]))
        return lambda value, at: tuple(items(value, at))
    readers = [reader_of(arg) for arg in args]

    def reader(value: Any, at: str) -> Any:
        if type(value) is not list or len(value) != len(readers):
            raise _fail(at, f"an array of {len(readers)}", value)
        pairs = enumerate(zip(readers, value, strict=True))
        return tuple(v if r is None else r(v, f"{at}[{i}]") for i, (r, v) in pairs)

    return reader


def _dict(item: Reader | None) -> Reader:
    def reader(value: Any, at: str) -> Any:
        if type(value) is not dict:
            raise _fail(at, "an object", value)
        if item is None:
            return value
        return {k: item(v, f"{at}.{k}") for k, v in value.items()}

    return reader


def _literal(choices: tuple[Any, ...]) -> Reader:
    expected = "one of " + ", ".join(repr(choice) for choice in choices)
    if len(choices) == 1:
        expected = repr(choices[0])

    def reader(value: Any, at: str) -> Any:
        for choice in choices:
            if type(value) is type(choice) and value == choice:
                return choice
        raise _fail(at, expected, value)

    return reader


def _enum(kind: type[enum.Enum]) -> Reader:
    expected = "one of " + ", ".join(repr(member.value) for member in kind)

    def reader(value: Any, at: str) -> Any:
        for member in kind:
            if type(member.value) is type(value) and member.value == value:
                return member
        raise _fail(at, expected, value)

    return reader


def _union(args: tuple[Any, ...]) -> Reader | None:
    readers = [reader_of(arg) for arg in args]
    if any(reader is None for reader in readers):
        return None

    def reader(value: Any, at: str) -> Any:
        reasons = []
        for one in readers:
            try:
                return one(value, at)  # type: ignore[misc]
            except Mismatch as mismatch:
                reasons.append(str(mismatch))
        # Of several the deepest says most: null is almost never what was meant.
        raise Mismatch(max(reasons, key=lambda reason: reason.count(".") + reason.count("[")))

    return reader


def _dataclass(kind: type) -> Reader:
    hints = get_type_hints(kind)
    fields = [
        (f.name, reader_of(hints[f.name]), _is_required(f))
        for f in dataclasses.fields(kind)
        if f.init
    ]

    def reader(value: Any, at: str) -> Any:
        if type(value) is not dict:
            raise _fail(at, "an object", value)
        found = {}
        for name, item, required in fields:
            if name in value:
                field = value[name]
                found[name] = field if item is None else item(field, f"{at}.{name}")
            elif required:
                raise Mismatch(f"{at}.{name}".lstrip(".") + " is missing")
        return kind(**found)

    return reader


def _is_required(field: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing


def _typed_dict(kind: Any) -> Reader:
    hints = get_type_hints(kind)
    fields = [
        (name, reader_of(hint), name in kind.__required_keys__) for name, hint in hints.items()
    ]

    def reader(value: Any, at: str) -> Any:
        if type(value) is not dict:
            raise _fail(at, "an object", value)
        for name, item, required in fields:
            if name in value:
                if item is not None:
                    value[name] = item(value[name], f"{at}.{name}")
            elif required:
                raise Mismatch(f"{at}.{name}".lstrip(".") + " is missing")
        return value

    return reader
