"""The `prune` block: the method, how much it removes, and from which layers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    Field,
    PlainSerializer,
    PlainValidator,
    SerializerFunctionWrapHandler,
    StrictBool,
    WithJsonSchema,
    create_model,
    field_validator,
    model_serializer,
    model_validator,
)

from compressor.budget.target import Scope
from compressor.criteria import channel_criteria
from compressor.field_types import Positive, Word, refused
from compressor.methods import Method, methods
from compressor.recipe.block import Conflict, RecipeBlock, written_keys
from compressor.recipe.fields import RoundTo, Share, auto_or_integer
from compressor.recipe.method_block import method_block, method_from_block

AutoRounds = Annotated[int | Literal["auto"], *auto_or_integer(1, 8, "a whole number, 1 to 8")]


class TargetConfig(RecipeBlock):
    """`ratio` is the share removed, and stands alone; the others are shares that may remain, and all must hold."""

    ratio: Share | None = Field(default=None, description="share of channels REMOVED from every layer not frozen")
    macs: Share | None = Field(default=None, description="share of the original multiply-adds that may REMAIN")
    params: Share | None = Field(default=None, description="share of the original parameters that may REMAIN")
    weights: Share | None = Field(
        default=None,
        description="share of the original weights of convolutions and linear layers that may REMAIN, without biases "
        "and normalizations; 5% = a weight sparsity of 95 %",
    )
    nodes: Share | None = Field(
        default=None,
        description="share of the original output channels of convolutions and linear layers that may REMAIN, without "
        "the last layer; 34% = a node ratio of 0.66",
    )
    size: Share | None = Field(default=None, description="share of the original ONNX file's bytes that may REMAIN")
    memory: Share | None = Field(
        default=None, description="share of the bytes of weights and peak activations that may REMAIN"
    )
    latency: Share | None = Field(
        default=None,
        description="share of the original latency that may REMAIN, measured on bench.target for the first batch size; "
        "with scope local, widths are chosen to lose the least importance for the time saved",
    )
    latency_ms: Positive | None = Field(
        default=None, description="largest median latency in milliseconds, measured as latency is"
    )

    @classmethod
    def conflicts(cls, keys: Mapping[str, object]) -> Iterator[Conflict]:
        others = [name for name in cls.model_fields if name != "ratio"]
        if not keys:
            yield "", f"ratio, or one or more of {', '.join(others)}"
        if "ratio" in keys and keys.keys() & set(others):
            yield "ratio", f"either ratio alone, or one or more of {', '.join(others)} without it"

    @model_serializer(mode="wrap")
    def _omit_null(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return dict(written_keys(handler(self)))


class LayerRuleConfig(RecipeBlock):
    """A rule for the layers that match. Without `freeze` and `ratio`, the recipe's target applies to them."""

    match: Word = Field(description="a glob on module names, such as layer3.*; the first rule that matches wins")
    freeze: StrictBool = Field(default=False, description="never prune these layers")
    ratio: Share | None = Field(default=None, description="share of channels removed from these layers")

    @classmethod
    def conflicts(cls, keys: Mapping[str, object]) -> Iterator[Conflict]:
        if keys.get("freeze") is True and "ratio" in keys:
            yield "ratio", "no ratio beside freeze: true, a layer is either frozen or pruned"


def _parse_drop(value: object) -> object:
    """`auto`, a number from 1, or names."""
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    names = [value] if isinstance(value, str) else list(value) if isinstance(value, list | tuple) else []
    if all(isinstance(name, str) and name for name in names) and 0 < len(set(names)) == len(names):
        return tuple(names)
    raise refused("auto, a whole number from 1, or the names of blocks, each once", ["auto"])


_NAMES = {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1, "uniqueItems": True}
_ONE_OF_DROP = [{"const": "auto"}, {"type": "integer", "minimum": 1}, {"type": "string", "minLength": 1}, _NAMES]


class BlocksConfig(RecipeBlock):
    """Residual blocks that are dropped before channels are selected."""

    drop: Annotated[
        Literal["auto"] | int | tuple[str, ...],
        PlainValidator(_parse_drop),
        PlainSerializer(lambda drop: list(drop) if isinstance(drop, tuple) else drop),
        WithJsonSchema({"anyOf": _ONE_OF_DROP}),
    ] = Field(
        description="names of residual blocks; or their number: those that change the outputs least for the time they "
        "take; or auto = the number that leaves the outputs nearest to the dense model's at the target, with channels "
        "pruned for the rest"
    )


CHANNEL_KEYS = ("scope", "round_to", "widths", "blocks")
"""The keys of `prune` that say how channels are selected. They have no meaning where single weights are masked."""

TARGET_KEYS = (*CHANNEL_KEYS, "layers")
"""The keys of `prune` that have no meaning without a target."""


