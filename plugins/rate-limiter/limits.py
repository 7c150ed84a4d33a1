"""How much is left, in whole numbers alone: nothing is lost or won by rounding, however often.

A bucket's level is kept in parts of a token: a token has as many as the bucket's `every_ms` has
milliseconds, so that each millisecond adds exactly `refill` parts.
"""

from dataclasses import dataclass, field


@dataclass
class Bucket:
    """Holds `capacity` tokens, and gets `refill` back each `every_ms`, bit by bit."""

    capacity: int
    refill: int
    every_ms: int


@dataclass
class Window:
    """Allows `limit` in each `every_ms`, counted from the Unix epoch."""

    limit: int
    every_ms: int


@dataclass
class Rule:
    bucket: Bucket | None = None
    windows: list[Window] = field(default_factory=list)

    def most(self) -> int:
        """What can be taken at once, at best."""
        sizes = [window.limit for window in self.windows]
        if self.bucket is not None:
            sizes.append(self.bucket.capacity)
        return min(sizes)

    def problem(self) -> str | None:
        if self.bucket is None and not self.windows:
            return "a rule has a bucket, windows or both"
        if len(self.windows) > WINDOWS_MAX:
            return f"a rule has {WINDOWS_MAX} windows at most"
        if len({window.every_ms for window in self.windows}) < len(self.windows):
            return "two windows of one length: keep the smaller one"
        numbers = [n for w in self.windows for n in (w.limit, w.every_ms)]
        if self.bucket is not None:
            numbers += [self.bucket.capacity, self.bucket.refill, self.bucket.every_ms]
        if not all(1 <= n <= NUMBER_MAX for n in numbers):
            return f"the numbers of a rule are 1 to {NUMBER_MAX}"
        return None


WINDOWS_MAX = 8
#: A million a millisecond, and thirty years.
NUMBER_MAX = 10**12


@dataclass
class Count:
    """What was taken in one window."""

    every_ms: int
    number: int
    taken: int


@dataclass
class Usage:
    """What is kept of a key."""

    #: Parts of tokens in the bucket, and how many parts a token had then.
    parts: int | None = None
    every_ms: int = 1
    at_ms: int = 0
    counts: list[Count] = field(default_factory=list)
    #: It was refused since it was last allowed.
    exhausted: bool = False


class Meter:
    """A key's usage under a rule, at a time."""

    def __init__(self, rule: Rule, usage: Usage, now_ms: int) -> None:
        self.rule = rule
        self.now_ms = now_ms
        self.exhausted = usage.exhausted
        self._parts = 0
        if (bucket := rule.bucket) is not None:
            full = bucket.capacity * bucket.every_ms
            if usage.parts is None:
                self._parts = full
            else:
                # Under another rule a token may have had other parts.
                parts = usage.parts * bucket.every_ms // usage.every_ms
                self._parts = min(full, parts + max(0, now_ms - usage.at_ms) * bucket.refill)
        taken = {(count.every_ms, count.number): count.taken for count in usage.counts}
        self._taken = [taken.get((w.every_ms, now_ms // w.every_ms), 0) for w in rule.windows]

    def usage(self) -> Usage:
        bucket = self.rule.bucket
        pairs = zip(self.rule.windows, self._taken, strict=True)
        return Usage(
            parts=None if bucket is None else self._parts,
            every_ms=1 if bucket is None else bucket.every_ms,
            at_ms=self.now_ms,
            counts=[Count(w.every_ms, self.now_ms // w.every_ms, taken) for w, taken in pairs],
            exhausted=self.exhausted,
        )

    def remaining(self) -> int:
        """What can be taken now."""
        left = [max(0, w.limit - t) for w, t in zip(self.rule.windows, self._taken, strict=True)]
        if self.rule.bucket is not None:
            left.append(self._parts // self.rule.bucket.every_ms)
        return min(left)

    def retry_after_ms(self, n: int) -> int:
        """How long it takes, at least, until `n` can be taken; 0 where they can be now."""
        waits = [0]
        if (bucket := self.rule.bucket) is not None:
            lacking = n * bucket.every_ms - self._parts
            waits.append(-(-max(0, lacking) // bucket.refill))
        for window, taken in zip(self.rule.windows, self._taken, strict=True):
            if taken + n > window.limit:
                waits.append(window.every_ms - self.now_ms % window.every_ms)
        return max(waits)

    def take(self, n: int) -> bool:
        """Takes `n` of everything, or nothing at all."""
        if self.remaining() < n:
            return False
        self._add(n)
        return True

    def refund(self, n: int) -> None:
        """Gives `n` back, as far as there is room, to the bucket and the windows of now."""
        self._add(-n)

    def _add(self, n: int) -> None:
        if (bucket := self.rule.bucket) is not None:
            full = bucket.capacity * bucket.every_ms
            self._parts = min(full, self._parts - n * bucket.every_ms)
        self._taken = [max(0, taken + n) for taken in self._taken]
