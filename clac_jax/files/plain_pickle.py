"""A pickle reader that treats pickles as data and calls nothing that they name.

A pickle is a program. Python's unpickler executes it, so a file may call any function, modify
classes for all files read later, and allocate any amount of memory. The interpreter below supports
only the instructions for plain values, passes the few permitted calls to functions of its caller,
and limits their number: time and memory are bounded by the size of the file.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping, Sized
from dataclasses import dataclass
from typing import Any, BinaryIO

MAX_INSTRUCTIONS = 10_000_000
"""Limit per pickle; a tensor takes about 30 instructions, an item copied by a call one."""

MAX_INTEGER_BYTES = 1000
MAX_TEXT_BYTES = 1 << 28
MAX_LINE_BYTES = 1 << 20  # of a number or name in protocol 0
MAX_UNUSUAL_KEYS = 10_000  # their hashes may collide, which takes quadratic time
MAX_KEY_PARTS = 64  # of a tuple used as a key, including nested ones


class NotPlainDataError(Exception):
    """A pickle refers to a class or function that is not permitted."""


@dataclass(frozen=True)
class Named:
    """A reference to a class or function, which is never imported.

    Attributes:
        name: "module.Class".
    """

    name: str


@dataclass(eq=False)
class Inert:
    """The description of an object that was not created.

    Attributes:
        name: "module.Class".
        args: arguments of the call that would have created it.
        state: state that the object would have been given; None if there is none.
    """

    name: str
    args: tuple[Any, ...]
    state: Any = None


Calls = Mapping[str, Callable[..., Any]]


def read_pickle(
    file: BinaryIO,
    calls: Calls,
    is_harmless: Callable[[str], bool],
    load_persistent: Callable[[Any], Any],
) -> Any:
    """Reads one pickle and leaves the file at the first byte after it.

    Args:
        file: seekable file, at the first byte of the pickle.
        calls: "module.function" -> function to call instead. The built-in containers are included
            automatically.
        is_harmless: whether the pickle may refer to another name; its objects become `Inert`.
        load_persistent: resolves a persistent id, which PyTorch uses for storages.

    Raises:
        NotPlainDataError: the pickle refers to any other name.
        ValueError, IndexError, KeyError, TypeError: the pickle is damaged or exceeds a limit.
    """
    return _Machine(calls, is_harmless, load_persistent).run(_Bounded(file))


class _Bounded:
    """A file whose reads are limited to its size, whatever length a pickle declares."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.tell = file.tell
        here = file.tell()
        self._size = file.seek(0, 2)
        file.seek(here)

    def read(self, count: int) -> bytes:
        count = max(0, min(count, self._size - self._file.tell()))
        if count > MAX_TEXT_BYTES:
            raise ValueError(f"it has a string of {count:,} bytes")
        return self._file.read(count)

    def readline(self) -> bytes:
        return self._file.readline(MAX_LINE_BYTES)


