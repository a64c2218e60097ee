"""Run a module once and record every operator that it dispatches, with its shapes and the line that called it.

The dispatcher sees what autograd does not: frozen parameters, detached branches, integer paths. Under inference mode it
also sees composite operators (`linear`, `chunk`, `flatten`) before PyTorch decomposes them.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves as pytree_leaves
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakIdKeyDictionary

from compressor.execution.copies import copy_module
from compressor.execution.operators import named_arguments
from compressor.layers import source_place
from compressor.tensors import named_tensors, storage_ids, tree_leaves


@dataclass(frozen=True, slots=True)
class Ref:
    """A tensor seen during the run."""

    uid: int
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """One operator call: arguments and results with every tensor replaced by its Ref."""

    op: str  # "aten.conv2d"
    pointwise: bool
    args: Mapping[str, Any]  # by the names of the operator's schema, defaults filled in
    outs: tuple[Ref, ...]
    module: str  # the innermost module running, "" for the root
    where: str  # file:line of the user's code that called it, or the place that the module stands for
    view: bool = False  # the result lies in memory that an argument lies in
    writes: bool = False  # into an argument
    seeded: bool = False  # the operator may draw random numbers

    def refs(self) -> tuple[Ref, ...]:
        """All tensor arguments."""
        return tuple(leaf for leaf in pytree_leaves(dict(self.args)) if isinstance(leaf, Ref))


CallId = tuple[str, str, int]
"""operator, module, and which of the operator's calls in that module it is"""

Handler = Callable[[Any, Mapping[str, Any]], Any]
"""(operator, arguments by name) -> result"""


@dataclass(frozen=True, slots=True)
class ModuleCall:
    """One forward pass of a module whose first argument and whose result are a tensor."""

    module: str
    first: int  # number of its first call
    last: int  # number of the first call after it
    input: Ref
    output: Ref


@dataclass(frozen=True, slots=True)
class Trace:
    """The operators of one run, in order."""

    calls: tuple[Call, ...]
    tensors: Mapping[int, str]  # uid -> name in the state dict
    inputs: tuple[Ref, ...]
    outputs: tuple[Ref, ...]
    data_dependent: bool  # some operator's result has a shape that depends on values
    modules: tuple[ModuleCall, ...] = ()  # in the order in which they end

    def identified(self) -> Iterator[tuple[CallId, Call]]:
        """Yield every call with its identity, which is the same in a run on another device or batch.

        Such a run may make calls that this one does not: copies into another layout, as the strides of operators'
        results are, or the expansion of a mask to the batch. They are none of the operators that are looked up.
        """
        occurrences = _Occurrences()
        for call in self.calls:
            yield occurrences.next(call.op, call.module), call


