"""What a call must not find of the calls before it. An instance serves many sessions in turn: what
Python itself keeps between calls is put back at the start of each, so that a message's result does
not depend on what its instance did earlier."""

from __future__ import annotations

import os
import sys
from typing import Any

#: What modules of the standard library remember from call to call.
_REMEMBERED = {
    "uuid": ("_node", "_last_timestamp", "_last_timestamp_v7", "_last_counter_v7"),
}


class Fresh:
    """Made once, after all modules are there; :meth:`begin` is for the start of each call."""

    def __init__(self) -> None:
        self._random: Any = sys.modules.get("random")
        self._decimal: Any = sys.modules.get("decimal")
        if self._decimal is not None:
            self._decimal_context = self._decimal.getcontext().copy()
        self._remembered = [
            (vars(sys.modules[module]), name, vars(sys.modules[module])[name])
            for module, names in _REMEMBERED.items()
            if module in sys.modules
            for name in names
            if name in vars(sys.modules[module])
        ]

    def begin(self) -> None:
        if self._random is not None:
            # From the host's random bytes, which are made of the message. Seeding also forgets the
            # half that `gauss` keeps for the next time.
            self._random.seed(int.from_bytes(os.urandom(32), "little"))
        if self._decimal is not None:
            self._decimal.setcontext(self._decimal_context.copy())
        for module, name, value in self._remembered:
            module[name] = value
