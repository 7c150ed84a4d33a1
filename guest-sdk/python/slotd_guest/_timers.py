"""Messages that a session sends itself later."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from ._errors import Rejection
from ._host import Host
from ._json import decode, to_json
from ._reply import Reply

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MS = timedelta(milliseconds=1)

#: How many the host gives at a time.
_PAGE = 1_000

#: So long: a ``timedelta``, or text: ``"500ms"``, ``"30s"``, ``"10m"``, ``"2h"``, ``"1d"``.
Duration = timedelta | str

_DURATION = re.compile(r"(\d+)(?:\.(\d+))?(ms|s|m|h|d)", re.ASCII)
_UNITS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def to_ms(duration: Duration, what: str = "a delay") -> int:
    """In milliseconds; not a part of one less, since a timer is never early."""
    if isinstance(duration, timedelta):
        whole, rest = divmod(duration, _MS)
        ms = whole + bool(rest)
        if ms < 0:
            raise ValueError(f"{what} is not negative, and {duration!r} is")
        return ms
    if not isinstance(duration, str):
        raise TypeError(f'{what} is a timedelta or text like "10m", not {duration!r}')
    match = _DURATION.fullmatch(duration)
    if match is None or len(duration) > 32:
        units = ", ".join(_UNITS)
        raise ValueError(f'{what} is like "10m", not {duration!r}: the units are {units}')
    whole, part, unit = match[1], match[2] or "", _UNITS[match[3]]
    # Digits, so that "0.1s" is 100 ms and no more.
    divisor: int = 10 ** len(part)
    return -(-int(whole + part) * unit // divisor)


def to_time(time: datetime | int, what: str = "a timer's time") -> int:
    """In milliseconds since the Unix epoch; what is before it has passed anyway."""
    if isinstance(time, datetime):
        if time.tzinfo is None:
            raise ValueError(
                f"{time!r} has no time zone: {what} is one with it, as `cx.time` is"
            )
        return max(0, -(-(time - _EPOCH) // _MS))
    if isinstance(time, bool) or not isinstance(time, int):
        raise TypeError(
            f"{what} is a datetime, or milliseconds since the Unix epoch, not {time!r}"
        )
    return max(0, time)


@dataclass(frozen=True)
class Timer:
    """A timer that is set."""

    name: str
    #: The time that it is for next, milliseconds since the Unix epoch.
    due_ms: int
    content_type: str
    body: bytes
    #: How often the message for that time has failed.
    failures: int

    @property
    def due(self) -> datetime:
        """:attr:`due_ms` as a ``datetime`` in UTC."""
        return _EPOCH + timedelta(milliseconds=self.due_ms)

    def parse(self) -> Any:
        """The body from JSON."""
        return decode(self.body)


#: Inside of `TimersView` the name is a method's.
_List = list


class TimersView:
    """The session's timers, to read."""

    __slots__ = ("_host",)

    def __init__(self, host: Host) -> None:
        self._host = host

    def get(self, name: str) -> Timer | None:
        """The timer of that name, if it is set."""
        found = self._host.timer(_name(name))
        return None if found is None else Timer(*found)

    def list(self) -> _List[Timer]:
        """All of them, in order of the names' bytes."""
        found: list[Timer] = []
        while True:
            after = found[-1].name if found else None
            page = self._host.timers(after, _PAGE)
            found += [Timer(*timer) for timer in page]
            if len(page) < _PAGE:
                return found


class Timers(TimersView):
    """The session's timers: messages that it sends itself later. They are set and cancelled with
    the message that does so, or not at all.

    A timer's message has the body that it was set with (as JSON; a :class:`Reply` as it is) and an
    ``origin`` of the kind ``timer``. Setting one of a name that is set replaces it. The methods
    that set one give the time that it is for, in milliseconds since the Unix epoch, and raise the
    rejection ``bad-moment`` where there can be no such time.

    A name has 1 to 128 bytes and no control characters; a session has 1,000 timers and 1 MiB of
    them, 64 KiB a body, and one message sets or cancels 256. Past a limit the call ends.
    """

    __slots__ = ()

    def after(self, name: str, delay: Duration, body: object = None) -> int:
        """Fires once, so long after this message's time: never earlier."""
        return self._set(name, "after", to_ms(delay), body)

    def at(self, name: str, time: datetime | int, body: object = None) -> int:
        """Fires once, at a ``datetime`` with its time zone, or at milliseconds since the Unix
        epoch; one that has passed is due now; in a timer's own message 100 ms later at the
        earliest."""
        return self._set(name, "at", to_time(time), body)

    def every(self, name: str, period: Duration, body: object = None) -> int:
        """Fires again and again, the first time that long after this message's time; 100 ms at
        least. A period does not drift: times that were missed are one message that says how
        many."""
        return self._set(name, "every", to_ms(period, "a period"), body)

    def cron(self, name: str, expression: str, zone: str, body: object = None) -> int:
        """Fires at the times that a cron expression names, as :meth:`every`: five fields (minute,
        hour, day of the month, month, day of the week), in a time zone by its IANA name
        (``Europe/Berlin``, ``UTC``)."""
        for value, what in ((expression, "a cron expression"), (zone, "a time zone")):
            if not isinstance(value, str):
                raise TypeError(f"{what} is a str, not {value!r}")
        return self._set(name, "cron", (expression, zone), body)

    def cancel(self, name: str) -> bool:
        """Whether there was one."""
        return self._host.cancel(_name(name))

    def _set(self, name: str, kind: str, value: Any, body: object) -> int:
        if isinstance(body, Reply):
            content_type, data = body.content_type, body.body
        else:
            content_type, data = "application/json", to_json(body)
        # The interface has 64 bits; what is more is as much too late.
        value = min(value, 2**64 - 1) if isinstance(value, int) else value
        due = self._host.schedule(_name(name), kind, value, content_type, data)
        if isinstance(due, str):
            raise Rejection("bad-moment", due)
        return due


def _name(name: str) -> str:
    if not isinstance(name, str):
        raise TypeError(f"a timer's name is a str, not {name!r}")
    return name
