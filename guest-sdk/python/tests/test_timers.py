"""Timers in the harness's virtual time, against what the interface promises of a node."""

import copy
import time
import unittest
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

from slotd_guest import (
    Context,
    Handler,
    MigrateContext,
    QueryContext,
    RawHandler,
    Rejection,
    Reply,
)
from slotd_guest._timers import to_ms
from slotd_guest.testing import Fired, Harness, Rejected, Trapped, limits

START = 1_700_000_000_000


def now(cx: Context, message: Any) -> Any:
    return None


class Doing(Handler):
    """Does what the test says: with a client's message ``told``, with a timer's ``on_timer``."""

    told: Callable[[Any], Any] = staticmethod(lambda cx: None)
    on_timer: Callable[[Context, Any], Any] = staticmethod(now)

    def handle(self, cx: Context, message: Any) -> object:
        return Doing.on_timer(cx, message) if cx.origin.kind == "timer" else Doing.told(cx)

    def query(self, cx: QueryContext, query: Any) -> object:
        return Doing.told(cx)

    def migrate(self, cx: MigrateContext, from_version: str) -> str | None:
        cx._forbidden().timers.cancel("a")
        return None


def of_timers(told: Callable[[Any], Any]) -> Callable[[Context], Any]:
    return lambda cx: told(cx.timers)


def times(fired: list[Fired]) -> list[tuple[str, int, int, int]]:
    return [(one.name, one.due_ms - START, one.missed, one.attempt) for one in fired]


