"""Requests over HTTP, sessions that close and presence, against what the interface promises of a
node."""

import unittest
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from slotd_guest import (
    Context,
    Handler,
    Headers,
    HttpAnswer,
    HttpBody,
    HttpFailure,
    MigrateContext,
    QueryContext,
    RawHandler,
    Rejection,
    Reply,
    Response,
    Stream,
    secret,
)
from slotd_guest.testing import Closed, Harness, Rejected, Trapped, limits

URL = "https://api.example.com/v1/chat"
TEXT = "text/plain; charset=utf-8"
JOINED = Stream("token", joined="choices.0.delta.content")


class Doing(Handler):
    """Does what its test says."""

    told: Callable[[Any], Any]
    on_answer: Callable[[Context, HttpAnswer, HttpBody], Any]
    on_presence: Callable[[Context, bool], Any]

    def handle(self, cx: Context, message: Any) -> object:
        return type(self).told(cx)

    def query(self, cx: QueryContext, query: Any) -> object:
        return type(self).told(cx)


class Asking(Doing):
    """And takes what comes."""

    def http_answer(self, cx: Context, answer: HttpAnswer, body: HttpBody) -> object:
        return type(self).on_answer(cx, answer, body)

    def presence(self, cx: Context, present: bool) -> object:
        return type(self).on_presence(cx, present)


def asks(cx: Context) -> None:
    cx.http.post("llm", URL, json={"prompt": "hi"})


def asks_with(**options: Any) -> Callable[[Context], None]:
    return lambda cx: cx.http.post("llm", URL, **options)


