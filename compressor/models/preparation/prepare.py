"""Removes wrappers from a module and folds computed weights, once its weights are loaded.

In eval mode a normalized weight (`w = g v / |v|`, `w = W / sigma`) and a masked one are constants. They are computed
once and kept as plain parameters, so that channels can be removed and nothing is computed anew for every input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm, SpectralNormLoadStateDictPreHook
from torch.nn.utils.weight_norm import WeightNorm

from compressor.errors import ModelError
from compressor.execution.computed_tensors import forget_computed_tensors_
from compressor.listed import listed
from compressor.models.preparation.free_attention import free_attention
from compressor.models.preparation.free_rearrange import free_rearrange
from compressor.tensors import is_strided

WRAPPERS: dict[str, str] = {  # class -> attribute that holds the module
    "torch.nn.parallel.data_parallel.DataParallel": "module",
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
    "torch.optim.swa_utils.AveragedModel": "module",
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
}
QUANTIZED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.quantized")
FLOAT_FUNCTIONS = ("FloatFunctional", "FXFloatFunctional")  # add and multiply floating-point numbers, for later
NAMED = 3  # modules that a note names


def prepare_module(module: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """Peel wrappers off a module and its parts, fold computed weights, and let heads of attention be removed.

    Args:
        module: The module with its weights loaded. It is changed, and set to eval mode.

    Returns:
        The module inside, which computes what `module` does in eval mode, and a note for each kind of change.
    """
    module, notes = peel_wrappers(module)
    module.eval()
    forget_computed_tensors_(module)
    free_rearrange(module)
    return module, (*notes, *fold_weights(module), *free_attention(module))


def refuse_opaque(module: nn.Module, where: str) -> None:
    """Refuse modules that Python cannot look into or whose weights are no floating-point numbers.

    Args:
        module: The module that was built or unpickled.
        where: The place that the message names.

    Raises:
        ModelError: A part is a script module or a quantized one, or saves a tensor that files of weights cannot hold.
    """
    for name, part in module.named_modules():
        place = f"its part {name}" if name else "it"
        if isinstance(part, torch.jit.ScriptModule):
            problem = f"{place} is a TorchScript module ({type(part).__name__}), in which no channel can be removed"
            hint = "return the module as it is before torch.jit.script or trace"
            raise ModelError("model/torchscript-module", where, problem, hint)
        if type(part).__module__.startswith(QUANTIZED) and type(part).__name__ not in FLOAT_FUNCTIONS:
            problem = f"{place} is quantized ({type(part).__name__}), and pruning needs floating-point weights"
            hint = "return the module as it is before its conversion; quantize it after pruning"
            raise ModelError("model/quantized-module", where, problem, hint)
    for name, tensor in module.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor) and not is_strided(tensor):
            problem = f"its {name} is sparse, quantized or nested, and files of weights hold dense tensors only"
            hint = "make it dense, or register it with persistent=False if the code computes its values"
            raise ModelError("model/unsupported-tensor", where, problem, hint)


def peel_wrappers(module: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """Return the module without what distributes, averages or compiles it, and a note that names the wrappers."""
    peeled: dict[str, None] = {}

    def inside(part: nn.Module) -> nn.Module:
        while (attribute := WRAPPERS.get(_class_of(part))) is not None:
            peeled[type(part).__name__] = None
            part = cast(nn.Module, getattr(part, attribute))
        return part

    module = inside(module)
    for name, part in list(module.named_modules()):
        if name and inside(part) is not part:
            module.set_submodule(name, inside(part))
    for part in module.modules():
        if getattr(part, "_compiled_call_impl", None) is not None:  # Module.compile(), which leaves the class as it is
            peeled["compile()"] = None
            part._compiled_call_impl = None
    return module, (f"peeled off: {', '.join(peeled)}",) if peeled else ()


def _class_of(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def fold_weights(module: nn.Module) -> tuple[str, ...]:
    """Replace every weight that is computed from other parameters by its value in eval mode.

    Covers `torch.nn.utils.parametrize` with any parametrization, the older `weight_norm` and `spectral_norm`, and the
    masks of `torch.nn.utils.prune`. A weight that several modules share is no longer shared afterwards.

    Returns:
        One note for each kind, with the number of weights.
    """
    folded: dict[str, list[str]] = {}
    for name, part in list(module.named_modules()):
        kinds = list(_folds(part))
        for kind, fold in kinds:
            fold()
            folded.setdefault(kind, []).append(name or type(part).__name__)
        if kinds and isinstance(part, nn.RNNBase):
            part._init_flat_weights()  # it keeps its weights in a list of its own
    return tuple(_note(kind, names) for kind, names in folded.items())


def _note(kind: str, names: list[str]) -> str:
    return f"{kind} folded into the weights of {listed(names, NAMED)}"


def _folds(part: nn.Module) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield the kind of every computed tensor of one module, and a function that folds it."""
    if parametrize.is_parametrized(part):
        for name, table in list(cast(nn.ModuleDict, part.parametrizations).items()):
            kinds = " and ".join(type(step).__name__.strip("_") for step in cast(nn.ModuleList, table))
            yield kinds, partial(_remove_parametrization, part, name)
    for hook in list(part._forward_pre_hooks.values()):
        if isinstance(hook, WeightNorm):
            yield "WeightNorm", partial(nn.utils.remove_weight_norm, part, hook.name)
        elif isinstance(hook, SpectralNorm):
            yield "SpectralNorm", partial(_remove_spectral_norm, part, hook.name)
        elif isinstance(hook, prune.BasePruningMethod):
            yield "pruning masks", partial(prune.remove, part, hook._tensor_name)


def _remove_spectral_norm(part: nn.Module, name: str) -> None:
    nn.utils.remove_spectral_norm(part, name)
    for key, hook in list(part._load_state_dict_pre_hooks.items()):  # PyTorch forgets to remove it where it is wrapped
        if isinstance(getattr(hook, "hook", hook), SpectralNormLoadStateDictPreHook):
            del part._load_state_dict_pre_hooks[key]


def _remove_parametrization(part: nn.Module, name: str) -> None:
    originals = list(cast(nn.ModuleDict, part.parametrizations)[name].parameters(recurse=False))
    parametrize.remove_parametrizations(part, name, leave_parametrized=True)
    if originals:  # PyTorch leaves a parameter, or a plain tensor with a history, depending on the parametrization
        value = getattr(part, name).detach().clone()
        delattr(part, name)
        trained = any(original.requires_grad for original in originals)
        part.register_parameter(name, nn.Parameter(value, requires_grad=trained))
