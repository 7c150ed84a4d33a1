"""slotd handlers in Python.

A handler decides what happens to the messages of a session. Subclass :class:`Handler`::

    from slotd_guest import Context, Handler, Rejection

    class Poll(Handler):
        def handle(self, cx: Context, message: dict) -> object:
            ...
"""

from ._client import Client
from ._context import Context, Firing, Level, Log, MigrateContext, Origin, QueryContext
from ._errors import Rejection
from ._handler import Handler, RawHandler
from ._http import (
    Headers,
    Http,
    HttpAnswer,
    HttpBody,
    HttpFailure,
    HttpView,
    Response,
    Stream,
    secret,
)
from ._json import from_json, to_json
from ._reply import Reply
from ._sends import Address, Answer, Delivery, Refusal
from ._state import State, StateView
from ._timers import Timer, Timers, TimersView

__all__ = [
    "Address",
    "Answer",
    "Client",
    "Context",
    "Delivery",
    "Firing",
    "Handler",
    "Headers",
    "Http",
    "HttpAnswer",
    "HttpBody",
    "HttpFailure",
    "HttpView",
    "Level",
    "Log",
    "MigrateContext",
    "Origin",
    "QueryContext",
    "RawHandler",
    "Refusal",
    "Rejection",
    "Reply",
    "Response",
    "State",
    "StateView",
    "Stream",
    "Timer",
    "Timers",
    "TimersView",
    "from_json",
    "secret",
    "to_json",
]