class HttpTest(unittest.TestCase):
    def setUp(self) -> None:
        self.session = Harness(Asking)

    def do(self, told: Callable[[Context], Any], session: Harness | None = None) -> Any:
        Doing.told = staticmethod(told)
        return (session or self.session).send({}, sender="ann").parse()

    def ask(self, told: Callable[[QueryContext], Any]) -> Any:
        Doing.told = staticmethod(told)
        return self.session.query().parse()

    def answers(self, told: Callable[[Context, HttpAnswer, HttpBody], Any]) -> None:
        Asking.on_answer = staticmethod(told)

    def test_what_is_requested_is_what_the_test_sees(self) -> None:
        def told(cx: Context) -> Any:
            cx.http.post(
                "llm",
                URL,
                json={"prompt": "hi"},
                headers={"Authorization": f"Bearer {secret('API_KEY')}"},
                timeout="30s",
                deadline=timedelta(minutes=5),
                attempts=3,
                redirects=0,
                answer_bytes=1000,
                keep_headers=["x-ratelimit-*"],
                stream=JOINED,
            )
            cx.http.get("a", URL)
            cx.http.request("b", "PURGE", URL, body="é", headers=[("a", "b"), ("a", "c")])
            return cx.http.open()

        self.assertEqual(self.do(told), ["a", "b", "llm"])
        llm, a, b = self.session.requests
        self.assertEqual((llm.seq, llm.id, llm.method, llm.url), (1, "llm", "POST", URL))
        self.assertEqual(llm.parse(), {"prompt": "hi"})
        bearer = ("authorization", "Bearer {{secret:API_KEY}}")
        self.assertEqual(llm.headers.pairs, (bearer, ("content-type", "application/json")))
        of = llm.options
        self.assertEqual((of.timeout_ms, of.deadline_ms, of.attempts), (30_000, 300_000, 3))
        self.assertEqual((of.redirects, of.answer_bytes), (0, 1000))
        self.assertEqual(of.keep_headers, ["x-ratelimit-*"])
        self.assertEqual(of.stream, ("token", "joined", "choices.0.delta.content"))
        self.assertEqual(
            (a.method, len(a.headers), a.body, a.options.stream), ("GET", 0, b"", None)
        )
        self.assertEqual((b.method, b.body.decode(), b.headers["A"]), ("PURGE", "é", "b, c"))
        open_ids = [one.id for one in self.session.open_requests]
        self.assertEqual(open_ids, ["a", "b", "llm"])

    def test_bodies_say_what_they_are(self) -> None:
        for options, content_type, body in (
            ({"body": "hi"}, TEXT, b"hi"),
            ({"body": b"\x00\xff"}, None, b"\x00\xff"),
            ({"body": memoryview(b"a")}, None, b"a"),
            ({"body": Reply("x/y", b"a")}, "x/y", b"a"),
            ({"json": 0}, "application/json", b"0"),
            ({"json": 7, "headers": {"CONTENT-TYPE": "a/b"}}, "a/b", b"7"),
            ({}, None, b""),
        ):
            self.do(asks_with(**options))
            of = self.session.requests[-1]
            self.assertEqual((of.headers.get("content-type"), of.body), (content_type, body))
            self.assertLessEqual(len(of.headers.pairs), 1)

    def test_requests_go_with_their_message_and_queries_make_none(self) -> None:
        def fails(cx: Context) -> None:
            asks(cx)
            raise ValueError("told to")

        def rejects(cx: Context) -> None:
            cx.http.cancel("llm")
            cx.http.get("other", URL)
            cx.close()
            cx.watch_subscribers()
            raise Rejection("no", "No.")

        with self.assertRaises(Trapped):
            self.do(fails)
        self.assertEqual((self.session.requests, self.session.open_requests), ([], []))
        self.do(asks)
        with self.assertRaises(Rejected):
            self.do(rejects)
        self.assertEqual([one.id for one in self.session.open_requests], ["llm"])
        self.assertEqual(len(self.session.requests), 1)
        self.assertFalse(self.session.closed or self.session.watches_subscribers)
        for told in (
            asks,
            lambda cx: cx.http.cancel("llm"),
            lambda cx: cx.close(),
            lambda cx: cx.watch_subscribers(),
        ):
            with self.assertRaisesRegex(Trapped, "only `handle` may"):
                self.ask(lambda cx, told=told: told(cx._forbidden()))
        self.assertEqual(self.ask(lambda cx: cx.http.open()), ["llm"])
        self.assertFalse(hasattr(QueryContext, "close") or hasattr(MigrateContext, "http"))
        self.assertEqual(self.ask(lambda cx: hasattr(cx.http, "post")), False)

    def test_one_request_of_an_id_is_open_and_can_be_cancelled(self) -> None:
        self.do(asks_with(json=1))
        self.do(asks_with(json=2))
        self.assertEqual(len(self.session.requests), 2)
        self.assertEqual([one.parse() for one in self.session.open_requests], [2])
        cancelled = self.do(lambda cx: [cx.http.cancel("llm"), cx.http.cancel("llm")])
        self.assertEqual(cancelled, [True, False])
        for told in (
            lambda: self.session.respond("llm"),
            lambda: self.session.fail("llm", "timeout"),
            lambda: self.session.part("llm", "x"),
        ):
            with self.assertRaisesRegex(KeyError, "no request 'llm' is open"):
                told()

    def test_an_answer_comes_back_under_its_id(self) -> None:
        seen: list[Any] = []

        def told(cx: Context, answer: HttpAnswer, body: HttpBody) -> Any:
            self.assertIs(answer, cx.origin.http)
            self.assertEqual((cx.origin.kind, cx.origin.name, cx.sender), ("http", "llm", None))
            seen.append((answer, body))
            return cx.http.open()

        self.answers(told)
        self.do(asks_with(keep_headers=["X-Ratelimit-*"]))
        headers = [("Server", "x"), ("Link", "a"), ("link", "b"), ("x-ratelimit-left", "5")]
        reply = self.session.respond("llm", 429, json={"é": 1}, headers=headers, attempts=5)
        self.assertEqual(reply.parse(), [])
        self.do(asks)
        self.session.respond("llm")
        kept = [*headers[1:], ("content-type", "application/json")]
        (first, body), (second, nothing) = seen
        self.assertEqual(first, HttpAnswer("llm", Response(429, Headers(kept)), None, 5, 1))
        self.assertEqual(first.response.headers.pairs[0], ("link", "a"))
        self.assertEqual(dict(first.response.headers)["link"], "a, b")
        self.assertEqual(
            (first.ok, first.response.ok, "LINK" in first.response.headers), (False, False, True)
        )
        self.assertEqual(body, HttpBody("application/json", '{"é":1}'.encode()))
        self.assertEqual((body.json(), body.text), ({"é": 1}, '{"é":1}'))
        self.assertEqual((second, second.ok), (HttpAnswer("llm", Response(200)), True))
        self.assertEqual(nothing, HttpBody("application/octet-stream", b""))
        self.assertEqual((self.session.seq, self.session.open_requests), (4, []))

    def test_a_request_that_fails_for_good_says_why(self) -> None:
        seen: list[Any] = []
        self.answers(lambda cx, answer, body: seen.append((answer, body.text)))
        self.do(asks)
        self.session.fail("llm", "connect", "Nobody there.", attempts=5)
        self.do(asks)
        self.session.fail("llm", "protocol", status=200, body="half")
        (first, nothing), (second, half) = seen
        self.assertEqual(first.failure, HttpFailure("connect", "Nobody there."))
        self.assertEqual((first.response, first.ok, first.attempts, nothing), (None, False, 5, ""))
        self.assertEqual((second.failure.code, second.failure.response.status), ("protocol", 200))
        self.assertEqual((second.response, half), (None, "half"))

    def test_a_body_that_is_not_json_is_the_handlers_to_see(self) -> None:
        self.answers(lambda cx, answer, body: body.json() if answer.ok else body.text)
        self.do(asks)
        reply = self.session.respond(
            "llm", 502, body="<html>", headers={"Content-Type": "text/html"}
        )
        self.assertEqual(reply.parse(), "<html>")
        self.do(asks)
        with self.assertRaises(Rejected) as rejected:
            self.session.respond("llm", body=b"<html>")
        self.assertEqual(rejected.exception.code, "bad-message")
        self.assertEqual(self.session.open_requests, [], "it is given up")

    def test_an_answer_that_fails_is_tried_again_and_given_up(self) -> None:
        failure: Exception | None = ValueError("oh")

        def told(cx: Context, answer: HttpAnswer, body: HttpBody) -> int:
            cx.http.get("other", URL)
            cx.http.get("llm", URL)
            if failure is not None:
                raise failure
            return answer.attempt

        def left() -> list[tuple[str, str]]:
            return [(one.id, one.method) for one in self.session.open_requests]

        self.answers(told)
        self.do(asks)
        with self.assertRaises(Trapped):
            self.session.respond("llm")
        failure = Rejection("busy", "Not yet.", retriable=True)
        with self.assertRaises(Rejected):
            self.session.fail("llm", "timeout")
        self.assertEqual(left(), [("llm", "POST")])
        failure = None
        self.assertEqual(self.session.respond("llm").parse(), 3)
        # It has asked again, under the same id too.
        self.assertEqual(left(), [("llm", "GET"), ("other", "GET")])
        failure = Rejection("no", "Never.")
        with self.assertRaises(Rejected):
            self.session.respond("llm")
        self.assertEqual(left(), [("other", "GET")])
        failure = ValueError("oh")
        for _ in range(limits.ANSWER_ATTEMPTS_MAX):
            with self.assertRaises(Trapped):
                self.session.respond("other")
        self.assertEqual(left(), [])

    def test_answers_and_presence_need_methods_of_their_own_or_bytes(self) -> None:
        session = Harness(Doing)
        self.do(asks, session)
        with self.assertRaises(Rejected) as rejected:
            session.respond("llm")
        self.assertEqual(rejected.exception.code, "no-requests")
        self.assertEqual(session.open_requests, [])
        self.do(lambda cx: cx.watch_subscribers(), session)
        with self.assertRaises(Rejected) as rejected:
            session.presence(True)
        self.assertEqual(rejected.exception.code, "no-presence")

        class Raw(RawHandler):
            def handle(self, cx: Context, body: bytes) -> Reply:
                if cx.origin.kind == "client":
                    asks(cx)
                    cx.watch_subscribers()
                return Reply.json([cx.origin.kind, cx.content_type, len(body)])

        raw = Harness(Raw)
        raw.send_bytes(b"")
        self.assertEqual(raw.respond("llm", body="four").parse(), ["http", TEXT, 4])
        self.assertEqual(raw.presence(True).parse(), ["presence", "application/octet-stream", 0])

        class Async(Doing):
            async def http_answer(self, cx: Context, answer: HttpAnswer, body: HttpBody) -> object:
                return None

        class Short(Doing):
            def http_answer(self, cx: Context, answer: HttpAnswer) -> object:  # type: ignore[override]
                return None

        class Shorter(Doing):
            def presence(self, cx: Context) -> object:  # type: ignore[override]
                return None

        for handler in (Async, Short, Shorter):
            with self.assertRaises(TypeError):
                Harness(handler)

    def test_a_stream_is_shown_in_parts_that_have_numbers(self) -> None:
        def told(cx: Context, answer: HttpAnswer, body: HttpBody) -> Any:
            return [cx.seq, answer.attempts, body.content_type, body.text]

        def shown() -> list[Any]:
            events = [(e.seq, e.kind, e.content_type, e.body.decode()) for e in self.session.events]
            self.session.events.clear()
            return events

        self.answers(told)
        self.do(asks_with(stream=JOINED))
        self.session.part("llm", "He", "l")
        self.session.part("llm", "lo")
        self.assertEqual(self.session.respond("llm").parse(), [4, 1, TEXT, "Hello"])
        self.assertEqual(shown(), [(2, "token", TEXT, "Hel"), (3, "token", TEXT, "lo")])

        self.do(asks_with(stream=Stream("chunk")))
        csv = {"content-type": "text/csv"}
        reply = self.session.respond("llm", parts=["a", ["b", "c"]], headers=csv)
        self.assertEqual(reply.parse(), [8, 1, "text/csv", "abc"])
        self.assertEqual(shown(), [(6, "chunk", TEXT, "a"), (7, "chunk", TEXT, "bc")])

        self.do(asks_with(stream=Stream("event", "data")))
        self.session.part("llm", {"a": 1}, "two\nlines")
        whole = 'data: {"a":1}\n\ndata: two\ndata: lines\n\n'
        self.assertEqual(self.session.respond("llm").parse(), [11, 1, "text/event-stream", whole])
        self.assertEqual(
            shown(), [(10, "event", TEXT, '{"a":1}'), (10, "event", TEXT, "two\nlines")]
        )

    def test_a_stream_that_begins_again_says_so(self) -> None:
        self.answers(lambda cx, answer, body: [answer.attempts, body.text])
        self.do(asks_with(stream=JOINED))
        self.assertEqual(self.session.restart("llm"), [], "nothing was shown")
        self.session.part("llm", "Hel")
        (event,) = self.session.restart("llm")
        told = {"id": "llm", "attempt": 3}
        self.assertEqual((event.seq, event.kind, event.parse()), (3, "slotd.restarted", told))
        self.assertEqual(self.session.respond("llm", parts=["Bye"]).parse(), [3, "Bye"])
        self.do(asks_with(stream=JOINED))
        self.assertEqual(self.session.respond("llm", 500, body="no").parse(), [1, "no"])
        self.do(asks)
        with self.assertRaisesRegex(ValueError, "made without `stream`"):
            self.session.part("llm", "x")

    def test_options_that_cannot_be_are_refused_and_nothing_is_done(self) -> None:
        def why(id: str = "llm", **options: Any) -> Any:
            def told(cx: Context) -> Any:
                try:
                    cx.http.post(id, URL, **options)
                except Rejection as rejection:
                    return [rejection.code, rejection.retriable, rejection.message]
                return "asked"

            return self.do(told)

        path = "a path has keys and numbers with dots between them, and 256 bytes at most"
        for says, options in (
            ("the id of a request must have 1 to 128 bytes; this one has 0", {"id": ""}),
            ("this one has 130", {"id": "ä" * 65}),
            ("the id of a request has no control characters", {"id": "a\n"}),
            (
                "the timeout of an attempt, in milliseconds, is 1 to 600000, not 0",
                {"timeout": "0ms"},
            ),
            ("not 660000", {"timeout": "11m"}),
            ("the deadline, in milliseconds, is 1 to 86400000, not 90000000", {"deadline": "25h"}),
            ("not 4294967295", {"deadline": "1000d"}),
            ("the number of attempts is 1 to 20, not 0", {"attempts": 0}),
            ("not 21", {"attempts": 21}),
            ("at most 10 redirects are followed", {"redirects": 11}),
            ("at most 10", {"redirects": 1000}),
            (
                "the size of the answer's body is 1 to 1048576, not 1048577",
                {"answer_bytes": 1024 * 1024 + 1},
            ),
            (path, {"stream": Stream("a", joined="a..b")}),
            (path, {"stream": Stream("a", joined="x" * 257)}),
        ):
            code, retriable, message = why(**options)
            self.assertEqual((code, retriable), ("bad-request", False))
            self.assertIn(says, message)
        self.assertEqual(self.session.requests, [])
        most = {"attempts": 20, "redirects": 10, "answer_bytes": 1024 * 1024}
        self.assertEqual(why(timeout="10m", deadline="1d", **most), "asked")

    def test_what_is_no_request_at_all_ends_the_call(self) -> None:
        wrong: list[tuple[type[Exception], Callable[[Context], Any]]] = [
            (TypeError, lambda cx: cx.http.get(7, URL)),
            (TypeError, lambda cx: cx.http.get("a", None)),
            (TypeError, asks_with(time_out="1s")),
            (TypeError, asks_with(headers={"a": None})),
            (TypeError, asks_with(json=1, body="x")),
            (TypeError, asks_with(json={1})),
            (TypeError, asks_with(body=7)),
            (TypeError, asks_with(attempts=1.5)),
            (ValueError, asks_with(attempts=-1)),
            (ValueError, asks_with(timeout="1 minute")),
            (TypeError, asks_with(timeout=30)),
            (TypeError, asks_with(keep_headers="x-a")),
            (TypeError, asks_with(stream="text")),
            (ValueError, asks_with(stream=Stream("a", "json"))),  # type: ignore[arg-type]
            (ValueError, lambda cx: secret("a b")),
        ]
        for kind, told in wrong:
            with self.assertRaises(Trapped) as trapped:
                self.do(told)
            self.assertIsInstance(trapped.exception.__cause__, kind)
        for says, url, options in (
            ("the URL must begin with https", "ftp://a/", {}),
            ("the URL must begin with https", "/path", {}),
            ("invalid URL", "https://a:b/", {}),
            ("put credentials in a header", "https://u:p@example.com/", {}),
            ("'a-b' is no name of a secret", "https://example.com/{{secret:a-b}}", {}),
            ("limit: the URL", "https://example.com/" + "x" * 8192, {}),
            ("invalid method", URL, {"method": "G ET"}),
            ("CONNECT is not for requests", URL, {"method": "CONNECT"}),
            ("invalid header name", URL, {"headers": {"a b": "c"}}),
            ("slotd sets the header Host itself", URL, {"headers": {"Host": "c"}}),
            ("control characters", URL, {"headers": {"a": "b\r\nc: d"}}),
            ("limit: the headers", URL, {"headers": {"a": "x" * 16 * 1024}}),
            (
                "limit: requests: the method, URL and headers of one may have 32768 bytes",
                URL,
                {"headers": {"a": "x" * 32 * 1024}},
            ),
            ("limit: a request may have 64 headers", URL, {"headers": [("a", "b")] * 65}),
            ("keep 16 headers more", URL, {"keep_headers": ["a"] * 17}),
            ("an event's kind is a word", URL, {"stream": Stream("a b")}),
            ("reserved", URL, {"stream": Stream("slotd.x")}),
            (
                "limit: requests: a body may have 262144 bytes; this one has 262145",
                URL,
                {"body": bytes(262_145)},
            ),
        ):
            method = options.pop("method", "GET")
            with self.assertRaisesRegex(Trapped, says):
                self.do(lambda cx, m=method, u=url, o=options: cx.http.request("a", m, u, **o))

        def many(count: int) -> Callable[[Context], Any]:
            def told(cx: Context) -> None:
                for i in range(count):
                    cx.http.get(f"n{i}", URL)

            return told

        with self.assertRaisesRegex(Trapped, "limit: requests: a message may make at most 16"):
            self.do(many(17))
        self.assertEqual((self.session.requests, self.session.open_requests), ([], []))
        self.do(many(16))
        url = f"https://{secret('HOST')}.example.com/?k={secret('K')}"
        self.do(lambda cx: cx.http.post("s", url, body=bytes(262_144)))
        self.assertEqual(len(self.session.open_requests), 17)

    def test_a_closed_session_takes_no_messages_and_waits_for_nothing(self) -> None:
        def told(cx: Context) -> str:
            cx.state.set("a", 1)
            cx.timers.after("t", "5ms")
            cx.send("stock/a", 1, reply_as="r")
            asks(cx)
            cx.watch_subscribers()
            cx.expire(after="1h")
            cx.close()
            return "bye"

        self.assertEqual(self.do(told), "bye")
        session = self.session
        self.assertEqual((session.timers, session.unanswered, session.open_requests), ([], [], []))
        self.assertTrue(session.closed and not session.watches_subscribers)
        self.assertEqual(len(session.sent), 1)
        for told_again in (lambda: self.do(asks), lambda: session.deliver("cart/ann", 1)):
            with self.assertRaises(Closed) as closed:
                told_again()
            self.assertEqual(closed.exception.code, "session-closed")
        with self.assertRaises(ValueError):
            session.presence(True)
        self.assertEqual((self.ask(lambda cx: cx.state.get("a")), session.seq), (1, 1))
        session.advance("1h")
        self.assertEqual((session.closed, self.do(lambda cx: cx.seq)), (False, 1))

    def test_presence_is_told_to_who_watches(self) -> None:
        def told(cx: Context, present: bool) -> Any:
            if not present:
                raise ValueError("oh")
            cx.emit("presence", present)
            return [cx.origin.kind, cx.origin.present, cx.sender, cx.content_type]

        Asking.on_presence = staticmethod(told)
        with self.assertRaises(ValueError):
            self.session.presence(True)
        self.do(lambda cx: cx.watch_subscribers())
        self.assertTrue(self.session.watches_subscribers)
        says = ["presence", True, None, "application/octet-stream"]
        self.assertEqual(self.session.presence(True).parse(), says)
        with self.assertRaises(Trapped):
            self.session.presence(False)
        self.assertEqual((self.session.seq, [e.parse() for e in self.session.events]), (2, [True]))
        self.do(lambda cx: cx.watch_subscribers(False))
        with self.assertRaises(ValueError):
            self.session.presence(True)


if __name__ == "__main__":
    unittest.main()
