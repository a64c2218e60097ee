"""What the report is made from: the values that a finished run leaves behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compressor.core import Comparison, Cost, ExportedModel, QuantizedModel, StableLearningRate
    from compressor.models.families.base import LibraryFiles
    from compressor.recipe import Recipe
    from compressor.report.findings.gate_results import Gate
    from compressor.steps.state import PruningState

EpochRecord = Mapping[str, object]
"""One epoch of a training: `epoch` (int), and what was measured of `loss`, `lr`, `stop_value`, `held_out` and
`train_sample` (the metric on the held-out split or on a sample of the training images)."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """A finished run: the input of every finding."""

    recipe: Recipe
    baseline: PruningState  # before the first step
    state: PruningState  # after the last step
    dense_cost: Cost
    slim_cost: Cost
    zero_weights: int  # zero entries among the weights that slim_cost counts
    dense_onnx: ExportedModel
    slim_onnx: ExportedModel
    int8_onnx: QuantizedModel | None
    comparisons: Sequence[Comparison]  # dense against slim, one for each batch size; the first is the recipe's main one
    gates: Sequence[Gate]
    weights_bytes: int  # size of slim.safetensors
    seconds: Mapping[str, float]  # by stage
    warnings: Sequence[str]
    notes: Sequence[str]
    library: LibraryFiles | None = None  # None = the model comes from no library that could load it

    @property
    def comparison(self) -> Comparison | None:
        """The comparison at the recipe's first batch size; None where nothing was timed."""
        return self.comparisons[0] if self.comparisons else None

    @property
    def epochs(self) -> Sequence[Sequence[EpochRecord]]:
        """The epochs of each training, in order."""
        return [training.records for training in self.state.trainings]

    @property
    def stable_lr(self) -> StableLearningRate | None:
        """The last estimate of a run; None where no training has one."""
        estimates = [training.stable_lr for training in self.state.trainings if training.stable_lr is not None]
        return estimates[-1] if estimates else None
