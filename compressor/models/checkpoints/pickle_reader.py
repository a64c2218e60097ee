"""Reads a pickle without running it.

A pickle is a program. This reader interprets it: plain data are built as the program says, and a class or a function
is only a `Global`, its name. Nothing is imported. If the program calls a global, the function of that name in
`builders` is called instead; without one the result is an `UnreadObject`.

A few hundred bytes can describe tuples nested so deep that hashing one takes years. Every value therefore carries the
number of parts it would have if nothing were shared, and reading stops when these exceed a budget.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

from compressor.models.checkpoints.pickle_globals import Global, global_named

MAX_OPERATIONS = 2_000_000  # a checkpoint with optimizer state has about 30 for each tensor
MAX_PARTS = 30_000_000  # of all values that are built or recalled, shared parts counted each time
MAX_TUPLE_DEPTH = 500  # of tuples in tuples; the interpreter hashes them recursively
MAX_UNFOLDED = 5_000_000  # parts of what was read, shared ones counted each time they would be met
MAX_HEIGHT = 100  # of dicts and lists in one another

Builders = Mapping[str, Callable[..., object]]

_CREATORS = ("copyreg._reconstructor", "copyreg.__newobj__")  # their first argument is the class


@dataclass(slots=True, eq=False)
class UnreadObject:
    """What a pickle says about an object of a class that is not imported."""

    name: str
    args: tuple[object, ...] = ()
    state: object = None
    items: dict[object, object] = field(default_factory=dict)  # of a subclass of dict


@dataclass(frozen=True, slots=True)
class PickleContent:
    """The content of pickles.

    `calls` are the functions that loading would have run, `objects` the classes of the objects that were not read.
    `fault` says why reading stopped; `hostile` means that the pickle is made to exhaust the reader.
    """

    values: tuple[object, ...]
    calls: tuple[str, ...]
    objects: tuple[str, ...]
    fault: str | None = None
    hostile: bool = False


class _Exhausts(Exception):
    pass


@dataclass(slots=True)
class _Item:
    """A value on the unpickler's stack, with its number of parts and its nesting depth."""

    value: object
    parts: int = 1
    depth: int = 0

    def count(self, items: list[_Item]) -> None:
        self.parts += sum(item.parts for item in items)
        self.depth = max(self.depth, 1 + max((item.depth for item in items), default=0))


def read_pickles(
    stream: BinaryIO, builders: Builders, load_storage: Callable[[object], object], *, pickles: int = 1
) -> PickleContent:
    """Read pickles that follow one another. Nothing is imported, and only `builders` are called.

    Args:
        stream: A stream at the first pickle.
        builders: Name of a global -> the function to call in its place.
        load_storage: Makes the value of a persistent id.
        pickles: Number of pickles.

    Returns:
        The values, and the fault that ended the reading, if any.
    """
    unpickler = _Unpickler(builders, load_storage)
    values: list[object] = []
    fault, hostile = None, False
    try:
        for _ in range(pickles):
            values.append(unpickler.read(stream))
            _unfold(values[-1], {})
    except _Exhausts as error:
        fault, hostile = str(error), True
    except RecursionError:
        fault, hostile = "a pickle nested too deep to be read", True
    except MemoryError:
        fault = "a pickle that does not fit in memory"
    except (ValueError, LookupError, ArithmeticError, TypeError, AttributeError, RuntimeError, EOFError) as error:
        fault = f"damaged pickle: {error}"
    except struct.error as error:
        fault = f"damaged pickle: {error}"
    return PickleContent(tuple(values), tuple(unpickler.calls), tuple(unpickler.objects), fault, hostile)


