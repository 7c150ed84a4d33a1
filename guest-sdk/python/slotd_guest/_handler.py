"""What a plugin subclasses."""

from __future__ import annotations

from typing import Any

from ._context import Context, MigrateContext, QueryContext
from ._errors import Rejection
from ._http import HttpAnswer, HttpBody
from ._reply import Reply
from ._sends import Answer


class _Base:
    def migrate(self, cx: MigrateContext, from_version: str) -> str | None:
        """Brings a session's state from the shape that version ``from_version`` left to this
        one's. Called once a session, in the transaction of its first message under this version,
        never for a new session.

        A text that is returned refuses, as a :class:`Rejection` that is raised does: the session
        then stays on ``from_version``, working.

        It is called on the way back too: ``from_version`` may be a later version. Without a
        ``migrate`` of its own a version takes sessions over from earlier versions and from its own,
        as they are, and from no later one.
        """
        return None


class Handler(_Base):
    """Decides what happens to the messages of a session, with JSON in and out.

    A new object is made for each call: what is put on ``self`` is gone after it. Whatever must be
    remembered goes to ``cx.state``, because an instance's memory may be thrown away between any two
    calls, and serves other sessions meanwhile.

    Any exception but :class:`Rejection` that leaves a method ends the call: nothing is kept, the
    sender gets an error 500, and the traceback goes to the node's log.
    """

    def handle(self, cx: Context, message: Any) -> object:
        """Applies a message. All that it wrote and emitted is committed with the message, and what
        it returns goes out as JSON (a :class:`Reply`: as it is) once that is durable.

        ``message`` is the body from JSON. With a type hint (a dataclass, a ``TypedDict``, ``int``,
        ``list[str]`` ..) it is made sure to be that; a body that is not is rejected as
        ``bad-message``.
        """
        raise NotImplementedError(f"{type(self).__name__} has no method `handle`")

    def answer(self, cx: Context, answer: Answer, reply: Any) -> object:
        """Applies the outcome of a message that this session sent with ``reply_as``. As
        :meth:`handle`, with ``answer`` for whose outcome it is (``cx.origin.answer`` is the same).

        ``reply`` is what the other session replied, from JSON, and is made sure to be what its type
        hint says; ``None`` where ``answer.refusal`` says why there is none.

        Without this method an outcome is rejected as ``no-answers``, and kept for an operator."""
        raise Rejection("no-answers", "this plugin takes no answers")

    def http_answer(self, cx: Context, answer: HttpAnswer, body: HttpBody) -> object:
        """Applies what came of a request over HTTP (``cx.http``). As :meth:`handle`, with
        ``answer`` for whose answer it is (``cx.origin.http`` is the same). It may make another
        request of the same id.

        ``body`` is the answer's, with ``json()``, ``text`` and ``content``; of a failure it is what
        had come of the answer.

        Without this method an answer is rejected as ``no-requests``, and kept for an operator."""
        raise Rejection("no-requests", "this plugin takes no answers of requests")

    def presence(self, cx: Context, present: bool) -> object:
        """The session's subscribers have come, or gone, if the handler has asked for that with
        ``cx.watch_subscribers()``: there is one, and there was none; or the last one has been gone
        for some seconds. As :meth:`handle`, except that what fails is not tried again."""
        raise Rejection("no-presence", "this plugin does not look at who is subscribed")

    def query(self, cx: QueryContext, query: Any) -> object:
        """Answers a question from the state; it can't change anything. As :meth:`handle`, with
        ``bad-query`` for what is not understood."""
        raise Rejection("no-queries", "this plugin answers no queries")


class RawHandler(_Base):
    """As :class:`Handler`, with bytes in and a :class:`Reply` out. ``handle`` gets outcomes of
    messages, answers of requests and presence too: see ``cx.origin``."""

    def handle(self, cx: Context, body: bytes) -> Reply:
        """As :meth:`Handler.handle`."""
        raise NotImplementedError(f"{type(self).__name__} has no method `handle`")

    def query(self, cx: QueryContext, body: bytes) -> Reply:
        """As :meth:`Handler.query`."""
        raise Rejection("no-queries", "this plugin answers no queries")
