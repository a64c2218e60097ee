"""Optimizers, and what they remember from one training to the next."""

from __future__ import annotations

from itertools import compress

from torch import nn
from torch.optim import SGD, Adam, AdamW
from torch.optim import Optimizer as TorchOptimizer

from compressor.core import OptimizerState
from compressor.training.settings import OptimizerSettings


def make_optimizer(module: nn.Module, settings: OptimizerSettings) -> TorchOptimizer:
    """SGD (with Nesterov's momentum), Adam (Kingma and Ba, arXiv:1412.6980) or AdamW (arXiv:1711.05101).

    Without `decay_all`, biases, normalisations and what the model itself lists (`no_weight_decay`: tokens, positions)
    are not decayed.
    """
    spared = set(getattr(module, "no_weight_decay", tuple)())
    decayed = [settings.decay_all or (each.ndim > 1 and name not in spared) for name, each in module.named_parameters()]
    groups = [
        {"params": list(compress(module.parameters(), chosen)), "weight_decay": decay}
        for chosen, decay in ((decayed, settings.weight_decay), ([not each for each in decayed], 0.0))
        if any(chosen)
    ]
    match settings.name:
        case "sgd":
            return SGD(groups, settings.lr, settings.momentum, nesterov=settings.nesterov, foreach=True)
        case "adam":
            return Adam(groups, settings.lr, foreach=True)
        case "adamw":
            return AdamW(groups, settings.lr, foreach=True)


def optimizer_state(module: nn.Module, optimizer: TorchOptimizer) -> OptimizerState:
    """What the optimizer remembers of each parameter, by its name: (momentum_buffer) of SGD, (exp_avg, ...) of Adam."""
    return {
        name: {key: value.detach().cpu() for key, value in optimizer.state[parameter].items() if value is not None}
        for name, parameter in module.named_parameters()
        if parameter in optimizer.state
    }


def load_optimizer_state(module: nn.Module, optimizer: TorchOptimizer, momentum: OptimizerState) -> None:
    """Give a new optimizer what `optimizer_state` took from one of its kind; of another kind, nothing."""
    keys = {"momentum_buffer"} if isinstance(optimizer, SGD) else {"step", "exp_avg", "exp_avg_sq"}
    for name, parameter in module.named_parameters():
        remembered = momentum.get(name, {})
        if remembered.keys() == keys:
            optimizer.state[parameter] = {
                key: value.clone().to(parameter.device if value.ndim else "cpu") for key, value in remembered.items()
            }