@dataclass(slots=True)
class _Unpickler:
    builders: Builders
    load_storage: Callable[[object], object]
    calls: dict[str, None] = field(default_factory=dict)
    objects: dict[str, None] = field(default_factory=dict)

    def read(self, stream: BinaryIO) -> object:
        """Interpret one pickle to its end."""
        stack: list[_Item] = []
        marks: list[list[_Item]] = []
        memo: dict[int, _Item] = {}
        spent = 0
        for operations, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if operations > MAX_OPERATIONS:
                raise _Exhausts(f"a pickle of more than {MAX_OPERATIONS:,} operations")
            made: _Item | None = None
            match opcode.name:
                case "PROTO" | "FRAME" | "STOP" | "READONLY_BUFFER":
                    pass
                case "MARK":
                    marks.append(stack)
                    stack = []
                case "POP":
                    stack.pop()
                case "POP_MARK":
                    stack = marks.pop()
                case "PUT" | "BINPUT" | "LONG_BINPUT":
                    memo[int(str(argument))] = stack[-1]
                case "MEMOIZE":
                    memo[len(memo)] = stack[-1]
                case "GET" | "BINGET" | "LONG_BINGET":
                    made = memo[int(str(argument))]
                    stack.append(made)
                case "DUP":
                    made = stack[-1]
                    stack.append(made)
                case "APPENDS" | "SETITEMS" | "ADDITEMS":
                    items, stack = stack, marks.pop()
                    stack[-1].count(items)
                    _fill(stack[-1].value, [item.value for item in items], pairs=opcode.name == "SETITEMS")
                case "APPEND":
                    items = [stack.pop()]
                    stack[-1].count(items)
                    _fill(stack[-1].value, [items[0].value], pairs=False)
                case "SETITEM":
                    value, key = stack.pop(), stack.pop()
                    stack[-1].count([key, value])
                    _fill(stack[-1].value, [key.value, value.value], pairs=True)
                case "BUILD":
                    state = stack.pop()
                    stack[-1].count([state])
                    stack[-1].value = self._with_state(stack[-1].value, state.value)
                case "TUPLE" | "LIST" | "DICT" | "FROZENSET" | "OBJ" | "INST":
                    items, stack = stack, marks.pop()
                    made = self._of_marked(opcode.name, argument, items)
                    stack.append(made)
                case "TUPLE1" | "TUPLE2" | "TUPLE3":
                    size = int(opcode.name[-1])
                    made = self._of_marked("TUPLE", None, stack[-size:])
                    stack[-size:] = [made]
                case "STACK_GLOBAL" | "REDUCE" | "NEWOBJ" | "NEWOBJ_EX":
                    size = 3 if opcode.name == "NEWOBJ_EX" else 2
                    made = self._of_operands(opcode.name, stack[-size:])
                    stack[-size:] = [made]
                case "GLOBAL":
                    stack.append(_Item(global_named(*str(argument).split(" ", 1))))
                case "BINPERSID":
                    stack[-1] = _Item(self.load_storage(stack[-1].value))
                case "EMPTY_LIST" | "EMPTY_DICT" | "EMPTY_SET" | "EMPTY_TUPLE":
                    empty = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set, "EMPTY_TUPLE": tuple}
                    stack.append(_Item(empty[opcode.name]()))
                case "NEWTRUE" | "NEWFALSE":
                    stack.append(_Item(opcode.name == "NEWTRUE"))
                case "EXT1" | "EXT2" | "EXT4" | "PERSID" | "NEXT_BUFFER":
                    raise ValueError(f"it needs {opcode.name}, which no checkpoint has")
                case _:
                    stack.append(_Item(argument))
            if made is not None:
                spent += made.parts
                if spent > MAX_PARTS or made.depth > MAX_TUPLE_DEPTH:
                    raise _Exhausts("a pickle whose few objects unfold into more than could ever be read")
        return stack[-1].value

    def _of_marked(self, operation: str, argument: object, items: list[_Item]) -> _Item:
        made = _Item(None)
        made.count(items)
        if made.parts > MAX_PARTS or made.depth > MAX_TUPLE_DEPTH:
            raise _Exhausts("a pickle whose few objects unfold into more than could ever be read")
        values = [item.value for item in items]
        match operation:
            case "TUPLE":
                made.value = tuple(values)
            case "LIST":
                made.value = values
            case "DICT":
                made.value = dict(zip(values[::2], values[1::2], strict=True))
            case "FROZENSET":
                made.value = frozenset(values)
            case "OBJ":
                made.value = self._call(values[0], tuple(values[1:]))
            case "INST":
                made.value = self._call(global_named(*str(argument).split(" ", 1)), tuple(values))
        return made

    def _of_operands(self, operation: str, items: list[_Item]) -> _Item:
        made = _Item(None)
        made.count(items)
        first, second = items[0].value, items[1].value
        if operation == "STACK_GLOBAL":
            made.value = global_named(str(first), str(second))
        elif operation == "REDUCE":
            made.value = self._call(first, second)
        else:
            made.value = self._create(first, second)
        return made

    def _call(self, function: object, args: object) -> object:
        if not isinstance(args, tuple):
            raise ValueError("the arguments of a call are no tuple")
        if not isinstance(function, Global):
            self.calls[function.name if isinstance(function, UnreadObject) else type(function).__name__] = None
            return UnreadObject("?", args)
        if function.name in self.builders:
            return self.builders[function.name](*args)
        if function.name in _CREATORS and args and isinstance(args[0], Global):
            return self._create(args[0], args[1:])
        if function.is_data:
            return self._unread(function, args)
        self.calls[function.name] = None
        return UnreadObject(function.name, args)

    def _create(self, cls: object, args: object) -> object:
        """Return a stand-in for the result of `cls.__new__`."""
        if not isinstance(cls, Global) or not isinstance(args, tuple):
            raise ValueError("an object whose class is not the name of one")
        if cls.name in self.builders:
            return self.builders[cls.name](*args)
        return self._unread(cls, args)

    def _unread(self, cls: Global, args: tuple[object, ...]) -> UnreadObject:
        if cls.module.partition(".")[0] != "numpy" and cls.name not in ("torch.device", "builtins.getattr"):
            self.objects[cls.name] = None
        return UnreadObject(cls.name, args)

    def _with_state(self, value: object, state: object) -> object:
        if isinstance(value, Global):  # changes a class or function of the process that loads it
            self.calls[value.name] = None
        if not isinstance(value, UnreadObject):
            return value  # an attribute of a dict, such as the versions in a state dict
        value.state = state
        build = self.builders.get(f"{value.name}.__setstate__")
        return value if build is None else build(value)


