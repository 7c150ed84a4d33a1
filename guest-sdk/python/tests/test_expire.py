"""Sessions that expire, in the harness's virtual time, against what the interface promises of a
node."""

import unittest
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

from slotd_guest import Context, Handler, MigrateContext, QueryContext, Rejection
from slotd_guest.testing import Harness, Rejected, Trapped, limits

START = 1_700_000_000_000
MINUTE = 60_000


class Doing(Handler):
    """Does what the test says: with a client's message ``told``, with a timer's ``on_timer``."""

    told: Callable[[Any], Any] = staticmethod(lambda cx: None)
    on_timer: Callable[[Context], Any] = staticmethod(lambda cx: None)

    def handle(self, cx: Context, message: Any) -> object:
        return Doing.on_timer(cx) if cx.origin.kind == "timer" else Doing.told(cx)

    def query(self, cx: QueryContext, query: Any) -> object:
        return Doing.told(cx)

    def migrate(self, cx: MigrateContext, from_version: str) -> str | None:
        cx._forbidden().expire(at=5)
        return None


class ExpireTest(unittest.TestCase):
    def setUp(self) -> None:
        self.session = Harness(Doing)

    def do(self, told: Callable[[Context], Any]) -> Any:
        Doing.told = staticmethod(told)
        return self.session.send({}, sender="ann").parse()

    def test_a_session_that_expires_is_gone_and_begins_anew(self) -> None:
        session = self.session
        self.do(lambda cx: cx.state.set("noted", True))
        self.do(lambda cx: cx.timers.after("later", timedelta(minutes=1, milliseconds=1)))
        self.do(lambda cx: cx.send("sink/a", 1, reply_as="r"))
        self.do(lambda cx: cx.expire(after="1m"))
        self.assertEqual(session.expires, START + MINUTE)
        self.assertEqual(session.advance(timedelta(milliseconds=MINUTE - 1)), [])
        self.assertEqual((session.seq, session.get("noted")), (4, True))
        self.assertEqual(session.advance("1m"), [])
        left = (session.seq, session.expires, session.state, session.timers, session.unanswered)
        self.assertEqual(left, (0, None, {}, [], []))
        inner = session.session
        self.assertEqual((inner.name, inner.time_ms), ("session", START + 2 * MINUTE - 1))
        self.do(lambda cx: cx.state.set("noted", cx.seq))
        self.assertEqual((session.seq, session.get("noted")), (1, 1))

    def test_a_later_message_has_the_last_word(self) -> None:
        def changes_its_mind(cx: Context) -> None:
            cx.expire(after="1ms")
            raise Rejection("no", "No.")

        self.do(lambda cx: cx.expire(after=timedelta(minutes=1)))
        at = datetime.fromtimestamp((START + 70_000) / 1000, timezone.utc)
        self.do(lambda cx: cx.expire(at=at))
        with self.assertRaises(Rejected):
            self.do(changes_its_mind)
        self.do(lambda cx: None)
        self.assertEqual(self.session.expires, START + 70_000)
        self.do(lambda cx: cx.keep())
        self.assertIsNone(self.session.expires)
        self.session.advance("2m")
        self.assertEqual(self.session.seq, 4)
        # A time that has passed is now.
        self.do(lambda cx: cx.expire(at=5))
        self.assertEqual(self.session.expires, START + 2 * MINUTE)
        self.session.advance("0s")
        self.assertEqual(self.session.seq, 0)

    def test_timers_that_are_due_before_fire_before(self) -> None:
        """A timer for the same time may still keep the session, as on a node."""
        Doing.on_timer = staticmethod(lambda cx: cx.keep())
        self.do(lambda cx: cx.expire(after="1m"))
        self.do(lambda cx: cx.timers.after("keep", "1m"))
        fired = self.session.advance("2m")
        self.assertEqual([one.time_ms for one in fired], [START + MINUTE])
        self.assertEqual(self.session.seq, 3)
        Doing.on_timer = staticmethod(lambda cx: cx.expire(after="20ms"))
        self.do(lambda cx: cx.timers.after("expire", "10ms"))
        self.assertEqual(len(self.session.advance("1m")), 1)
        self.assertEqual(self.session.seq, 0)

    def test_a_time_that_cannot_be_is_refused_and_changes_nothing(self) -> None:
        self.do(lambda cx: cx.expire(after="1ms"))
        last = limits.TIMER_MS_MAX
        when: dict[str, Any]
        for when in ({"at": last + 1}, {"after": timedelta.max}, {"at": 2**70}):
            with self.assertRaises(Rejected) as rejected:
                self.do(lambda cx: cx.expire(**when))
            self.assertEqual(rejected.exception.code, "bad-moment")
            self.assertIn("is no time at which a session can expire", str(rejected.exception))
        naive = datetime(2024, 1, 1)
        for when in ({}, {"after": "1m", "at": 1}, {"after": 5}, {"at": "1m"}, {"at": naive}):
            with self.assertRaises(Trapped, msg=str(when)):
                self.do(lambda cx: cx.expire(**when))
        self.assertEqual((self.session.expires, self.session.seq), (START + 1, 1))
        self.do(lambda cx: cx.expire(at=last))
        self.assertEqual(self.session.expires, last)

    def test_only_a_message_says_so(self) -> None:
        self.do(lambda cx: cx.expire(after="1ms"))
        Doing.told = staticmethod(lambda cx: cx._forbidden().keep())
        for call in (lambda: self.session.query({}), lambda: self.session.migrate("0.1.0")):
            with self.assertRaises(Trapped) as trapped:
                call()
            self.assertEqual(trapped.exception.reason, "only `handle` may have the session expire")
        self.assertEqual(self.session.expires, START + 1)


if __name__ == "__main__":
    unittest.main()
