"""What a criterion is: it scores the channels of groups, or single weights; the lowest scores are removed first.

A criterion is one file: its settings, its formula and its computation. Criteria are read with recipes, so these files
import torch and numpy only where they compute.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from compressor.core import Data, EventSink, ignore_event
from compressor.errors import VerificationFailed

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compressor.core import ChannelGroup, FloatArray


@dataclass(frozen=True, slots=True)
class ScoringContext:
    """What a criterion may use beside the weights."""

    data: Data | None = None  # only its training images
    seed: int = 0
    round: int = 0  # of the selections of a run; in every round a criterion uses other batches
    inputs: tuple[Tensor, ...] = ()  # example inputs of the model
    emit: EventSink = ignore_event

    @property
    def training_data(self) -> Data:
        """The data, for criteria that say they need them."""
        assert self.data is not None, "a step whose criterion needs data is refused without"
        return self.data


WEIGHTS_ONLY = ScoringContext()
"""For criteria that use nothing but the weights."""


class ChannelCriterion(Protocol):
    """Scores channels."""

    @property
    def name(self) -> str: ...

    @property
    def needs_data(self) -> bool: ...

    def score_channels(
        self, module: nn.Module, groups: Sequence[ChannelGroup], context: ScoringContext = WEIGHTS_ONLY
    ) -> Mapping[str, FloatArray]:
        """Score every channel of the groups that are not frozen.

        Args:
            module: The network; it is not changed.
            groups: The groups of its channels.
            context: Data, seed and example inputs.

        Returns:
            Group name -> scores (C,). Groups that the criterion says nothing about are absent.
        """
        ...


class WeightCriterion(Protocol):
    """Scores single weights."""

    @property
    def name(self) -> str: ...

    @property
    def needs_data(self) -> bool: ...

    def score_weights(
        self,
        module: nn.Module,
        weights: Mapping[str, Tensor],
        masks: Mapping[str, Tensor],
        context: ScoringContext = WEIGHTS_ONLY,
    ) -> Mapping[str, Tensor]:
        """Score every entry of some weights.

        Args:
            module: The network, in which masked weights are zero; it is not changed.
            weights: Tensor name -> the value that each entry has where it is not masked.
            masks: Tensor name -> True where an entry may still be kept; empty where all entries compete again.
            context: Data, seed and example inputs.

        Returns:
            Tensor name -> scores in the shape of the tensor, for all `weights` at least.
        """
        ...


def check_finite(kind: str, scores: Mapping[str, FloatArray] | Mapping[str, Tensor]) -> None:
    """Refuse scores by which nothing can be ranked.

    Args:
        kind: What is scored, for the message.
        scores: Name -> scores.

    Raises:
        VerificationFailed: A score is not finite.
    """
    import torch

    for name, values in scores.items():
        finite = torch.isfinite(torch.as_tensor(values))
        if not bool(finite.all()):
            problem = f"{int((~finite).sum())} of {finite.numel()} scores of {kind} are not finite"
            raise VerificationFailed("scores/non-finite", name, problem, "check the model's weights and the data")
