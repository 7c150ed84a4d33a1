"""The SDK without WebAssembly: the harness against the host's rules, JSON, type hints, traces."""

import dataclasses
import enum
import random
import sys
import time
import unittest
from typing import Any, Literal, TypedDict

from slotd_guest import (
    Context,
    Handler,
    MigrateContext,
    QueryContext,
    RawHandler,
    Rejection,
    Reply,
    _json,
    _trace,
    _typed,
)
from slotd_guest._build import _nested
from slotd_guest.testing import Failure, Harness, Refused, Rejected, Trapped, limits


class Notes(Handler):
    def handle(self, cx: Context, message: Any) -> object:
        cx.log.info(f"message {cx.seq}")
        match message:
            case {"put": [key, value]}:
                cx.state.set(key, value)
                assert cx.state.get(key) == value and key in cx.state
                cx.emit("put", key)
            case {"put-many": count}:
                for i in range(count):
                    cx.state.set_bytes(f"k/{i:06}", b"1")
            case {"emit-many": count}:
                for i in range(count):
                    cx.emit("many", i)
            case {"emit": kind}:
                cx.emit(kind, 1)
            case {"notify-many": count}:
                for i in range(count):
                    cx.notify("many", i)
            case {"notify": kind}:
                cx.notify_bytes(kind, "text/plain", b"1")
            case {"drop": key}:
                del cx.state[key]
            case "put-then-raise":
                cx.state.set("half", 1)
                cx.state.delete("a")
                cx.emit("half", 1)
                cx.notify("half", 1)
                raise ValueError("told to")
            case "put-then-reject":
                cx.state.set("a", "other")
                cx.emit("half", 1)
                raise Rejection("told-to", "as told", retriable=True)
            case "catch-all":
                try:
                    cx.state.set("k" * 2_000, 1)
                except BaseException:
                    pass
            case "chance":
                return [random.random(), time.time(), time.monotonic_ns()]
        return cx.seq

    def query(self, cx: QueryContext, prefix: str) -> object:
        cx.log.warn(f"asked for {prefix}")
        if prefix == "write":
            cx._forbidden().state.set("a", 1)
        return [key for key, _ in cx.state.scan_bytes(prefix)]

    def migrate(self, cx: MigrateContext, from_version: str) -> str | None:
        cx.state.set("from", from_version)
        return None if from_version == "1" else f"not {from_version}"


