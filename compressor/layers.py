"""The layers of a module that have a weight matrix, and hooks that observe what layers return."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED_CONVOLUTIONS = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
WEIGHTED_LAYERS = (nn.Linear, *CONVOLUTIONS, *TRANSPOSED_CONVOLUTIONS)


def named_weights(module: nn.Module, types: tuple[type[nn.Module], ...]) -> dict[str, tuple[str, nn.Parameter]]:
    """Find the weights of layers. A weight that several layers share appears once.

    Args:
        module: The network.
        types: The types of layers, from this module.

    Returns:
        Parameter name -> (name of the first layer that has it, weight), in the order of the network.
    """
    weights: dict[str, tuple[str, nn.Parameter]] = {}
    for name, layer in module.named_modules():
        weight = dict(layer.named_parameters(recurse=False)).get("weight") if isinstance(layer, types) else None
        if weight is not None and all(weight is not other for _, other in weights.values()):
            weights[f"{name}.weight" if name else "weight"] = name, weight
    return weights


def source_place(module: object) -> str | None:
    """Return the place that a module stands for, such as a node of an ONNX file; None where its code is the place."""
    place = getattr(module, "source_place", None) if isinstance(module, nn.Module) else None
    return place if isinstance(place, str) else None


def note_failed_place(error: BaseException, place: str) -> None:
    """Attach to an error the place that a module was running.

    Args:
        error: What the place raised.
        place: The place, such as a node of an ONNX file.
    """
    vars(error)["failed_place"] = place


def failed_place(error: BaseException) -> str | None:
    """Return the place that `note_failed_place` attached; None where there is none."""
    place: str | None = vars(error).get("failed_place")
    return place


def has_filters(module: nn.Module) -> bool:
    """Return whether the module itself has a weight of two or more dimensions, which is (filters, ...)."""
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim > 1


@contextmanager
def observe_outputs(module: nn.Module, names: Iterable[str], observe: Callable[[str, object], None]) -> Iterator[None]:
    """While the block runs, call `observe` after each forward pass of the named submodules.

    Args:
        module: The network.
        names: Names of its submodules, as in `named_modules`.
        observe: Takes the name and what the submodule returned. It must copy tensors that later layers may overwrite.
    """

    def hook(name: str) -> Callable[[nn.Module, object, object], None]:
        return lambda _module, _inputs, output: observe(name, output)

    handles = [module.get_submodule(name).register_forward_hook(hook(name)) for name in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
