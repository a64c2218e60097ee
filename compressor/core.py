"""The records that flow through the pipeline, and the steps a method is made of.

All are frozen; modules are the one mutable thing, and a step that changes one works on a copy of its own.
Nothing here imports torch at run time: the command line reads recipes before anything heavy is loaded.

Shape legend, used in names across the code base:
C channels of a group   r entries per channel   N filters (output channels)   K weights feeding one filter   B batch
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    IntArray = NDArray[np.int64]
    BoolArray = NDArray[np.bool_]
    FloatArray = NDArray[np.float64]

# ---------------------------------------------------------------- what a model is

Kept = Mapping[str, Mapping[int, tuple[int, ...]]]
"""tensor name -> dimension -> kept indices in the ORIGINAL model's numbering; what is absent is whole."""


@dataclass(frozen=True, slots=True)
class Cost:
    """`params`: all parameters. `macs`: multiply-adds of convolutions and linear layers, for one input."""

    params: int
    macs: int


ImageSize = tuple[int, int, int]
"""channels, height, width"""


@dataclass(frozen=True, slots=True)
class Input:
    """One tensor that a model takes, without its batch dimension, which comes first."""

    shape: tuple[int, ...]
    dtype: str = "float32"  # as PyTorch names it
    whole: tuple[int, int] | None = None  # least and largest of whole numbers such as token ids; None for others
    name: str = "input"


def one_image(size: ImageSize) -> tuple[Input, ...]:
    """What a model of pictures takes."""
    return (Input(size),)


@dataclass(frozen=True, slots=True)
class Layer:
    """A convolution or linear layer as it runs on one input: all that its time depends on."""

    op: str  # linear, conv1d to conv3d, conv_transpose1d to conv_transpose3d
    inputs: int  # channels
    outputs: int
    places: tuple[int, ...]  # height and width of the input of a convolution; rows of a linear layer
    groups: int = 1
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()

    def resized(self, inputs: int, outputs: int) -> Layer:
        """The same layer with other widths; in a depthwise convolution every channel stays its own group."""
        depthwise = self.groups == self.inputs > 1
        return replace(self, inputs=inputs, outputs=outputs, groups=inputs if depthwise else self.groups)


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """All it takes to build the original architecture again, without its weights."""

    source: str  # torchvision:resnet50 | timm:resnet26d | cifar:resnet56 | /path/net.py:factory
    inputs: tuple[Input, ...]
    num_classes: int | None = None  # None = the architecture's own

    @property
    def image(self) -> ImageSize | None:
        """The size of the one picture the model takes; None for a model that takes anything else."""
        match self.inputs:
            case (Input(shape=(channels, height, width), dtype="float32"),):
                return channels, height, width
        return None

    @property
    def input(self) -> ImageSize:
        """The same, for architectures known to take pictures."""
        assert self.image is not None, self.source
        return self.image


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A float32 module in eval mode on the CPU, and where it came from."""

    module: nn.Module
    spec: ModelSpec
    name: str  # as the user wrote it
    sha256: str | None = None  # of the checkpoint file
    notes: tuple[str, ...] = ()  # prefixes peeled, wrappers opened, architecture recognised
    mean: tuple[float, ...] | None = None  # normalisation the architecture's weights expect
    std: tuple[float, ...] | None = None
    kept: Kept = field(default_factory=dict)  # not empty for a model that was pruned before
    original: Cost | None = None  # cost of the original, when pruned before


# ---------------------------------------------------------------- what belongs together

Role = Literal["writer", "reader", "affine"]


@dataclass(frozen=True, slots=True)
class Slot:
    """One dimension of one tensor of the state dict that a group's channels live in.

    A writer produces the channels (rows of a convolution), a reader consumes them (its columns), an affine only
    scales or shifts them (normalisation, biases, per-channel buffers).
    """

    tensor: str
    dim: int
    positions: IntArray  # (C, r): the entries of that dimension that belong to each channel
    role: Role


@dataclass(frozen=True, slots=True)
class ChannelGroup:
    """C channels that are removed one by one, each from all its slots at once."""

    name: str  # the module that writes them first
    size: int  # C
    slots: tuple[Slot, ...]
    frozen: str | None = None  # why it can't be cut: operator, module and source line

    def writers(self) -> tuple[Slot, ...]:
        return tuple(slot for slot in self.slots if slot.role == "writer")


@dataclass(frozen=True, slots=True)
class Leaving:
    """The entries of one tensor dimension whose channels a plan drops."""

    tensor: str
    dim: int
    role: Role
    entries: BoolArray  # (size of the dimension,) True = leaves


@dataclass(frozen=True, slots=True)
class Held:
    """The share of a model's multiply-adds that go with the channels of some groups."""

    frozen: str | None  # why these groups can't be cut; None: those that can
    groups: int
    channels: int
    macs: float  # 0 to 1


