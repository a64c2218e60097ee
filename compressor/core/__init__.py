"""The records that several rooms share: models, channel groups, data sets, results.

All records are frozen. Modules are the only mutable objects, and a step that changes one works on its own copy.
Nothing here imports torch at run time, because the command line reads recipes before anything heavy is loaded.

Shape legend, used in names across the code base:
C channels of a group   r entries per channel   N filters (output channels)   K weights feeding one filter   B batch
"""

from typing import TYPE_CHECKING

from compressor.core.datasets import Augment, Data, Metric, Task
from compressor.core.error_curve import ErrorCurve, ErrorCurves
from compressor.core.groups import (
    ChannelGroup,
    Freeze,
    MaskSearch,
    NMPattern,
    PrunableShare,
    PrunedEntries,
    PrunePlan,
    Role,
    TensorSlot,
)
from compressor.core.model import (
    BatchDims,
    ConfigStep,
    Cost,
    ImageSize,
    KeptIndices,
    Layer,
    LoadedModel,
    ModelInput,
    ModelSpec,
    OptimizerState,
    normalization_scales,
    one_image,
)
from compressor.core.results import (
    LAYOUT_COPIES,
    RETRAINING,
    Certificate,
    Comparison,
    EventSink,
    ExportedModel,
    JacobianIsometry,
    Latency,
    LayerTime,
    ParityScope,
    QuantizedModel,
    StableLearningRate,
    SustainedLoad,
    TrainingCost,
    TrainingHistory,
    Verdict,
    VerdictKind,
    ignore_event,
)

if TYPE_CHECKING:
    from compressor.core.groups import BoolArray, FloatArray, IntArray

__all__ = [
    "LAYOUT_COPIES",
    "RETRAINING",
    "Augment",
    "BatchDims",
    "BoolArray",
    "Certificate",
    "ChannelGroup",
    "Comparison",
    "ConfigStep",
    "Cost",
    "Data",
    "ErrorCurve",
    "ErrorCurves",
    "EventSink",
    "ExportedModel",
    "FloatArray",
    "Freeze",
    "ImageSize",
    "IntArray",
    "JacobianIsometry",
    "KeptIndices",
    "Latency",
    "Layer",
    "LayerTime",
    "LoadedModel",
    "MaskSearch",
    "Metric",
    "ModelInput",
    "ModelSpec",
    "NMPattern",
    "OptimizerState",
    "ParityScope",
    "PrunableShare",
    "PrunePlan",
    "PrunedEntries",
    "QuantizedModel",
    "Role",
    "StableLearningRate",
    "SustainedLoad",
    "Task",
    "TensorSlot",
    "TrainingCost",
    "TrainingHistory",
    "Verdict",
    "VerdictKind",
    "ignore_event",
    "normalization_scales",
    "one_image",
]
