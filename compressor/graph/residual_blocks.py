"""Residual blocks: modules that add something to their input, and can be dropped where nothing else is changed.

A block returns x + f(x), in one or several additions, perhaps behind an activation that changes nothing on x, such as
a ReLU where x is the output of a ReLU. With the last writer of every branch at zero it returns x, which is computed in
float64 before the block counts as one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from compressor.execution.copies import copy_module
from compressor.execution.differences import is_close
from compressor.execution.dropped_blocks import is_inside
from compressor.execution.float64 import run_in_float64
from compressor.graph.branches import Branches
from compressor.graph.rules import table as rules
from compressor.graph.trace import ModuleCall, Trace, trace_module

TOLERANCE = 1e-12  # relative to the block's input; float64 leaves nothing where a branch is zero


@dataclass(frozen=True, slots=True)
class ResidualBlock:
    """A module that can be dropped. The model computes the same without it where these parameters are zero."""

    name: str
    writers: tuple[str, ...]  # parameters that write the branches last: of their last normalization where there is one
    channel_dim: int  # of its input
    shape: tuple[int, ...]  # of its input, with the batch


def residual_blocks(module: nn.Module, *inputs: Tensor) -> tuple[ResidualBlock, ...]:
    """Find the blocks of a module that can be dropped, one by one or together.

    Of nested blocks the innermost count. A block that runs more than once, or that shares a parameter with another
    part of the model, is left out.

    Args:
        module: The module. It is not changed.
        inputs: What it runs on.

    Returns:
        The blocks, in the order in which they run.
    """
    trace = trace_module(module, *inputs, known=rules.has_rule)
    parts = dict(module.named_modules())
    candidates = [block for block in _candidates(trace) if not _shares_parameters(module, parts[block.name])]
    innermost = [
        block
        for block in candidates
        if not any(is_inside(other.name, [block.name]) for other in candidates if other is not block)
    ]
    proven = _proven(module, innermost, *inputs)
    return tuple(block for block in innermost if block.name in proven)


def with_branches_zeroed(module: nn.Module, blocks: Sequence[ResidualBlock]) -> nn.Module:
    """Copy a module with zeros where the branches of these blocks are written last.

    Args:
        module: The module. It is not changed.
        blocks: Blocks of it.

    Returns:
        The copy, in which the blocks return their input.
    """
    copied = copy_module(module)
    zero_branches_(copied, blocks)
    return copied


def zero_branches_(module: nn.Module, blocks: Sequence[ResidualBlock]) -> None:
    """Set the parameters to zero that write the branches of these blocks last.

    Args:
        module: The module, which is changed.
        blocks: Blocks of it.
    """
    with torch.no_grad():
        for block in blocks:
            for name in block.writers:
                module.get_parameter(name).zero_()


def _candidates(trace: Trace) -> Iterator[ResidualBlock]:
    """The modules that are residual by their operators."""
    branches = Branches(trace)
    runs = Counter(call.module for call in trace.modules)
    for call in sorted(trace.modules, key=lambda call: call.first):
        if not call.module or runs[call.module] > 1 or call.input.shape != call.output.shape:
            continue
        writers = branches.writers(call)
        if writers and not _read_outside(trace, call, set(writers)):
            yield ResidualBlock(call.module, tuple(writers), _channel_dim(call, writers), call.input.shape)


def _channel_dim(call: ModuleCall, writers: Mapping[str, int]) -> int:
    """The dimension that the last writers write; the last one where they differ."""
    dims = {dim % len(call.input.shape) for dim in writers.values()}
    return dims.pop() if len(dims) == 1 else len(call.input.shape) - 1


def _read_outside(trace: Trace, block: ModuleCall, names: set[str]) -> bool:
    """Whether an operator outside the block reads one of these parameters."""
    uids = {uid for uid, name in trace.tensors.items() if name in names}
    outside = (*trace.calls[: block.first], *trace.calls[block.last :])
    return any(ref.uid in uids for call in outside for ref in call.refs())


def _shares_parameters(module: nn.Module, block: nn.Module) -> bool:
    """Whether a tensor of the block is held by a module outside it, too."""
    own = {id(tensor) for tensor in (*block.parameters(), *block.buffers())}
    inside = {id(part) for part in block.modules()}
    others = (part for part in module.modules() if id(part) not in inside)
    held = (tensor for part in others for tensor in (*part.parameters(False), *part.buffers(False)))
    return any(id(tensor) in own for tensor in held)


def _proven(module: nn.Module, blocks: Sequence[ResidualBlock], *inputs: Tensor) -> set[str]:
    """Names of the blocks that return their input, in float64, with the last writers of all blocks at zero."""
    zeroed = with_branches_zeroed(module, blocks)
    entered: dict[str, Tensor] = {}
    proven: set[str] = set()
    for block in blocks:
        part = zeroed.get_submodule(block.name)
        part.register_forward_pre_hook(partial(_enter, block.name, entered))
        part.register_forward_hook(partial(_leave, block.name, entered, proven))
    try:
        with torch.inference_mode():
            run_in_float64(zeroed, inputs)
    except Exception:  # a forward that does not run in float64
        return set()
    return proven


def _enter(name: str, entered: dict[str, Tensor], _: nn.Module, taken: tuple[Tensor, ...]) -> None:
    entered[name] = taken[0].clone()  # a block may write into its input


def _leave(name: str, entered: dict[str, Tensor], proven: set[str], _: nn.Module, __: object, result: Tensor) -> None:
    before = entered.pop(name)
    if is_close(result, before, TOLERANCE):
        proven.add(name)
