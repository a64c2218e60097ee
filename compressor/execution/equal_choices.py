"""Two passes that make the same decisions, so that a decision which depends on rounding does not separate them.

An operator that takes floating-point numbers and returns integers or booleans (`topk`, `sort`, `argmax`, `nonzero`,
`x > 0.5`, a cast to integers) chooses by value. Where two scores nearly tie, a difference in the last digit changes its
result. The first pass records the choices. The second pass repeats them and records how far its scores differ from
those of the first: where scores and outputs agree, the passes agree.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from compressor.execution.differences import differences
from compressor.execution.operators import named_arguments

INDEXING = {"topk", "sort", "max", "min", "kthvalue", "median", "nanmedian", "mode", "cummax", "cummin"}
"""Operators that give values along one dimension and their indices."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One call of such an operator."""

    operator: str
    scores: tuple[Tensor, ...]  # the floating-point operands
    chosen: tuple[Tensor, ...]  # the results that are integers or booleans


@dataclass
class Choices:
    """The choices of a pass in order, and the largest difference between the scores of two passes."""

    made: list[Choice] = field(default_factory=list)
    max_abs_error: float = 0.0
    max_rel_error: float = 0.0


class RecordChoices(TorchDispatchMode):  # type: ignore[no-untyped-call]  # PyTorch leaves it unannotated
    """Record every choice in `choices`."""

    def __init__(self, choices: Choices) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.choices = choices

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        scores, chosen = _floating((args, kwargs)), _discrete(result)
        if scores and chosen:
            self.choices.made.append(
                Choice(str(func), tuple(s.clone() for s in scores), tuple(c.clone() for c in chosen))
            )
        return result


class RepeatChoices(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Repeat the choices of an earlier pass in order, where their scores have the same shapes."""

    def __init__(self, choices: Choices) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.choices = choices
        self._ahead = iter(choices.made)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        scores = _floating((args, kwargs))
        if not scores or not _discrete(result):
            return result
        choice = next(self._ahead, None)
        if (
            choice is None
            or choice.operator != str(func)
            or [s.shape for s in scores] != [s.shape for s in choice.scores]
        ):
            return result
        for own, other in zip(scores, choice.scores, strict=True):
            absolute, relative = differences([own], [other])
            self.choices.max_abs_error = max(self.choices.max_abs_error, absolute)
            self.choices.max_rel_error = max(self.choices.max_rel_error, relative)
        return _with_choice(result, choice, named_arguments(func, args, kwargs))


def _with_choice(result: object, choice: Choice, named: dict[str, Any]) -> object:
    """The result with the other pass's integers and the values at these indices."""
    leaves, tree = tree_flatten(result)
    chosen = iter(choice.chosen)
    replaced = [next(chosen).clone() if _is_discrete(leaf) else leaf for leaf in leaves]
    if choice.operator.split(".")[1] in INDEXING and len(leaves) == 2:
        scores, dim, indices = named["self"], named["dim"], replaced[1]
        if indices.ndim == scores.ndim:
            replaced[0] = scores.gather(dim, indices)
        else:
            replaced[0] = scores.gather(dim, indices.unsqueeze(dim)).squeeze(dim)
    return tree_unflatten(replaced, tree)


def _floating(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _discrete(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if _is_discrete(leaf)]


def _is_discrete(leaf: object) -> bool:
    return isinstance(leaf, Tensor) and not leaf.is_floating_point() and not leaf.is_complex()