@dataclass(frozen=True, slots=True)
class PrunePlan:
    """Which channels stay: group name -> bool[C]. Groups that stay whole are absent."""

    kept: Mapping[str, BoolArray]
    round_to: int = 1  # what the widths are multiples of


class Pattern(NamedTuple):
    """N:M: of every M consecutive weights along the reduction dimension at most N are not zero."""

    n: int
    m: int

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"


# ---------------------------------------------------------------- what a recipe asks for


@dataclass(frozen=True, slots=True)
class Sparsity:
    """Which zeros, and in which layers: those that `runtime` can use, but for the globs of `dense`."""

    pattern: Pattern
    runtime: str  # a row of the table of runtimes and device generations
    dense: tuple[str, ...] = ()
    packed: bool = False  # stored as values and places


@dataclass(frozen=True, slots=True)
class LayerRule:
    """A glob on module names; the first that matches a layer decides. `ratio`: share of channels removed."""

    match: str
    freeze: bool = False
    ratio: float | None = None


Scope = Literal["local", "global", "isomorphic"]


@dataclass(frozen=True, slots=True)
class Selection:
    """How many channels go, and how scores are compared.

    Either `ratio` (share of channels removed from every layer) or shares of the original cost that may remain.
    """

    ratio: float | None = None
    macs: float | None = None
    params: float | None = None
    size: float | None = None  # of the ONNX file
    memory: float | None = None  # weights, and activations at their peak
    latency: float | None = None  # on the target device
    latency_ms: float | None = None
    scope: Scope = "local"
    round_to: int = 1
    or_finer: bool = False  # where that is too coarse for the target, halve it as often as it takes
    rules: tuple[LayerRule, ...] = ()

    @property
    def asks(self) -> bool:
        """Whether channels are to go at all: anything but how is said."""
        return self != Selection(scope=self.scope, round_to=self.round_to, or_finer=self.or_finer, rules=self.rules)

    @property
    def timed(self) -> bool:
        """Whether a device has to be asked."""
        return self.latency is not None or self.latency_ms is not None

    @property
    def by_surface(self) -> bool:
        """Whether widths are what costs least importance for the time, and not in one order of all channels."""
        return self.timed and self.scope == "local"


@dataclass(frozen=True, slots=True)
class Optimizer:
    name: Literal["sgd", "adam", "adamw"]
    lr: float
    momentum: float = 0.9
    weight_decay: float = 0.0
    nesterov: bool = False
    decay_all: bool = True  # False = no decay of biases and normalisations


@dataclass(frozen=True, slots=True)
class Distill:
    """Learn from the dense model as well: `(1 - weight) * task + weight * answers + features * maps`."""

    temperature: float = 4.0
    weight: float = 0.5
    features: float = 0.0


Precision = Literal["auto", "fp32", "bf16"]

Schedule = Callable[[float], float]
"""epochs done so far (fractional) -> factor on the optimizer's learning rate"""

Criterion = Callable[["Tensor"], "Tensor"]
"""rows (N, K) of the weights that write N channels -> score (N,), the lowest is removed first"""


# ---------------------------------------------------------------- what pulls on weights while they are trained

Pull = Callable[["Tensor", "Tensor"], "Tensor"]
"""weights (N, ...), filters first, and which of them leave, bool (N,) -> its gradient at strength 1"""

