import random
import unittest
from datetime import timedelta
from fractions import Fraction
from typing import Any

from handler import RateLimiter
from limits import NUMBER_MAX, Bucket, Meter, Rule, Usage, Window
from slotd_guest.testing import Harness, Refused, Rejected


class RateLimiterTest(unittest.TestCase):
    def setUp(self) -> None:
        self.limiter = Harness(RateLimiter)
        # Not at the start of anything.
        self.limiter.session.time_ms = 1_700_000_012_345

    def do(self, op: str, **fields: Any) -> Any:
        return self.limiter.send({"do": op, **fields}).parse()

    def later(self, ms: int) -> None:
        self.assertEqual(self.limiter.advance(timedelta(milliseconds=ms)), [], "nothing fires")

    def code(self, op: str, **fields: Any) -> str:
        with self.assertRaises(Rejected) as rejected:
            self.do(op, **fields)
        return rejected.exception.code

    def test_a_bucket_empties_and_fills(self) -> None:
        """What a client is told to wait must be neither too short nor longer than it is."""
        self.do("configure", bucket={"capacity": 2, "refill": 3, "every_ms": 1000})
        self.assertEqual([self.do("take", key="a")["remaining"] for _ in range(2)], [1, 0])
        refused = self.do("take", key="a")
        wait = {"key": "a", "allowed": False, "remaining": 0, "retry_after_ms": 334}
        self.assertEqual(refused, wait)
        self.later(333)
        self.assertEqual(self.do("take", key="a")["retry_after_ms"], 1)
        self.later(1)
        self.assertTrue(self.do("take", key="a")["allowed"])
        self.later(3_600_000)
        self.assertEqual(self.limiter.query({"key": "a"}).parse()["remaining"], 2)
        self.assertTrue(self.do("take", key="b", n=2)["allowed"], "each key has its own")

    def test_time_alone_fills_a_bucket(self) -> None:
        """A timer for each key would be a message for each refill, whether anyone asks or not."""
        self.do("configure", bucket={"capacity": 5, "refill": 1, "every_ms": 1000})
        self.do("take", key="a", n=5)
        for level in range(5):
            self.assertEqual(self.limiter.query({"key": "a"}).parse()["remaining"], level)
            self.later(1000)
        self.assertEqual((self.limiter.timers, self.limiter.seq), ([], 2))

    def test_all_limits_hold_together(self) -> None:
        """A take that one limit refuses must use nothing of the others."""
        day = 86_400_000
        self.do(
            "configure",
            bucket={"capacity": 5, "refill": 5, "every_ms": 1000},
            windows=[{"limit": 8, "every_ms": 60_000}, {"limit": 9, "every_ms": day}],
        )
        self.assertEqual(self.do("take", key="a", n=5)["remaining"], 0)
        self.later(1000)
        self.assertEqual(self.do("take", key="a", n=3)["remaining"], 0)
        refused = self.do("take", key="a")
        self.assertEqual((refused["allowed"], refused["remaining"]), (False, 0))
        now = self.limiter.session.time_ms
        self.assertEqual(refused["retry_after_ms"], 60_000 - now % 60_000)
        self.later(refused["retry_after_ms"])
        self.assertEqual(self.do("take", key="a", n=1)["remaining"], 0)
        refused = self.do("take", key="a")
        self.assertEqual(refused["retry_after_ms"], day - self.limiter.session.time_ms % day)

    def test_one_event_each_time_that_it_runs_dry(self) -> None:
        """An event for each refused request would make the limiter what is flooded."""
        self.do("configure", windows=[{"limit": 1, "every_ms": 1000}])
        for _ in range(2):
            self.do("take", key="a")
            for _ in range(3):
                self.do("take", key="a")
            self.later(1000)
        kinds = [event.kind for event in self.limiter.events]
        self.assertEqual(kinds, ["configured", "exhausted", "exhausted"])
        self.assertEqual(self.limiter.events[1].parse(), {"key": "a", "retry_after_ms": 655})

    def test_refunds_give_back_what_fits(self) -> None:
        self.do(
            "configure",
            bucket={"capacity": 4, "refill": 1, "every_ms": 1000},
            windows=[{"limit": 4, "every_ms": 60_000}],
        )
        self.do("take", key="a", n=3)
        self.assertEqual(self.do("refund", key="a", n=2)["remaining"], 3)
        self.assertEqual(self.do("refund", key="a", n=4)["remaining"], 4)
        self.assertEqual(self.do("take", key="a", n=4)["remaining"], 0)

    def test_rules_change_under_use(self) -> None:
        """Neither a fresh start for who had used all, nor less than what is there."""
        self.do("configure", bucket={"capacity": 10, "refill": 10, "every_ms": 1000})
        self.do("take", key="a", n=4)
        self.do("configure", key="a", bucket={"capacity": 8, "refill": 1, "every_ms": 60_000})
        self.assertEqual(self.limiter.query({"key": "a"}).parse()["remaining"], 6)
        self.do("configure", key="a", bucket={"capacity": 3, "refill": 1, "every_ms": 7})
        self.assertEqual(self.limiter.query({"key": "a"}).parse()["remaining"], 3)
        self.do("unset", key="a")
        self.assertEqual(self.limiter.query({"key": "a"}).parse()["remaining"], 6)

    def test_what_makes_no_sense_is_rejected(self) -> None:
        """Anything that is not looked at is a trap, or a limit that is none."""
        self.assertEqual(self.code("take", key="a"), "no-rule")
        bucket = {"capacity": 1, "refill": 1, "every_ms": 1}
        for rule in (
            {},
            {"bucket": bucket | {"refill": 0}},
            {"bucket": bucket | {"capacity": NUMBER_MAX + 1}},
            {"windows": [{"limit": 1, "every_ms": 1}] * 2},
            {"windows": [{"limit": 1, "every_ms": i} for i in range(1, 10)]},
        ):
            self.assertEqual(self.code("configure", **rule), "bad-rule")
        self.do("configure", bucket=bucket)
        self.assertEqual(self.code("take", key="a", n=2), "too-much")
        self.assertEqual(self.code("take", key="a", n=0), "bad-number")
        self.assertEqual(self.code("take", key=""), "bad-key")
        self.assertEqual(self.code("take", key="k" * 513), "bad-key")
        for fields in ({}, {"key": 1}, {"key": "a", "n": 1.5}, {"key": "a", "n": True}):
            self.assertEqual(self.code("take", **fields), "bad-message")
        self.assertEqual(self.code("fly", key="a"), "bad-message")
        self.assertEqual(self.limiter.seq, 1)

    def test_other_versions(self) -> None:
        self.limiter.migrate("1.7.0")
        with self.assertRaises(Refused):
            self.limiter.migrate("2.0.0")


