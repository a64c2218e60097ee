"""The recipe as it may be written. Every key has a meaning today; what comes later is refused until it works."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from compressor.budget.layer_rules import LayerRule
from compressor.budget.target import PruningTarget
from compressor.methods import Method
from compressor.recipe.data_config import DataConfig
from compressor.recipe.fields import (
    Count,
    InputSizes,
    Points,
    Positive,
    RecipeBlock,
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
from compressor.recipe.prune_config import Prune, TargetConfig
from compressor.recipe.retrain_config import RetrainConfig
from compressor.recipe.yaml_source import dump_yaml
from compressor.steps.train import Train

AutoClasses = Annotated[int | Literal["auto"], *auto_or_whole(1, None, "a whole number from 1")]
AutoThreads = Annotated[int | Literal["auto"], *auto_or_whole(1, 1024, "a whole number, 1 to 1024")]
# 18 is what the exporter writes natively, 23 the newest it knows.
AutoOpset = Annotated[int | Literal["auto"], *auto_or_whole(18, 23, "a whole number, 18 to 23")]


class ModelConfig(RecipeBlock):
    arch: Word = Field(default="auto", description="auto = recognised from names and shapes; or torchvision:resnet50")
    num_classes: AutoClasses = "auto"
    input: InputSizes = Field(default="auto", description="shape of the input without its batch; of several, a list")

    def load_options(self) -> dict[str, Any]:
        """The block as `load_model` takes it: None for what follows from the weights."""
        return {
            "arch": self.arch,
            "num_classes": None if self.num_classes == "auto" else self.num_classes,
            "input": None if self.input == "auto" else self.input,
        }


class ExportConfig(RecipeBlock):
    opset: AutoOpset = "auto"
    dynamic_batch: Truth = Field(default=True, description="leave the batch size of model.onnx open")
    int8: Truth = Field(default=False, description="write model.int8.onnx as well, quantised with training images")

    @property
    def version(self) -> int | None:
        """The operator set; None is the exporter's own choice."""
        return None if self.opset == "auto" else self.opset


class BenchConfig(RecipeBlock):
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


class GatesConfig(RecipeBlock):
    """What must hold, or the run ends with exit code 7 or 8; null = no gate."""

    accuracy_drop: Points | None = Field(default=None, description="percentage points lost at most")
    speedup: Positive | None = Field(default=None, description="dense / slim latency at least, such as 1.3")
    latency_ms: Positive | None = Field(default=None, description="median latency of the slim model at most")


class Recipe(RecipeBlock):
    """What to do with a model: how to prune, retrain, export and measure it."""

    version: Version
    model: ModelConfig = ModelConfig()
    prune: Prune
    retrain: RetrainConfig = RetrainConfig()
    data: DataConfig | None = Field(default=None, description="null = what --data points to; without it no retraining")
    export: ExportConfig = ExportConfig()
    bench: BenchConfig = BenchConfig()
    gates: GatesConfig = GatesConfig()
    seed: Annotated[Whole, Field(ge=0, lt=2**32)] = 0

    @model_validator(mode="wrap")
    @classmethod
    def _trains_on_what_there_is(cls, data: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        return checked_beside(data, handler, "recipe", cls._clashes(data))

    @classmethod
    def _clashes(cls, data: object) -> Iterator[tuple[str, str]]:
        """What of `retrain` can't be done on the data: found now, not when training begins."""
        retrain, images = (given(given(data).get(block)) for block in ("retrain", "data"))
        task = images.get("task", "classification")
        if task != "classification":
            # A task of the user's own is given the smoothing and may mean something by it.
            of_classes = ("label_smoothing", "mixup", "cutmix") if task == "regression" else ("mixup", "cutmix")
            yield from ((f"retrain.{key}", f"0 while data.task is {task}") for key in of_classes if retrain.get(key))
        if retrain.get("keep") == "best" and "holdout" not in images:
            yield "retrain.keep", "last, or best beside a data.holdout to choose by, such as 10%"

    @field_validator("data")
    @classmethod
    def _agrees_with_the_rest(cls, data: DataConfig | None, info: ValidationInfo) -> DataConfig | None:
        size = info.data["model"].input if "model" in info.data else "auto"
        if data is not None and data.mean is not None and isinstance(size[0], int) and len(data.mean) != size[0]:
            raise refused_keys("data", [("mean", f"as many numbers as model.input has channels, {size[0]}")])
        return data

    @field_validator("gates")
    @classmethod
    def _is_measured(cls, gates: GatesConfig, info: ValidationInfo) -> GatesConfig:
        if "bench" in info.data and info.data["bench"].target == "none":
            asked = [name for name in ("speedup", "latency_ms") if getattr(gates, name) is not None]
            if asked:
                why = "null while bench.target is none: nothing is measured"
                raise refused_keys("gates", [(name, why) for name in asked])
        return gates

    @field_validator("bench")
    @classmethod
    def _can_be_timed(cls, bench: BenchConfig, info: ValidationInfo) -> BenchConfig:
        target = info.data["prune"].target if "prune" in info.data else None
        timed = target is not None and (target.latency is not None or target.latency_ms is not None)
        if timed and bench.target == "none":
            raise refused_keys("bench", [("target", "a device to measure on, for prune.target asks for a latency")])
        return bench

    @property
    def method(self) -> Method:
        return self.prune.settings

    def selection(self, round_to: int) -> PruningTarget:
        """How many channels go; `round_to` is what `auto` came to on the target device."""
        prune = self.prune
        target = prune.target or TargetConfig.model_construct()
        return PruningTarget(
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
            allow_finer_rounding=prune.round_to == "auto",
            rules=tuple(LayerRule(rule.match, rule.freeze, rule.ratio) for rule in prune.layers),
        )

    def train_step(self) -> Train | None:
        """The retraining, or None where the recipe asks for none."""
        return self.retrain.to_core()

    def training_settings(self) -> dict[str, Any]:
        """The parts of the recipe that a training depends on, as JSON."""
        return self.model_dump(mode="json", by_alias=True, include={"prune", "retrain", "data", "seed"})

    def to_yaml(self) -> str:
        """The recipe with every default written out; it reads back to an equal one."""
        return dump_yaml(self.model_dump(by_alias=True))

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """The JSON Schema an editor completes and checks recipes with."""
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            **cls.model_json_schema(by_alias=True),
            "title": "compress recipe",
        }
