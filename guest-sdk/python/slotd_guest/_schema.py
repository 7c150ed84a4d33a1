"""Type hints as JSON Schemas: what clients are told of a plugin's messages."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import json
import os
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ._typed import _is_required

#: Has a test write the file instead of holding it against the types.
UPDATE = "SLOTD_UPDATE_TYPES"

_PLAIN: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    type(None): {"type": "null"},
    None: {"type": "null"},
    dict: {"type": "object"},
    list: {"type": "array"},
}


class _Schemas:
    """Of values that are given to the handler, or of those that it makes: there, a field with a
    default is always there."""

    def __init__(self, given: bool) -> None:
        self.given = given
        self.definitions: dict[str, Any] = {}
        self._names: dict[Any, str] = {}

    def of(self, hint: Any) -> Any:
        if hint is Any or hint is object:
            return True
        if hint in _PLAIN:
            return dict(_PLAIN[hint])
        if isinstance(hint, typing.NewType):
            return self.of(hint.__supertype__)
        if hasattr(hint, "__value__"):  # type X = ...
            return self.of(hint.__value__)
        if isinstance(hint, type) and get_origin(hint) is None:
            return self._named(hint)
        origin, args = get_origin(hint), get_args(hint)
        if origin is typing.Annotated:
            return self.of(args[0])
        if origin is Literal:
            return {"enum": list(args)}
        if origin is Union or origin is types.UnionType:
            return {"anyOf": [self.of(arg) for arg in args]}
        if origin in (list, Sequence, Iterable):
            return {"type": "array", "items": self.of(args[0])}
        if origin in (dict, Mapping):
            return {"type": "object", "additionalProperties": self.of(args[1])}
        if origin is tuple and len(args) == 2 and args[1] is ...:
            return {"type": "array", "items": self.of(args[0])}
        if origin is tuple:
            count = len(args)
            items = [self.of(arg) for arg in args]
            return {"type": "array", "prefixItems": items, "minItems": count, "maxItems": count}
        raise TypeError(f"{hint} has no form in JSON")

    def _named(self, kind: type) -> dict[str, Any]:
        name = self._names.get(kind)
        if name is None:
            name, n = kind.__name__, 1
            while name in self.definitions:
                n += 1
                name = f"{kind.__name__}{n}"
            # It may hold itself.
            self._names[kind], self.definitions[name] = name, {}
            self.definitions[name] = self._definition(kind)
        return {"$ref": f"#/$defs/{name}"}

    def _definition(self, kind: type) -> dict[str, Any]:
        if issubclass(kind, enum.Enum):
            schema: dict[str, Any] = {"enum": [member.value for member in kind]}
        else:
            hints = get_type_hints(kind)
            if dataclasses.is_dataclass(kind):
                fields = [f for f in dataclasses.fields(kind) if f.init or not self.given]
                names = [f.name for f in fields]
                required = [f.name for f in fields if _is_required(f) or not self.given]
            elif typing.is_typeddict(kind):
                names = list(hints)
                required = [name for name in names if name in kind.__required_keys__]
            else:
                raise TypeError(f"{kind} has no form in JSON")
            schema = {
                "type": "object",
                "properties": {name: self.of(hints[name]) for name in names},
                "required": required,
            }
        doc = kind.__doc__
        # A dataclass without one gets its signature, an Enum a sentence of Python's, a subclass
        # its parent's.
        if doc and not doc.startswith(f"{kind.__name__}(") and "__doc__" in vars(kind):
            if doc != "An enumeration.":
                schema["description"] = inspect.cleandoc(doc)
        return schema


def _references(schema: Any) -> Iterator[dict[str, Any]]:
    """The parts of a schema that refer to a definition."""
    if isinstance(schema, dict):
        if isinstance(schema.get("$ref"), str):
            yield schema
        for value in schema.values():
            yield from _references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _references(value)


class Types:
    """What a plugin's messages are, for the file that its manifest names (``types =
    "types.json"``): what clients are told.

    ``Types(Poll)`` takes the type hints of the handler's ``handle`` and ``query``; the other
    methods say the rest, or otherwise. What is not said, or ``object``, can be anything to a
    client::

        def test_clients_are_told_what_it_takes_and_gives(self) -> None:
            Types(Poll).event("voted", Voted).check("types.json")
    """

    def __init__(self, handler: type | None = None) -> None:
        self._given, self._made = _Schemas(True), _Schemas(False)
        self._in: dict[str, Any] = {}
        self._out: dict[str, Any] = {}
        for method, takes, gives in (("handle", "message", "reply"), ("query", "query", "answer")):
            function = getattr(handler, method, None)
            # Not that of the base class, which only refuses.
            if function is None or function.__module__.startswith("slotd_guest."):
                continue
            hints = get_type_hints(function)
            parameters = list(inspect.signature(function).parameters)
            if len(parameters) > 2 and hints.get(parameters[2], Any) not in (Any, object):
                self._in[takes] = self._given.of(hints[parameters[2]])
            if hints.get("return", Any) not in (Any, object, type(None)):
                self._out[gives] = self._made.of(hints["return"])

    def message(self, hint: Any) -> Types:
        """A message's body."""
        self._in["message"] = self._given.of(hint)
        return self

    def reply(self, hint: Any) -> Types:
        """The body of the reply to a message."""
        self._out["reply"] = self._made.of(hint)
        return self

    def query(self, hint: Any) -> Types:
        """A query's body."""
        self._in["query"] = self._given.of(hint)
        return self

    def answer(self, hint: Any) -> Types:
        """The body of the answer to a query."""
        self._out["answer"] = self._made.of(hint)
        return self

    def event(self, kind: str, hint: Any) -> Types:
        """The body of the events of a kind (``cx.emit``)."""
        self._out.setdefault("events", {})[kind] = self._made.of(hint)
        return self

    def notification(self, kind: str, hint: Any) -> Types:
        """The body of the ephemeral events of a kind (``cx.notify``, or of clients)."""
        self._out.setdefault("notifications", {})[kind] = self._made.of(hint)
        return self

    def document(self) -> dict[str, Any]:
        """What the file has to have."""
        given, made = self._copy(self._given.definitions), self._copy(self._made.definitions)
        members = self._copy(self._in)
        # A type that is both given and made, and is not the same then, is two: the given one is
        # `LineInput`.
        both = [name for name in given if name in made]
        apart = {name for name in both if given[name] != made[name]}
        while True:
            before = len(apart)
            for name in both:
                referred = {part["$ref"].rpartition("/")[2] for part in _references(given[name])}
                if referred & apart:
                    apart.add(name)
            if len(apart) == before:
                break
        for part in _references([members, given]):
            if part["$ref"].rpartition("/")[2] in apart:
                part["$ref"] += "Input"
        for name, schema in given.items():
            made[f"{name}Input" if name in apart else name] = schema
        document = {"format": 1, **members, **self._copy(self._out)}
        return {**document, "$defs": made} if made else document

    @staticmethod
    def _copy(value: dict[str, Any]) -> dict[str, Any]:
        copied: dict[str, Any] = json.loads(json.dumps(value))
        return copied

    def check(self, file: str | Path = "types.json") -> None:
        """Holds the file, from the current folder, against the types, and raises
        ``AssertionError``. With ``SLOTD_UPDATE_TYPES=1`` it is written."""
        path, document = Path(file), self.document()
        if os.environ.get(UPDATE, "") not in ("", "0"):
            path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", "utf-8")
            return
        try:
            there = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError):
            there = None
        if isinstance(there, dict):
            there.pop("$comment", None)
            there.pop("$schema", None)
        if there != document:
            raise AssertionError(
                f"{path} is not what the plugin's types are. Have the test write it, and look at "
                f"what has changed for clients:\n  {UPDATE}=1 slotd plugin test"
            )
