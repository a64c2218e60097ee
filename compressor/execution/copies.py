"""Copies of modules that compute what the original computes.

`copy.deepcopy` alone is not faithful. It takes functions as they are, so that a forward hook which is a closure keeps
writing into the first module; it makes of every `torch.fx.GraphModule` a plain one in training mode; and it refuses
tensors that autograd has made. Such objects get an empty twin first, which the deep copy takes for their copy; the
twins are filled with copies afterwards. Sparse and nested tensors, which have no storage, are cloned as well.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from functools import partial
from types import CellType, FunctionType, MappingProxyType
from typing import Any, TypeVar

from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from compressor.errors import ModelError
from compressor.tensors import is_strided

Module = TypeVar("Module", bound=nn.Module)


def copy_module(module: Module, tensors: Mapping[int, object] = MappingProxyType({})) -> Module:
    """Copy a module with its hooks, buffers and training flags.

    Args:
        module: What is copied. It is left as it is.
        tensors: `id` of a parameter or buffer -> the tensor that takes its place in the copy, wherever it is used.

    Returns:
        A copy that shares no parameter and no buffer with `module`.

    Raises:
        ModelError: Some part cannot be copied; the message names the innermost such module and the reason.
    """
    try:
        return _copy(module, dict(tensors))
    except Exception as error:  # whatever an object's own code raises when it is copied
        where = _innermost_failure(module)
        problem = f"it cannot be copied ({type(error).__name__}: {error})"
        hint = "keep what cannot be copied outside the module"
        raise ModelError("model/not-copyable", where, problem, hint) from error


def copy_without_values(module: Module) -> Module:
    """Copy a module to the meta device, where a forward pass computes shapes only.

    Args:
        module: What is copied. It is left as it is.

    Returns:
        A copy whose parameters and buffers have shapes and types, and no values.

    Raises:
        ModelError: As `copy_module`.
    """
    buffers = (tensor for tensor in module.buffers() if is_strided(tensor))
    bare: dict[int, object] = {id(tensor): tensor.detach().to("meta") for tensor in buffers}
    bare |= {id(one): nn.Parameter(one.detach().to("meta"), one.requires_grad) for one in module.parameters()}
    return copy_module(module, bare)


def _copy(module: Module, memo: dict[int, Any]) -> Module:
    graphs = [part for part in module.modules() if isinstance(part, fx.GraphModule)]
    memo |= {id(part): type(part).__new__(type(part)) for part in graphs}
    values = [value for part in module.modules() for value in _held(part)]
    memo |= {
        id(value): value.detach().clone()
        for value in values
        if isinstance(value, Tensor) and id(value) not in memo and not (value.is_leaf and is_strided(value))
    }
    functions = _bound_functions(module, values)
    memo |= {id(function): _twin(function) for function in functions}
    copied = copy.deepcopy(module, memo)
    for part in graphs:
        twin = memo[id(part)]
        type(twin).__name__ = type(part).__name__  # each instance has a class of its own
        twin.__dict__ = copy.deepcopy(vars(part), memo)
        twin.graph = twin.__dict__["_graph"]  # compiles the forward of the twin's own class
    for function in functions:
        _fill(memo[id(function)], function, memo)
    for original, new in zip(module.modules(), copied.modules(), strict=True):
        new.training = original.training
    return copied


def _held(module: nn.Module) -> Iterator[object]:
    """The values of a module's attributes and hooks, however deep in lists and dicts."""
    for name, value in vars(module).items():
        is_plain = value is None or isinstance(value, bool | int | float | str)
        if is_plain or name in ("_parameters", "_modules") or (isinstance(value, Mapping) and not value):
            continue  # most of the dozen attributes of every module
        yield from tree_leaves(dict(value) if isinstance(value, Mapping) else value)


def _bound_functions(module: nn.Module, values: list[object]) -> list[FunctionType]:
    """The functions of a module that refer to a part of it, by a closure or by a default value."""
    own: set[int] = set()
    for part in module.modules():
        own |= {id(part), *(id(value) for value in vars(part).values() if _is_mutable(value))}
    own |= {id(value) for value in values if _is_mutable(value)}
    bound: dict[int, FunctionType] = {}
    for value in values:
        function = _function_of(value)
        if function is not None and id(function) not in bound:
            _collect_bound(function, own, bound, (id(function),))
    return list(bound.values())


def _collect_bound(
    function: FunctionType, own: set[int], bound: dict[int, FunctionType], path: tuple[int, ...]
) -> bool:
    """Whether a function, or one that it calls, refers to something of `own`; such functions are added to `bound`."""
    direct = False
    for value in _captured(function):
        inner = _function_of(value)
        if inner is None:
            direct |= id(value) in own
        elif id(inner) not in path:
            direct |= _collect_bound(inner, own, bound, (*path, id(inner)))
    if direct:
        bound[id(function)] = function
    return direct


def _is_mutable(value: object) -> bool:
    return not isinstance(value, FunctionType | type) and (
        isinstance(value, dict | list | set | Tensor) or hasattr(value, "__dict__")
    )


def _function_of(value: object) -> FunctionType | None:
    while isinstance(value, partial):
        value = value.func
    return value if isinstance(value, FunctionType) else None


def _captured(function: FunctionType) -> Iterator[object]:
    """The values that a function refers to beside its arguments and the globals of its file."""
    for cell in function.__closure__ or ():
        if _is_bound(cell):
            yield cell.cell_contents
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()


def _is_bound(cell: CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _twin(function: FunctionType) -> FunctionType:
    """The same code with empty cells."""
    cells = tuple(CellType() for _ in function.__closure__ or ())
    twin = FunctionType(function.__code__, function.__globals__, function.__name__, None, cells or None)
    twin.__qualname__, twin.__module__, twin.__doc__ = function.__qualname__, function.__module__, function.__doc__
    twin.__dict__.update(vars(function))
    return twin


def _fill(twin: FunctionType, function: FunctionType, memo: Mapping[int, Any]) -> None:
    """Let a function refer to the copies of what was copied, and to everything else itself."""

    def copied(value: object) -> object:
        return memo.get(id(value), value)

    for cell, new in zip(function.__closure__ or (), twin.__closure__ or (), strict=True):
        new.cell_contents = copied(cell.cell_contents) if _is_bound(cell) else None
    if function.__defaults__ is not None:
        twin.__defaults__ = tuple(copied(value) for value in function.__defaults__)
    if function.__kwdefaults__ is not None:
        twin.__kwdefaults__ = {name: copied(value) for name, value in function.__kwdefaults__.items()}


def _innermost_failure(module: nn.Module) -> str:
    """Name and class of the last module, in the order of `named_modules`, that cannot be copied."""
    failing = f"the model itself ({type(module).__name__})"
    for name, part in module.named_modules():
        if name:
            try:
                _copy(part, {})
            except Exception:  # as above
                failing = f"{name} ({type(part).__name__})"
    return failing
