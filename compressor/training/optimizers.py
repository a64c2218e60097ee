"""Optimizers, and their state from one training to the next."""

from __future__ import annotations

from torch import nn
from torch.optim import SGD, Adam, AdamW
from torch.optim import Optimizer as TorchOptimizer

from compressor.core import OptimizerState
from compressor.training.train_settings import OptimizerSettings


def make_optimizer(module: nn.Module, settings: OptimizerSettings) -> TorchOptimizer:
    """Make SGD (with Nesterov's momentum), Adam (Kingma and Ba, arXiv:1412.6980) or AdamW (arXiv:1711.05101).

    Without `decay_all`, biases, normalizations and the parameters that the model lists in `no_weight_decay` (tokens,
    positions) have no weight decay.

    Args:
        module: The network.
        settings: The optimizer.

    Returns:
        The optimizer of all parameters.
    """
    excluded = set(getattr(module, "no_weight_decay", tuple)())
    decayed: list[nn.Parameter] = []
    undecayed: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        has_decay = settings.decay_all or (parameter.ndim > 1 and name not in excluded)
        (decayed if has_decay else undecayed).append(parameter)
    groups = [
        {"params": parameters, "weight_decay": decay}
        for parameters, decay in ((decayed, settings.weight_decay), (undecayed, 0.0))
        if parameters
    ]
    match settings.name:
        case "sgd":
            return SGD(groups, settings.lr, settings.momentum, nesterov=settings.nesterov, foreach=True)
        case "adam":
            return Adam(groups, settings.lr, foreach=True)
        case "adamw":
            return AdamW(groups, settings.lr, foreach=True)


def copy_optimizer_state(module: nn.Module, optimizer: TorchOptimizer) -> OptimizerState:
    """Copy the state of an optimizer.

    Args:
        module: The network.
        optimizer: Its optimizer.

    Returns:
        Parameter name -> state on the CPU: momentum_buffer of SGD; step, exp_avg and exp_avg_sq of Adam.
    """
    return {
        name: {key: value.detach().cpu() for key, value in optimizer.state[parameter].items() if value is not None}
        for name, parameter in module.named_parameters()
        if parameter in optimizer.state
    }


def load_optimizer_state(module: nn.Module, optimizer: TorchOptimizer, saved: OptimizerState) -> None:
    """Give a new optimizer the state of an earlier one of the same kind; state of another kind is ignored.

    Args:
        module: The network.
        optimizer: Its new optimizer.
        saved: What `copy_optimizer_state` returned.
    """
    keys = {"momentum_buffer"} if isinstance(optimizer, SGD) else {"step", "exp_avg", "exp_avg_sq"}
    for name, parameter in module.named_parameters():
        state = saved.get(name, {})
        if state.keys() == keys:
            optimizer.state[parameter] = {
                key: value.clone().to(parameter.device if value.ndim else "cpu") for key, value in state.items()
            }
