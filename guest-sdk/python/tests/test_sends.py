"""Messages between sessions, against what the interface promises of a node."""

import copy
import unittest
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from slotd_guest import (
    Address,
    Answer,
    Context,
    Delivery,
    Handler,
    MigrateContext,
    QueryContext,
    RawHandler,
    Refusal,
    Rejection,
    Reply,
)
from slotd_guest.testing import Harness, Rejected, Sent, Trapped, limits


def told_by_origin(cx: Context, message: Any) -> Any:
    return [cx.origin.kind, cx.origin.name, cx.sender, message]


class Doing(Handler):
    """Does what the test says: with a client's message ``told``, with another's ``on_other``."""

    told: Callable[[Any], Any] = staticmethod(lambda cx: None)
    on_other: Callable[[Context, Any], Any] = staticmethod(told_by_origin)

    def handle(self, cx: Context, message: Any) -> object:
        return Doing.told(cx) if cx.origin.kind == "client" else Doing.on_other(cx, message)

    def query(self, cx: QueryContext, query: Any) -> object:
        return Doing.told(cx)

    def migrate(self, cx: MigrateContext, from_version: str) -> str | None:
        cx._forbidden().send("a/b")
        return None


@dataclass
class Left:
    left: int


class Asking(Doing):
    """The outcomes come to a method of their own."""

    on_outcome: Callable[[Context, Answer, Any], Any] = staticmethod(lambda cx, answer, reply: None)

    def answer(self, cx: Context, answer: Answer, reply: Left | None) -> object:
        return Asking.on_outcome(cx, answer, reply)


def asks(cx: Context) -> None:
    cx.send("stock/a", 1, reply_as="r")


