"""Run a module in float64 whatever types its forward names.

`Module.double()` converts parameters and buffers only. A forward that calls `.float()` or `dtype=torch.float32`, or
that holds plain tensors, continues in float32: it fails at the next layer, or rounds where nothing should be rounded.
Here every operator gets its operands in float64, and every floating type that it names means float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from compressor.execution.randomness import equal_randomness

WIDER = {
    torch.float32: torch.float64,
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.complex64: torch.complex128,
    torch.complex32: torch.complex128,
}
_BITS = (torch.ops.aten.view.dtype,)  # reads the same memory as another type


Run = Callable[..., object]
"""(module, *inputs) -> output"""


class Float64(TorchDispatchMode):  # type: ignore[no-untyped-call]  # PyTorch leaves it unannotated
    """Run every operator in float64. A tensor that an operator writes into keeps its type."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _BITS:
            return func(*args, **kwargs)
        schema = func._schema.arguments
        written = {argument.name for argument in schema if argument.alias_info and argument.alias_info.is_write}
        places = [argument.name for argument in schema]
        args = tuple(
            value if name in written else tree_map(_widened, value) for name, value in zip(places, args, strict=False)
        )
        return func(*args, **{name: v if name in written else tree_map(_widened, v) for name, v in kwargs.items()})


def _widened(value: object) -> object:
    if isinstance(value, torch.dtype):
        return WIDER.get(value, value)
    if isinstance(value, Tensor) and value.dtype in WIDER:
        with torch.inference_mode(False), torch.no_grad():  # else no view of a plain tensor can be taken
            return value.to(WIDER[value.dtype])
    return value


@contextmanager
def in_float64() -> Iterator[None]:
    """Compute everything inside in float64, from equal random numbers."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # for tensors that the module's code makes on the way
    try:
        with equal_randomness(), Float64():  # type: ignore[no-untyped-call]
            yield
    finally:
        torch.set_default_dtype(before)


def call(module: nn.Module, *inputs: Tensor) -> object:
    """Run the module.

    Args:
        module: The module.
        inputs: Its inputs.

    Returns:
        Its output.
    """
    return module(*inputs)


def run_in_float64(module: nn.Module, inputs: Sequence[Tensor], run: Run = call) -> object:
    """Run a module in float64 and eval mode.

    Args:
        module: The module. It is turned to float64 and eval mode.
        inputs: Its inputs; floating-point ones are cast.
        run: What runs instead of the module itself, called with the module and the inputs.

    Returns:
        The result of `run`.
    """
    module.double().eval()
    with in_float64():
        return run(module, *widen(inputs))


def run_in_float32(module: nn.Module, inputs: Sequence[Tensor], run: Run = call) -> object:
    """Run a module in its own types, in eval mode, from the same random numbers as `run_in_float64`.

    Args:
        module: The module. It is turned to eval mode.
        inputs: Its inputs.
        run: What runs instead of the module itself, called with the module and the inputs.

    Returns:
        The result of `run`.
    """
    module.eval()
    with equal_randomness():
        return run(module, *inputs)


@dataclass(frozen=True, slots=True)
class Precision:
    """An arithmetic in which two modules are compared."""

    name: str  # of the type
    tolerance: float  # of a difference, relative to the largest output
    run: Callable[..., object]  # (module, inputs, run) -> result of `run`


FLOAT64 = Precision("float64", 1e-9, run_in_float64)  # which leaves about 1e-13
FLOAT32 = Precision("float32", 1e-4, run_in_float32)  # where a model runs in float32 only; it leaves about 1e-6


def widen(inputs: Sequence[Tensor]) -> list[Tensor]:
    """Cast floating-point inputs to float64."""
    return [tensor.double() if tensor.is_floating_point() else tensor for tensor in inputs]
