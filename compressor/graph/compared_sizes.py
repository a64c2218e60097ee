"""Widths that code compares with a tensor: `assert x.shape[1] == self.channels`.

After a trial removal such a line fails although only its number is wrong. The attributes that it names are read from
the source. Which dimension each of them means is determined by trial (see analysis.py), beginning at the module's
input.
"""

from __future__ import annotations

import ast
import linecache
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from types import FrameType

import torch
from torch import nn

from compressor.execution.traceback_frames import traceback_frames

Place = tuple[str, str]
"""module, attribute"""

MAX_TRIALS = 6  # dimensions that are tried for one attribute


def is_own_check(failure: BaseException) -> bool:
    """Whether a module's own code failed, by an assertion or by raising, and no operator or library did."""
    (frame, line), *_ = traceback_frames(failure)
    owner = frame.f_locals.get(frame.f_code.co_varnames[0]) if frame.f_code.co_argcount else None
    return isinstance(owner, nn.Module) and not _is_torch(frame) and _stops(frame, line)


def _stops(frame: FrameType, line: int) -> bool:
    return any(isinstance(node, ast.Assert | ast.Raise) for node in _around(frame.f_code.co_filename, line)[-1:])


def _is_torch(frame: FrameType) -> bool:
    return Path(frame.f_code.co_filename).is_relative_to(torch.__path__[0])


def compared_attributes(failure: BaseException, module: nn.Module) -> tuple[list[Place], list[Place]]:
    """Find the integers that a failed check compares with.

    Args:
        failure: The exception of the forward pass.
        module: The module that ran.

    Returns:
        The attributes that the innermost statement with any of them names, and the same attributes of other modules of
        the same class. Nothing where an operator failed, or PyTorch's own code other than `torch._assert`.
    """
    frame, line = traceback_frames(failure)[0]
    if not _stops(frame, line) or (_is_torch(frame) and frame.f_code is not torch._assert.__code__):
        return [], []
    names = {id(part): name for name, part in module.named_modules()}
    for frame, line in traceback_frames(failure):
        code = frame.f_code
        if _is_torch(frame) or not code.co_argcount:
            continue
        owner = frame.f_locals.get(code.co_varnames[0])
        if not isinstance(owner, nn.Module) or id(owner) not in names:
            continue
        attributes = [
            (part, attribute)
            for chain in _chains(code.co_varnames[0], _tests(code.co_filename, line))
            for part, attribute in _resolved(owner, chain)
            if id(part) in names
        ]
        if attributes:
            named = [(names[id(part)], attribute) for part, attribute in attributes]
            alike = [
                (name, attribute)
                for part, attribute in attributes
                for name, other in module.named_modules()
                if type(other) is type(part) and other is not part and _is_size(getattr(other, attribute, None))
            ]
            return named, alike
    return [], []


@lru_cache(maxsize=64)
def _tree(file: str) -> ast.Module | None:
    try:
        return ast.parse("".join(linecache.getlines(file)))
    except SyntaxError:
        return None


def _around(file: str, line: int) -> list[ast.stmt]:
    """The statements that hold a line, outermost first."""
    tree = _tree(file)
    nodes = [] if tree is None else [node for node in ast.walk(tree) if isinstance(node, ast.stmt)]
    holding = [node for node in nodes if node.lineno <= line <= (node.end_lineno or node.lineno)]
    return sorted(holding, key=lambda node: (node.end_lineno or node.lineno) - node.lineno, reverse=True)


def _tests(file: str, line: int) -> Sequence[ast.AST]:
    """The condition that a line checks or, of a `raise`, that stands around it; else the statement itself."""
    around = _around(file, line)
    if not around:
        return []
    if isinstance(around[-1], ast.Raise):
        conditions = [node.test for node in around if isinstance(node, ast.If)]
        return conditions[-1:]
    if isinstance(around[-1], ast.Assert):
        return [around[-1].test]
    if isinstance(around[-1], ast.If | ast.While):
        return [around[-1].test]
    return [around[-1]]


def _chains(owner: str, nodes: Sequence[ast.AST]) -> Iterator[tuple[str, ...]]:
    """`self.block.width` -> (block, width), for every such name."""
    for tree in nodes:
        for node in ast.walk(tree):
            chain: list[str] = []
            part: ast.AST = node
            while isinstance(part, ast.Attribute):
                chain.append(part.attr)
                part = part.value
            if chain and isinstance(part, ast.Name) and part.id == owner:
                yield tuple(chain[::-1])


def _resolved(owner: nn.Module, chain: Sequence[str]) -> Iterator[tuple[nn.Module, str]]:
    """The module that holds the last name of a chain, where its value is an integer."""
    part: object = owner
    for name in chain[:-1]:
        part = getattr(part, name, None)
    if isinstance(part, nn.Module) and _is_size(getattr(part, chain[-1], None)):
        yield part, chain[-1]


def _is_size(value: object) -> bool:
    return type(value) is int and value > 1