class HarnessTest(unittest.TestCase):
    def setUp(self) -> None:
        self.notes = Harness(Notes)

    def code(self, call: Any) -> str:
        with self.assertRaises(Rejected) as rejected:
            call()
        return rejected.exception.code

    def test_a_message_is_kept_whole_or_not_at_all(self) -> None:
        """An author whose test passes here must not find half a message kept on the host."""
        self.assertEqual(self.notes.send({"put": ["a", 1]}).parse(), 1)
        before = dataclasses.replace(self.notes.session, state=dict(self.notes.state))
        for message in (
            "put-then-raise",
            "put-then-reject",
            {"emit-many": 257},
            {"notify-many": 65},
            "catch-all",
        ):
            with self.assertRaises(Failure):
                self.notes.send(message)
            self.assertEqual(self.notes.session, before)
        self.assertEqual(self.notes.send({"emit-many": 256}).parse(), 2)
        self.assertEqual((len(self.notes.events), self.notes.events[1].seq), (257, 2))
        self.notes.send({"notify-many": 64})
        self.assertEqual((len(self.notes.events), len(self.notes.notified)), (257, 64))
        self.assertEqual((self.notes.notified[63].seq, self.notes.notified[63].parse()), (3, 63))

    def test_reserved_kinds_are_refused(self) -> None:
        """A test that passes here would trap on the host: clients take such events for slotd's."""
        for kind in ("error", "slotd.deleted", "slotd.gap", "slotd."):
            for message in ({"emit": kind}, {"notify": kind}):
                with self.assertRaises(Failure) as refused:
                    self.notes.send(message)
                self.assertIn("reserved", str(refused.exception))
        self.assertEqual((self.notes.seq, self.notes.events), (0, []))
        self.notes.send({"emit": "slotd"})

    def test_reset_forgets_the_session(self) -> None:
        """What is left of one test would be seen by the next."""
        self.notes.send({"put": ["a", 1]})
        self.notes.reset()
        self.assertEqual((self.notes.seq, self.notes.state, self.notes.events), (0, {}, []))
        self.assertEqual(self.notes.send({"put": ["b", 2]}).parse(), 1)

    def test_what_is_not_understood_is_rejected(self) -> None:
        """Anything else would be a trap that any client can cause."""
        for body in (b"", b"\xff{", b"NaN", b'"\\ud800"', b"[" * 200 + b"]" * 200, b"1" * 5_000):
            self.assertEqual(self.code(lambda b=body: self.notes.send_bytes(b)), "bad-message")
        self.assertEqual(self.code(lambda: self.notes.query(1)), "bad-query")
        self.assertEqual(self.notes.seq, 0)

    def test_state_of_something_else_is_bad_state(self) -> None:
        """A value that is silently taken for another is found much later."""

        class Typed(RawHandler):
            def handle(self, cx: Context, body: bytes) -> Reply:
                cx.state.set_bytes("n", body)
                return Reply.json(cx.state.get("n", type=int))

        typed = Harness(Typed)
        for body in (b"no", b"1.5", b"true", b'"1"'):
            self.assertEqual(self.code(lambda b=body: typed.send_bytes(b)), "bad-state")
        self.assertEqual(self.code(lambda: typed.query(1)), "no-queries")

    def test_queries_change_nothing(self) -> None:
        with self.assertRaises(Trapped):
            self.notes.query("write")
        self.assertEqual(self.notes.state, {})

    def test_a_refused_migration_leaves_the_state(self) -> None:
        """A migration that fails must leave the session as the old version knows it."""
        with self.assertRaises(Refused) as refused:
            self.notes.migrate("2")
        self.assertEqual((refused.exception.reason, self.notes.state), ("not 2", {}))
        self.notes.migrate("1")
        self.assertEqual((self.notes.get("from"), self.notes.seq), ("1", 0))

    def test_limits_are_the_hosts(self) -> None:
        """Limits that the harness does not keep would be met in production only."""
        room = limits.STATE_VALUE_BYTES_MAX - 2
        self.notes.send({"put": ["k", "x" * room]})
        for message in (
            {"put": ["k", "x" * (room + 1)]},
            {"put": ["k" * (limits.STATE_KEY_BYTES_MAX + 1), 1]},
            {"put-many": limits.HOST_CALLS_MAX},
        ):
            with self.assertRaises(Trapped):
                self.notes.send(message)
        self.notes.send({"put-many": 2_345})
        self.assertEqual(
            len(self.notes.query("k/").parse()), 2_345, "a scan goes on over its pages"
        )

    def test_keys_are_in_order_of_their_bytes(self) -> None:
        """Python's own order of text differs from it above U+FFFF in other encodings only; a limit
        must count bytes, and a prefix be one of bytes."""
        keys = ["é", "z", "a", "\U0001f600", "\uffff", "aé"]
        for key in keys:
            self.notes.send({"put": [key, 1]})
        ordered = sorted(keys, key=str.encode)
        self.assertEqual(self.notes.query("").parse(), ordered)

    def test_logs_are_there_for_failed_calls_too(self) -> None:
        """What a handler logs is all there is to see of it."""
        with self.assertRaises(Trapped):
            self.notes.send("put-then-raise")
        self.notes.query("a")
        first, trace, last = self.notes.take_log()
        self.assertEqual((first.message, last.message), ("message 1", "asked for a"))
        self.assertRegex(
            trace.message, r"^ValueError: told to \| .*test_sdk\.py:\d+ in handle: raise"
        )

    def test_chance_is_the_messages(self) -> None:
        """A test that passes by chance says nothing."""
        first, second = self.notes.send("chance").parse(), self.notes.send("chance").parse()
        self.assertEqual(Harness(Notes).send("chance").parse(), first)
        self.assertNotEqual(first[0], second[0])
        self.assertEqual(first[1:], [1_700_000_000.0, 1_700_000_000_000_000_000])


class Colour(enum.Enum):
    RED = "red"


class Point(TypedDict):
    x: int
    y: float


@dataclasses.dataclass
class Tree:
    name: str
    children: list["Tree"] = dataclasses.field(default_factory=list)
    point: Point | None = None
    colour: Colour | Literal[1, 2] = 1
    extra: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)


