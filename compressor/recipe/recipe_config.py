"""The recipe: all blocks together. Unknown keys are refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, ValidationInfo, field_validator

from compressor.budget.layer_rules import LayerRule
from compressor.budget.target import PruningTarget
from compressor.core import ModelInput
from compressor.criteria import channel_criteria
from compressor.field_types import Count, NonNegativeCount, Positive, Word, refused
from compressor.methods import Method
from compressor.recipe.block import Conflict, RecipeBlock, conflict_error, written_keys
from compressor.recipe.data_config import DataConfig
from compressor.recipe.fields import (
    Agreement,
    InputBatchDims,
    InputSizes,
    OutputSelection,
    Points,
    Version,
    auto_or_integer,
)
from compressor.recipe.prune_config import BlocksConfig, Prune, TargetConfig
from compressor.recipe.reconstruct_config import AutoReconstruct, ReconstructConfig
from compressor.recipe.retrain_config import RetrainConfig
from compressor.recipe.yaml_source import dump_yaml
from compressor.steps.base import Step
from compressor.steps.drop_blocks import DropBlocks
from compressor.steps.reconstruct import Reconstruct
from compressor.steps.refine import Refine
from compressor.steps.select_channels import SelectChannels
from compressor.steps.train import Train

MOST_MACS_OF_TRIALS = 1.5e8
"""Models with more multiply-adds keep their blocks under `blocks: auto`: on one core a trial may take over a minute."""

AutoClasses = Annotated[int | Literal["auto"], *auto_or_integer(1, None, "a whole number from 1")]
AutoThreads = Annotated[int | Literal["auto"], *auto_or_integer(1, 1024, "a whole number, 1 to 1024")]
# The exporter writes 18 natively; 23 is the newest that it knows.
AutoOpset = Annotated[int | Literal["auto"], *auto_or_integer(18, 23, "a whole number, 18 to 23")]


class ModelConfig(RecipeBlock):
    """The architecture of the model."""

    arch: Word = Field(
        default="auto", description="auto = recognized by tensor names and shapes; or torchvision:resnet50"
    )
    num_classes: AutoClasses = "auto"
    input: InputSizes = Field(
        default="auto", description="shape of the input without the batch; a list of shapes for several inputs"
    )
    batch_dim: InputBatchDims = Field(
        default="auto",
        description="batch dimension of the input, counted from 0; null = none; a list for several inputs; "
        "auto = found by trying",
    )

    outputs: OutputSelection = Field(
        default="auto",
        description="outputs that are used, by index or name; what only the others need is not computed; auto = all",
    )
    weights: Word = Field(
        default="auto", description="key or prefix of the weights in a checkpoint, such as ema; auto = the best fit"
    )
    head: Word = Field(
        default="auto", description="module of the checkpoint that replaces the last layer; auto = found by shape"
    )

    def load_options(self) -> dict[str, Any]:
        """The block as `load_model` takes it: None for what follows from the weights."""
        return {
            "arch": self.arch,
            "num_classes": None if self.num_classes == "auto" else self.num_classes,
            "input": None if self.input == "auto" else self.input,
            "batch_dim": self.batch_dim,
            "outputs": None if self.outputs == "auto" else self.outputs,
            "weights": None if self.weights == "auto" else self.weights,
            "head": None if self.head == "auto" else self.head,
        }


class ExportConfig(RecipeBlock):
    """The ONNX files."""

    opset: AutoOpset = "auto"
    dynamic_batch: StrictBool = Field(default=True, description="model.onnx accepts any batch size")
    dynamic_sizes: StrictBool | Literal["auto"] = Field(
        default="auto",
        description="model.onnx accepts other lengths and image sizes, where the network does; auto = if it takes "
        "tokens or other integers",
    )
    int8: StrictBool = Field(default=False, description="also write model.int8.onnx, calibrated with training images")

    @property
    def opset_version(self) -> int | None:
        """The operator set; None for the exporter's default."""
        return None if self.opset == "auto" else self.opset

    def frees_sizes(self, inputs: Sequence[ModelInput]) -> bool:
        """Return whether other sizes than the batch should be free in the files.

        Args:
            inputs: The model's.

        Returns:
            What the recipe says, or whether an input is of integers.
        """
        if self.dynamic_sizes == "auto":
            return any(one.integer_range is not None for one in inputs)
        return self.dynamic_sizes


class BenchConfig(RecipeBlock):
    """The latency measurement."""

    target: Word = Field(
        default="local", description="a device in targets.yaml; local = this machine; none = do not measure"
    )
    threads: AutoThreads = Field(default="auto", description="auto = as in targets.yaml, 1 if it is not given there")
    batch: Annotated[tuple[Count, ...], Field(min_length=1)] = (1,)
    seconds: Annotated[Positive, Field(le=3600)] = Field(
        default=6.0, description="seconds of measurement for each model and batch size"
    )

    @field_validator("batch")
    @classmethod
    def _check_distinct(cls, batch: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(batch)) < len(batch):
            raise refused("each batch size once")
        return batch


class GatesConfig(RecipeBlock):
    """Conditions for the result. If one does not hold, the run ends with exit code 7 or 8; null = no gate."""

    accuracy_drop: Points | None = Field(default=None, description="largest loss of accuracy in percentage points")
    agreement: Agreement | None = Field(
        default=None, description="smallest share of test samples with the dense model's best class, such as 98%"
    )
    output_error: Points | None = Field(
        default=None, description="largest relative error of the outputs against the dense model's, such as 2%"
    )
    speedup: Positive | None = Field(default=None, description="smallest dense / slim latency, such as 1.3")
    latency_ms: Positive | None = Field(
        default=None, description="largest median latency of the slim model, in milliseconds"
    )


