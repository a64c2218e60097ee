"""The `prune` block: how much goes, by which method, and from which layers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidatorFunctionWrapHandler,
    create_model,
    model_serializer,
    model_validator,
)

from compressor.budget.target import Scope
from compressor.methods import Method, methods
from compressor.recipe.fields import (
    Positive,
    RecipeBlock,
    RoundTo,
    Share,
    Truth,
    Word,
    checked_beside,
    given,
)


class TargetConfig(RecipeBlock):
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


class LayerRuleConfig(RecipeBlock):
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


class PruneBase(RecipeBlock):
    """How to prune; each method's own settings stand under its own name."""

    method: str
    target: TargetConfig | None = Field(
        default=None, description="how many channels go; every method but 2of4 asks for it"
    )
    scope: Scope = Field(
        default="local",
        description="local = the same share everywhere; global = all channels compared at once; "
        "isomorphic = channels of groups of the same make compared, and the same share of each make",
    )
    round_to: RoundTo = Field(
        default="auto", description="widths left are multiples of this; auto = what the target device rewards"
    )
    layers: tuple[LayerRuleConfig, ...] = ()

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
