"""Who a client was shown to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Client:
    """Who a client was shown to be: see :attr:`Context.client`. What it says of itself,
    :attr:`Context.sender`, is checked by nobody; this was, by a token. It is kept with the
    message."""

    #: How it was shown: ``token`` by a token with a name, which is the subject; ``session`` by a
    #: token that slotd has minted for this session; ``root`` by the listener's own; else the name
    #: of the issuer of its token, as the operator's policy has it.
    kind: str
    #: Who it is, among those of its kind; ``None``: nobody in particular.
    subject: str | None = None
    #: What is said of it besides, of what the operator has named.
    claims: Mapping[str, str] = field(default_factory=dict)
