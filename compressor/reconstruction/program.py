"""A forward pass recorded as a list of operator calls, and run again call by call.

Reconstruction solves a layer between two calls of a forward pass. A recorded program can be stopped at every call, run
on many batches side by side, and continued with new weights. It knows which tensors are still needed, so that its peak
memory is known before it runs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves as pytree_leaves
from torch.utils._pytree import tree_map
from torch.utils.weak import WeakIdKeyDictionary

from compressor.execution.operators import named_arguments
from compressor.tensors import is_strided, named_tensors, storage_ids, tree_leaves

Values = dict[int, Tensor]
"""Tensor number -> its value on one batch; constants of the program are absent."""

_UNTAGGED = (  # operators that call tagged ones, and have no tag themselves
    torch.ops.aten.is_nonzero.default,
    torch.ops.aten.nonzero_numpy.default,
    torch.ops.aten.repeat_interleave.self_Tensor,
    torch.ops.aten.tensor_split.tensor_indices_or_sections,
    torch.ops.aten.where.default,
)


@dataclass(frozen=True, slots=True)
class TensorRef:
    """A tensor of the program."""

    uid: int


@dataclass(frozen=True, slots=True)
class Operation:
    """One operator call with every tensor replaced by its TensorRef."""

    func: Any  # the operator overload
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    reads: tuple[int, ...]
    outputs: tuple[int, ...]
    mutates: bool  # writes into one of its arguments

    @property
    def op(self) -> str:
        """The operator's name without its overload, such as `aten.conv2d`."""
        return str(self.func.overloadpacket).removesuffix(".default")

    def named(self) -> dict[str, Any]:
        """Arguments by the names of the operator's schema, defaults filled in."""
        return named_arguments(self.func, self.args, self.kwargs)


@dataclass(frozen=True)
class Program:
    """The calls of one forward pass. `complete`: no call depends on values, so that it runs on any batch."""

    operations: tuple[Operation, ...]
    constants: Mapping[int, Tensor]  # parameters, buffers and tensors made outside the recorded calls
    names: Mapping[int, str]  # of parameters and buffers
    shapes: Mapping[int, tuple[int, ...]]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    complete: bool
    storages: Mapping[int, tuple[int, int]]  # tensor -> the storage it lies in, and that storage's bytes
    memory: tuple[int, ...] = ()  # bytes alive before each operation
    last_use: Mapping[int, int] = field(default_factory=dict)  # tensor -> the last operation that reads it

    @cached_property
    def writers(self) -> Mapping[int, tuple[int, ...]]:
        """Tensor -> the operations that have it as a result, in order."""
        return _by_tensor(operation.outputs for operation in self.operations)

    @cached_property
    def readers(self) -> Mapping[int, tuple[int, ...]]:
        """Tensor -> the operations that read it, in order."""
        return _by_tensor(operation.reads for operation in self.operations)

    def run(self, values: Values, start: int, stop: int) -> None:
        """Run operations `start` to `stop` on one batch and drop the tensors that nothing reads any more.

        Args:
            values: The tensors alive before `start`; changed to those alive before `stop`.
            start: The first operation.
            stop: The operation to stop before.
        """
        for index in range(start, stop):
            operation = self.operations[index]
            args, kwargs = self.arguments(operation, values)
            result = operation.func(*args, **kwargs)
            for uid, leaf in zip(operation.outputs, _tensor_leaves(result), strict=True):
                values[uid] = leaf
            for uid in {*operation.reads, *operation.outputs}:
                if self.last_use.get(uid, -1) <= index:
                    values.pop(uid, None)

    def arguments(self, operation: Operation, values: Values) -> tuple[Any, Any]:
        """Resolve the arguments of a call on one batch.

        Args:
            operation: The call.
            values: The live tensors of the batch.

        Returns:
            Positional and named arguments.
        """

        def resolve(leaf: Any) -> Any:
            if not isinstance(leaf, TensorRef):
                return leaf
            return values[leaf.uid] if leaf.uid in values else self.constants[leaf.uid]

        args, kwargs = tree_map(resolve, (operation.args, dict(operation.kwargs)))
        return args, kwargs

    def reordered(self, order: Sequence[int]) -> Program:
        """Put the operations in another order that gives the same results.

        Args:
            order: Indices of the operations in their new order.

        Returns:
            The reordered program.
        """
        return _with_liveness(replace(self, operations=tuple(self.operations[index] for index in order)))

    def value(self, uid: int, values: Values) -> Tensor:
        """Look up a tensor on one batch.

        Args:
            uid: Number of the tensor.
            values: The live tensors of the batch.

        Returns:
            Its value.
        """
        return values[uid] if uid in values else self.constants[uid]


