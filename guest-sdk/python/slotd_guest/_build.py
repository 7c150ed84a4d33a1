"""What is done once, while a component is built: everything is imported then, because a component
has no files to import from."""

from __future__ import annotations

import _ast
import gc
import importlib
import importlib.abc
import importlib.util
import linecache
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from ._handler import Handler, RawHandler

_BASES = (Handler, RawHandler)

#: What the standard library imports only when it is first used, and small.
_LAZY = (
    "_strptime",
    "encodings.ascii",
    "encodings.idna",
    "encodings.latin_1",
    "encodings.utf_16",
    "encodings.utf_8_sig",
    "stringprep",
)


#: Where componentize-py's own modules lie.
_BINDINGS = ("componentize_py_types", "wit_world", "poll_loop")


def load(entry: str) -> Any:
    """The handler that ``entry`` names: ``module`` with one handler in it, or ``module:Class``."""
    name, _, wanted = entry.partition(":")
    module = importlib.import_module(name)
    _import_nested()
    if wanted:
        handler = getattr(module, wanted, None)
        if handler is None:
            raise ImportError(f"the module {name} has no {wanted}: [tool.slotd] entry = {entry!r}")
        return handler
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, _BASES)
        and value not in _BASES
        and value.__module__ == name
    ]
    # A handler's own base is none that was meant.
    found = [one for one in found if not any(issubclass(o, one) and o is not one for o in found)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise ImportError(f"the module {name} has no subclass of slotd_guest.Handler or RawHandler")
    names = ", ".join(one.__name__ for one in found)
    raise ImportError(
        f"the module {name} has several handlers ({names}): say which in pyproject.toml, "
        f'[tool.slotd] entry = "{name}:{found[0].__name__}"'
    )


def warm_up() -> None:
    """Imports what would be imported only when it is used."""
    for name in _LAZY:
        importlib.import_module(name)
    # Not of the compiler of the build: what is missing when a component runs is said by this.
    sys.meta_path.append(_Missing())


def settle() -> None:
    """What is there now stays for good: nothing to look through for garbage again."""
    for module in _own_modules():
        # For the source's lines in a trace.
        linecache.getlines(str(module.__file__))
    gc.collect()
    gc.freeze()


def _own_modules() -> list[ModuleType]:
    """Modules of the plugin and of what it depends on: not Python's own, the SDK's or bindings."""
    bindings = [str(m.__file__) for name in _BINDINGS if (m := sys.modules.get(name)) is not None]
    others = (
        sys.prefix + os.sep,
        *(os.path.dirname(file) + os.sep for file in [__file__, *bindings]),
    )
    found = []
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if file and file.endswith(".py") and not file.startswith(others):
            found.append(module)
    return found


def _import_nested() -> None:
    """Imports what the plugin's functions import: at run time it would be too late."""
    seen: set[str] = set()
    while new := [module for module in _own_modules() if module.__name__ not in seen]:
        for module in new:
            seen.add(module.__name__)
            for name in _nested(module):
                try:
                    importlib.import_module(name)
                except Exception:
                    # It may be inside of a `try`, or never be reached. If it is, it is told then.
                    pass


#: `ast` itself is large, and would be a part of each component.
_ONLY_AST = 0x400


def _nested(module: ModuleType) -> list[str]:
    source = "".join(linecache.getlines(str(module.__file__)))
    names: list[str] = []
    pending: list[tuple[Any, bool]] = [(compile(source, "", "exec", _ONLY_AST), False)]
    while pending:
        node, inside = pending.pop()
        if isinstance(node, list):
            pending += [(item, inside) for item in node]
        elif inside and isinstance(node, _ast.Import):
            names += [alias.name for alias in node.names]
        elif inside and isinstance(node, _ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            try:
                base = importlib.util.resolve_name(base, module.__package__ or None)
            except ImportError:
                continue
            names.append(base)
            # They may be modules or just names of the one that they are imported from.
            names += [f"{base}.{alias.name}" for alias in node.names if alias.name != "*"]
        elif isinstance(node, _ast.AST):
            inside = inside or isinstance(node, (_ast.FunctionDef, _ast.AsyncFunctionDef))
            pending += [(getattr(node, field, None), inside) for field in node._fields]
    return names


class _Missing(importlib.abc.MetaPathFinder):
    """The last that is asked for a module: says what is different in a component."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> None:
        raise ModuleNotFoundError(
            f"No module named {fullname!r}: a component has no files to import from, only what was "
            "imported while it was built; import it at the top of your module",
            name=fullname,
        )
