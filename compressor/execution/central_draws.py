"""Random numbers at the centre of their distributions, so that a model that draws them compares with its ONNX file.

A uniform number is the middle of its interval, a normal one its mean. Numbers derived from a uniform u follow from
u = 1/2: a Bernoulli draw is 1 where its probability exceeds 1/2, an exponential one is log(2) / rate, an integer below
n is n / 2, rounded down. Dropout passes everything.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from compressor.execution.operators import named_arguments


class UnknownDraw(RuntimeError):
    """An operator draws random numbers that have no centre here; the message names it."""


class CentralDraws(TorchDispatchMode):  # type: ignore[no-untyped-call]  # PyTorch leaves it unannotated
    """For use under inference mode, where dropout is one operator."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        named = named_arguments(func, args, kwargs)
        name = func.overloadpacket.__name__
        if name in ("dropout", "feature_dropout", "native_dropout") and "p" in named:
            train = {"train": False} if "train" in named else {}
            return func(**{**named, **train})
        before = torch.get_rng_state()
        result = func(*args, **kwargs)
        if torch.equal(before, torch.get_rng_state()):  # attention without dropout, for one
            return result
        centre = _centre(name, named, result)
        if centre is None:
            raise UnknownDraw(f"{func} draws random numbers")
        return result.copy_(centre) if isinstance(centre, Tensor) else result.fill_(centre)


def _centre(name: str, named: dict[str, Any], result: Tensor) -> Tensor | float | None:
    """The value that replaces an operator's draws; None where it is not known."""
    if name in ("randn", "randn_like"):
        return 0.0
    if name in ("rand", "rand_like"):
        return 0.5
    if name == "uniform_":
        return float(named["from"] + named["to"]) / 2
    if name in ("normal", "normal_", "normal_functional"):
        mean = named["mean"]
        return mean if isinstance(mean, Tensor) else float(mean)
    if name in ("bernoulli", "bernoulli_"):
        chance = named.get("p", named["self"])
        return (chance > 0.5).to(result.dtype) if isinstance(chance, Tensor) else float(chance > 0.5)
    if name in ("exponential_", "exponential"):
        return math.log(2) / float(named["lambd"])
    if name in ("randint", "randint_like"):
        low, high = named.get("low", 0), named["high"]
        return float(low + (high - low) // 2)
    return None