def _unfold(value: object, known: dict[int, tuple[int, int]], depth: int = 0) -> tuple[int, int]:
    """Count parts and height of nested dicts and lists. Raises _Exhausts if walking through them would not end.

    The count while reading misses what is added to a container after the container was added to others.
    """
    items = value.items if isinstance(value, UnreadObject) else value
    if not isinstance(items, dict | list | tuple | set | frozenset):
        return 1, 0
    entries = items.values() if isinstance(items, dict) else items
    if id(value) not in known:
        sizes = [_unfold(entry, known, depth + 1) for entry in entries] if depth < MAX_HEIGHT else [(1, MAX_HEIGHT)]
        known[id(value)] = 1 + sum(parts for parts, _ in sizes), 1 + max((height for _, height in sizes), default=0)
    parts, height = known[id(value)]
    if parts > MAX_UNFOLDED or height > MAX_HEIGHT:
        raise _Exhausts("a pickle whose few objects unfold into more than could ever be read")
    return parts, height


def _fill(container: object, values: list[object], *, pairs: bool) -> None:
    if pairs and isinstance(container, dict | UnreadObject):
        items = container if isinstance(container, dict) else container.items
        items.update(zip(values[::2], values[1::2], strict=True))
    elif isinstance(container, list) and not pairs:
        container.extend(values)
    elif isinstance(container, set) and not pairs:
        container.update(values)
    elif not isinstance(container, UnreadObject):
        raise ValueError(f"a {type(container).__name__} takes no such items")
