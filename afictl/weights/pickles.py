"""Interpreter of pickles as data: globals that the caller allows are replaced, others have stand-ins; none is imported.

Pickle is a small stack language (``pickletools`` lists its opcodes). A file of 100 bytes can occupy Python's
reader, even with a restricted ``find_class``, and PyTorch's ``weights_only`` reader without bound, or make them
allocate: a tuple that contains itself twice, nested forty times, as a key; ``bytearray(2**40)``. Here every file has a
budget of opcodes and of copied bytes, keys are short plain values, and the caller's functions build all objects.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from afictl.weights.bounded import BoundedReader, DamagedError, RefusedError, printable
from afictl.weights.pickle_values import Call, literal, to_dict, to_key, to_set
from afictl.weights.stand_ins import StandIn, runs_code

MAX_STEPS = 1_000_000
"""Opcodes of one pickle. The largest real ones, detectors with optimizer state, have about 100,000."""


@runtime_checkable
class Stateful(Protocol):
    """An object whose state a pickle sets after its construction."""

    def set_state(self, state: Any) -> None:
        """Set the state of a BUILD opcode."""


def read_pickle(
    file: BoundedReader | io.BytesIO,
    admitted: Mapping[str, object],
    persistent: Callable[[object], object] | None = None,
    *,
    copied_bytes: int,
) -> object:
    """Read the pickle that starts at the file's position; afterwards the position is its end.

    Args:
        file: an open file.
        admitted: ``"module name"`` -> the replacement of that global; a ``Call`` may be called. Other globals, and the
            results of calling them, are ``StandIn``.
        persistent: maps a persistent identifier to its object.
        copied_bytes: limit of the bytes that calls may copy out of strings; valid files need at most their size.

    Raises:
        RefusedError: a global that runs code, an opcode that weights do not need, or an exceeded budget.
        DamagedError: truncated or inconsistent.
    """
    machine = _Machine(admitted, persistent, copied_bytes)
    try:
        for opcode, argument, _ in pickletools.genops(file):
            machine.step(opcode.name, argument)
        return machine.stack.pop()
    except (RefusedError, DamagedError, MemoryError):
        raise
    except Exception as error:  # damage can raise anywhere: in an argument, on an empty stack, in a call
        raise DamagedError(f"its pickle is damaged: {printable(error) or type(error).__name__}") from None


class _Machine:
    def __init__(
        self, admitted: Mapping[str, object], persistent: Callable[[object], object] | None, copied_bytes: int
    ) -> None:
        self.stack: list[object] = []
        self._outer: list[list[object]] = []  # the stacks below the open marks
        self._memo: dict[int, object] = {}
        self._admitted = admitted
        self._persistent = persistent
        self._steps_left = MAX_STEPS
        self._bytes_left = copied_bytes

    def step(self, opcode: str, argument: Any) -> None:
        """Execute one opcode."""
        self._spend_steps(1)
        if opcode in _LITERALS:
            self.stack.append(literal(argument))
        elif opcode in _OPCODES:
            _OPCODES[opcode](self, argument)
        elif opcode not in _NO_OPERATION:
            raise RefusedError(f"uses the pickle opcode {opcode}, which weights do not need")

    def _spend_steps(self, steps: int) -> None:
        self._steps_left -= steps
        if self._steps_left < 0:
            raise RefusedError(f"its pickle has more than {MAX_STEPS:,} steps")

    def _pop_mark(self) -> list[object]:
        items, self.stack = self.stack, self._outer.pop()
        return items

    def pop(self, _: object) -> None:
        if self.stack:
            self.stack.pop()
        else:  # the topmost item is a mark
            self.pop_mark(None)

    def pop_mark(self, _: object) -> None:
        self._pop_mark()

    def mark(self, _: object) -> None:
        self._outer.append(self.stack)
        self.stack = []

    def empty(self, make: Callable[[], object]) -> None:
        self.stack.append(make())

    def tuple_of(self, count: int) -> None:
        items = [self.stack.pop() for _ in range(count)]
        self.stack.append(tuple(reversed(items)))

    def since_mark(self, make: Callable[[list[object]], object]) -> None:
        items = self._pop_mark()
        self.stack.append(make(items))

    def append(self, _: object) -> None:
        value = self.stack.pop()
        self._extend([value])

    def appends(self, _: object) -> None:
        self._extend(self._pop_mark())

    def _extend(self, items: list[object]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif isinstance(target, set):
            target.update(to_key(item) for item in items)
        elif not isinstance(target, StandIn):
            raise DamagedError("its pickle appends to an object that is no list")

    def set_item(self, _: object) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._update([key, value])

    def set_items(self, _: object) -> None:
        self._update(self._pop_mark())

    def _update(self, items: list[object]) -> None:
        target = self.stack[-1]
        if isinstance(target, StandIn):
            target = target.items
        if not isinstance(target, dict) or len(items) % 2:
            raise DamagedError("its pickle sets items of an object that is no mapping")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[to_key(key)] = value

    def put(self, index: int) -> None:
        self._memo[index] = self.stack[-1]

    def memoize(self, _: object) -> None:
        self._memo[len(self._memo)] = self.stack[-1]

    def get(self, index: int) -> None:
        self.stack.append(self._memo[index])

    def name(self, argument: str) -> None:
        self.stack.append(self._resolve(argument))

    def _resolve(self, argument: str) -> object:
        if argument in self._admitted:
            return self._admitted[argument]
        module, _, attribute = argument.partition(" ")
        name = printable(f"{module}.{attribute}")
        if runs_code(module, attribute):
            raise RefusedError(f"contains {name}, by which a file can run code in other readers")
        return StandIn(name)

    def stacked_name(self, _: object) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.name(f"{module if isinstance(module, str) else '?'} {name if isinstance(name, str) else '?'}")

    def identifier(self, _: object) -> None:
        if self._persistent is None:
            raise RefusedError("its pickle refers to storages that are not in the file")
        self.stack.append(self._persistent(self.stack.pop()))

    def reduce(self, _: object) -> None:
        arguments, call = self.stack.pop(), self.stack.pop()
        self._call(call, arguments)

    def new_with_keywords(self, _: object) -> None:
        keywords, arguments, call = self.stack.pop(), self.stack.pop(), self.stack.pop()
        if keywords and not isinstance(call, StandIn):
            raise RefusedError("calls a function of a checkpoint with keywords")
        self._call(call, arguments)

    def instance(self, argument: str) -> None:
        self._call(self._resolve(argument), tuple(self._pop_mark()))

    def marked_instance(self, _: object) -> None:
        call, *arguments = self._pop_mark()
        self._call(call, tuple(arguments))

    def _call(self, call: object, arguments: object) -> None:
        if isinstance(call, StandIn):
            self.stack.append(StandIn(call.name))
            return
        if not isinstance(call, Call) or not isinstance(arguments, tuple):
            raise RefusedError("calls an object that is no function of a checkpoint")
        for value in arguments:
            if isinstance(value, (str, bytes)):
                self._bytes_left -= len(value)
            elif isinstance(value, (list, tuple, dict, set)):
                self._spend_steps(len(value))
        if self._bytes_left < 0:
            raise RefusedError("its pickle copies more bytes than it contains")
        self.stack.append(call.function(*arguments))

    def build(self, _: object) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Stateful):
            target.set_state(state)
        elif isinstance(target, Call):  # of other objects, such as the _metadata of a state dict, they are ignored
            raise RefusedError("sets attributes of a function of a checkpoint")


_NO_OPERATION = frozenset({"PROTO", "FRAME", "STOP"})
_LITERALS = frozenset(
    {"INT", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"}
    | {"BINSTRING", "SHORT_BINSTRING", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
    | {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
)
_OPCODES: dict[str, Callable[[_Machine, Any], None]] = {
    "NONE": lambda machine, _: machine.stack.append(None),
    "NEWTRUE": lambda machine, _: machine.stack.append(True),
    "NEWFALSE": lambda machine, _: machine.stack.append(False),
    "MARK": _Machine.mark,
    "EMPTY_TUPLE": lambda machine, _: machine.empty(tuple),
    "EMPTY_LIST": lambda machine, _: machine.empty(list),
    "EMPTY_DICT": lambda machine, _: machine.empty(dict),
    "EMPTY_SET": lambda machine, _: machine.empty(set),
    "TUPLE": lambda machine, _: machine.since_mark(tuple),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "LIST": lambda machine, _: machine.since_mark(list),
    "DICT": lambda machine, _: machine.since_mark(to_dict),
    "FROZENSET": lambda machine, _: machine.since_mark(to_set),
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "ADDITEMS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.memoize,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.stacked_name,
    "BINPERSID": _Machine.identifier,
    "POP": _Machine.pop,
    "POP_MARK": _Machine.pop_mark,
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    "REDUCE": _Machine.reduce,
    "NEWOBJ": _Machine.reduce,
    "NEWOBJ_EX": _Machine.new_with_keywords,
    "INST": _Machine.instance,
    "OBJ": _Machine.marked_instance,
    "BUILD": _Machine.build,
}
