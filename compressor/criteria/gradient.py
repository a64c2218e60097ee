"""Gradient criteria: scores from gradients of the loss on training batches, and from their product with its Hessian."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from compressor.core import Data
from compressor.criteria.base import WEIGHTS_ONLY, ScoringContext
from compressor.errors import RecipeError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compressor.core import ChannelGroup, FloatArray

MAX_INPUT_VALUES = 1 << 20  # that pass through the network at a time: second derivatives keep all activations


@dataclass(frozen=True, slots=True)
class GradientCriterion:
    """Score weights by a formula of their gradients, and channels by the sum over the weights that write them.

    With w the weights of a layer, g the gradient of the loss summed over the batches and h = H g the product of the
    loss's Hessian with that gradient (0 where `order` is 1), `value(w, g, h)` gives signed scores in the shape of w.
    Scores are compared by magnitude unless `signed`.
    """

    needs_data: ClassVar[bool] = True

    name: str
    value: Callable[[Tensor, Tensor, Tensor], Tensor]
    order: Literal[1, 2] = 1
    signed: bool = False
    batches: int = 5
    batch_size: int = 128
    training: bool = False  # run BatchNorm and dropout in train mode
    loss: Literal["task", "logit"] = "task"  # logit = minus the mean output for the right class, without softmax
    temperature: float = 1.0  # outputs are divided by it

    def score_channels(
        self, module: nn.Module, groups: Sequence[ChannelGroup], context: ScoringContext = WEIGHTS_ONLY
    ) -> Mapping[str, FloatArray]:
        """See `ChannelCriterion`. Warns of groups that no gradient reaches.

        Args:
            module: The network.
            groups: The groups of its channels.
            context: Data, seed and round.

        Returns:
            Group name -> scores (C,).
        """
        from compressor.criteria._aggregate import sum_over_writers

        data = context.training_data
        entries = gradient_scores(module, self, data, context.seed, epoch=context.round, groups=groups)
        scores = sum_over_writers(groups, entries, self.signed)
        idle = [name for name, scores_C in scores.items() if not scores_C.any()]
        if idle:
            problem = f"no gradient reaches {', '.join(idle)}: all channels there score 0 and are removed first"
            context.emit("warning", {"text": f"{problem}; norm scales of 0, as before any training, cause that"})
        return scores

    def score_weights(
        self,
        module: nn.Module,
        weights: Mapping[str, Tensor],
        masks: Mapping[str, Tensor],
        context: ScoringContext = WEIGHTS_ONLY,
    ) -> Mapping[str, Tensor]:
        """See `WeightCriterion`.

        Args:
            module: The network, in which masked weights are zero.
            weights: Tensor name -> what counts as w.
            masks: Tensor name -> mask; where it is False, g counts as 0.
            context: Data, seed and round.

        Returns:
            Parameter name -> scores.
        """
        data = context.training_data
        scores = gradient_scores(module, self, data, context.seed, epoch=context.round, masks=masks, weights=weights)
        return scores if self.signed else {name: score.abs() for name, score in scores.items()}


def gradient_scores(
    module: nn.Module,
    criterion: GradientCriterion,
    data: Data,
    seed: int,
    *,
    epoch: int = 0,
    groups: Sequence[ChannelGroup] = (),
    masks: Mapping[str, Tensor] = MappingProxyType({}),
    weights: Mapping[str, Tensor] = MappingProxyType({}),
) -> dict[str, Tensor]:
    """Compute the criterion's formula for the `writing_parameters` of a network.

    With L_b the mean loss of batch b and W all weights without biases (Rachwan et al., Winning the Lottery Ahead
    of Time, ICML 2022, arXiv:2206.10451):

        g = sum_b dL_b/dw        h = d/dw sum_b <G, dL_b/dW>,  G = sum_b dL_b/dW held fixed, so h = H G

    both for one layer's weights or bias w; where `order` is 2 a bias has g = 0, because it is no part of G. In eval
    mode batches pass in pieces whose results are summed, which saves memory and changes nothing else. In train mode
    BatchNorm sees whole batches.

    Args:
        module: The network; it is not changed.
        criterion: Formula, order, number and size of the batches, mode and loss.
        data: The batches are the first of a training's epoch, never test images.
        seed: Seed of that training.
        epoch: Its epoch.
        groups: The groups whose channels are scored; () = only layers are.
        masks: Tensor name -> mask; where it is False, g counts as 0.
        weights: Tensor name -> what counts as w, where that is not the module's parameter.

    Returns:
        Parameter name -> signed scores in the shape of the parameter.

    Raises:
        RecipeError: The loss is that of the right class's output, and the data have no classes.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from compressor.execution.copies import copy_module
    from compressor.execution.randomness import equal_randomness
    from compressor.execution.unfreeze import unfreeze

    if criterion.loss == "logit" and not data.num_classes:
        problem = f"{data.name} has no classes, and {criterion.name} scores by the answer for the right class"
        raise RecipeError(
            "recipe/logit-without-classes", "data.task", problem, "set loss: task in the method's settings"
        )
    network = copy_module(module).train(criterion.training)
    unfreeze(network)
    parameters = writing_parameters(network, groups)

    def losses() -> Iterator[Tensor]:
        return batch_losses(network, criterion, data, seed, epoch)

    # Fused attention has no second derivative.
    with sdpa_kernel(SDPBackend.MATH), equal_randomness(seed):
        gradients = _accumulate_gradients(losses(), parameters)
        for name in gradients.keys() & masks.keys():
            gradients[name].masked_fill_(~masks[name], 0)
        products = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
        if criterion.order == 2:
            gradients = {name: g if _is_weight(g) else g.zero_() for name, g in gradients.items()}
            weighted = {name: parameter for name, parameter in parameters.items() if _is_weight(parameter)}
            derivatives = (_directional_derivative(loss, weighted, gradients) for loss in losses())
            products = _accumulate_gradients(derivatives, parameters)
    with torch.no_grad():
        return {
            name: criterion.value(weights.get(name, parameter.detach()), gradients[name], products[name])
            for name, parameter in parameters.items()
        }


