"""What a call must not find of the calls before it. An instance serves many sessions in turn: what
Python itself keeps between calls is put back at the start of each, so that a message's result does
not depend on what its instance did earlier."""

from __future__ import annotations

import hashlib
import os
import random
import sys
from typing import Any

#: What modules of the standard library remember from call to call.
_REMEMBERED = {
    "uuid": ("_node", "_last_timestamp", "_last_timestamp_v7", "_last_counter_v7"),
}


class Chance:
    """The random bytes of a call. The host's own are the message's too, but what runs below Python
    takes some of them at the first call of an instance, and a message must get the same at any.
    To be made before the handler's modules are imported: they may keep what they find here."""

    def __init__(self) -> None:
        self._hosts = os.urandom
        self._key = b""
        self._count = 0
        os.urandom = self.draw
        # What `random` has taken for its own: of `SystemRandom` and `secrets`, and of generators
        # that are seeded with nothing.
        module: Any = random
        module._urandom = self.draw
        seed = random.Random.seed

        def seed_of_call(generator: Any, a: Any = None, version: int = 2) -> None:
            seed(generator, int.from_bytes(self.draw(32), "little") if a is None else a, version)

        module.Random.seed = seed_of_call
        module.seed = module._inst.seed

    def begin(self, message: tuple[str, str, int] | None) -> None:
        """For the kind of call, the session and the number; ``None`` where they are not told."""
        told = self._hosts(32) if message is None else repr(message).encode()
        self._key = hashlib.sha256(told).digest()
        self._count = 0
        # Also forgets the half that `gauss` keeps for the next time.
        random.seed()

    def draw(self, size: int, /) -> bytes:
        if size < 0:
            raise ValueError("negative argument not allowed")
        self._count += 1
        return hashlib.shake_256(self._key + self._count.to_bytes(8, "little")).digest(size)


class Fresh:
    """Made once, after all modules are there; :meth:`begin` is for the start of each call."""

    def __init__(self, chance: Chance) -> None:
        self._chance = chance
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

    def begin(self, message: tuple[str, str, int] | None) -> None:
        self._chance.begin(message)
        if self._decimal is not None:
            self._decimal.setcontext(self._decimal_context.copy())
        for module, name, value in self._remembered:
            module[name] = value
