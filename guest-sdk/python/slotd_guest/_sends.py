"""Messages between sessions."""

from __future__ import annotations

from dataclasses import dataclass

from ._errors import Rejection
from ._host import Host
from ._json import to_json
from ._reply import Reply


class Address(str):
    """A session of a service: the text ``service/session``, and its two parts."""

    __slots__ = ()

    @property
    def service(self) -> str:
        """The service's name, which has no ``/``."""
        return self.partition("/")[0]

    @property
    def session(self) -> str:
        """The session's id within the service."""
        return self.partition("/")[2]


@dataclass(frozen=True)
class Delivery:
    """Of a message that another session has sent."""

    sender: Address
    #: How often the message is tried, this time included: 1 the first time.
    attempt: int = 1
    #: The sender is told what this call replies, or why it does not.
    reply_wanted: bool = False


@dataclass(frozen=True)
class Refusal:
    """Why a message was not handled: the rejection of the other's handler, or the error that a
    client would have got."""

    code: str
    message: str
    #: Whether the same may succeed later.
    retriable: bool = False


@dataclass(frozen=True)
class Answer:
    """Of the outcome of a message that this session sent with ``reply_as``."""

    #: As in ``reply_as``.
    name: str
    #: The session that the message was sent to.
    sender: Address
    #: Why the message was not handled, and is not sent again. ``None`` where it was: the body is
    #: the reply.
    refusal: Refusal | None = None
    #: How often the outcome is tried, this time included: 1 the first time.
    attempt: int = 1


def send(host: Host, to: str, value: object, reply_as: str | None) -> None:
    """As ``Context.send``."""
    if not isinstance(to, str):
        raise TypeError(f'an address is a str, "service/session", not {to!r:.100}')
    if reply_as is not None and not isinstance(reply_as, str):
        raise TypeError(f"the name of a reply is a str, not {reply_as!r:.100}")
    # A session's id may have a `/`, a service's name has none.
    service, slash, session = to.partition("/")
    if not slash:
        why = f'"{to}" is no address of a session: write "service/session"'
        raise Rejection("bad-send", why)
    if isinstance(value, Reply):
        content_type, body = value.content_type, value.body
    else:
        content_type, body = "application/json", to_json(value)
    wrong = host.send(service, session, content_type, body, reply_as)
    if wrong is not None:
        raise Rejection("bad-send", wrong)