class JsonTest(unittest.TestCase):
    def test_depth_is_counted_as_it_is(self) -> None:
        """Brackets in strings are none, many that are side by side are not deep."""
        deepest = b"[" * 128 + b"]" * 128
        mixed = b'{"a":[' * 64 + b"]}" * 64
        strings = b'["' + b"[" * 500 + b'\\"[\\\\","\\n]"]'
        for data in (deepest, mixed, strings, b"[" + b"[{}]," * 500 + b"[]]"):
            _json.decode(data)
        for data in (b"[" + deepest + b"]", b"[" * 100_000, b'{"a":' * 129 + b"1" + b"}" * 129):
            with self.assertRaises(_json.NotJson):
                _json.decode(data)

    def test_round_trip(self) -> None:
        """Other languages' plugins read the same state."""
        for value in (2**64 - 1, -(10**40), "é\U0001f600\u2028", {"": [None, True, 0.1]}):
            self.assertEqual(_json.decode(_json.to_json(value)), value)
        self.assertEqual(_json.to_json({"a": ["é", 1]}), '{"a":["é",1]}'.encode())
        self.assertEqual(_json.to_json(Tree("a")).count(b"name"), 1)
        circle: list[object] = []
        circle.append(circle)
        deep: object = 1
        for _ in range(_json.DEPTH_MAX + 1):
            deep = [deep]
        for value in (
            float("nan"),
            {"a": [float("-inf")]},
            {1, 2},
            b"x",
            {1: "a"},
            [{"a": {None: 1}}],
            {(1, 2): 1},
            circle,
            deep,
            "\ud800",
        ):
            with self.assertRaises((TypeError, ValueError)):
                _json.to_json(value)
        self.assertEqual(_json.decode(_json.to_json(deep[0])), deep[0])  # type: ignore[index]

    def test_type_hints_are_kept(self) -> None:
        """What passes must be what the handler's author reads in the hint."""
        value = {
            "name": "a",
            "children": [{"name": "b", "colour": "red"}],
            "point": {"x": 1, "y": 2},
            "extra": {"n": [1, 2]},
            "unknown": 1,
        }
        tree = _typed.read(Tree, value)
        self.assertEqual(tree.children[0].colour, Colour.RED)
        self.assertEqual((tree.point, tree.extra), ({"x": 1, "y": 2.0}, {"n": (1, 2)}))
        for bad, says in (
            ({}, "name is missing"),
            ({"name": 1}, "name: expected a string, not 1"),
            ({"name": "a", "children": [{"name": "b"}, 7]}, "children[1]: expected an object"),
            (
                {"name": "a", "point": {"x": True, "y": 1}},
                "point.x: expected a whole number, not true",
            ),
            ({"name": "a", "colour": 3}, "colour: expected"),
            ([], "expected an object, not an array"),
        ):
            with self.assertRaises(_typed.Mismatch) as mismatch:
                _typed.read(Tree, bad)
            self.assertIn(says, str(mismatch.exception))
        for hint in (set[int], bytes, complex, dict[int, str]):
            with self.assertRaises(TypeError):
                _typed.reader_of(hint)

    def test_handlers_that_cannot_work_are_refused_at_once(self) -> None:
        """Met by the first message, it would be a trap in production."""

        class Async(Handler):
            async def handle(self, cx: Context, message: Any) -> object:
                return None

        class Hinted(Handler):
            def handle(self, cx: Context, message: set) -> object:
                return None

        class Empty(Handler):
            pass

        for handler in (Async, Hinted, Empty, object):
            with self.assertRaises(TypeError):
                Harness(handler)  # type: ignore[arg-type]


class TraceTest(unittest.TestCase):
    def trace(self, call: Any) -> list[str]:
        try:
            call()
        except BaseException as error:
            return _trace.lines(error)
        self.fail("it raised nothing")

    def test_a_chain_is_told_with_the_lines_of_the_source(self) -> None:
        """The log is all that an author has of a trap."""

        def inner() -> None:
            raise KeyError("tea")

        def outer() -> None:
            try:
                inner()
            except KeyError as error:
                raise ValueError("no\nsuch vote") from error

        (line,) = self.trace(outer)
        self.assertRegex(
            line,
            r"^ValueError: no\\nsuch vote \| .*test_sdk.py:\d+ in outer: raise ValueError.*"
            r"\| caused by KeyError: 'tea' \| .*:\d+ in inner: raise KeyError\(\"tea\"\)",
        )

    def test_deep_recursion_is_short(self) -> None:
        """A thousand frames would push the first line out of the log."""

        def deep(n: int) -> int:
            return deep(n + 1)

        lines = self.trace(lambda: deep(0))
        self.assertEqual(len(lines), 1)
        self.assertRegex(lines[0], r"RecursionError.* in deep: .* \| the same \d+ times more \| ")

    def test_lines_fit(self) -> None:
        """What is longer is cut by the host, in the middle of something."""

        def long() -> None:
            raise ValueError("é" * 5_000)

        source = "\n".join(f"def f{i}(): f{i + 1}()" for i in range(300)) + "\ndef f300(): 1 / 0"
        scope: dict[str, Any] = {}
        exec(compile(source, "made_up.py", "exec"), scope)
        for call in (long, scope["f0"]):
            lines = self.trace(call)
            self.assertLessEqual(len(lines), _trace.LINES_MAX)
            self.assertTrue(all(len(line.encode()) <= _trace.LINE_BYTES_MAX for line in lines))


class BuildTest(unittest.TestCase):
    def test_imports_inside_of_functions_are_found(self) -> None:
        """They would fail when a component runs, and only then."""
        self.assertIn("slotd_guest.testing", _nested(sys.modules[__name__]))
        self.assertNotIn("dataclasses", _nested(sys.modules[__name__]))


def _never_called() -> None:
    from slotd_guest import testing  # noqa: F401


if __name__ == "__main__":
    unittest.main()
