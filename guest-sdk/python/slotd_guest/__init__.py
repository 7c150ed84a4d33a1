"""slotd handlers in Python.

A handler decides what happens to the messages of a session. Subclass :class:`Handler`::

    from slotd_guest import Context, Handler, Rejection

    class Poll(Handler):
        def handle(self, cx: Context, message: dict) -> object:
            ...
"""

from ._context import Context, Level, Log, MigrateContext, Origin, QueryContext
from ._errors import Rejection
from ._handler import Handler, RawHandler, Reply
from ._json import from_json, to_json
from ._state import State, StateView

__all__ = [
    "Context",
    "Handler",
    "Level",
    "Log",
    "MigrateContext",
    "Origin",
    "QueryContext",
    "RawHandler",
    "Rejection",
    "Reply",
    "State",
    "StateView",
    "from_json",
    "to_json",
]
