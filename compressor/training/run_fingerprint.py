"""A hash of everything that the trainings of a run depend on."""

from __future__ import annotations

import json

from torch import Tensor

from compressor import __version__
from compressor.batches import join_batches
from compressor.core import Data, LoadedModel
from compressor.tensors import hash_of

SAMPLED_IMAGES = 64  # which identify a data set


def run_fingerprint(
    settings: object, round_to: int, model: LoadedModel, data: Data | None, timed_on: str | None = None
) -> str:
    """Hash everything that a training depends on, so that only the same run is continued.

    Learning rates are left out, because they may be changed after a training diverged; checkpoints store them.

    Args:
        settings: The parts of the recipe that say how to prune and train, as JSON.
        round_to: All widths are multiples of it.
        model: The dense model.
        data: The data; None = the run has none.
        timed_on: The device and how it is used, where the widths depend on its times.

    Returns:
        A SHA-256 over version, settings, device, weights and a sample of the images.
    """
    text = json.dumps(_without_rates(settings), sort_keys=True)
    about = (data.name, data.train_size, data.num_classes) if data else None
    sample: dict[str, Tensor] = {}
    if data is not None:
        inputs = join_batches(data.calibration_batches(SAMPLED_IMAGES, images=SAMPLED_IMAGES), data.batch_dims)
        sample = {f"sample {index}" if index else "sample": tensor for index, tensor in enumerate(inputs)}
    described = f"{__version__}\n{text}\n{round_to}\n{model.spec}\n{about}\n{timed_on}\n"
    return hash_of(described, {**model.module.state_dict(), **sample})


def _without_rates(settings: object) -> object:
    if isinstance(settings, dict):
        return {key: _without_rates(value) for key, value in settings.items() if key != "lr"}
    return settings