def record(module: nn.Module, *inputs: Tensor) -> Program:
    """Run a module in eval mode without gradients and record every operator call.

    Recording stops at the first call whose result depends on values, such as `.item()` or `nonzero`, because the calls
    behind it cannot run again on another batch.

    Args:
        module: The module.
        inputs: Its inputs.

    Returns:
        The program.
    """
    recorder = _Recorder(module)
    input_uids = tuple(recorder.uid(tensor) for tensor in inputs)
    with replaying(), recorder:
        result = module(*inputs)
    outputs = tuple(recorder.uid(leaf) for leaf in tree_leaves(result)) if recorder.complete else ()
    program = Program(
        tuple(recorder.operations),
        {uid: tensor for uid, tensor in recorder.constants.items() if uid not in input_uids},
        recorder.names,
        recorder.shapes,
        input_uids,
        outputs,
        recorder.complete,
        recorder.storages,
    )
    return _with_liveness(program)


def _by_tensor(tensors: Iterable[tuple[int, ...]]) -> dict[int, tuple[int, ...]]:
    """Tensor -> the positions of the tuples that hold it."""
    positions: dict[int, list[int]] = {}
    for index, uids in enumerate(tensors):
        for uid in dict.fromkeys(uids):
            positions.setdefault(uid, []).append(index)
    return {uid: tuple(indices) for uid, indices in positions.items()}


def _with_liveness(program: Program) -> Program:
    """Add the last use of every tensor, and the bytes live before each operation."""
    last_use = dict.fromkeys(program.inputs, -1)
    first: dict[int, int] = dict.fromkeys(program.inputs, 0)
    for index, operation in enumerate(program.operations):
        for uid in (*operation.reads, *operation.outputs):
            if uid not in program.constants:
                last_use[uid] = index
                first.setdefault(uid, index + 1)
    count = len(program.operations)
    last_use |= dict.fromkeys(program.outputs, count)
    spans: dict[int, tuple[int, int]] = {}  # of storages
    for uid, begin in first.items():
        key, _ = program.storages[uid]
        known = spans.get(key, (begin, -1))
        spans[key] = (min(known[0], begin), max(known[1], last_use[uid]))
    sizes = dict(program.storages.values())
    memory = [0] * (count + 1)
    for key, (begin, end) in spans.items():
        for index in range(begin, min(end, count) + 1):
            memory[index] += sizes[key]
    return replace(program, memory=tuple(memory), last_use=last_use)


@contextmanager
def replaying() -> Iterator[None]:
    """Run without gradients, with composite operators undecomposed and attention without its fused fast path."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # PyTorch leaves it unannotated
    def __init__(self, module: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[Operation] = []
        self.constants: dict[int, Tensor] = {}
        self.names: dict[int, str] = {}
        self.shapes: dict[int, tuple[int, ...]] = {}
        self.storages: dict[int, tuple[int, int]] = {}
        self.complete = True
        self._uids = WeakIdKeyDictionary()
        self._count = itertools.count()
        self._storage_numbers: dict[int, int] = {}
        for name, tensor in named_tensors(module).items():
            self.names[self.uid(tensor)] = name

    def uid(self, tensor: Tensor) -> int:
        if tensor not in self._uids:
            number = self._uids[tensor] = next(self._count)
            self.shapes[number] = tuple(tensor.shape)
        return int(self._uids[tensor])

    def _place(self, tensor: Tensor, shared: set[int]) -> tuple[int, int]:
        """The storage of a result: that of an argument where they share memory, a new one otherwise."""
        if not is_strided(tensor):
            return self.uid(tensor), 0
        storage = tensor.untyped_storage()
        if storage._cdata not in shared:
            self._storage_numbers[storage._cdata] = self.uid(tensor)
        return self._storage_numbers.setdefault(storage._cdata, self.uid(tensor)), storage.nbytes()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        self.complete &= not _depends_on_values(func, args)
        if not self.complete:
            return func(*args, **kwargs)
        inputs = _tensor_leaves((args, kwargs))
        for tensor in inputs:
            uid = self.uid(tensor)
            if uid not in self.storages:
                self.constants[uid] = tensor
                self.storages[uid] = self._place(tensor, storage_ids(tensor))
        before = tree_map(lambda leaf: TensorRef(self.uid(leaf)) if isinstance(leaf, Tensor) else leaf, (args, kwargs))
        reads = tuple(dict.fromkeys(self.uid(tensor) for tensor in inputs))
        shared = storage_ids(inputs)
        result = func(*args, **kwargs)
        leaves = _tensor_leaves(result)
        for leaf in leaves:
            self.storages[self.uid(leaf)] = self._place(leaf, shared)
        aliases = (argument.alias_info for argument in func._schema.arguments)
        mutates = any(alias is not None and alias.is_write for alias in aliases)
        outputs = tuple(self.uid(leaf) for leaf in leaves)
        self.operations.append(Operation(func, before[0], before[1], reads, outputs, mutates))
        return result


def _depends_on_values(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether the shape of a result, or a number taken from it, depends on values; for an index, a mask does."""
    if func.overloadpacket is torch.ops.aten.index:
        return any(
            isinstance(leaf, Tensor) and leaf.dtype in (torch.bool, torch.uint8) for leaf in pytree_leaves(args[1])
        )
    tagged = {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output} & set(func.tags)
    return bool(tagged) or func in _UNTAGGED


def _tensor_leaves(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree_leaves(tree) if isinstance(leaf, Tensor)]