Strength = Callable[[int, int], float]
"""iteration, from 0, and how many there are in all -> factor on a pull"""


@dataclass(frozen=True, slots=True)
class Term:
    """One pull, on the weights that write the groups the plan cuts (`filters`), on what scales and shifts their
    channels (`affines`), or on every convolution and linear layer but the first `spare` (`layers`)."""

    pull: Pull
    strength: Strength
    on: Literal["filters", "affines", "layers"] = "filters"
    spare: int = 0


@dataclass(frozen=True, slots=True)
class Penalty:
    """What is added to the gradient of the task's loss.

    `zero_at`: (group, of so many that are cut, iterations in all) -> iteration from which the group's leaving channels
    are held at exactly zero, so that taking them out changes nothing; None = never.
    """

    name: str
    terms: tuple[Term, ...]
    zero_at: Callable[[int, int, int], int] | None = None


# ---------------------------------------------------------------- steps


@dataclass(frozen=True, slots=True)
class Choose:
    """Score every channel and decide which stay."""

    criterion: Criterion
    selection: Selection

    def __str__(self) -> str:
        return f"Choose({getattr(self.criterion, '__name__', 'criterion')})"


@dataclass(frozen=True, slots=True)
class Remove:
    """Take the channels that were not chosen out of the module, and prove that only they went."""

    def __str__(self) -> str:
        return "Remove"


@dataclass(frozen=True, slots=True)
class Recalibrate:
    """Estimate BatchNorm statistics anew from training images."""

    images: int = 4096

    def __str__(self) -> str:
        return f"Recalibrate({self.images} images)"


@dataclass(frozen=True, slots=True)
class Orthogonalise:
    """Make the filters of every convolution and linear layer orthogonal, times `gain`."""

    gain: float

    def __str__(self) -> str:
        return f"Orthogonalise(gain {self.gain:.3g})"


@dataclass(frozen=True, slots=True)
class Reinitialise:
    """Random weights again, so that training has to make up for what the dense model was given."""

    dense_epochs: int  # that the dense model was trained for
    flops: bool  # what is equal: multiply-adds spent, or epochs

    def longer(self, macs_ratio: float) -> int:
        """Epochs to train beyond the retraining's; `macs_ratio` is dense / slim."""
        return round(self.dense_epochs * (macs_ratio if self.flops else 1.0))

    def __str__(self) -> str:
        return f"Reinitialise(equal {'FLOPs' if self.flops else 'epochs'})"


@dataclass(frozen=True, slots=True)
class Train:
    """Train, for so many `epochs` or so many `iterations`.

    The learning rate at any moment is `optimizer.lr * schedule(epochs done)`. What the optimizer remembers of an
    earlier training (momentum) goes on, sliced with the weights where channels were removed in between.
    """

    batch_size: int
    optimizer: Optimizer
    schedule: Schedule
    epochs: int = 0
    iterations: int | None = None  # instead of epochs
    stage: str = "retraining"  # what it is for
    precision: Precision = "auto"
    label_smoothing: float = 0.0
    mixup: float = 0.0  # alpha of its Beta distribution; 0 = no
    cutmix: float = 0.0  # likewise
    distill: Distill | None = None
    penalty: Penalty | None = None
    clip: float | None = None  # largest norm of all gradients together
    ema: float | None = None  # decay of the average of the weights that is kept in the end
    keep: Literal["last", "best"] = "last"  # which epoch's weights: best = on the held-out split

    def extended(self, epochs: int) -> Train:
        """The same course of learning rates over so many more epochs."""
        whole, schedule = self.epochs + epochs, self.schedule
        return replace(self, epochs=whole, schedule=lambda done: schedule(done * self.epochs / whole))

    def __str__(self) -> str:
        length = f"{self.epochs} epochs" if self.iterations is None else f"{self.iterations} iterations"
        more = {"distilled": self.distill, "mixup": self.mixup, "cutmix": self.cutmix, "EMA": self.ema}
        names = [*(name for name, on in more.items() if on), *((self.penalty.name,) if self.penalty else ())]
        return f"Train({', '.join([length, self.optimizer.name, *names])})"


