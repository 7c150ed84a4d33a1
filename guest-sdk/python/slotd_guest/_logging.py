"""`print` and `logging`, to the node's log."""

from __future__ import annotations

import io
import sys
from typing import Any

from ._host import Host

#: What is kept of a line that has not ended; the host cuts lines there too.
_LINE_CHARS_MAX = 2_048


class Stream(io.TextIOBase):
    """Standard output or error: each line goes to the log."""

    def __init__(self, host: Host, level: int) -> None:
        self._host = host
        self._level = level
        self._begun = ""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        return "replace"

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        *lines, rest = text.split("\n")
        for line in lines:
            self._begun += line
            self.end()
        self._begun = (self._begun + rest)[:_LINE_CHARS_MAX]
        return len(text)

    def end(self) -> None:
        """A line that was begun ends with its call."""
        if self._begun:
            self._host.log(self._level, self._begun)
            self._begun = ""


def to_log(host: Host) -> tuple[Stream, Stream]:
    """From here on what is printed goes to the log: standard output at the level info, standard
    error at warn, and `logging`, where the program has not set it up itself, at its own levels."""
    out, err = Stream(host, 2), Stream(host, 3)
    sys.stdout, sys.stderr = out, err
    logging: Any = sys.modules.get("logging")
    if logging is not None:
        root = logging.getLogger()
        for handler in root.handlers:
            # A `basicConfig` of the program's own holds the stream of the build.
            if isinstance(handler, logging.StreamHandler) and hasattr(handler, "setStream"):
                handler.setStream(err)
        if not root.handlers:

            class ToLog(logging.Handler):  # type: ignore[misc]
                def emit(self, record: Any) -> None:
                    level = 4 if record.levelno >= 40 else 3 if record.levelno >= 30 else 2
                    if record.levelno < 20:
                        level = 1
                    host.log(level, f"{record.name}: {self.format(record)}")

            root.addHandler(ToLog())
            root.setLevel(logging.INFO)
    return out, err
