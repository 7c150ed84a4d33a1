import unittest
from typing import Any

from handler import KitchenSink
from slotd_guest import Client, Reply
from slotd_guest.testing import Closed, Harness, Refused, Rejected, Trapped

URL = "https://api.example.com/é?k={{secret:K}}"
REQUEST: dict[str, Any] = {"op": "request", "id": "c", "method": "GET", "url": URL}


class KitchenSinkTest(unittest.TestCase):
    def setUp(self) -> None:
        self.sink = Harness(KitchenSink)

    def do(self, op: str, **fields: Any) -> Any:
        return self.sink.send({"op": op, **fields}, sender="ann", id="1").parse()

    def ask(self, op: str, **fields: Any) -> Any:
        return self.sink.query({"op": op, **fields}).parse()

    def test_state(self) -> None:
        self.do("set", key="é", value={"a": [1, None]})
        self.assertEqual(self.ask("get", key="é"), {"value": {"a": [1, None]}})
        self.do("set-bytes", key="b", hex="00ff")
        self.assertEqual(self.do("get-bytes", key="b"), {"hex": "00ff"})
        self.do("delete", key="b")
        self.assertEqual(self.do("get-bytes", key="b"), {"hex": None})
        self.do("fill", prefix="k/", count=70, bytes=3)
        page = self.ask("scan", prefix="k/", after="k/00067", limit=5)
        self.assertEqual(page, {"pairs": [["k/00068", "xxx"], ["k/00069", "xxx"]]})
        last = {"count": 70, "first": "k/00000", "last": "k/00069"}
        self.assertEqual(self.ask("scan-all", prefix="k/"), last)
        self.assertEqual(self.ask("scan-all", prefix="z")["first"], None)

    def test_add64_wraps(self) -> None:
        top = str(2**64 - 1)
        self.assertEqual(self.do("add64", key="n", n=top), {"sum": top})
        self.assertEqual(self.sink.state["n"], top.encode())
        self.assertEqual(self.do("add64", key="n", n="2"), {"sum": "1"})

    def test_context_clock_and_chance(self) -> None:
        expected = {"session": "session", "seq": 1, "id": "1", "sender": "ann"}
        self.assertEqual(self.do("context"), expected | {"content_type": "application/json"})
        clock = self.ask("clock")
        self.assertEqual(clock["time_ms"], clock["native_ms"])
        self.assertEqual(len(self.ask("random")["hex"]), 32)

    def test_refusals(self) -> None:
        with self.assertRaises(Rejected) as rejected:
            self.ask("fill")
        self.assertEqual(rejected.exception.code, "bad-query")
        timer = {"op": "timer", "name": "n", "body": 1}
        message: Any
        for message in (
            {"op": "fly"},
            {"op": "get"},
            {},
            [],
            {"op": "big", "bytes": -1},
            timer,
            timer | {"after": 1, "at": 1},
            timer | {"cron": ["* * * * *"]},
            {"op": "expire"},
            {"op": "expire", "after": 1, "at": 1},
            {"op": "send", "to": "sink/a"},
            {"op": "send", "to": "sink/a", "body": 1, "hex": "00"},
            {"op": "send", "body": 1},
            REQUEST | {"id": 1},
            REQUEST | {"headers": [["a"]]},
            REQUEST | {"options": 1},
            REQUEST | {"options": {"stream": {"kind": "k", "form": "json"}}},
        ):
            with self.assertRaises(Rejected) as rejected:
                self.sink.send(message)
            self.assertEqual(rejected.exception.code, "bad-message")
        with self.assertRaises(Rejected) as rejected:
            self.do("reject", code="no", message="No.", retriable=True, set="a")
        self.assertTrue(rejected.exception.rejection.retriable)
        with self.assertRaises(Trapped):
            self.do("throw", message="boom", set="a")
        for op in (
            {"op": "set", "key": "a", "value": 1},
            {"op": "delete", "key": "a"},
            timer | {"after": 1},
            {"op": "cancel-timer", "name": "n"},
            {"op": "expire", "after": 1},
            {"op": "keep"},
            {"op": "send", "to": "sink/a", "body": 1},
            REQUEST,
            {"op": "cancel-request", "id": "a"},
            {"op": "close"},
            {"op": "watch", "wanted": True},
        ):
            with self.assertRaises(Trapped):
                self.sink.query(op)
        self.assertEqual(self.sink.state, {})

    def test_timers(self) -> None:
        now = self.sink.session.time_ms
        due = self.do("timer", name="b", after=50, body={"ä": 1})
        self.assertEqual(due, {"due": now + 50})
        self.assertEqual(self.do("timer", name="a", at=7, body=None), {"due": now})
        due = self.do("timer", name="c", every=100, body={"fails": 1})
        self.assertEqual(due, {"due": now + 100})
        self.do("timer", name="d", cron=["0 9 * * 1-5", "Europe/Berlin"], body=1)
        self.assertEqual(self.do("cancel-timer", name="d"), {"was": True})
        self.assertEqual(self.do("cancel-timer", name="d"), {"was": False})
        listed = [
            {"name": name, "due": due, "failures": 0}
            for name, due in (("a", now), ("b", now + 50), ("c", now + 100))
        ]
        self.assertEqual((self.do("timers"), self.ask("timers")), (listed, listed))
        for when in ({"every": 99}, {"cron": ["61 * * * *", "UTC"]}):
            with self.assertRaises(Rejected) as rejected:
                self.do("timer", name="e", body=1, **when)
            self.assertEqual(rejected.exception.code, "bad-moment")
        a, b, c = self.sink.advance("100ms")
        said = {"name": "a", "due": now, "missed": 0, "attempt": 1, "body": None}
        self.assertEqual(a.parse(), said)
        said = {"name": "b", "due": now + 50, "missed": 0, "attempt": 1, "body": {"ä": 1}}
        self.assertEqual((b.parse(), b.events[0].kind, b.events[0].parse()), (said, "fired", said))
        self.assertIsInstance(c.failure, Rejected)
        self.do("timer", name="d", after=1, body={"op": "set", "key": "k", "value": 7})
        self.sink.advance("1ms")
        self.assertEqual(self.sink.get("k"), 7)

    def test_expiry(self) -> None:
        now = self.sink.session.time_ms
        self.assertEqual((self.do("expire", after=50), self.sink.expires), ({}, now + 50))
        self.assertEqual((self.do("keep"), self.sink.expires), ({}, None))
        self.assertEqual((self.do("expire", at=5), self.sink.expires), ({}, now))
        with self.assertRaises(Rejected) as rejected:
            self.do("expire", at=2**53)
        self.assertEqual(rejected.exception.code, "bad-moment")
        self.sink.advance("0s")
        self.assertEqual(self.sink.seq, 0)

    def test_sends(self) -> None:
        self.assertEqual(self.do("send", to="sink/a/b", body={"ä": 1}, reply="r"), {})
        self.do("send", to="sink/c", hex="00ff", times=2)
        self.do("send", to="sink/c", body=None, times=0)
        octets = ("sink/c", "application/octet-stream", b"\x00\xff", None)
        self.assertEqual(
            [(one.to, one.content_type, one.body, one.reply_as) for one in self.sink.sent],
            [("sink/a/b", "application/json", '{"ä":1}'.encode(), "r"), octets, octets],
        )
        for wrong in ({"to": "sink"}, {"to": "Sink/a"}, {"to": "sink/a", "reply": ""}):
            with self.assertRaises(Rejected) as rejected:
                self.do("send", body=1, **wrong)
            self.assertEqual(rejected.exception.code, "bad-send")

    def test_messages_of_sessions(self) -> None:
        body = {"op": "set", "key": "k", "value": 7}
        said = {"from": "sink/a", "attempt": 2, "reply": True, "body": body}
        reply = self.sink.deliver("sink/a", body, attempt=2, reply_wanted=True)
        event = self.sink.events[0]
        self.assertEqual((reply.parse(), event.kind, event.parse()), (said, "received", said))
        self.assertEqual(self.sink.get("k"), 7)
        for wrong, code in (({"fails": 1}, "told-to"), ({"op": "fly"}, "bad-message")):
            with self.assertRaises(Rejected) as rejected:
                self.sink.deliver("sink/a", wrong)
            self.assertEqual(rejected.exception.code, code)
        self.assertEqual(self.sink.deliver("sink/a", Reply.text("hi")), Reply.text("hi"))

    def test_answers(self) -> None:
        self.do("send", to="sink/a/b", body=1, reply="r", times=3)
        reply = {"body": {"answer": {"fails": 1, "op": "set", "key": "k", "value": 8}}}
        with self.assertRaises(Rejected) as rejected:
            self.sink.answer("r", reply)
        self.assertEqual(rejected.exception.code, "told-to")
        said = {"name": "r", "from": "sink/a/b", "attempt": 2, "refusal": None, "body": reply}
        answer = self.sink.answer("r", reply).parse()
        event = self.sink.events[0]
        self.assertEqual((answer, event.kind, event.parse()), (said, "answered", said))
        self.assertEqual(self.sink.get("k"), 8)
        said = said | {"attempt": 1, "body": "00ff"}
        self.assertEqual(self.sink.answer("r", Reply.bytes(b"\x00\xff")).parse(), said)
        refusal = {"code": "no", "message": "No.", "retriable": False}
        said = said | {"refusal": refusal, "body": None}
        self.assertEqual(self.sink.refuse("r", "no", "No.").parse(), said)

    def test_requests(self) -> None:
        options = {
            "timeout_ms": 1,
            "deadline_ms": 2,
            "attempts": 3,
            "redirects": 4,
            "answer_bytes": 5,
            "keep_headers": ["x-*"],
            "stream": {"kind": "token", "form": {"joined": "a.0"}},
        }
        a = {"id": "a", "method": "POST", "headers": [["x-a", "b"]], "body": "é"}
        self.assertIsNone(self.sink.send(REQUEST | a | {"options": options}).parse())
        b = {"id": "b", "options": {"stream": {"kind": "k", "form": "data"}}}
        self.assertIsNone(self.sink.send(REQUEST | b).parse())
        first, second = self.sink.requests
        self.assertEqual((first.method, first.url, first.body), ("POST", URL, "é".encode()))
        self.assertEqual(first.headers.pairs, (("x-a", "b"),))
        of = first.options
        numbers = (of.timeout_ms, of.deadline_ms, of.attempts, of.redirects, of.answer_bytes)
        self.assertEqual(numbers, (1, 2, 3, 4, 5))
        self.assertEqual((of.keep_headers, of.stream), (["x-*"], ("token", "joined", "a.0")))
        self.assertEqual((len(second.headers), second.body), (0, b""))
        self.assertEqual(second.options.stream, ("k", "data", None))
        problem = {"problem": "the number of attempts is 1 to 20, not 21"}
        self.assertEqual(self.sink.send(REQUEST | {"options": {"attempts": 21}}).parse(), problem)
        self.assertEqual((self.do("open-requests"), self.ask("open-requests")), (["a", "b"],) * 2)
        was = (self.do("cancel-request", id="b"), self.do("cancel-request", id="b"))
        self.assertEqual(was, (True, False))

    def test_answers_of_requests(self) -> None:
        a = {"id": "a", "options": {"stream": {"kind": "token", "form": "text"}}}
        self.sink.send(REQUEST | a)
        self.do("set", key="fail-answers", value=None)
        with self.assertRaises(Rejected) as rejected:
            self.sink.respond("a", parts=["hi"])
        self.assertEqual(rejected.exception.code, "told-to")
        self.do("delete", key="fail-answers")
        said = {"id": "a", "status": 200, "body": "hi", "attempts": 1, "attempt": 2}
        self.assertEqual(self.sink.respond("a").parse(), said)
        event = self.sink.events[-1]
        self.assertEqual((event.kind, event.parse()), ("answered", said))
        self.sink.send(REQUEST)
        failed = {"id": "c", "failure": "timeout", "body": "", "attempts": 5, "attempt": 1}
        self.assertEqual(self.sink.fail("c", "timeout", attempts=5).parse(), failed)
        self.assertEqual(self.sink.get("answers"), [said, failed])

    def test_presence_and_close(self) -> None:
        self.assertEqual(self.do("watch", wanted=True), {})
        told = [self.sink.presence(present).parse() for present in (True, False)]
        self.assertEqual((told, self.sink.get("presence")), ([True, False], [True, False]))
        events = [(event.kind, event.parse()) for event in self.sink.events]
        self.assertEqual(events, [("presence", True), ("presence", False)])
        self.do("watch", wanted=False)
        self.assertFalse(self.sink.watches_subscribers)
        self.assertEqual(self.do("close"), {})
        with self.assertRaises(Closed):
            self.do("close")
        self.assertEqual(self.ask("get", key="presence"), {"value": [True, False]})

    def test_who_the_client_is(self) -> None:
        asks, ann = {"op": "client"}, Client("accounts", "ann", {"role": "staff"})
        self.assertIsNone(self.sink.send(asks).parse())
        expected = {"kind": "accounts", "subject": "ann", "claims": {"role": "staff"}}
        self.assertEqual(self.sink.send(asks, client=ann).parse(), expected)
        self.assertEqual(self.sink.query(asks, client=ann).parse(), expected)

    def test_bodies(self) -> None:
        body = bytes(range(256))
        reply = self.sink.send_bytes(body, "image/png")
        self.assertEqual((reply.content_type, reply.body), ("image/png", body))
        self.assertEqual(self.do("big", bytes=1000), {"text": "x" * 1000})

    def test_migrate(self) -> None:
        with self.assertRaises(Refused) as refused:
            self.sink.migrate("0.0.9")
        self.assertEqual(refused.exception.reason, "no way from 0.0.9")
        with self.assertRaises(Trapped):
            self.sink.migrate("0.0.8")
        self.sink.migrate("1.0.0")
        self.assertEqual(self.sink.get("migrated"), {"from": "1.0.0"})


if __name__ == "__main__":
    unittest.main()
