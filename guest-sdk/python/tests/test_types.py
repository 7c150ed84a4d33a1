"""What becomes of type hints, as clients read it."""

import enum
import os
import tempfile
import unittest
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NewType, Optional, TypedDict

from slotd_guest import Context, Handler, QueryContext
from slotd_guest.testing import Types


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Line:
    """A line.

    Of the room."""

    text: str
    colour: Colour
    mentions: list[str] = field(default_factory=list)


@dataclass
class Page:
    lines: list[Line]


@dataclass
class Tree:
    children: "list[Tree]"


class Extra(TypedDict, total=False):
    at: tuple[int, float]
    any: Any


Nick = NewType("Nick", str)


class Room(Handler):
    def handle(self, cx: Context, message: Page) -> Page:
        return message

    def query(self, cx: QueryContext, query: Literal["who", "all"]) -> "dict[str, Nick | None]":
        return {}


class Plain(Handler):
    def handle(self, cx: Context, message: Any) -> object:
        return None


class TypesTest(unittest.TestCase):
    def test_each_hint_is_what_the_handler_takes(self) -> None:
        document = Types().message(Extra).reply(Tree).query(Optional[bool]).document()
        self.assertEqual(
            document,
            {
                "format": 1,
                "message": {"$ref": "#/$defs/Extra"},
                "reply": {"$ref": "#/$defs/Tree"},
                "query": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
                "$defs": {
                    "Tree": {
                        "type": "object",
                        "properties": {
                            "children": {"type": "array", "items": {"$ref": "#/$defs/Tree"}}
                        },
                        "required": ["children"],
                    },
                    "Extra": {
                        "type": "object",
                        "properties": {
                            "at": {
                                "type": "array",
                                "prefixItems": [{"type": "integer"}, {"type": "number"}],
                                "minItems": 2,
                                "maxItems": 2,
                            },
                            "any": True,
                        },
                        "required": [],
                    },
                },
            },
        )
        with self.assertRaises(TypeError):
            Types().message(set[str])

    def test_a_type_that_is_given_and_made_is_two_where_they_differ(self) -> None:
        document = Types(Room).event("line", Line).notification("typing", bool).document()
        self.assertEqual(document["message"], {"$ref": "#/$defs/PageInput"})
        self.assertEqual(document["reply"], {"$ref": "#/$defs/Page"})
        definitions = document["$defs"]
        self.assertEqual(sorted(definitions), ["Colour", "Line", "LineInput", "Page", "PageInput"])
        self.assertEqual(definitions["LineInput"]["required"], ["text", "colour"])
        self.assertEqual(definitions["Line"]["required"], ["text", "colour", "mentions"])
        self.assertEqual(definitions["Line"]["description"], "A line.\n\nOf the room.")
        self.assertNotIn("description", definitions["Page"])
        lines = definitions["PageInput"]["properties"]["lines"]
        self.assertEqual(lines["items"], {"$ref": "#/$defs/LineInput"})
        self.assertEqual(definitions["Colour"], {"enum": ["red", "blue"]})
        self.assertEqual(document["query"], {"enum": ["who", "all"]})
        nick = {"anyOf": [{"type": "string"}, {"type": "null"}]}
        self.assertEqual(document["answer"], {"type": "object", "additionalProperties": nick})
        self.assertEqual(document["events"], {"line": {"$ref": "#/$defs/Line"}})
        self.assertEqual(document["notifications"], {"typing": {"type": "boolean"}})

    def test_what_is_not_said_is_left_out(self) -> None:
        self.assertEqual(Types(Plain).document(), {"format": 1})

    def test_a_file_that_is_not_as_the_types_are_fails(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "types.json"
            types = Types(Room)
            with self.assertRaises(AssertionError):
                types.check(file)
            os.environ["SLOTD_UPDATE_TYPES"] = "1"
            try:
                types.check(file)
            finally:
                del os.environ["SLOTD_UPDATE_TYPES"]
            types.check(file)
            with self.assertRaises(AssertionError):
                types.event("line", Line).check(file)


if __name__ == "__main__":
    unittest.main()
