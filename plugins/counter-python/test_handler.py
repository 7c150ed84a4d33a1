import unittest

from handler import U64_MAX, Counter
from slotd_guest.testing import Harness, Rejected


class CounterTest(unittest.TestCase):
    def setUp(self) -> None:
        self.counter = Harness(Counter)

    def count(self) -> object:
        return self.counter.query_bytes(b"").parse()

    def test_any_body_adds_one(self) -> None:
        """The benchmark sends 32 arbitrary bytes: a body that is refused would stop it."""
        bodies = [b"", b"\xff" * 32, b"{", b"{}", b"[1]", b'{"sub": 1}', b'{"a":' + b"[" * 100_000]
        for n, body in enumerate(bodies, 1):
            self.assertEqual(self.counter.send_bytes(body).parse(), n)
        self.assertEqual(self.count(), len(bodies))
        self.assertEqual(self.counter.events, [])

    def test_adds_what_it_is_told_or_refuses(self) -> None:
        """A count that wraps around, or a bad `add` that counts as one, would be silently wrong."""
        for message in ({"add": 41}, {"add": 0}, {}):
            self.counter.send(message)
        self.assertEqual(self.count(), 42)
        for add in (-1, 1.5, "1", None, True, U64_MAX + 1):
            with self.assertRaises(Rejected) as refused:
                self.counter.send({"add": add})
            self.assertEqual(refused.exception.code, "bad-add")
        with self.assertRaises(Rejected) as refused:
            self.counter.send({"add": U64_MAX})
        self.assertEqual(refused.exception.code, "count-overflow")
        self.assertEqual((self.count(), self.counter.seq), (42, 3))

    def test_is_exact_up_to_the_end(self) -> None:
        """Through a float, every count above 2^53 would be another."""
        self.counter.send({"add": U64_MAX - 1})
        self.assertEqual(self.counter.send({}).parse(), U64_MAX)
        self.assertEqual(self.counter.state, {"count": b"18446744073709551615"})

    def test_state_of_something_else_is_not_counted_on(self) -> None:
        """Another plugin's state must not be overwritten with a count."""
        for state in (b'"7"', b"-1", b"7.0", b"{", b"18446744073709551616"):
            self.counter.session.state["count"] = state
            with self.assertRaises(Rejected) as refused:
                self.counter.send({})
            self.assertEqual(refused.exception.code, "bad-state")


if __name__ == "__main__":
    unittest.main()
