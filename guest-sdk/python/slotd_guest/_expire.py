"""Sessions that are deleted at a time."""

from __future__ import annotations

from datetime import datetime

from ._errors import Rejection
from ._host import Host
from ._timers import Duration, to_ms, to_time


def expire(host: Host, time_ms: int, after: Duration | None, at: datetime | int | None) -> None:
    """As ``Context.expire``, for a message of that time."""
    if after is not None and at is None:
        ms = time_ms + to_ms(after)
    elif at is not None and after is None:
        ms = to_time(at, "the time at which a session expires")
    else:
        raise TypeError("a session expires `after` a while or `at` a time: one of the two")
    # The interface has 64 bits; what is more is as much too late.
    wrong = host.expire(min(ms, 2**64 - 1))
    if wrong is not None:
        raise Rejection("bad-moment", wrong)
