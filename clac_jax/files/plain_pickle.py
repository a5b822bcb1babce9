"""Pickles read as data: their instructions are interpreted here, and nothing in them is called.

A pickle is a program. Python's own unpickler runs it, so that a file may call what it names, change
the classes it names for all files after it, and ask for any amount of memory. The interpreter below
keeps to the instructions that make plain values, hands the few calls that it knows to functions of
its caller, and counts: time and memory grow with the size of the file, whatever is in it.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping, Sized
from dataclasses import dataclass
from typing import Any, BinaryIO

MAX_INSTRUCTIONS = 10_000_000
"""In one pickle; a tensor takes about 30, an item that is copied by a call one."""

MAX_INTEGER_BYTES = 1000
MAX_TEXT_BYTES = 1 << 28
MAX_LINE_BYTES = 1 << 20  # of numbers and names as pickles of protocol 0 write them
MAX_UNUSUAL_KEYS = 10_000  # whose hashes can be made to collide, which takes quadratic time
MAX_KEY_PARTS = 64  # of a tuple that is a key, nested ones included


class NotPlainDataError(Exception):
    """A pickle names a class or function that is not on its reader's list."""


@dataclass(frozen=True)
class Named:
    """A class or function that a pickle names, which is never imported.

    Attributes:
        name: "module.Class".
    """

    name: str


@dataclass(eq=False)
class Inert:
    """An object that a pickle makes, as what it would have been made from.

    Attributes:
        name: "module.Class".
        args: what the class would have been called with.
        state: what the object would have been given as its state; None without any.
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
    """Reads one pickle; the file is then at the first byte behind it.

    Args:
        file: seekable, at the pickle's first byte.
        calls: name -> what makes the object of its arguments, where the pickle calls it; those of
            Python's own containers are known.
        is_harmless: whether another name may stand in the pickle; its objects become `Inert`.
        load_persistent: what a persistent id, as PyTorch gives to its storages, stands for.

    Raises:
        NotPlainDataError: something else is named.
        ValueError, IndexError, KeyError, TypeError: it is damaged, or too large.
    """
    return _Machine(calls, is_harmless, load_persistent).run(_Bounded(file))


class _Bounded:
    """A file that never tries to read more than it holds, whatever length a pickle declares."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.tell = file.tell
        here = file.tell()
        self._size = file.seek(0, 2)
        file.seek(here)

    def read(self, count: int) -> bytes:
        count = max(0, min(count, self._size - self._file.tell()))
        if count > MAX_TEXT_BYTES:
            raise ValueError(f"it holds a text of {count:,} bytes")
        return self._file.read(count)

    def readline(self) -> bytes:
        return self._file.readline(MAX_LINE_BYTES)


class _Machine:
    """The stack machine of one pickle."""

    def __init__(
        self,
        calls: Calls,
        is_harmless: Callable[[str], bool],
        load_persistent: Callable[[Any], Any],
    ):
        self._calls, self._is_harmless, self._load = calls, is_harmless, load_persistent
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # the stacks under each mark
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
        """Nothing depends on the protocol."""

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
        """A key that is plain and whose hash is cheap."""
        if isinstance(key, str) or (isinstance(key, int) and abs(key) < 1 << 60):
            return key
        self._unusual_keys += 1
        if self._unusual_keys > MAX_UNUSUAL_KEYS:
            raise ValueError(f"more than {MAX_UNUSUAL_KEYS:,} keys are not text or small integers")
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
        """A container of Python's own; items that are keys are checked before they are hashed."""
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
        """The attributes of dicts and tensors are of no interest; nothing here is ever changed."""
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
        raise ValueError(f"it holds an integer of {value.bit_length() // 8:,} bytes")
    return value