class Recipe(RecipeBlock):
    """How to prune, retrain, export and measure a model."""

    version: Version
    model: ModelConfig = ModelConfig()
    prune: Prune
    reconstruct: AutoReconstruct = Field(
        default="auto", description="auto = on for a trained model with samples; off; or a block of settings"
    )
    retrain: RetrainConfig = RetrainConfig()
    data: DataConfig | None = Field(
        default=None, description="null = the data of --data; without data there is no retraining"
    )
    export: ExportConfig = ExportConfig()
    bench: BenchConfig = BenchConfig()
    gates: GatesConfig = GatesConfig()
    seed: Annotated[NonNegativeCount, Field(lt=2**32)] = 0

    @classmethod
    def conflicts(cls, keys: Mapping[str, object]) -> Iterator[Conflict]:
        """Return the keys of `retrain` that are not possible with the data, before the training begins.

        Args:
            keys: The blocks of the recipe, as they were written.
        """
        retrain, data = (written_keys(keys.get(block)) for block in ("retrain", "data"))
        task = data.get("task", "classification")
        if task != "classification":
            # A user's own task receives the label smoothing and may use it.
            classes_only = ("label_smoothing", "mixup", "cutmix") if task == "regression" else ("mixup", "cutmix")
            yield from ((f"retrain.{key}", f"0 while data.task is {task}") for key in classes_only if retrain.get(key))
        if retrain.get("keep") == "best" and "holdout" not in data:
            yield "retrain.keep", "last, or best together with a data.holdout, such as 10%"

    @field_validator("data")
    @classmethod
    def _check_mean(cls, data: DataConfig | None, info: ValidationInfo) -> DataConfig | None:
        size = info.data["model"].input if "model" in info.data else "auto"
        if data is not None and data.mean is not None and isinstance(size[0], int) and len(data.mean) != size[0]:
            raise conflict_error("data", [("mean", f"as many numbers as model.input has channels, {size[0]}")])
        return data

    @field_validator("gates")
    @classmethod
    def _check_gates(cls, gates: GatesConfig, info: ValidationInfo) -> GatesConfig:
        if "bench" in info.data and info.data["bench"].target == "none":
            names = [name for name in ("speedup", "latency_ms") if getattr(gates, name) is not None]
            if names:
                allowed = "null while bench.target is none: nothing is measured"
                raise conflict_error("gates", [(name, allowed) for name in names])
        return gates

    @field_validator("bench")
    @classmethod
    def _check_bench(cls, bench: BenchConfig, info: ValidationInfo) -> BenchConfig:
        target = info.data["prune"].target if "prune" in info.data else None
        timed = target is not None and (target.latency is not None or target.latency_ms is not None)
        if timed and bench.target == "none":
            raise conflict_error("bench", [("target", "a device, on which the latency in prune.target is measured")])
        return bench

    @property
    def method(self) -> Method:
        """The method with its settings."""
        return self.prune.settings

    def pruning_target(self, round_to: int = 1) -> PruningTarget:
        """Return the pruning target. `round_to` is a number, the one of the device if the recipe has `auto`."""
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
            config_widths=prune.widths == "config",
            allow_finer_rounding=prune.round_to == "auto",
            rules=tuple(LayerRule(rule.match, rule.freeze, rule.ratio) for rule in prune.layers),
        )

    def train_step(self) -> Train | None:
        """Return the retraining step, or None if there is no retraining."""
        return self.retrain.step()

    @property
    def needs_data(self) -> bool:
        """Whether a step of the method, its retraining or a demanded reconstruction reads samples."""
        steps = *self.method_steps(), *self.method.finish()
        reads = any(step.needs_data for step in steps) or self.method.needs_retraining
        return reads or isinstance(self.reconstruct, ReconstructConfig)

    def method_steps(self, round_to: int = 1) -> tuple[Step, ...]:
        """Return the method's steps, with the criterion and the dropping of blocks that the recipe chooses."""
        target, blocks = self.pruning_target(round_to), self.prune.blocks
        lr_key = f"prune.{self.prune.method}.lr"
        steps = tuple(
            step.with_lr_key(lr_key) if isinstance(step, Train) else step for step in self.method.steps(target)
        )
        if self.method.chooses_criterion:
            criterion = channel_criteria()[self.prune.criterion]
            steps = tuple(
                replace(step, criterion=criterion) if isinstance(step, SelectChannels) else step for step in steps
            )
        if isinstance(blocks, BlocksConfig):
            return DropBlocks(blocks.drop, target, steps), *steps
        if blocks == "auto" and target.has_latency_target:
            return DropBlocks("auto", target, steps, MOST_MACS_OF_TRIALS), *steps
        return steps

    def reconstruct_step(self, *, trained: bool) -> Reconstruct | None:
        """Return the reconstruction, or None if there is none; `auto` asks for one where the model is trained."""
        match self.reconstruct:
            case ReconstructConfig() as settings:
                return settings.step()
            case "auto" if trained and self.method.trained:
                return Reconstruct()
        return None

    def refine_step(self) -> Refine | None:
        """Return the refinement after the reconstruction, or None if there is none."""
        return self.reconstruct.refine_step() if isinstance(self.reconstruct, ReconstructConfig) else None

    def training_settings(self) -> dict[str, Any]:
        """The parts of the recipe that a training depends on, as JSON."""
        return self.model_dump(mode="json", by_alias=True, include={"prune", "reconstruct", "retrain", "data", "seed"})

    def to_yaml(self) -> str:
        """Write the recipe with every default. It reads back to an equal recipe."""
        return dump_yaml(self.model_dump(by_alias=True))

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """Return the JSON Schema with which editors complete and check recipes."""
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            **cls.model_json_schema(by_alias=True),
            "title": "compress recipe",
        }
