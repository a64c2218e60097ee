"""Train a checkpoint that ships with the package, and write it where it lies.

    python tests/tools/embedded_checkpoint.py resnet8|resnet8x2 [FILE]

ResNet-8 (option A, 1 input channel) on the embedded digits: batch 50, SGD with Nesterov momentum 0.9, decay 5e-4,
one-cycle with its peak at 0.1, no augmentation, seed 0, one thread, float32. `resnet8` takes 30 epochs at 8 x 8 pixels,
about 15 s. `resnet8x2`, with twice the channels, takes 15 epochs at 16 x 16, about a minute; it is stored as float16.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save

from compressor.core import ModelSpec, one_image
from compressor.data.data_settings import DataSettings
from compressor.data.open_data import open_data
from compressor.models.cifar import cifar_resnet
from compressor.models.families.cifar_resnets import DIGITS
from compressor.steps.train import Train
from compressor.training.evaluate import evaluate
from compressor.training.loop import train
from compressor.training.schedules import onecycle
from compressor.training.train_settings import OptimizerSettings

SEED = 0


@dataclass(frozen=True, slots=True)
class Training:
    """What differs between the checkpoints."""

    input: tuple[int, int, int]
    mean: float  # of the training pixels at this size
    std: float
    epochs: int
    dtype: torch.dtype


TRAININGS = {
    "resnet8": Training((1, 8, 8), 0.3055, 0.3759, 30, torch.float32),
    "resnet8x2": Training((1, 16, 16), 0.3055, 0.3187, 15, torch.float16),
}


def main(name: str, path: Path) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    training = TRAININGS[name]
    mean, std = (training.mean,), (training.std,)
    settings = DataSettings("digits", mean=mean, std=std)
    data = open_data(settings, None, ModelSpec(name, one_image(training.input)), num_classes=10)
    module = cifar_resnet(name, num_classes=10, in_channels=1)
    optimizer = OptimizerSettings("sgd", lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    epochs = training.epochs
    step = Train(epochs=epochs, batch_size=50, optimizer=optimizer, schedule=onecycle(epochs), precision="fp32")
    for record in train(module, data, step, seed=SEED, emit=lambda event, fields: None).records:
        print(f"epoch {record['epoch']:2.0f}  loss {record['loss']:.4f}", file=sys.stderr)
    header = {"input": json.dumps(training.input), "mean": json.dumps(mean), "std": json.dumps(std)}
    stored = {
        key: tensor.to(training.dtype) if tensor.is_floating_point() else tensor
        for key, tensor in module.state_dict().items()
    }
    path.write_bytes(save(stored, metadata=header))
    module.load_state_dict(stored)  # in float32 again: what a user gets
    accuracy = evaluate(module, data.val_batches(64), data.task.metric)
    print(f"{path}: {path.stat().st_size} bytes, test accuracy {accuracy:.2f} %")


if __name__ == "__main__":
    architecture = sys.argv[1]
    main(architecture, Path(sys.argv[2]) if len(sys.argv) > 2 else DIGITS[f"cifar:{architecture}"])