@dataclass(frozen=True, slots=True)
class Permute:
    """Put the channels into the order in which a mask keeps most, and prove that the function is the same."""

    sparsity: Sparsity
    rounds: int  # of the search, for each group of channels

    def __str__(self) -> str:
        return f"Permute({self.sparsity.pattern})"


@dataclass(frozen=True, slots=True)
class Mask:
    """Zero all but the largest N of every M weights. Training leaves zeros zero, or lets others take their place.

    `regrow`: the strength with which SR-STE pulls masked weights towards zero while it goes on training them.
    """

    sparsity: Sparsity
    regrow: float | None = None

    def __str__(self) -> str:
        return f"Mask({self.sparsity.pattern}{'' if self.regrow is None else ', SR-STE'})"


Step = Choose | Remove | Permute | Mask | Recalibrate | Orthogonalise | Reinitialise | Train


class Constraint(Protocol):
    """What acts on weights while they are trained, in this order once an iteration (counted from 0 in each training).

    It is bound to the module's own parameters and has no state: all it does follows from the weights and `iteration`,
    so that a run that was interrupted goes on as if it had not been.
    """

    def loss(self, iteration: int) -> Tensor | None:
        """A scalar added to the loss of the task; None for nothing."""
        ...

    def on_gradients(self, iteration: int) -> None:
        """After the backward pass: may change `.grad` in place."""
        ...

    def on_weights(self, iteration: int) -> None:
        """After the optimizer's step: may change weights in place."""
        ...


Momentum = Mapping[str, Mapping[str, "Tensor"]]
"""parameter -> what an optimizer remembers of it: name -> tensor, of the parameter's shape or a single number"""

Bind = Callable[["nn.Module", int], Constraint]
"""A module and the number of iterations it is trained for -> a constraint on its parameters.

Picklable (a `functools.partial` of a module's function): every process of a training binds its own.
"""

# ---------------------------------------------------------------- tasks and data

Augment = Literal["none", "flip", "cifar", "imagenet", "trivialaugment", "randaugment"]


@dataclass(frozen=True, slots=True)
class Metric:
    """A number told of a model: `total` of the mean over the test images of what `each` says of one.

    `each`: output and targets of a batch -> (B,) or (B, ...) statistics of every image by itself, such as counts of
    true and false positives; `total`: their mean, (...,), -> the number. Output is what the model returns in eval
    mode, in float32. A metric in % is compared by percentage points, any other by relative change.
    """

    name: str  # accuracy | rmse | ...
    each: Callable[[Any, Any], Tensor]
    total: Callable[[Tensor], Tensor | float] = float
    unit: str = ""
    higher_is_better: bool = True


@dataclass(frozen=True, slots=True)
class Task:
    """What a model is asked to do. `loss`: output and targets of a batch, label smoothing -> scalar."""

    name: str
    loss: Callable[[Any, Any, float], Tensor]
    metric: Metric


class Data(Protocol):
    """Images as normalised float32 batches (B, C, H, W), each with its targets: labels (B,), int64, for
    classification; floats (B, ...) for regression; else what the task's loss takes.

    The test set (`val`) is read for reporting only; what has to be chosen is chosen by the held-out split, images of
    the training set that are never trained on.
    """

    @property
    def name(self) -> str: ...
    @property
    def task(self) -> Task: ...
    @property
    def num_classes(self) -> int | None: ...  # None = the targets are no classes
    @property
    def train_size(self) -> int: ...
    @property
    def holds_out(self) -> bool: ...  # whether there is a held-out split

    def train_batches(
        self, batch_size: int, *, epoch: int, seed: int, start: int = 0, part: tuple[int, int] = (0, 1)
    ) -> Iterator[tuple[Tensor, Any]]:
        """Shuffled and augmented, from batch `start` on; the same (epoch, seed) gives the same batches, whatever else
        drew numbers. A last odd batch is dropped.

        `part` = (rank, world): only this process's share of every batch of `batch_size`. The shares are contiguous,
        and together they are the batch of one process; their sizes differ by one where `world` does not divide it.
        """
        ...

    def plain_batches(self, batch_size: int, *, images: int) -> Iterator[Tensor]:
        """A fixed sample of `images` training images, not augmented (calibration, parity, timing)."""
        ...

    def sample_batches(self, batch_size: int, *, images: int) -> Iterator[tuple[Tensor, Any]]:
        """The same sample with its targets."""
        ...

    def held_out_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Any]]:
        """The held-out split, not augmented, in its order; empty where the recipe holds nothing out."""
        ...

    def val_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Any]]: ...