def layer_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The weights and biases of all convolutions and linear layers by name; a shared one appears once."""
    from compressor.layers import WEIGHTED_LAYERS

    parameters: dict[str, nn.Parameter] = {}
    for prefix, layer in module.named_modules():
        if isinstance(layer, WEIGHTED_LAYERS):
            parameters |= {f"{prefix}.{name}".lstrip("."): p for name, p in layer.named_parameters(recurse=False)}
    first_name = {id(parameter): name for name, parameter in reversed(parameters.items())}
    return {name: parameter for name, parameter in parameters.items() if first_name[id(parameter)] == name}


def writing_parameters(module: nn.Module, groups: Sequence[ChannelGroup]) -> dict[str, nn.Parameter]:
    """Collect `layer_parameters`, and further parameters that write channels in the module's own code.

    Args:
        module: The network.
        groups: The groups of its channels.

    Returns:
        Name -> parameter.
    """
    parameters = layer_parameters(module)
    writers = [slot.tensor for group in groups for slot in group.writers()]
    return parameters | {name: module.get_parameter(name) for name in writers if name not in parameters}


def batch_losses(
    module: nn.Module, criterion: GradientCriterion, data: Data, seed: int, epoch: int
) -> Iterator[Tensor]:
    """Yield losses that add up to the sum of the batches' mean losses, one piece of a batch at a time.

    Args:
        module: The network, in the mode it is to run in.
        criterion: Number and size of the batches, mode, loss and temperature.
        data: The training images.
        seed: Seed of the training whose batches are used.
        epoch: Its epoch.

    Returns:
        An iterator over scalar losses.
    """
    from compressor.tensors import tree_map

    batches = data.train_batches(criterion.batch_size, epoch=epoch, seed=seed)
    for images, targets in islice(batches, criterion.batches):
        size = len(images) if criterion.training else max(1, MAX_INPUT_VALUES // images[0].numel())
        for start in range(0, len(images), size):
            piece = slice(start, start + size)
            output = module(images[piece])
            loss = _loss(output, tree_map(itemgetter(piece), targets), criterion, data)
            yield loss * (len(images[piece]) / len(images))


def _loss(output: Any, targets: Any, criterion: GradientCriterion, data: Data) -> Tensor:
    from compressor.data.tasks import labelled_task, primary_output
    from compressor.tensors import tree_map

    if criterion.loss == "logit":
        return -primary_output(output).gather(1, targets[:, None]).mean()
    if criterion.temperature != 1:
        output = tree_map(lambda tensor: tensor / criterion.temperature, output)
    return labelled_task(data, f"criterion {criterion.name}").loss(output, targets, 0.0)


def _is_weight(value: Tensor) -> bool:
    return value.dim() > 1


def _accumulate_gradients(values: Iterable[Tensor], parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Parameter name -> the sum of the gradients of all `values`."""
    import torch

    total = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for value in values:
        gradients = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
        for name, gradient in zip(total, gradients, strict=True):
            if gradient is not None:
                total[name] += gradient
    return total


def _directional_derivative(
    loss: Tensor, weights: Mapping[str, nn.Parameter], direction: Mapping[str, Tensor]
) -> Tensor:
    """`<direction, d loss / d weights>`, which can be differentiated once more."""
    import torch

    gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True, allow_unused=True)
    pairs = zip(weights, gradients, strict=True)
    return torch.stack([(g * direction[name]).sum() for name, g in pairs if g is not None]).sum()