class SendsTest(unittest.TestCase):
    def setUp(self) -> None:
        self.session = Harness(Asking)
        Doing.on_other = staticmethod(told_by_origin)

    def do(self, told: Callable[[Context], Any], session: Harness | None = None) -> Any:
        Doing.told = staticmethod(told)
        return (session or self.session).send({}, sender="ann").parse()

    def ask(self, told: Callable[[QueryContext], Any]) -> Any:
        Doing.told = staticmethod(told)
        return self.session.query({}).parse()

    def test_what_is_sent_is_what_the_test_sees(self) -> None:
        def told(cx: Context) -> None:
            cx.send("stock/widget", {"reserve": 2}, reply_as="reserve")
            cx.send("mail/a/b", Reply.text("hi"))
            cx.send(Address("self/é/x"))

        self.do(told)
        json, text = "application/json", "text/plain; charset=utf-8"
        self.assertEqual(
            self.session.sent,
            [
                Sent(1, Address("stock/widget"), json, b'{"reserve":2}', "reserve"),
                Sent(1, Address("mail/a/b"), text, b"hi"),
                Sent(1, Address("self/é/x"), json, b"null"),
            ],
        )
        self.assertEqual(self.session.sent[0].parse(), {"reserve": 2})
        to = self.session.sent[1].to
        self.assertEqual((to, to.service, to.session), ("mail/a/b", "mail", "a/b"))
        self.assertEqual([one.to for one in self.session.unanswered], ["stock/widget"])
        self.session.reset()
        self.assertEqual((self.session.sent, self.session.unanswered), ([], []))

    def test_what_is_sent_goes_with_its_message_and_queries_send_nothing(self) -> None:
        def fails(cx: Context) -> None:
            asks(cx)
            raise ValueError("told to")

        def rejects(cx: Context) -> None:
            asks(cx)
            raise Rejection("no", "No.")

        self.do(lambda cx: cx.state.set("a", 1))
        before = copy.deepcopy(self.session.session)
        with self.assertRaises(Trapped):
            self.do(fails)
        with self.assertRaises(Rejected):
            self.do(rejects)
        with self.assertRaisesRegex(Trapped, "only `handle` may send"):
            self.ask(lambda cx: cx._forbidden().send("a/b"))
        with self.assertRaisesRegex(Trapped, "only `handle` may send"):
            self.session.migrate("1")
        self.assertFalse(hasattr(QueryContext, "send") or hasattr(MigrateContext, "send"))
        self.assertEqual(self.session.session, before)

    def test_the_other_sessions_message_says_whose_it_is(self) -> None:
        reply = self.session.deliver("cart/ann/1", {"take": 1})
        self.assertEqual(reply.parse(), ["session", "cart/ann/1", None, {"take": 1}])
        seen: list[Any] = []
        Doing.on_other = staticmethod(lambda cx, message: seen.append(cx.origin.delivery))
        self.session.deliver("cart/ann/1")
        self.session.deliver("cart/bob", attempt=3, reply_wanted=True)
        sender = Address("cart/ann/1")
        self.assertEqual(seen, [Delivery(sender), Delivery(Address("cart/bob"), 3, True)])
        self.assertEqual((seen[0].sender.service, seen[0].sender.session), ("cart", "ann/1"))
        for wrong in ("cart", "Cart/a", "cart/"):
            with self.assertRaises(ValueError):
                self.session.deliver(wrong, 1)
        self.assertEqual(self.session.seq, 3)

        class Echo(RawHandler):
            def handle(self, cx: Context, body: bytes) -> Reply:
                return Reply(cx.content_type, body)

        self.assertEqual(Harness(Echo).deliver("cart/ann", Reply.text("hi")), Reply.text("hi"))

    def test_an_outcome_comes_back_under_its_name(self) -> None:
        seen: list[Any] = []

        def told(cx: Context) -> None:
            for of in "abc":
                cx.send(f"stock/{of}", 1, reply_as="reserve")
            cx.send("mail/ann", 1)

        def outcome(cx: Context, answer: Answer, reply: Any) -> int:
            self.assertIs(answer, cx.origin.answer)
            self.assertEqual((cx.origin.kind, cx.origin.name), ("answer", answer.name))
            seen.append((answer, reply))
            return len(seen)

        Asking.on_outcome = staticmethod(outcome)
        self.do(told)
        answer = self.session.answer("reserve", {"left": 3}, sender="stock/b")
        self.assertEqual(answer, Reply.json(1))
        self.session.answer("reserve", {"left": 5})
        self.session.refuse("reserve", "sold-out", "None left.", retriable=True)
        refusal = Refusal("sold-out", "None left.", True)
        self.assertEqual(
            seen,
            [
                (Answer("reserve", Address("stock/b")), Left(3)),
                (Answer("reserve", Address("stock/a")), Left(5)),
                (Answer("reserve", Address("stock/c"), refusal), None),
            ],
        )
        self.assertEqual((self.session.seq, self.session.unanswered), (4, []))
        with self.assertRaisesRegex(KeyError, "waits for an answer 'reserve'"):
            self.session.answer("reserve")
        self.do(asks)
        with self.assertRaisesRegex(KeyError, r"of stock/b; .*\('r', 'stock/a'\)"):
            self.session.answer("r", sender="stock/b")
        with self.assertRaises(Rejected) as rejected:
            self.session.answer("r", {"right": 1})
        self.assertEqual(rejected.exception.code, "bad-message")
        self.assertEqual(self.session.unanswered, [], "it is given up")

    def test_outcomes_need_a_method_of_their_own_or_bytes(self) -> None:
        session = Harness(Doing)
        self.do(asks, session)
        with self.assertRaises(Rejected) as rejected:
            session.answer("r", {"left": 1})
        self.assertEqual(rejected.exception.code, "no-answers")
        self.assertEqual(session.unanswered, [], "it is given up")
        self.do(asks, session)
        with self.assertRaises(Rejected) as rejected:
            session.refuse("r", "gone", "Gone.")
        self.assertEqual(rejected.exception.code, "no-answers")

        class Raw(RawHandler):
            def handle(self, cx: Context, body: bytes) -> Reply:
                if cx.origin.kind == "client":
                    asks(cx)
                return Reply.json([cx.content_type, len(body)])

        raw = Harness(Raw)
        raw.send_bytes(b"")
        says = ["text/plain; charset=utf-8", 4]
        self.assertEqual(raw.answer("r", Reply.text("four")).parse(), says)
        raw.send_bytes(b"")
        self.assertEqual(raw.refuse("r", "gone", "Gone.").parse(), ["application/octet-stream", 0])

    def test_an_outcome_that_fails_is_tried_again_and_given_up(self) -> None:
        failure: Exception | None = None

        def outcome(cx: Context, answer: Answer, reply: Any) -> int:
            cx.state.set("half", 1)
            if failure is not None:
                raise failure
            return answer.attempt

        Asking.on_outcome = staticmethod(outcome)
        self.do(asks)
        failure = ValueError("oh")
        with self.assertRaises(Trapped):
            self.session.answer("r")
        failure = Rejection("busy", "Not yet.", retriable=True)
        with self.assertRaises(Rejected):
            self.session.refuse("r", "gone", "Gone.")
        self.assertEqual((self.session.state, len(self.session.unanswered)), ({}, 1))
        failure = None
        self.assertEqual(self.session.answer("r", {"left": 1}).parse(), 3)

        self.do(asks)
        failure = Rejection("no", "Never.")
        with self.assertRaises(Rejected):
            self.session.answer("r", {"left": 1})
        self.assertEqual(self.session.unanswered, [])
        self.do(asks)
        failure = ValueError("oh")
        for _ in range(limits.SEND_ATTEMPTS_MAX):
            with self.assertRaises(Trapped):
                self.session.answer("r", {"left": 1})
        self.assertEqual(self.session.unanswered, [])

    def test_addresses_and_names_that_cannot_be_are_refused(self) -> None:
        def why(to: str, reply_as: str | None) -> Any:
            def told(cx: Context) -> Any:
                try:
                    cx.send(to, 1, reply_as=reply_as)
                except Rejection as rejection:
                    # The handler may go on: nothing was sent.
                    return [rejection.code, rejection.retriable, rejection.message]
                return "sent"

            return self.do(told)

        for to, reply_as, says in (
            ("stock", None, '"stock" is no address of a session: write "service/session"'),
            ("/a", None, "a service name must have 1 to 64 bytes; this one has 0"),
            ("x" * 65 + "/a", None, "1 to 64 bytes; this one has 65"),
            ("Stock/a", None, 'service name "Stock": use a-z'),
            ("-a/a", None, "starting with a letter or digit"),
            ("a\n/a", None, "starting with a letter or digit"),
            ("stock/", None, "a session id must have 1 to 256 bytes; this one has 0"),
            ("stock/" + "ä" * 129, None, "this one has 258"),
            ("stock/a\nb", None, "has a control character"),
            ("stock/a", "", "the name of a reply must have 1 to 128 bytes; this one has 0"),
            ("stock/a", "ä" * 65, "this one has 130"),
            ("stock/a", "a\u0085", "the name of a reply has no control characters"),
        ):
            code, retriable, message = why(to, reply_as)
            self.assertEqual((code, retriable), ("bad-send", False), to)
            self.assertIn(says, message)
        self.assertEqual(self.session.sent, [])
        with self.assertRaises(Rejected) as rejected:
            self.do(lambda cx: cx.send("stock"))
        self.assertEqual(rejected.exception.code, "bad-send")
        for told in (
            lambda cx: cx.send(7),
            lambda cx: cx.send(None),
            lambda cx: cx.send("a/b", 1, reply_as=7),
            lambda cx: cx.send("a/b", {1}),
        ):
            with self.assertRaises(Trapped) as trapped:
                self.do(told)
            self.assertIsInstance(trapped.exception.__cause__, TypeError)
        self.assertEqual(why("x" * 64 + "/" + "ä" * 128, "ä" * 64), "sent")
        self.assertEqual(why("0-_.9/ a/b", None), "sent")

    def test_limits_are_the_hosts(self) -> None:
        """Limits that the harness does not keep would be met in production only."""

        def many(count: int) -> Callable[[Context], Any]:
            def told(cx: Context) -> None:
                for i in range(count):
                    cx.send("a/b", i)

            return told

        def sends(body: Reply) -> Callable[[Context], Any]:
            return lambda cx: cx.send("a/b", body)

        self.do(many(256))
        for told, says in (
            (many(257), "limit: sends: a message may send at most 256"),
            (
                sends(Reply.bytes(bytes(262_145))),
                "limit: sends: a body may have 262144 bytes; this one has 262145",
            ),
            (sends(Reply("x" * 129, b"")), "limit: the content type of a message"),
            (sends(Reply("ä", b"")), "printable ASCII"),
        ):
            with self.assertRaisesRegex(Trapped, says):
                self.do(told)
        self.do(sends(Reply.bytes(bytes(262_144))))
        self.assertEqual(len(self.session.sent), 257)

    def test_handlers_that_cannot_work_are_refused_at_once(self) -> None:
        class Async(Doing):
            async def answer(self, cx: Context, answer: Answer, reply: Any) -> object:
                return None

        class Short(Doing):
            def answer(self, cx: Context, answer: Answer) -> object:  # type: ignore[override]
                return None

        class Hinted(Doing):
            def answer(self, cx: Context, answer: Answer, reply: set[int]) -> object:
                return None

        for handler in (Async, Short, Hinted):
            with self.assertRaises(TypeError):
                Harness(handler)


if __name__ == "__main__":
    unittest.main()