class TimersTest(unittest.TestCase):
    def setUp(self) -> None:
        self.session = Harness(Doing)
        Doing.on_timer = staticmethod(now)

    def do(self, told: Callable[[Context], Any]) -> Any:
        Doing.told = staticmethod(told)
        return self.session.send({}, sender="ann").parse()

    def ask(self, told: Callable[[QueryContext], Any]) -> Any:
        Doing.told = staticmethod(told)
        return self.session.query({}).parse()

    def test_durations_are_what_they_say(self) -> None:
        """A timer at another time than the author reads there."""
        said = ("500ms", "30s", "10m", "2h", "1d", "1.5h", "0.1s", "1.1ms", timedelta(seconds=2))
        expected = [500, 30_000, 600_000, 7_200_000, 86_400_000, 5_400_000, 100, 2, 2_000]
        self.assertEqual([to_ms(duration) for duration in said], expected)
        self.assertEqual(to_ms(timedelta(microseconds=1)), 1, "never early")
        for wrong in ("", "10", "m", "-1s", "1 h", "1h30m", "٣s", "1s\n", timedelta(seconds=-1)):
            with self.assertRaises(ValueError):
                to_ms(wrong)
        for none in (10, 1.5, None):
            with self.assertRaises(TypeError):
                to_ms(none)  # type: ignore[arg-type]

    def test_what_is_due_fires_in_order_and_at_its_time(self) -> None:
        """A test that passes here must not find on a node that what was due first came last."""

        def on_timer(cx: Context, then: Any) -> Any:
            if then is not None:
                cx.timers.after(then, "500ms")
            firing = cx.origin.firing
            assert firing is not None and firing.due == cx.time
            names = [timer.name for timer in cx.timers.list()]
            return [cx.origin.name, cx.sender, firing.due_ms, round(time.time() * 1000), names]

        Doing.on_timer = staticmethod(on_timer)
        self.assertEqual(self.do(lambda cx: cx.timers.after("b", "2s")), START + 2_000)
        self.do(lambda cx: cx.timers.at("a", cx.time + timedelta(seconds=1), "c"))
        self.do(lambda cx: cx.timers.at("late", cx.time_ms + 5_000))
        self.assertEqual(self.session.advance("999ms"), [])
        fired = self.session.advance(timedelta(milliseconds=1_001))
        self.assertEqual(times(fired), [("a", 1_000, 0, 1), ("c", 1_500, 0, 1), ("b", 2_000, 0, 1)])
        self.assertEqual((self.session.session.time_ms, self.session.seq), (START + 2_000, 6))
        at = START + 2_000
        self.assertEqual(fired[2].parse(), ["b", None, at, at, ["late"]])
        self.do(lambda cx: cx.timers.after("late", "1ms"))
        self.assertEqual(len(self.session.timers), 1)
        self.assertTrue(self.do(lambda cx: cx.timers.cancel("late")))
        self.assertFalse(self.do(lambda cx: cx.timers.cancel("late")))
        self.assertEqual(self.session.advance("1d"), [])

    def test_a_period_keeps_its_times(self) -> None:
        """A period that drifts here hides one that the author's code does not expect."""
        self.do(lambda cx: cx.timers.every("tick", "400ms"))
        self.assertEqual(
            times(self.session.advance("1s")), [("tick", 400, 0, 1), ("tick", 800, 0, 1)]
        )
        # Nobody serves for a while.
        self.session.session.time_ms += 1_000
        self.assertEqual(times(self.session.advance("0s")), [("tick", 1_200, 2, 1)])
        self.assertEqual(self.session.timers[0].due_ms, START + 2_400)
        self.assertEqual(times([self.session.fire("tick")]), [("tick", 2_400, 0, 1)])
        self.assertEqual(self.session.session.time_ms, START + 2_400, "it is never early")

    def test_what_fails_is_tried_again_and_given_up(self) -> None:
        """On a node a handler that fails is called again: authors test what that does."""
        failures = 3

        def on_timer(cx: Context, message: Any) -> Any:
            assert cx.origin.firing is not None
            if cx.origin.firing.attempt > failures:
                return "at last"
            cx.timers.after("half", "1ms")
            cx.emit("half", 1)
            raise ValueError("not yet")

        Doing.on_timer = staticmethod(on_timer)
        self.do(lambda cx: cx.timers.after("a", "1s"))
        fired = self.session.advance("3s")
        self.assertEqual(times(fired), [("a", 1_000, 0, 1), ("a", 1_000, 0, 2)])
        with self.assertRaisesRegex(Trapped, "not yet"):
            fired[0].parse()
        self.assertEqual((self.session.timers[0].failures, self.session.seq), (2, 1))
        fired = self.session.advance("5s")
        self.assertEqual([one.time_ms - START for one in fired], [4_000, 8_000])
        self.assertEqual((self.session.timers, self.session.events), ([], []))
        self.assertEqual(self.session.dead, [])

        failures = 100
        self.do(lambda cx: cx.timers.after("a", "1s"))
        fired = self.session.advance("2h")
        self.assertEqual((len(fired), fired[19].attempt), (limits.TIMER_ATTEMPTS_MAX, 20))
        self.assertEqual(fired[19].time_ms - fired[18].time_ms, limits.TIMER_RETRY_MAX_MS)
        self.assertEqual((self.session.timers, self.session.dead[0].attempts), ([], 20))

        def refuse(cx: Context, message: Any) -> Any:
            raise Rejection("no", "never")

        Doing.on_timer = staticmethod(refuse)
        self.do(lambda cx: cx.timers.every("b", "1s"))
        at = self.session.session.time_ms
        (fired_once,) = self.session.advance("1s")
        self.assertIsInstance(fired_once.failure, Rejected)
        self.assertEqual(self.session.dead[1].name, "b")
        self.assertEqual(self.session.timers[0].due_ms, at + 2_000)

    def test_timers_go_with_their_message(self) -> None:
        """All or nothing holds for timers too, and queries set none."""
        self.do(lambda cx: cx.timers.after("a", "1s"))
        before = copy.deepcopy(self.session.session)

        def half(cx: Context) -> None:
            cx.timers.after("half", "1ms")
            cx.timers.cancel("a")
            raise ValueError("told to")

        with self.assertRaises(Trapped):
            self.do(half)
        names = self.ask(lambda cx: [timer.name for timer in cx.timers.list()])
        self.assertEqual(names, ["a"])
        self.assertTrue(self.ask(lambda cx: cx.timers.get("half") is None))
        for told in (
            lambda cx: cx._forbidden().timers.after("b", "1s"),
            lambda cx: cx._forbidden().timers.cancel("a"),
        ):
            with self.assertRaises(Trapped):
                self.ask(told)
        with self.assertRaises(Trapped):
            self.session.migrate("1")
        self.assertEqual(self.session.session, before)
        self.session.reset()
        self.assertEqual((self.session.timers, self.session.dead), ([], []))

    def test_limits_are_the_hosts(self) -> None:
        """Limits that the harness does not keep would be met in production only."""
        for name in ("", "a\nb", "ä" * 65):
            for told in (
                lambda cx, name=name: cx.timers.after(name, "1ms"),
                lambda cx, name=name: cx.timers.cancel(name),
            ):
                with self.assertRaises(Trapped):
                    self.do(told)
        self.do(lambda cx: cx.timers.after("ä" * 64, "1ms"))

        def big(size: int) -> Callable[[Context], Any]:
            return lambda cx: cx.timers.after("big", "1ms", Reply.bytes(bytes(size)))

        self.do(big(65_536))
        says = "limit: timers: a body may have 65536 bytes; this one has 65537"
        with self.assertRaisesRegex(Trapped, says):
            self.do(big(65_537))

        def bodies(count: int) -> Callable[[Context], Any]:
            body = Reply.bytes(bytes(65_000))
            return lambda cx: [cx.timers.after(f"{i}", "1ms", body) for i in range(count)]

        self.session.reset()
        self.do(bodies(16))
        with self.assertRaisesRegex(Trapped, "limit: more than 1000 timers or 1048576 bytes"):
            self.do(bodies(17))
        self.session.reset()

        def many(count: int) -> Callable[[Context], Any]:
            return lambda cx: [cx.timers.after(f"{cx.seq}/{i}", "1ms") for i in range(count)]

        with self.assertRaisesRegex(Trapped, "limit"):
            self.do(many(257))
        for _ in range(3):
            self.do(many(256))
        with self.assertRaisesRegex(Trapped, "limit"):
            self.do(many(233))
        self.do(many(232))
        self.assertEqual(len(self.session.timers), 1_000)

    def test_times_that_cannot_be_are_refused(self) -> None:
        for told, says in (
            (lambda timers: timers.every("a", "99ms"), "a period has 100 ms"),
            (lambda timers: timers.at("a", 2**70), "no time"),
            (lambda timers: timers.at("a", 221_845_392_000_001), "the last is 221845392000000 ms"),
            (lambda timers: timers.cron("a", "* * * *", "UTC"), "five fields"),
            (lambda timers: timers.cron("a", "61 * * * *", "UTC"), "no cron expression"),
            (lambda timers: timers.cron("a", "0 0 0 * *", "UTC"), "no cron expression"),
            (lambda timers: timers.cron("a", "0 0 * * *", ""), "no time zone"),
            (lambda timers: timers.cron("a", "1" * 200, "UTC"), "128 bytes"),
        ):
            with self.assertRaises(Rejected) as rejected:
                self.do(of_timers(told))
            self.assertEqual(rejected.exception.code, "bad-moment")
            self.assertIn(says, str(rejected.exception))
        for told in (
            lambda timers: timers.after("a", "soon"),
            lambda timers: timers.after("a", 10),
            lambda timers: timers.at("a", datetime(2030, 1, 1)),
            lambda timers: timers.at("a", True),
            lambda timers: timers.cron("a", "* * * * *", None),
            lambda timers: timers.after(7, "1s"),
            lambda timers: timers.after("a", "1s", {1}),
        ):
            with self.assertRaises(Trapped) as trapped:
                self.do(of_timers(told))
            self.assertIsInstance(trapped.exception.__cause__, (TypeError, ValueError))
        self.do(lambda cx: cx.timers.at("a", datetime(1960, 1, 1, tzinfo=timezone.utc)))
        self.assertEqual(self.session.fire("a").due_ms, START)
        last = 221_845_392_000_000
        self.assertEqual(self.do(lambda cx: cx.timers.at("last", last)), last)

    def test_a_timer_is_never_due_in_the_past(self) -> None:
        """A test that counts on another time passes here and fails on a node."""

        def dues(cx: Context) -> list[int]:
            return [
                cx.timers.at("at", 1),
                cx.timers.after("after", "0s"),
                cx.timers.every("every", "100ms"),
                cx.timers.cron("cron", "* * * * *", "UTC"),
            ]

        def on_timer(cx: Context, message: Any) -> Any:
            assert cx.origin.firing is not None
            return cx.origin.firing.due_ms if message is None else dues(cx)

        Doing.on_timer = staticmethod(on_timer)
        self.assertEqual(self.do(dues), [START, START, START + 100, START])
        set_for = [timer.due_ms for timer in self.session.timers]
        self.assertEqual(set_for, [START, START, START, START + 100])
        self.assertEqual(self.session.fire("at").parse(), START, "its origin has the same time")
        self.do(lambda cx: cx.timers.after("sets", "1s", "all"))
        self.assertEqual(self.session.fire("sets").parse(), [START + 1_100] * 4)
        self.do(lambda cx: cx.timers.cancel("cron"))
        self.assertEqual(self.session.advance("99ms"), [])
        fired = self.session.advance("1ms")
        self.assertEqual([one.parse() for one in fired], [START + 1_100] * 3)

    def test_cron_timers_fire_when_the_test_says(self) -> None:
        """A time that the harness made up would be another one on a node."""
        self.do(lambda cx: cx.timers.cron("cron", "*/5 9-17 * * MON-FRI,7", "Europe/Berlin"))
        self.session.session.time_ms += 60_000
        fired = [self.session.fire("cron"), self.session.fire("cron")]
        self.assertEqual(times(fired), [("cron", 60_000, 0, 1), ("cron", 60_000, 0, 1)])
        with self.assertRaisesRegex(ValueError, r"fire\('cron'\)"):
            self.session.advance("1s")
        with self.assertRaises(KeyError):
            self.session.fire("none")
        self.do(lambda cx: cx.timers.cancel("cron"))
        self.assertEqual(self.session.advance("1s"), [])

    def test_a_timers_message_has_the_body_that_it_was_set_with(self) -> None:
        class Echo(RawHandler):
            def handle(self, cx: Context, body: bytes) -> Reply:
                if cx.origin.kind == "client":
                    cx.timers.after("text", "1ms", Reply.text("hi"))
                    cx.timers.after("json", "2ms", {"n": 1})
                return Reply(cx.content_type, body)

        echo = Harness(Echo)
        echo.send_bytes(b"", "x/y")
        self.assertEqual(echo.timers[0].parse(), {"n": 1})
        due = datetime.fromtimestamp(START / 1000 + 0.002, timezone.utc)
        self.assertEqual(echo.timers[0].due, due)
        text, json = echo.advance("2ms")
        self.assertEqual(text.reply, Reply.text("hi"))
        self.assertEqual((json.parse(), json.failure), ({"n": 1}, None))


if __name__ == "__main__":
    unittest.main()
