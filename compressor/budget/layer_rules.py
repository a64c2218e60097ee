"""A recipe's rules for layers: globs on layer names, of which the first match decides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase

from compressor.core import ChannelGroup, Freeze
from compressor.errors import RecipeError


@dataclass(frozen=True, slots=True)
class LayerRule:
    """A glob on module names; the first rule that matches a layer decides. `ratio`: share of channels removed."""

    match: str
    freeze: bool = False
    ratio: float | None = None


def apply_freeze_rules(groups: Sequence[ChannelGroup], rules: Sequence[LayerRule]) -> tuple[ChannelGroup, ...]:
    """Freeze the groups that a rule freezes; one frozen writer freezes its group.

    Args:
        groups: The channel groups.
        rules: The recipe's rules, in order.

    Returns:
        All groups, in their order.

    Raises:
        RecipeError: A glob matches no layer. The error lists every such glob.
    """
    _check_all_match([layer for group in groups for layer in _layers(group)], rules)
    return tuple(_frozen(group, rules) for group in groups)


def rules_naming_layers(groups: Sequence[ChannelGroup], rules: Sequence[LayerRule]) -> tuple[LayerRule, ...]:
    """Select the rules whose glob matches a layer that writes one of the groups.

    Args:
        groups: The channel groups.
        rules: The recipe's rules, in order.

    Returns:
        These rules, in their order.
    """
    layers = [layer for group in groups for layer in _layers(group)]
    return tuple(rule for rule in rules if any(_matches(layer, rule.match) for layer in layers))


def frozen_layers(layers: Sequence[str], rules: Sequence[LayerRule]) -> dict[str, str]:
    """Determine which layers the rules freeze.

    Args:
        layers: Layer names.
        rules: The recipe's rules, in order.

    Returns:
        Layer name -> the glob that freezes it.

    Raises:
        RecipeError: A glob matches no layer. The error lists every such glob.
    """
    _check_all_match(layers, rules)
    first = {layer: _deciding(layer, rules) for layer in layers}
    return {layer: rule.match for layer, rule in first.items() if rule is not None and rule.freeze}


def freezes(name: str, rules: Sequence[LayerRule]) -> bool:
    """Whether the first rule that matches a layer or block, or a module around it, freezes it.

    Args:
        name: The name of the module.
        rules: The recipe's rules, in order.

    Returns:
        True where it keeps all channels, or where the block is not dropped.
    """
    rule = _deciding(name, rules)
    return rule is not None and rule.freeze


def layer_ratio(group: ChannelGroup, rules: Sequence[LayerRule]) -> float | None:
    """Look up the share of channels that a rule removes from a group.

    Args:
        group: The channel group.
        rules: The recipe's rules, in order.

    Returns:
        The share; None where the target decides.
    """
    return next((rule.ratio for rule in _matching(group, rules) if rule.ratio is not None), None)


def _frozen(group: ChannelGroup, rules: Sequence[LayerRule]) -> ChannelGroup:
    rule = next((rule for rule in _matching(group, rules) if rule.freeze), None)
    if rule is None or group.frozen:
        return group
    return replace(group, frozen=Freeze("recipe", f"frozen by the recipe (match: {rule.match})"))


def _matching(group: ChannelGroup, rules: Sequence[LayerRule]) -> Iterator[LayerRule]:
    """The rule that decides, for each layer that writes the group."""
    return (rule for layer in _layers(group) if (rule := _deciding(layer, rules)) is not None)


def _deciding(layer: str, rules: Sequence[LayerRule]) -> LayerRule | None:
    """The first rule that matches a layer."""
    return next((rule for rule in rules if _matches(layer, rule.match)), None)


def _matches(layer: str, glob: str) -> bool:
    """A glob matches a layer by its own name or by the name of a module around it."""
    parts = layer.split(".")
    return any(fnmatchcase(".".join(parts[:length]), glob) for length in range(len(parts), 0, -1))


def _layers(group: ChannelGroup) -> list[str]:
    return list(dict.fromkeys(slot.tensor.rpartition(".")[0] for slot in group.writers()))


def _check_all_match(layers: Sequence[str], rules: Sequence[LayerRule]) -> None:
    errors = list(_unmatched(layers, rules))
    if errors:
        first, *more = errors
        raise RecipeError(first.code, first.place, first.problem, first.hint, tuple(more))


def _unmatched(layers: Sequence[str], rules: Sequence[LayerRule]) -> Iterator[RecipeError]:
    for rule in rules:
        if not any(_matches(layer, rule.match) for layer in layers):
            near = ", ".join(get_close_matches(rule.match, dict.fromkeys(layers), n=3, cutoff=0.0))
            problem = f"the pattern {rule.match!r} matches no layer"
            hint = f"use a pattern of layer names such as {near or 'those that compress inspect lists'}"
            yield RecipeError("recipe-does-not-fit-the-model/unmatched-layer-rule", "prune.layers", problem, hint)
