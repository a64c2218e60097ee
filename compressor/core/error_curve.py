"""The error of channel groups for every number of channels that they keep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # numpy is not loaded at run time
    from compressor.core.groups import FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class ErrorCurve:
    """What remains of the error after the best refit of all readers, along one nested order of removal.

    Attributes:
        order: (C,) channels, the first to remove first.
        errors: (C,) error after 0 to C - 1 removals, as a share of the variance of the readers' outputs.
        sensitivity: Divergence of the model's answers for an error of 1, when this group alone is cut and repaired.
        note: What the curve does not know; empty if nothing.
    """

    order: IntArray
    errors: FloatArray
    sensitivity: float = 1.0
    note: str = ""

    @property
    def weighted(self) -> FloatArray:
        """Predicted divergence of the answers after 0 to C - 1 removals, (C,)."""
        return self.sensitivity * self.errors


@dataclass(frozen=True, slots=True)
class ErrorCurves:
    """The curves of all groups of a model, and what their sum means for its answers.

    Attributes:
        curves: Group name -> its curve.
        samples: Number of held-out samples that sensitivities were measured on.
        flips: Share of samples with another best class, over the square root of the divergence; None without classes.
        seconds: Time to measure and compute all of it.
        removed: Group name -> number of channels that were selected for removal.
    """

    curves: Mapping[str, ErrorCurve]
    samples: int = 0
    flips: float | None = None
    seconds: float = 0.0
    removed: Mapping[str, int] = field(default_factory=dict)

    def divergence(self, removed: Mapping[str, int]) -> float:
        """Predict the divergence of the repaired model's answers.

        Args:
            removed: Group name -> number of channels that are removed.

        Returns:
            The sum of the weighted errors.
        """
        return float(sum(self.curves[name].weighted[count] for name, count in removed.items() if name in self.curves))

    def agreement(self, divergence: float) -> float | None:
        """Predict the share of samples with the same best class, before any training; None without classes."""
        return None if self.flips is None else max(0.0, 1 - self.flips * divergence**0.5)