class MeterTest(unittest.TestCase):
    def test_exact_over_any_steps(self) -> None:
        """A bucket that is asked a million times must hold what one that is asked once holds:
        against fractions, which know no rounding."""
        chance = random.Random(7)
        for _ in range(200):
            bucket = Bucket(*(chance.randint(1, 10 ** chance.randint(1, 9)) for _ in range(3)))
            rule, usage, now = Rule(bucket), Usage(), 1_700_000_000_000
            level = Fraction(bucket.capacity)
            for _ in range(50):
                step = chance.choice([0, 1, 7, 1_000, bucket.every_ms])
                now += step
                level = min(
                    level + Fraction(step * bucket.refill, bucket.every_ms),
                    Fraction(bucket.capacity),
                )
                meter = Meter(rule, usage, now)
                self.assertEqual(meter.remaining(), int(level))
                n = chance.randint(1, bucket.capacity)
                wait = meter.retry_after_ms(n)
                if wait > 0:
                    self.assertLess(Meter(rule, meter.usage(), now + wait - 1).remaining(), n)
                self.assertGreaterEqual(Meter(rule, meter.usage(), now + wait).remaining(), n)
                if meter.take(n):
                    level -= n
                usage = meter.usage()

    def test_never_more_than_the_limit_in_a_window(self) -> None:
        """What a quota is for."""
        chance = random.Random(8)
        rule, usage, now, taken = Rule(windows=[Window(10, 100)]), Usage(), 0, dict[int, int]()
        for _ in range(5_000):
            now += chance.randint(0, 9)
            meter = Meter(rule, usage, now)
            n = chance.randint(1, 3)
            if meter.take(n):
                taken[now // 100] = taken.get(now // 100, 0) + n
            usage = meter.usage()
        self.assertLessEqual(max(taken.values()), 10)
        self.assertGreater(min(list(taken.values())[:-1]), 7)


if __name__ == "__main__":
    unittest.main()
