"""What a module takes and answers, changed by hooks: inputs passed by name, and outputs that are left out.

Hooks change no tensor's name, and copies of a module have them too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Any

from torch import Tensor, nn

from compressor.errors import ModelError, did_you_mean
from compressor.execution.copies import copy_module
from compressor.execution.run_copy import run_copy
from compressor.tensors import tree_leaves, tree_names


@dataclass(frozen=True, slots=True)
class KeywordInputs:
    """A forward pre-hook that passes positional tensors by name, in the order of `names`."""

    names: tuple[str, ...]

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[()], dict[str, Any]]:
        return (), {**dict(zip(self.names, args, strict=False)), **kwargs}


@dataclass(frozen=True, slots=True)
class SelectedOutputs:
    """A forward hook that returns some of the tensors that forward returns; a single one is not in a tuple."""

    indices: tuple[int, ...]

    def __call__(self, module: nn.Module, args: object, output: object) -> Tensor | dict[str, Tensor]:
        named = list(zip(tree_names(output), tree_leaves(output), strict=True))
        selected = [named[index] for index in self.indices]
        return selected[0][1] if len(selected) == 1 else dict(selected)


def name_inputs(module: nn.Module, names: Sequence[str]) -> nn.Module:
    """Let a module take its tensors in the order of these names, whatever the order in its forward is.

    Args:
        module: The module, which is changed.
        names: Parameters of its forward.

    Returns:
        The module.
    """
    module.register_forward_pre_hook(KeywordInputs(tuple(names)), with_kwargs=True)
    return module


def select_outputs(module: nn.Module, indices: Sequence[int]) -> nn.Module:
    """Let a module return some of its output tensors only.

    Args:
        module: The module, which is changed.
        indices: The tensors, counted depth first; none selects all.

    Returns:
        The module.
    """
    if indices:
        module.register_forward_hook(SelectedOutputs(tuple(indices)))
    return module


def without_selection(module: nn.Module) -> nn.Module:
    """Return a copy of a module that returns all its outputs."""
    return _without_hooks(module, SelectedOutputs)


def without_signature(module: nn.Module) -> nn.Module:
    """Return a copy of a module that takes and returns what its own forward does."""
    return _without_hooks(module, KeywordInputs | SelectedOutputs)


def _without_hooks(module: nn.Module, kinds: type | UnionType) -> nn.Module:
    plain = copy_module(module)
    for hooks in (plain._forward_pre_hooks, plain._forward_hooks):
        for key, hook in list(hooks.items()):
            if isinstance(hook, kinds):
                del hooks[key]
    return plain


def output_indices(
    module: nn.Module, inputs: Sequence[Tensor], selected: Sequence[int | str], where: str
) -> tuple[int, ...]:
    """Find the output tensors that indices or names select.

    Args:
        module: The module. A copy of it runs.
        inputs: One tensor for each input.
        selected: Indices, counted depth first, or names as the ONNX file has them.
        where: The model that the message names.

    Returns:
        The index of each.

    Raises:
        ModelError: There is no such output.
    """
    names = tree_names(run_copy(module, *inputs))
    for wanted in selected:
        if wanted not in names and wanted not in range(len(names)):
            hint = f"{did_you_mean(wanted, names)}its outputs are {', '.join(names)}"
            raise ModelError("model/no-such-output", where, f"model.outputs has {wanted!r}", hint)
    return tuple(names.index(wanted) if isinstance(wanted, str) else wanted for wanted in selected)
