"""Reading a pickle without running it: the globals it names, and whether loading it would run away.

The restricted reader of torch calls nothing that is not on its list, but it still builds what the file says. A few
hundred bytes can describe tuples nested so that hashing one takes longer than anyone's life, so the pickle is first
followed on paper: every object is a `PickledTensor`, the number of parts it would have if nothing were shared.
"""

from __future__ import annotations

import pickletools
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO

MAX_OPERATIONS = 2_000_000  # a checkpoint with optimizer state has about 30 for each tensor
MAX_PARTS = 30_000_000  # what building and recalling objects may cost in all, shared parts counted each time
MAX_DEPTH = 500  # tuples in tuples; the interpreter hashes them recursively

_TEXTS = ("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING")
_OPERANDS = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "REDUCE": 2, "NEWOBJ": 2, "NEWOBJ_EX": 3, "STACK_GLOBAL": 2}


@dataclass(slots=True)
class PickledTensor:
    """Parts and nesting depth of an object on the unpickler's stack; `text` when it is a string."""

    parts: int = 1
    depth: int = 0
    text: str | None = None

    def add(self, items: list[PickledTensor]) -> None:
        self.parts += sum(item.parts for item in items)
        self.depth = max(self.depth, 1 + max((item.depth for item in items), default=0))


@dataclass(frozen=True, slots=True)
class Scan:
    """`globals`: dotted names in the order met. `fault`: why the pickle must not be loaded, or None."""

    globals: tuple[str, ...]
    fault: str | None


class _RunsAway(Exception):
    pass


def scan(data: bytes, *, pickles: int = 1) -> Scan:
    """Follow the first `pickles` pickles in `data`, one after the other; nothing is imported or called."""
    stream = BytesIO(data)
    found: dict[str, None] = {}
    try:
        for _ in range(pickles):
            for name in _globals(stream):
                found[name] = None
    except _RunsAway as error:
        return Scan(tuple(found), str(error))
    except (ValueError, IndexError, KeyError, OverflowError) as error:  # what a damaged pickle can raise
        return Scan(tuple(found), f"damaged pickle: {error}")
    return Scan(tuple(found), None)


def _globals(stream: BinaryIO) -> Iterator[str]:
    """The globals one pickle names, while its stack is followed and bounded."""
    stack: list[PickledTensor] = []
    marks: list[list[PickledTensor]] = []
    memo: dict[int, PickledTensor] = {}
    spent = 0
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if count > MAX_OPERATIONS:
            raise _RunsAway(f"a pickle of more than {MAX_OPERATIONS:,} operations")
        name = opcode.name
        if name in ("GLOBAL", "INST"):
            yield str(argument).replace(" ", ".")
        made: PickledTensor | None = None
        match name:
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
            case "APPENDS" | "SETITEMS" | "ADDITEMS":
                items, stack = stack, marks.pop()
                stack[-1].add(items)
            case "APPEND" | "BUILD":
                item = stack.pop()
                stack[-1].add([item])
            case "SETITEM":
                pair = [stack.pop(), stack.pop()]
                stack[-1].add(pair)
            case "GET" | "BINGET" | "LONG_BINGET":
                made = memo[int(str(argument))]
                stack.append(made)
            case "DUP":
                made = stack[-1]
                stack.append(made)
            case "TUPLE" | "LIST" | "DICT" | "FROZENSET" | "INST" | "OBJ":
                items, stack = stack, marks.pop()
                made = _made_of(items)
                stack.append(made)
            case "TUPLE1" | "TUPLE2" | "TUPLE3" | "REDUCE" | "NEWOBJ" | "NEWOBJ_EX" | "STACK_GLOBAL":
                size = _OPERANDS[name]
                parts = stack[-size:]
                if name == "STACK_GLOBAL":
                    yield ".".join(part.text or "?" for part in parts)
                made = _made_of(parts)
                stack[-size:] = [made]
            case "BINPERSID":
                stack[-1] = PickledTensor()
            case "PROTO" | "FRAME" | "STOP" | "READONLY_BUFFER":
                pass
            case _:
                stack.append(PickledTensor(text=str(argument) if name in _TEXTS else None))
        if made is not None:
            spent += made.parts
            if spent > MAX_PARTS or made.depth > MAX_DEPTH:
                raise _RunsAway("a pickle whose few objects unfold into more than could ever be read")


def _made_of(items: list[PickledTensor]) -> PickledTensor:
    weight = PickledTensor()
    weight.add(items)
    return weight
