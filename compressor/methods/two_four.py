"""N:M sparsity, mostly 2:4: of every 4 consecutive input channels 2 weights are zero, as sparse tensor cores need it.

Mishra, Latorre, Pool, Stosic, Stosic, Venkatesh, Yu and Micikevicius, Accelerating Sparse Deep Neural Networks,
arXiv:2104.08378 (mask the trained network once, then repeat its training with the mask fixed). Pool and Yu, Channel
Permutations for N:M Sparsity, NeurIPS 2021 (permute channels first, so that the mask keeps more magnitude). Zhou, Ma,
Zhu, Liu, Zhang, Yuan, Sun and Li, Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch,
arXiv:2102.04010 (SR-STE: the mask follows the weights during training).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StrictBool

from compressor.budget.target import PruningTarget
from compressor.core import NMPattern
from compressor.criteria.magnitude import l1
from compressor.field_types import Count, NonNegative, refused
from compressor.methods.base import Method
from compressor.sparsity.runtimes import RUNTIMES, SIZES, NMSparsity
from compressor.steps.base import Step
from compressor.steps.mask_nm import MaskNM
from compressor.steps.permute_channels import PermuteChannels
from compressor.steps.remove_channels import RemoveChannels
from compressor.steps.select_channels import SelectChannels


def _check_pattern(pattern: tuple[int, int]) -> tuple[int, int]:
    n, m = pattern
    if m not in SIZES or not 1 <= n < m:
        raise refused(f"[N, M] with M one of {', '.join(map(str, SIZES))} and N from 1 to M - 1")
    return pattern


class TwoFour(Method, name="2of4", needs_target=False):
    """Mask N of every M weights. If there is a `prune.target`, channels are removed first, in widths that keep layers
    eligible."""

    pattern: Annotated[tuple[int, int], AfterValidator(_check_pattern)] = Field(
        default=(2, 4), description="[N, M]: at most N of every M input channels have a weight"
    )
    permute: StrictBool = Field(default=True, description="permute the channels so that the mask keeps most magnitude")
    rounds: Annotated[Count, Field(le=1000)] = Field(
        default=4, description="rounds of the permutation search, for each group of channels"
    )
    training: Literal["fixed", "sr-ste"] = Field(
        default="fixed", description="fixed = the mask does not change; sr-ste = the mask follows the weights"
    )
    decay: NonNegative = Field(default=2e-4, description="decay of the masked weights in sr-ste")
    runtime: Literal[tuple(RUNTIMES)] = Field(  # type: ignore[valid-type]
        default="tensorrt-ampere", description="runtime and device generation that decide which layers are eligible"
    )
    dense: tuple[str, ...] = Field(default=(), description="globs on layer names that get no mask")
    packed: StrictBool = Field(
        default=False, description="store values and indices instead of zeros in slim.safetensors"
    )

    def steps(self, target: PruningTarget) -> tuple[Step, ...]:
        sparsity = NMSparsity(NMPattern(*self.pattern), self.runtime, self.dense, self.packed)
        channels = (SelectChannels(l1, self._eligible(target)), RemoveChannels()) if not target.is_empty else ()
        permute = (PermuteChannels(sparsity, self.rounds),) if self.permute else ()
        return (*channels, *permute, MaskNM(sparsity, self.decay if self.training == "sr-ste" else None))

    def _eligible(self, target: PruningTarget) -> PruningTarget:
        """The target in widths that the runtime can use, unless the recipe has a `round_to`.

        The outputs of one layer are the inputs of the next, so that both conditions hold for every width.
        """
        if not target.allow_finer_rounding:
            return target
        support = RUNTIMES[self.runtime]
        multiple = math.lcm(target.round_to, support.inputs, support.outputs, self.pattern[1])
        return replace(target, round_to=multiple, allow_finer_rounding=False)
