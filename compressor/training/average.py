"""The exponential moving average of the weights."""

from __future__ import annotations

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def averaged(module: nn.Module, decay: float | None) -> AveragedModel | None:
    """A copy of `module` that `update_parameters(module)` moves: `a <- decay a + (1 - decay) w`, buffers as well.

    It starts as the weights themselves. Polyak and Juditsky, 1992; decayed as in Tarvainen and Valpola, NeurIPS 2017,
    arXiv:1703.01780.
    """
    if decay is None:
        return None
    average = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)  # type: ignore[no-untyped-call]
    average.update_parameters(module)  # the first one copies
    return average