class _Occurrences:
    """Counts the calls of each operator in each module."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()

    def next(self, op: str, module: str) -> CallId:
        """Return the identity of the next call.

        Args:
            op: The operator.
            module: The module that calls it.

        Returns:
            Both, and how often the module has called the operator so far, this call included.
        """
        self._counts[op, module] += 1
        return op, module, self._counts[op, module]


def replay(module: nn.Module, *inputs: Tensor, known: Callable[[str], bool], handlers: Mapping[CallId, Handler]) -> Any:
    """Run a module as `trace_module` does, with some of its calls replaced.

    Args:
        module: The module.
        inputs: Its inputs.
        known: Whether an operator has a rule; others are decomposed where PyTorch can.
        handlers: Identity of a call in the trace -> what computes its result.

    Returns:
        The module's output.
    """
    recorder = _Recorder(module, known, handlers)
    with torch.inference_mode(), _attention_in_the_open(), _running(recorder), recorder:
        return module(*inputs)


def trace_module(
    module: nn.Module, *inputs: Tensor, known: Callable[[str], bool], until_failure: bool = False
) -> Trace:
    """Run a copy of a module without gradients and record its operators.

    The copy is needed because a forward may change the module's state. Errors of the module's own forward pass through.

    Args:
        module: The module. It is not changed.
        inputs: Its inputs.
        known: Whether an operator has a rule; others are decomposed where PyTorch can.
        until_failure: Where the forward pass fails, return what ran before that.

    Returns:
        The trace.
    """
    module, here, result = copy_module(module), inputs[0].device, None
    recorder = _Recorder(module, known)
    refs = tuple(recorder.ref(tensor) for tensor in inputs)
    failure = suppress(Exception) if until_failure else nullcontext()
    with failure, here, torch.inference_mode(), _attention_in_the_open(), _running(recorder), recorder:
        result = module(*inputs)
    outputs = tuple(recorder.ref(leaf) for leaf in tree_leaves(result))
    modules = tuple(recorder.modules)
    return Trace(tuple(recorder.calls), recorder.names, refs, outputs, recorder.data_dependent, modules)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # PyTorch leaves it unannotated
    def __init__(
        self, module: nn.Module, known: Callable[[str], bool], handlers: Mapping[CallId, Handler] = MappingProxyType({})
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[Call] = []
        self.stack: list[nn.Module] = []
        self.modules: list[ModuleCall] = []
        self._entries: list[tuple[int, Ref | None]] = []  # of the modules in the stack: next call, first argument
        self.names: dict[int, str] = {}
        self.data_dependent = False
        self._occurrences = _Occurrences()
        self._known = known
        self._handlers = handlers
        self._uids = WeakIdKeyDictionary()
        self._count = itertools.count()
        self._module_names = {id(part): name for name, part in module.named_modules()}
        for name, tensor in named_tensors(module).items():
            self.names[self.ref(tensor).uid] = name

    def ref(self, tensor: Tensor) -> Ref:
        if tensor not in self._uids:
            self._uids[tensor] = next(self._count)
        return Ref(self._uids[tensor], tuple(tensor.shape))

    def enter(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        """Note that the forward pass of a module begins.

        Args:
            module: The module.
            arguments: Its positional arguments.
        """
        taken = self.ref(arguments[0]) if arguments and isinstance(arguments[0], Tensor) else None
        self.stack.append(module)
        self._entries.append((len(self.calls), taken))

    def leave(self, module: nn.Module, result: Any) -> None:
        """Note that the forward pass of a module has ended.

        Args:
            module: The module.
            result: What it returned; None after an error.
        """
        self.stack.pop()
        first, taken = self._entries.pop()
        name = self._module_names.get(id(module))
        if name is not None and taken is not None and isinstance(result, Tensor):
            self.modules.append(ModuleCall(name, first, len(self.calls), taken, self.ref(result)))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        op = f"aten.{func.overloadpacket.__name__}" if func.namespace == "aten" else str(func.overloadpacket)
        pointwise = torch.Tag.pointwise in func.tags
        if not pointwise and not self._known(op):
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        running = [part for part in reversed(self.stack) if id(part) in self._module_names]
        module = self._module_names[id(running[0])] if running else ""
        named = named_arguments(func, args, kwargs)
        before = tree_map_only(Tensor, self.ref, named)
        handler = self._handlers.get(self._occurrences.next(op, module))
        result = func(*args, **kwargs) if handler is None else handler(func, named)
        self.data_dependent |= torch.Tag.dynamic_output_shape in func.tags
        outs = tuple(self.ref(leaf) for leaf in pytree_leaves(result) if isinstance(leaf, Tensor))
        where = (source_place(running[0]) if running else None) or _caller()
        facts = _shares(named, result), func._schema.is_mutable, torch.Tag.nondeterministic_seeded in func.tags
        self.calls.append(Call(op, pointwise, before, outs, module, where, *facts))
        return result


@contextmanager
def _attention_in_the_open() -> Iterator[None]:
    """Keep nn.MultiheadAttention from fusing its matrix products, which would not be counted."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _shares(arguments: Mapping[str, Any], result: Any) -> bool:
    """Whether a result lies in the memory of an argument."""
    return bool(storage_ids(dict(arguments)) & storage_ids(result))


_NOT_THE_USER = (torch.__path__[0] + os.sep, __file__)
_RESHAPERS = f"{os.sep}einops{os.sep}"  # one line of it reshapes for every line that calls it


def _caller() -> str:
    """file:line of the innermost frame outside PyTorch, einops and this file."""
    frame = sys._getframe(2)
    while frame is not None and _is_library(frame.f_code.co_filename):
        if frame.f_back is None:
            break
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _is_library(file: str) -> bool:
    return file.startswith(_NOT_THE_USER) or _RESHAPERS in file


@contextmanager
def _running(recorder: _Recorder) -> Iterator[None]:
    """Tell the recorder which modules begin and end."""
    handles = (
        torch_module.register_module_forward_pre_hook(lambda module, taken: recorder.enter(module, taken)),
        torch_module.register_module_forward_hook(
            lambda module, _, result: recorder.leave(module, result), always_call=True
        ),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
