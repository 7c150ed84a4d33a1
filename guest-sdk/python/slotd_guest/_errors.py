"""The one exception that a handler raises on purpose."""

from __future__ import annotations


class Rejection(Exception):
    """A refusal: it becomes the sender's error (422, with this code) and changes nothing.

    ``code`` is kebab-case, for programs (64 bytes at most); ``message`` is one sentence, for
    people (4,096 bytes). ``retriable`` says that the same message may succeed later.
    """

    code: str
    message: str
    retriable: bool

    def __init__(self, code: str, message: str, *, retriable: bool = False) -> None:
        # Said here, where the line of the caller is known, and not when it goes to the host.
        for name, text in (("code", code), ("message", message)):
            if not isinstance(text, str):
                raise TypeError(f"a rejection's {name} is a str, not {text!r}")
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.retriable = bool(retriable)

    def __str__(self) -> str:
        return f"{self.message} ({self.code})"

    def __repr__(self) -> str:
        retriable = ", retriable=True" if self.retriable else ""
        return f"Rejection({self.code!r}, {self.message!r}{retriable})"
