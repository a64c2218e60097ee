"""A training of some of the parameters, the others as they are."""

from __future__ import annotations

from torch import nn

from compressor.core import scales_of


class ScalesOnly:
    """Lets scales and shifts of normalisations learn, and nothing else: no gradient, no decay, no momentum.

    Running statistics follow the batches as ever.
    """

    def __init__(self, module: nn.Module, iterations: int) -> None:
        parameters = dict(module.named_parameters())
        scales = scales_of(parameters)
        learning = {*scales, *(f"{name.removesuffix('weight')}bias" for name in scales)}
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in learning)

    def loss(self, iteration: int) -> None:
        """Nothing is added."""

    def on_gradients(self, iteration: int) -> None:
        """The others have none."""

    def on_weights(self, iteration: int) -> None:
        """The others have not moved."""