# ---------------------------------------------------------------- results


@dataclass(frozen=True, slots=True)
class Certificate:
    """The proof that surgery changed nothing but the removed channels."""

    kind: str  # "masked-dense-float64"; "restricted-dense-float64" where norms work on the kept channels only
    max_abs_error: float
    max_rel_error: float
    ok: bool

    def also(self, other: Certificate | None) -> Certificate:
        """This proof after another one, if there was any; both must hold."""
        if other is None:
            return self
        return Certificate(
            f"{other.kind}+{self.kind}",
            max(self.max_abs_error, other.max_abs_error),
            max(self.max_rel_error, other.max_rel_error),
            self.ok and other.ok,
        )


@dataclass(frozen=True, slots=True)
class Isometry:
    """Mean singular value of the Jacobian d logits / d input over `images` inputs: 1 where lengths are kept on the way.

    `error`: half the 95 % interval of the estimate for these images, 0 where all singular values were computed.
    """

    mean: float
    error: float
    images: int


Compared = Literal["answers", "layers before a choice by value"]
"""what of an ONNX file was compared with PyTorch"""


@dataclass(frozen=True, slots=True)
class ExportedModel:
    """An ONNX file and how far its answers are from PyTorch's on the same inputs."""

    path: Path
    opset: int
    bytes: int
    sha256: str
    max_abs_error: float
    ok: bool
    notes: tuple[str, ...] = ()  # what the exporter refused, and what was done instead
    compared: Compared = "answers"


@dataclass(frozen=True, slots=True)
class Quantised:
    """An int8 ONNX file, and the data's metric of it on the test set."""

    path: Path
    bytes: int
    quality: float


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds of one run; percentiles are None where the samples are too few to state them."""

    p50: float
    p90: float | None
    p99: float | None
    n: int
    ci95: tuple[float, float]  # of p50
    cold_start_ms: float
    samples: tuple[float, ...]  # every sample, in ms, for the figure
    energy_j: float | None = None  # of one run, by the meters of the whole package or board
    peak_bytes: int | None = None  # memory of the process that ran it, above that of an empty one


@dataclass(frozen=True, slots=True)
class Sustained:
    """One model run without a pause for `seconds`: median milliseconds at first and at last."""

    seconds: float
    first_ms: float
    last_ms: float
    percent_per_minute: float  # of `first_ms`


LAYOUT_COPIES = "layout copies"
"""The name that copies from one memory layout or device to another are counted under."""


@dataclass(frozen=True, slots=True)
class LayerTime:
    """Microseconds of one layer, or of all operators of a kind, in two models; None where one has none of it."""

    name: str
    op: str
    before_us: float | None
    after_us: float | None
    before_bytes: int  # read and written in a run
    after_bytes: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models measured in turn on one target. ratio = a / b, so above 1 means that b is faster."""

    a: Latency
    b: Latency | None
    ratio: float | None
    ratio_ci95: tuple[float, float] | None
    control: float | None  # a / byte copy of a, measured in the same schedule
    control_ci95: tuple[float, float] | None
    verdict: str  # "faster 1.42x [1.38, 1.46]" | "no measurable change" | "slower ..." | "unstable: ..."
    stable: bool
    target: str
    runtime: str
    provider: str
    threads: int
    batch: int
    environment: Mapping[str, str]
    layers: tuple[LayerTime, ...] = ()  # of a and b, profiled apart; empty = not asked for
    sustained: Sustained | None = None  # of b, or of a where there is no b


Emit = Callable[[str, Mapping[str, object]], None]
"""Tells what happens: an event name and its fields. The command line turns them into bars, lines and run.jsonl."""
