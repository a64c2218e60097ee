"""Builds architectures by name, with any number of classes and input channels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from compressor.core import ModelSpec
from compressor.errors import ModelError
from compressor.execution.randomness import equal_randomness
from compressor.models.families import families, family_of, named_families
from compressor.models.families.base import Defaults, Family, FileFamily, NamedFamily
from compressor.models.preparation.signature import select_outputs

PICKLE = "pickle:"
IN_MEMORY = "memory:"


def split_name(source: str) -> tuple[Family, str]:
    """Split a source such as `timm:resnet26d` into its family and the name in it.

    Raises:
        ModelError: No family has this name; the hint suggests the nearest names.
    """
    name = source.partition(":")[2]
    family = family_of(source)
    if family is None and source.startswith(IN_MEMORY):
        problem = "the model was compressed in memory, and no name or file can rebuild its architecture"
        raise ModelError("model/in-memory", name, problem, "give the dense module: compressor.load(folder, module)")
    if family is None and source.startswith(PICKLE):
        problem = "the whole module was pickled, and only that pickle can rebuild it"
        hint = "give trust_pickle=True or --trust-pickle to run it, or its code: path/to/net.py:factory@checkpoint"
        raise ModelError("model/whole-pickled-module", name, problem, hint)
    if family is None:
        raise _unknown(source, name or source, named_families())
    name = name if family.prefix else source
    if isinstance(family, NamedFamily) and not family.has(name):
        raise _unknown(source, name, [family])
    return family, name


def _unknown(source: str, name: str, candidates: Sequence[NamedFamily]) -> ModelError:
    names = {family.prefix: family.names() for family in candidates}
    exact = [f"{prefix}:{name}" for prefix, known in names.items() if name in known]
    similar = [f"{prefix}:{close}" for prefix, known in names.items() for close in get_close_matches(name, known, n=3)]
    nearest = exact or similar
    forms = ", ".join(
        f"{family.prefix}:{family.form}" for family in families() if isinstance(family, NamedFamily | FileFamily)
    )
    hint = f"did you mean {' or '.join(nearest[:4])}?" if nearest else f"give {forms} or a path"
    return ModelError("model/unknown-architecture", source, "the architecture is unknown", hint)


def model_defaults(source: str) -> Defaults:
    """Return input size, classes and normalization of an architecture, whatever its weights."""
    family, name = named_architecture(source)
    return family.defaults(name)


def named_architecture(source: str) -> tuple[NamedFamily, str]:
    """Split a source as `split_name` does.

    Raises:
        ModelError: It is no name of an architecture.
    """
    family, name = split_name(source)
    if isinstance(family, NamedFamily):
        return family, name
    problem, hint = "it is a file or folder, and no name of an architecture", "give it as the model itself"
    raise ModelError("model/not-a-name", source, problem, hint)


def build_named(spec: ModelSpec) -> nn.Module:
    """Build an architecture with random weights, in eval mode; under `torch.device("meta")` without any.

    Auxiliary heads, which only training uses, are left out.

    Raises:
        ModelError: The name is unknown, or the sizes are impossible.
    """
    family, name = split_name(spec.source)
    return select_outputs(family.build(spec, name).eval(), spec.outputs)


def can_rebuild(spec: ModelSpec) -> bool:
    """Return whether `build_named` can build the architecture: not if only a pickle or memory holds it."""
    return not spec.source.startswith((PICKLE, IN_MEMORY))


class _WithoutInit(TorchFunctionMode):
    """Fills tensors with zeros instead of random numbers, because drawing them takes most of the time."""

    _DRAWS = (Tensor.uniform_, Tensor.normal_, Tensor.erfinv_)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self._DRAWS:
            with torch.no_grad():
                return args[0].zero_()
        return func(*args, **(kwargs or {}))


@contextmanager
def weights_to_come(source: str) -> Iterator[None]:
    """Build a network without random weights, all of which are loaded next. A user's code draws as it likes."""
    family = family_of(source)
    draws_more = family is not None and not family.draws_only_weights
    with equal_randomness(), nullcontext() if draws_more else _WithoutInit():
        yield
