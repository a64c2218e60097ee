"""N:M sparsity, 2:4 above all: of every 4 consecutive input channels 2 weights are zero, as sparse tensor cores want.

Mishra, Latorre, Pool, Stosic, Stosic, Venkatesh, Yu and Micikevicius, Accelerating Sparse Deep Neural Networks,
arXiv:2104.08378: mask the trained network once, then train it again as it was trained, with fixed masks.
Pool and Yu, Channel Permutations for N:M Sparsity, NeurIPS 2021: put the channels in a better order first.
Zhou, Ma, Zhu, Liu, Zhang, Yuan, Sun and Li, Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch,
arXiv:2102.04010: let the masks change while training (SR-STE).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from compressor.budget.target import PruningTarget
from compressor.core import NMPattern
from compressor.criteria.magnitude import l1
from compressor.methods.base import Method
from compressor.sparsity.runtimes import RUNTIMES, SIZES, NMSparsity
from compressor.steps.base import Step
from compressor.steps.mask_nm import MaskNM
from compressor.steps.permute_channels import PermuteChannels
from compressor.steps.remove_channels import RemoveChannels
from compressor.steps.select_channels import SelectChannels


class TwoFour(Method):
    """With `prune.target`, channels go first, in widths that leave layers eligible; without, only masks are set."""

    name: ClassVar[str] = "2of4"
    needs_target: ClassVar[bool] = False

    pattern: tuple[int, int] = Field(default=(2, 4), description="[N, M]: at most N of every M input channels")
    permute: bool = Field(default=True, strict=True, description="put channels into the order in which masks keep most")
    rounds: Annotated[int, Field(strict=True, ge=1, le=1000)] = Field(
        default=4, description="of the search for that order, for each group of channels"
    )
    training: Literal["fixed", "sr-ste"] = Field(
        default="fixed", description="fixed = zeros stay where they are; sr-ste = masks follow the weights"
    )
    decay: Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)] = Field(
        default=2e-4, description="of masked weights, in sr-ste"
    )
    runtime: Literal[tuple(RUNTIMES)] = Field(  # type: ignore[valid-type]
        default="tensorrt-ampere", description="runtime and device generation whose rules say which layers are eligible"
    )
    dense: tuple[str, ...] = Field(default=(), description="globs on layer names that are left without masks")
    packed: bool = Field(
        default=False, strict=True, description="store values and places instead of zeros in slim.safetensors"
    )

    @field_validator("pattern")
    @classmethod
    def _possible(cls, pattern: tuple[int, int]) -> tuple[int, int]:
        n, m = pattern
        if m not in SIZES or not 1 <= n < m:
            allowed = f"[N, M] with M one of {', '.join(map(str, SIZES))} and N from 1 to M - 1"
            raise PydanticCustomError("refused", "{allowed}", {"allowed": allowed, "options": []})
        return pattern

    def steps(self, selection: PruningTarget) -> tuple[Step, ...]:
        sparsity = NMSparsity(NMPattern(*self.pattern), self.runtime, self.dense, self.packed)
        channels = (SelectChannels(l1, self._eligible(selection)), RemoveChannels()) if not selection.is_empty else ()
        order = (PermuteChannels(sparsity, self.rounds),) if self.permute else ()
        return (*channels, *order, MaskNM(sparsity, self.decay if self.training == "sr-ste" else None))

    def _eligible(self, selection: PruningTarget) -> PruningTarget:
        """Widths that the runtime takes, unless the recipe names others: one layer's outputs are the next's inputs."""
        if not selection.allow_finer_rounding:
            return selection
        support = RUNTIMES[self.runtime]
        multiple = math.lcm(selection.round_to, support.inputs, support.outputs, self.pattern[1])
        return replace(selection, round_to=multiple, allow_finer_rounding=False)
