"""Stand-ins for the objects beside the tensors of a checkpoint: arguments, configuration, history, callbacks.

A stand-in knows the name of its class, and what the file assigns to it. Its class is never imported, and nothing is
called.
"""

from __future__ import annotations

_REFUSED_MODULES = frozenset(
    {"os", "posix", "nt", "sys", "subprocess", "shutil", "importlib", "runpy", "pty", "socket", "ctypes", "code"}
    | {"codeop", "pickle", "_pickle", "marshal", "webbrowser", "tempfile", "urllib", "http", "requests", "pip", "bdb"}
    | {"pdb", "timeit", "signal", "threading", "_thread", "multiprocessing", "asyncio", "ftplib", "smtplib", "pydoc"}
)
_REFUSED_BUILTINS = frozenset(
    {"eval", "exec", "execfile", "compile", "__import__", "open", "input", "breakpoint", "globals", "locals", "vars"}
    | {"setattr", "delattr", "apply", "file", "print"}
)
_BUILTINS = ("builtins", "__builtin__")


class StandIn:
    """An object that a checkpoint describes, of a class or function that is not executed.

    Args:
        name: of the class or function, with its module.
    """

    __slots__ = ("_attributes", "_items", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self._attributes: dict[object, object] | None = None  # most stand-ins have neither
        self._items: dict[object, object] | None = None

    @property
    def items(self) -> dict[object, object]:
        """Items of a mapping, which a reader may add to."""
        if self._items is None:
            self._items = {}
        return self._items

    @property
    def named_parts(self) -> dict[object, object]:
        """The items, else the attributes."""
        return self._items or self._attributes or {}

    def set_state(self, state: object) -> None:
        """Set the attributes; a state of another form is ignored."""
        parts = state if isinstance(state, tuple) else (state,)  # a tuple: __dict__ and slots
        self._attributes = next((part for part in parts if isinstance(part, dict)), None)


def runs_code(module: str, name: str) -> bool:
    """Whether a global belongs to the modules by which malicious pickles run programs, open files or import code.

    It would not run here either, but the file is refused, as other readers would run it.
    """
    if module in _BUILTINS and name in _REFUSED_BUILTINS:
        return True
    hidden = any(part.startswith("__") and part.endswith("__") for part in name.split("."))
    return hidden or module.partition(".")[0] in _REFUSED_MODULES


def as_mapping(value: object) -> dict[object, object]:
    """A mapping itself, the named parts of a stand-in; empty for other values."""
    if isinstance(value, StandIn):
        return value.named_parts
    return value if isinstance(value, dict) else {}