class _Machine:
    """The stack machine that interprets one pickle."""

    def __init__(
        self,
        calls: Calls,
        is_harmless: Callable[[str], bool],
        load_persistent: Callable[[Any], Any],
    ):
        self._calls, self._is_harmless, self._load = calls, is_harmless, load_persistent
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # the stacks below each mark
        self._memo: dict[int, Any] = {}
        self._instructions = self._unusual_keys = 0

    def run(self, file: _Bounded) -> Any:
        for opcode, argument, _ in pickletools.genops(file):  # type: ignore[arg-type]  # calls only these three
            self._count(1)
            if opcode.name == "STOP":
                return self._stack.pop()
            if opcode.name in _CONSTANTS:
                self._stack.append(_CONSTANTS[opcode.name])
            elif opcode.name in _LITERALS:
                self._stack.append(_checked(argument))
            elif opcode.name in _STRINGS_OF_PYTHON_2 and isinstance(argument, str):
                self._stack.append(argument.encode("latin-1").decode("utf-8"))
            else:
                step = getattr(self, f"_{opcode.name.lower()}", None)
                if step is None:
                    raise ValueError(f"it has the instruction {opcode.name}")
                step(argument)
        raise ValueError("it has no end")

    def _count(self, number: int) -> None:
        self._instructions += number
        if self._instructions > MAX_INSTRUCTIONS:
            raise ValueError(f"its pickle has more than {MAX_INSTRUCTIONS:,} instructions")

    def _proto(self, _: Any) -> None:
        """Ignored: the protocol version does not matter."""

    _frame = _proto

    # The stack and the memo.

    def _mark(self, _: Any) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _marked(self) -> list[Any]:
        items, self._stack = self._stack, self._below.pop()
        return items

    def _pop(self, _: Any) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._marked()

    def _pop_mark(self, _: Any) -> None:
        self._marked()

    def _dup(self, _: Any) -> None:
        self._stack.append(self._stack[-1])

    def _put(self, place: int) -> None:
        self._memo[place] = self._stack[-1]

    _binput = _long_binput = _put

    def _memoize(self, _: Any) -> None:
        self._put(len(self._memo))

    def _get(self, place: int) -> None:
        self._stack.append(self._memo[place])

    _binget = _long_binget = _get

    # Containers.

    def _empty_list(self, _: Any) -> None:
        self._stack.append([])

    def _empty_dict(self, _: Any) -> None:
        self._stack.append({})

    def _empty_set(self, _: Any) -> None:
        self._stack.append(set())

    def _list(self, _: Any) -> None:
        items = self._marked()
        self._stack.append(items)

    def _tuple(self, _: Any) -> None:
        items = self._marked()
        self._stack.append(tuple(items))

    def _tuple1(self, _: Any) -> None:
        self._stack[-1:] = [(self._stack[-1],)]

    def _tuple2(self, _: Any) -> None:
        self._stack[-2:] = [(self._stack[-2], self._stack[-1])]

    def _tuple3(self, _: Any) -> None:
        self._stack[-3:] = [(self._stack[-3], self._stack[-2], self._stack[-1])]

    def _dict(self, _: Any) -> None:
        items = self._marked()
        self._stack.append({})
        self._set_items(items)

    def _frozenset(self, _: Any) -> None:
        items = self._marked()
        self._stack.append(frozenset(map(self._key, items)))

    def _append(self, _: Any) -> None:
        self._extend([self._stack.pop()])

    def _appends(self, _: Any) -> None:
        self._extend(self._marked())

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, list):
            raise ValueError(f"it appends to a {type(target).__name__}")
        target.extend(items)

    def _setitem(self, _: Any) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set_items([key, value])

    def _setitems(self, _: Any) -> None:
        self._set_items(self._marked())

    def _set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise ValueError(f"it sets items of a {type(target).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[self._key(key)] = value

    def _additems(self, _: Any) -> None:
        items, target = self._marked(), self._stack[-1]
        if not isinstance(target, set):
            raise ValueError(f"it adds to a {type(target).__name__}")
        target.update(map(self._key, items))

    def _key(self, key: Any) -> Any:
        """Returns a key after checking that it is plain and cheap to hash."""
        if isinstance(key, str) or (isinstance(key, int) and abs(key) < 1 << 60):
            return key
        self._unusual_keys += 1
        if self._unusual_keys > MAX_UNUSUAL_KEYS:
            raise ValueError(
                f"more than {MAX_UNUSUAL_KEYS:,} keys are neither strings nor small integers"
            )
        parts, seen = [key], 0
        while parts:
            part = parts.pop()
            seen += 1
            if seen > MAX_KEY_PARTS or not isinstance(part, _KEY_TYPES):
                raise ValueError(f"a key is a {type(part).__name__} or too large")
            parts += part if isinstance(part, tuple) else ()
        return key

    # Names and calls.

    def _global(self, names: str) -> None:
        self._name(names.replace(" ", ".", 1))

    def _stack_global(self, _: Any) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._name(f"{module}.{name}")

    def _name(self, name: str) -> None:
        if not (name in _CONTAINERS or name in self._calls or self._is_harmless(name)):
            raise NotPlainDataError(name)
        self._stack.append(Named(name))

    def _reduce(self, _: Any) -> None:
        arguments, target = self._stack.pop(), self._stack.pop()
        if not isinstance(target, Named) or not isinstance(arguments, tuple):
            raise ValueError(f"it calls a {type(target).__name__}")
        self._count(sum(len(value) for value in arguments if isinstance(value, Sized)))
        if target.name in _CONTAINERS:
            value = self._container(_CONTAINERS[target.name], *arguments)
        elif target.name in self._calls:
            value = self._calls[target.name](*arguments)
        else:
            value = Inert(target.name, arguments)
        self._stack.append(value)

    def _container(self, kind: type, items: Any = (), *rest: Any) -> Any:
        """Creates a built-in container; keys are checked before they are hashed."""
        if kind is complex:
            return complex(*map(float, (items, *rest)))
        if isinstance(items, Named):  # a defaultdict's factory
            items = ()
        if rest or not isinstance(items, list | tuple | set | frozenset):
            raise ValueError(f"it makes a {kind.__name__} of a {type(items).__name__}")
        if kind is dict:
            return {self._key(key): value for key, value in items}
        return kind(map(self._key, items)) if kind in (set, frozenset) else kind(items)

    _newobj = _reduce

    def _newobj_ex(self, _: Any) -> None:
        if self._stack.pop():
            raise ValueError("it makes an object with keyword arguments")
        self._reduce(None)

    def _build(self, _: Any) -> None:
        """Stores the state of an `Inert` object; that of dicts and tensors is ignored."""
        state = self._stack.pop()
        if isinstance(self._stack[-1], Inert):
            self._stack[-1].state = state

    def _binpersid(self, _: Any) -> None:
        self._stack.append(self._load(self._stack.pop()))


_CONTAINERS: Mapping[str, type] = {
    "collections.OrderedDict": dict,
    "collections.defaultdict": dict,
    **{
        f"{module}.{kind.__name__}": kind
        for module in ("__builtin__", "builtins")
        for kind in (dict, list, tuple, set, frozenset, complex)
    },
}
_KEY_TYPES = (str, bytes, int, float, type(None), tuple, Named)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
}  # fmt: skip
_STRINGS_OF_PYTHON_2 = {"STRING", "BINSTRING", "SHORT_BINSTRING"}


def _checked(value: Any) -> Any:
    if isinstance(value, int) and value.bit_length() > 8 * MAX_INTEGER_BYTES:
        raise ValueError(f"it has an integer of {value.bit_length() // 8:,} bytes")
    return value
