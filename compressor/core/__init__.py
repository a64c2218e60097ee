"""The records that flow through the pipeline, and the steps a method is made of.

All are frozen; modules are the one mutable thing, and a step that changes one works on a copy of its own.
Nothing here imports torch at run time: the command line reads recipes before anything heavy is loaded.

Shape legend, used in names across the code base:
C channels of a group   r entries per channel   N filters (output channels)   K weights feeding one filter   B batch
"""

from typing import TYPE_CHECKING

from compressor.core.asked import (
    Criterion,
    Distill,
    Entries,
    Filters,
    Flow,
    LayerRule,
    Optimizer,
    Precision,
    Saliency,
    Scales,
    Schedule,
    Scope,
    Selection,
    Sparsity,
    Weighing,
)
from compressor.core.data import Augment, Data, Metric, Task
from compressor.core.groups import ChannelGroup, Held, Leaving, Pattern, PrunePlan, Role, Slot
from compressor.core.model import Cost, ImageSize, Input, Kept, Layer, LoadedModel, ModelSpec, one_image
from compressor.core.pulls import Bind, Constraint, Momentum, Penalty, Pull, Strength, Term
from compressor.core.results import (
    LAYOUT_COPIES,
    Certificate,
    Compared,
    Comparison,
    Emit,
    ExportedModel,
    Isometry,
    Latency,
    LayerTime,
    Quantised,
    StableRate,
    Sustained,
    TrainingCost,
)
from compressor.core.scales import scales_of
from compressor.core.steps import (
    RETRAINING,
    Choose,
    Mask,
    MaskWeights,
    Orthogonalise,
    Permute,
    Recalibrate,
    Reinitialise,
    Remember,
    Remove,
    RemoveDead,
    Retrain,
    Rewind,
    Step,
    Train,
)
from compressor.core.stops import Memory, Rule, Stop, Verdict

if TYPE_CHECKING:
    from compressor.core.arrays import BoolArray, FloatArray, IntArray

__all__ = [
    "LAYOUT_COPIES",
    "RETRAINING",
    "Augment",
    "Bind",
    "BoolArray",
    "Certificate",
    "ChannelGroup",
    "Choose",
    "Compared",
    "Comparison",
    "Constraint",
    "Cost",
    "Criterion",
    "Data",
    "Distill",
    "Emit",
    "Entries",
    "ExportedModel",
    "Filters",
    "FloatArray",
    "Flow",
    "Held",
    "ImageSize",
    "Input",
    "IntArray",
    "Isometry",
    "Kept",
    "Latency",
    "Layer",
    "LayerRule",
    "LayerTime",
    "Leaving",
    "LoadedModel",
    "Mask",
    "MaskWeights",
    "Memory",
    "Metric",
    "ModelSpec",
    "Momentum",
    "Optimizer",
    "Orthogonalise",
    "Pattern",
    "Penalty",
    "Permute",
    "Precision",
    "PrunePlan",
    "Pull",
    "Quantised",
    "Recalibrate",
    "Reinitialise",
    "Remember",
    "Remove",
    "RemoveDead",
    "Retrain",
    "Rewind",
    "Role",
    "Rule",
    "Saliency",
    "Scales",
    "Schedule",
    "Scope",
    "Selection",
    "Slot",
    "Sparsity",
    "StableRate",
    "Step",
    "Stop",
    "Strength",
    "Sustained",
    "Task",
    "Term",
    "Train",
    "TrainingCost",
    "Verdict",
    "Weighing",
    "one_image",
    "scales_of",
]
