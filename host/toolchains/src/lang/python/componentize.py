"""Runs componentize-py, whose arguments these are. What it says of a failure reaches the reader as
it is, but for files, which it names as its sandbox has them (`/1/handler.py`), and for the traceback
of this program, which says nothing."""

import re
import sys

from componentize_py import script

folders = [sys.argv[i + 1] for i, arg in enumerate(sys.argv) if arg == "-p"]


def folder(match: "re.Match[str]") -> str:
    number = int(match[2])
    return f"{match[1]}{folders[number]}/" if number < len(folders) else match[0]


sys.argv[0] = "componentize-py"
try:
    script()
except BaseException as error:
    if isinstance(error, SystemExit) and not error.code:
        raise
    print(re.sub(r'(File ")/(\d+)/', folder, str(error)), file=sys.stderr)
    sys.exit(1)
