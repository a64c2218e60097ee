"""The recipe as it may be written. Every key has a meaning today; what comes later is refused until it works."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    create_model,
    field_validator,
    model_serializer,
    model_validator,
)

from compressor import core
from compressor.methods import Method, methods
from compressor.recipe.located import dump
from compressor.recipe.retrain import Retrain
from compressor.recipe.values import (
    Block,
    Count,
    InputSizes,
    Number,
    Points,
    Positive,
    RoundTo,
    Share,
    Truth,
    Version,
    Whole,
    Word,
    auto_or_whole,
    checked_beside,
    given,
    refused,
    refused_keys,
)

AutoClasses = Annotated[int | Literal["auto"], *auto_or_whole(1, None, "a whole number from 1")]
AutoThreads = Annotated[int | Literal["auto"], *auto_or_whole(1, 1024, "a whole number, 1 to 1024")]
# 18 is what the exporter writes natively, 23 the newest it knows.
AutoWorkers = Annotated[int | Literal["auto"], *auto_or_whole(0, 256, "a whole number, 0 to 256")]
AutoOpset = Annotated[int | Literal["auto"], *auto_or_whole(18, 23, "a whole number, 18 to 23")]


class Model(Block):
    arch: Word = Field(default="auto", description="auto = recognised from names and shapes; or torchvision:resnet50")
    num_classes: AutoClasses = "auto"
    input: InputSizes = Field(default="auto", description="shape of the input without its batch; of several, a list")


class Target(Block):
    """What is asked for: `ratio` alone, or one or more of the others; what remains must hold for all of them."""

    ratio: Share | None = Field(default=None, description="share of channels REMOVED from every layer not frozen")
    macs: Share | None = Field(default=None, description="share of the original multiply-adds that may REMAIN")
    params: Share | None = Field(default=None, description="share of the original parameters that may REMAIN")
    weights: Share | None = Field(
        default=None,
        description="share of the original weights of convolutions and linear layers that may REMAIN, without biases "
        "and normalisations; 5% = a weight sparsity of 95 %",
    )
    nodes: Share | None = Field(
        default=None,
        description="share of the original output channels of convolutions and linear layers that may REMAIN, counted "
        "at each layer but the last; 34% = a node ratio of 0.66",
    )
    size: Share | None = Field(default=None, description="share of the original ONNX file's bytes that may REMAIN")
    memory: Share | None = Field(
        default=None, description="share of weights and activations at their peak, in bytes, that may REMAIN"
    )
    latency: Share | None = Field(
        default=None,
        description="share of the original latency that may REMAIN, measured on bench.target for the first batch size; "
        "under scope local the widths are what costs least importance for the time",
    )
    latency_ms: Positive | None = Field(default=None, description="median milliseconds at most, measured likewise")

    @model_validator(mode="wrap")
    @classmethod
    def _one_kind(cls, data: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        return checked_beside(data, handler, "target", cls._clashes(data))

    @classmethod
    def _clashes(cls, data: object) -> Iterator[tuple[str, str]]:
        keys = given(data).keys()
        others = [name for name in cls.model_fields if name != "ratio"]
        if isinstance(data, dict) and not keys:
            yield "", f"ratio, or one or more of {', '.join(others)}"
        if "ratio" in keys and keys & set(others):
            yield "ratio", f"either ratio alone, or one or more of {', '.join(others)} without it"

    @model_serializer(mode="wrap")
    def _only_what_is_asked(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return dict(given(handler(self)))


class Rule(Block):
    """A rule with neither `freeze` nor `ratio` leaves its layers to the recipe's target."""

    match: Word = Field(description="a glob on module names, such as layer3.*; the first rule that matches wins")
    freeze: Truth = Field(default=False, description="never cut these layers")
    ratio: Share | None = Field(default=None, description="share of channels removed from these layers")

    @model_validator(mode="wrap")
    @classmethod
    def _frozen_or_cut(cls, data: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        both = given(data).get("freeze") is True and "ratio" in given(data)
        faults = [("ratio", "no ratio beside freeze: true, a layer is either frozen or cut")] if both else []
        return checked_beside(data, handler, "layers", faults)


HOW = ("scope", "round_to", "layers")
"""The keys of `prune` that say how channels go, and mean nothing where none do."""

CHANNELS = ("scope", "round_to")
"""Those of them that mean nothing where single weights are masked."""


class PruneBase(Block):
    """How to prune; each method's own settings stand under its own name."""

    method: str
    target: Target | None = Field(default=None, description="how many channels go; every method but 2of4 asks for it")
    scope: core.Scope = Field(
        default="local",
        description="local = the same share everywhere; global = all channels compared at once; "
        "isomorphic = channels of groups of the same make compared, and the same share of each make",
    )
    round_to: RoundTo = Field(
        default="auto", description="widths left are multiples of this; auto = what the target device rewards"
    )
    layers: tuple[Rule, ...] = ()

    @property
    def settings(self) -> Method:
        """The settings of the method that was chosen."""
        return getattr(self, _attribute(self.method)) or methods()[self.method]()

    @model_validator(mode="wrap")
    @classmethod
    def _own_settings_only(cls, data: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        method = given(data).get("method")
        known = isinstance(method, str) and method in methods()
        strangers = sorted((methods().keys() & given(data).keys()) - {method}) if known else []
        faults: list[tuple[str, str | None]] = [
            (each, f"no settings of {each} while prune.method is {method}") for each in strangers
        ]
        if known and "target" not in given(data):
            if methods()[str(method)].needs_target:
                faults.append(("target", None))
            else:
                idle = [key for key in HOW if key in given(data)]
                faults += [(key, "nothing while no prune.target says that channels go") for key in idle]
        if known and methods()[str(method)].unstructured:
            faults += cls._no_channels(str(method), given(data))
        if known and isinstance(data, dict) and method not in given(data):
            data = {**data, str(method): {}}  # so that a recipe equals the one it is written out to
        return checked_beside(data, handler, "prune", faults)

    @staticmethod
    def _no_channels(method: str, data: Mapping[str, object]) -> Iterator[tuple[str, str]]:
        """What means nothing beside a method that masks single weights."""
        asked = sorted(given(data.get("target")).keys())
        if asked and asked != ["weights"]:
            yield "target", f"weights alone, such as {{weights: 5%}}: {method} masks single weights"
        yield from (
            (key, f"nothing while prune.method is {method}: no channel is chosen") for key in CHANNELS if key in data
        )
        rules = data.get("layers")
        if isinstance(rules, list | tuple) and any("ratio" in given(rule) for rule in rules):
            yield "layers", f"rules with freeze only: {method} masks single weights"

    @model_serializer(mode="wrap")
    def _own_settings_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        idle = HOW if self.target is None else CHANNELS if self.settings.unstructured else ()
        written = {key: value for key, value in handler(self).items() if key not in methods() and key not in idle}
        own = self.settings.model_dump(mode="json")
        return written | ({self.method: own} if own else {})


def _attribute(method: str) -> str:
    """A method's name need not be a Python name: `2of4` is none."""
    return "settings_" + re.sub(r"\W", "_", method)


if TYPE_CHECKING:
    Prune = PruneBase
else:
    Prune = create_model(
        "Prune",
        __base__=PruneBase,
        method=(Literal[tuple(methods())], Field(description="how channels are chosen and taken out")),
        **{
            _attribute(name): (kind | None, Field(default=None, alias=name, description=f"settings of {name}"))
            for name, kind in methods().items()
        },
    )


_FACTORY = re.compile(r".+\.py:[^\W\d]\w*")


class Data(Block):
    """Labelled images. Relative paths are looked up in `--data`, or in the current folder without it."""

    source: Word = Field(
        description="parquet | folder | digits (embedded) | torchvision:CIFAR10 | path/to/file.py:factory",
        examples=["parquet", "folder", "digits", "torchvision:CIFAR10"],
    )
    train: Word | None = None
    val: Word | None = None
    mean: tuple[Number, ...] | None = Field(default=None, description="by channel; null = what the model expects")
    std: tuple[Positive, ...] | None = Field(default=None, description="by channel; null = what the model expects")
    augment: core.Augment = Field(
        default="none",
        description="flip; cifar = padded random crop and flip; trivialaugment or randaugment = cifar, then theirs; "
        "imagenet = random resized crop and flip, tested on the centre at 256/224",
    )
    task: Word = Field(
        default="classification",
        description="classification | regression (floats of any shape) | path/to/file.py:factory of a core.Task",
        examples=["classification", "regression"],
    )
    loss: Literal["mse", "l1", "smooth_l1"] | None = Field(default=None, description="of regression; null = mse")
    metric: Literal["rmse", "mae"] | None = Field(default=None, description="of regression; null = rmse")
    holdout: Share | None = Field(
        default=None, description="share of each class's training images never trained on, to choose by; null = none"
    )
    workers: AutoWorkers = Field(
        default="auto", description="processes that decode what stays on disk; 0 = none; auto = one for each processor"
    )

    @field_validator("source")
    @classmethod
    def _known(cls, source: str) -> str:
        kinds = ["parquet", "folder", "digits"]
        if source in kinds or _FACTORY.fullmatch(source) or re.fullmatch(r"torchvision:\w+", source):
            return source
        raise refused(f"{', '.join(kinds)}, torchvision:NAME or path/to/file.py:factory", kinds)

    @field_validator("task")
    @classmethod
    def _known_task(cls, task: str) -> str:
        kinds = ["classification", "regression"]
        if task in kinds or _FACTORY.fullmatch(task):
            return task
        raise refused(f"{', '.join(kinds)} or path/to/file.py:factory", kinds)

    @model_validator(mode="wrap")
    @classmethod
    def _fits_together(cls, data: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        return checked_beside(data, handler, "data", cls._clashes(data))

    @classmethod
    def _clashes(cls, data: object) -> Iterator[tuple[str, str]]:
        keys = given(data)
        mean, std = keys.get("mean"), keys.get("std")
        if (mean is None) != (std is None):
            yield ("mean" if std is None else "std"), "mean and std together, or neither"
        if isinstance(mean, (list, tuple)) and isinstance(std, (list, tuple)) and len(mean) != len(std):
            yield "std", f"as many numbers as mean has, {len(mean)}"
        if keys.get("source") == "digits":
            yield from ((key, "no path, digits are embedded") for key in ("train", "val") if key in keys)
        if keys.get("task") != "regression":
            others = f"nothing while data.task is {keys.get('task', 'classification')}"
            yield from ((key, others) for key in ("loss", "metric") if key in keys)


class Export(Block):
    opset: AutoOpset = "auto"
    dynamic_batch: Truth = Field(default=True, description="leave the batch size of model.onnx open")
    int8: Truth = Field(default=False, description="write model.int8.onnx as well, quantised with training images")


class Bench(Block):
    target: Word = Field(default="local", description="a name in targets.yaml; local = here, none = do not measure")
    threads: AutoThreads = Field(default="auto", description="auto = what targets.yaml says, 1 where it says nothing")
    batch: Annotated[tuple[Count, ...], Field(min_length=1)] = (1,)
    seconds: Annotated[Positive, Field(le=3600)] = Field(
        default=6.0, description="measuring time of each model and batch size"
    )

    @field_validator("batch")
    @classmethod
    def _distinct(cls, batch: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(batch)) < len(batch):
            raise refused("each batch size once")
        return batch


class Gates(Block):
    """What must hold, or the run ends with exit code 7 or 8; null = no gate."""

    accuracy_drop: Points | None = Field(default=None, description="percentage points lost at most")
    speedup: Positive | None = Field(default=None, description="dense / slim latency at least, such as 1.3")
    latency_ms: Positive | None = Field(default=None, description="median latency of the slim model at most")


class Recipe(Block):
    """What to do with a model: how to prune, retrain, export and measure it."""

    version: Version
    model: Model = Model()
    prune: Prune
    retrain: Retrain = Retrain()
    data: Data | None = Field(default=None, description="null = what --data points to; without it no retraining")
    export: Export = Export()
    bench: Bench = Bench()
    gates: Gates = Gates()
    seed: Annotated[Whole, Field(ge=0, lt=2**32)] = 0

    @field_validator("data")
    @classmethod
    def _agrees_with_the_rest(cls, data: Data | None, info: ValidationInfo) -> Data | None:
        size = info.data["model"].input if "model" in info.data else "auto"
        if data is not None and data.mean is not None and isinstance(size[0], int) and len(data.mean) != size[0]:
            raise refused_keys("data", [("mean", f"as many numbers as model.input has channels, {size[0]}")])
        smoothed = "retrain" in info.data and info.data["retrain"].label_smoothing
        if data is not None and data.task == "regression" and smoothed:
            raise refused_keys("data", [("task", "classification while retrain.label_smoothing is not 0")])
        return data

    @field_validator("gates")
    @classmethod
    def _is_measured(cls, gates: Gates, info: ValidationInfo) -> Gates:
        if "bench" in info.data and info.data["bench"].target == "none":
            asked = [name for name in ("speedup", "latency_ms") if getattr(gates, name) is not None]
            if asked:
                why = "null while bench.target is none: nothing is measured"
                raise refused_keys("gates", [(name, why) for name in asked])
        return gates

    @field_validator("bench")
    @classmethod
    def _can_be_timed(cls, bench: Bench, info: ValidationInfo) -> Bench:
        target = info.data["prune"].target if "prune" in info.data else None
        timed = target is not None and (target.latency is not None or target.latency_ms is not None)
        if timed and bench.target == "none":
            raise refused_keys("bench", [("target", "a device to measure on, for prune.target asks for a latency")])
        return bench

    @property
    def method(self) -> Method:
        return self.prune.settings

    def selection(self, round_to: int) -> core.Selection:
        """How many channels go; `round_to` is what `auto` came to on the target device."""
        prune = self.prune
        target = prune.target or Target.model_construct()
        return core.Selection(
            ratio=target.ratio,
            macs=target.macs,
            params=target.params,
            weights=target.weights,
            nodes=target.nodes,
            size=target.size,
            memory=target.memory,
            latency=target.latency,
            latency_ms=target.latency_ms,
            scope=prune.scope,
            round_to=round_to,
            or_finer=prune.round_to == "auto",
            rules=tuple(core.LayerRule(rule.match, rule.freeze, rule.ratio) for rule in prune.layers),
        )

    def train_step(self) -> core.Train | None:
        """The retraining, or None where the recipe asks for none."""
        return self.retrain.to_core()

    def to_yaml(self) -> str:
        """The recipe with every default written out; it reads back to an equal one."""
        return dump(self.model_dump(by_alias=True))

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """The JSON Schema an editor completes and checks recipes with."""
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            **cls.model_json_schema(by_alias=True),
            "title": "compress recipe",
        }
