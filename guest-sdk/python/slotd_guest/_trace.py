"""A traceback as few lines of the log, with the file and line of the user's own source."""

from __future__ import annotations

import linecache
import os
import sys
from types import TracebackType

#: Bytes of one line of the log, and how many lines a trace may have.
LINE_BYTES_MAX = 2_048
LINES_MAX = 8
#: Exceptions of a chain (`caused by`, `while handling`) that are told.
_CHAIN_MAX = 4
#: Bytes of what one exception says.
_TEXT_BYTES_MAX = 1_024

_SDK = os.path.dirname(os.path.abspath(__file__)) + os.sep


def lines(error: BaseException) -> list[str]:
    """The exception and where it was raised, innermost first::

    KeyError: 'tea' | handler.py:12 in count: votes[key] += 1 | handler.py:7 in handle: ...
    """
    parts: list[str] = []
    told: set[int] = set()
    prefix = ""
    current: BaseException | None = error
    while current is not None and id(current) not in told and len(told) < _CHAIN_MAX:
        told.add(id(current))
        parts.append(prefix + _said(current))
        parts.extend(_frames(current.__traceback__))
        if current.__cause__ is not None:
            prefix, current = "caused by ", current.__cause__
        elif current.__context__ is not None and not current.__suppress_context__:
            prefix, current = "raised while handling ", current.__context__
        else:
            current = None
    return _fit(parts)


def _said(error: BaseException) -> str:
    name = type(error).__qualname__
    if type(error).__module__ not in ("builtins", "__main__"):
        name = f"{type(error).__module__}.{name}"
    try:
        text = str(error)
        notes = getattr(error, "__notes__", None)
        if notes:
            text = "; ".join([text, *map(str, notes)])
    except Exception as broken:  # The user's own `__str__`.
        text = f"<its text can't be had: {type(broken).__name__}>"
    return f"{name}: {_cut(text, _TEXT_BYTES_MAX)}" if text else name


def _frames(traceback: TracebackType | None) -> list[str]:
    frames: list[tuple[str, str]] = []
    while traceback is not None:
        code, line = traceback.tb_frame.f_code, traceback.tb_lineno
        file = code.co_filename
        if not file.startswith(_SDK):
            source = linecache.getline(file, line or 0).strip()
            where = f"{shown(file)}:{line} in {code.co_name}"
            frames.append((where, f"{where}: {_cut(source, 160)}" if source else where))
        traceback = traceback.tb_next
    frames.reverse()
    told: list[str] = []
    again = 0
    for i, (where, text) in enumerate(frames):
        if i and where == frames[i - 1][0]:
            again += 1
            continue
        if again:
            told.append(f"the same {again} times more")
            again = 0
        told.append(text)
    if again:
        told.append(f"the same {again} times more")
    return told


def shown(file: str) -> str:
    """A file's name from where its package lies, as its author knows it."""
    roots = [root for root in sys.path if root and file.startswith(root.rstrip(os.sep) + os.sep)]
    return file[len(max(roots, key=len).rstrip(os.sep)) + 1 :] if roots else file


def _cut(text: str, bytes_max: int) -> str:
    data = text.encode("utf-8", "replace")
    if len(data) <= bytes_max:
        return data.decode()
    return data[: bytes_max - 3].decode("utf-8", "ignore") + "..."


def _fit(parts: list[str]) -> list[str]:
    """Parts joined to lines that fit, without breaking one in two."""
    out: list[str] = []
    for part in parts:
        part = part.replace("\r", "").replace("\n", "\\n")
        if out and len(out[-1].encode()) + len(part.encode()) + 3 <= LINE_BYTES_MAX:
            out[-1] += " | " + part
        elif len(out) < LINES_MAX:
            out.append(_cut(part if not out else "  " + part, LINE_BYTES_MAX))
        else:
            out[-1] = _cut(out[-1], LINE_BYTES_MAX - 4) + " ..."
            break
    return out