class PruneBase(RecipeBlock):
    """How to prune. The settings of a method are a block under its name."""

    method: str
    target: TargetConfig | None = Field(default=None, description="what remains; every method but 2of4 requires it")
    scope: Scope = Field(
        default="local",
        description="local = the same share of every layer; global = all channels are compared with each other; "
        "isomorphic = channels of groups of the same structure are compared, and each structure loses the same share; "
        "error = among the widths that meet all targets, those whose predicted output divergence is least, by samples",
    )
    round_to: RoundTo = Field(
        default="auto", description="remaining widths are multiples of this; auto = what the target device prefers"
    )
    widths: Literal["free", "config"] = Field(
        default="free",
        description="config = only widths that the configuration of the model's library can express, so that the "
        "library itself loads the slim model; free = any",
    )
    criterion: Word = Field(
        default="l1", description=f"what channels are compared by, for l1 only: {', '.join(channel_criteria())}"
    )
    rounds: AutoRounds = Field(
        default=1,
        description="for l1 with reconstruct: select, remove and repair so many times; auto = one or, where less than "
        "half remains, two if their divergence on held-out samples is less",
    )
    layers: tuple[LayerRuleConfig, ...] = ()
    blocks: BlocksConfig | Literal["auto"] | None = Field(
        default=None,
        description="residual blocks to drop; null = none; auto = as `drop: auto`, where the target is a latency and "
        "the model is small",
    )

    @field_validator("criterion")
    @classmethod
    def _check_criterion(cls, criterion: str) -> str:
        if criterion not in channel_criteria():
            raise refused(", ".join(channel_criteria()), list(channel_criteria()))
        return criterion

    @property
    def settings(self) -> Method:
        """The method with its settings."""
        method = methods()[self.method]
        return method_from_block(method, getattr(self, _attribute(self.method)) or method_block(method)())

    @classmethod
    def conflicts(cls, keys: Mapping[str, Any]) -> Iterator[Conflict]:
        name = keys.get("method")
        method = methods().get(name) if isinstance(name, str) else None
        if method is None:
            return
        for other in sorted((methods().keys() & keys.keys()) - {name}):
            yield other, f"no settings of {other} while prune.method is {name}"
        if "target" not in keys and method.needs_target:
            yield "target", None
        elif "target" not in keys:
            allowed = "nothing while there is no prune.target: no channel is removed"
            yield from ((key, allowed) for key in TARGET_KEYS if key in keys)
        if not method.chooses_criterion:
            if "criterion" in keys:
                yield "criterion", f"nothing while prune.method is {method.name}: it has a criterion of its own"
            if "rounds" in keys:
                yield "rounds", f"nothing while prune.method is {method.name}: it has rounds of its own"
            if keys.get("blocks") == "auto":
                yield "blocks", f"blocks by number or name, {{drop: 2}}, while prune.method is {method.name}"
        if method.unstructured:
            yield from _channel_conflicts(method.name, keys)
        elif (instead := _allowed_drop(method, keys)) is not None:
            yield "blocks.drop", instead

    @model_validator(mode="before")
    @classmethod
    def _write_own_settings(cls, data: Any) -> Any:
        """A recipe without settings of its method is equal to one that has all of their defaults."""
        method = written_keys(data).get("method")
        if isinstance(method, str) and method in methods() and method not in written_keys(data):
            return {**data, method: {}}
        return data

    @model_serializer(mode="wrap")
    def _write_used_keys(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        unused = TARGET_KEYS if self.target is None else CHANNEL_KEYS if self.settings.unstructured else ()
        written = {key: value for key, value in handler(self).items() if key not in methods() and key not in unused}
        if not self.settings.chooses_criterion:
            written.pop("criterion")
            written.pop("rounds")
        if self.blocks is None:
            written.pop("blocks", None)
        own = getattr(self, _attribute(self.method)).model_dump(mode="json")
        return written | ({self.method: own} if own else {})


def _allowed_drop(method: type[Method], keys: Mapping[str, Any]) -> str | None:
    """What `blocks.drop` may be instead of what it is; None where it is right."""
    drop = written_keys(keys.get("blocks")).get("drop")
    if not method.trained and (drop == "auto" or isinstance(drop, int)):
        return f"names while prune.method is {method.name}: it prunes before training, when no answers can be compared"
    if drop == "auto" and not method.chooses_criterion:
        others = ", ".join(name for name, other in methods().items() if other.chooses_criterion)
        return f"a number or names while prune.method is {method.name}; auto is for {others}"
    if drop == "auto" and "ratio" in written_keys(keys.get("target")):
        return "a number or names while prune.target is a ratio, which says nothing about blocks"
    return None


def _channel_conflicts(method: str, keys: Mapping[str, Any]) -> Iterator[Conflict]:
    """The keys that have no meaning for a method that masks single weights."""
    targets = sorted(written_keys(keys.get("target")))
    if targets and targets != ["weights"]:
        yield "target", f"{{weights: 5%}} alone, not {' and '.join(targets)}: {method} masks single weights"
    for key in CHANNEL_KEYS:
        if key in keys:
            yield key, f"nothing while prune.method is {method}: no channel is selected"
    rules = keys.get("layers")
    if isinstance(rules, list | tuple) and any("ratio" in written_keys(rule) for rule in rules):
        yield "layers", f"rules with freeze only: {method} masks single weights"


def _attribute(method: str) -> str:
    """The name of a method is not always a Python name: `2of4` is not."""
    return "settings_" + re.sub(r"\W", "_", method)


if TYPE_CHECKING:
    Prune = PruneBase
else:
    Prune = create_model(
        "Prune",
        __base__=PruneBase,
        method=(Literal[tuple(methods())], Field(description="the pruning method")),
        **{
            _attribute(name): (kind | None, Field(default=None, alias=name, description=f"settings of {name}"))
            for name, kind in ((name, method_block(method)) for name, method in methods().items())
        },
    )
