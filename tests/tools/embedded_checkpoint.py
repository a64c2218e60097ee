"""Train the checkpoint that ships with the package, and write it where it lies.

    python tests/tools/embedded_checkpoint.py [FILE]

ResNet-8 (option A, 1 input channel) on the embedded digits: 30 epochs, batch 50, SGD with Nesterov momentum 0.9,
weight decay 5e-4, one-cycle with its peak at 0.1, no augmentation, seed 0, one thread, float32; about 15 s.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save

import compressor
from compressor.data.open_data import open_data
from compressor.models.cifar import cifar_resnet
from compressor.steps.train import Train
from compressor.training.evaluate import evaluate
from compressor.training.loop import train
from compressor.training.schedules import onecycle
from compressor.training.train_settings import OptimizerSettings

INPUT = (1, 8, 8)
MEAN, STD = (0.3055,), (0.3759,)  # of the training pixels
SEED = 0


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    data = open_data(
        "digits", train=None, val=None, base=None, input=INPUT, num_classes=10, mean=MEAN, std=STD, augment="none"
    )
    module = cifar_resnet("resnet8", num_classes=10, in_channels=1)
    optimizer = OptimizerSettings("sgd", lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    step = Train(epochs=30, batch_size=50, optimizer=optimizer, schedule=onecycle(30), precision="fp32")
    for record in train(module, data, step, seed=SEED, emit=lambda event, fields: None).records:
        print(f"epoch {record['epoch']:2.0f}  loss {record['loss']:.4f}", file=sys.stderr)
    default = Path(compressor.__file__).parent / "models" / "resnet8-digits.safetensors"
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    header = {"input": json.dumps(INPUT), "mean": json.dumps(MEAN), "std": json.dumps(STD)}
    path.write_bytes(save(module.state_dict(), metadata=header))
    accuracy = evaluate(module, data.val_batches(64), data.task.metric)
    print(f"{path}: {path.stat().st_size} bytes, test accuracy {accuracy:.2f} %")


if __name__ == "__main__":
    main()
