"""What the protocol says of a difference that is not there: a file against a copy of itself, N times.

    python tests/benchmarks/aa_control.py torchvision:resnet18 [--repeats 8] [--seconds 4]

One JSON line each: the ratio with its 95 % interval, that of the built-in control, and the verdict, which should be "no
measurable change". The last line sums up: the largest effects, and how many intervals hold 1 (95 % should).
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from compressor.bench.compare import compare_latency
from compressor.bench.device.device import Device
from compressor.export.onnx import OnnxExporter
from compressor.models.inputs.example_inputs import example_inputs
from compressor.models.source import load_model

Row = dict[str, object]
Sample = tuple[float, tuple[float, float]]


def repeat(device: object, a: Path, copy: Path, seconds: float) -> tuple[Row, list[Sample]]:
    found = compare_latency(device, a, copy, seconds=seconds, emit=lambda _event, _fields: None)  # type: ignore[arg-type]
    assert found.ratio is not None
    assert found.ratio_ci95 is not None
    assert found.control is not None
    assert found.control_ci95 is not None
    row: Row = {"ratio": round(found.ratio, 4), "ci95": [round(each, 4) for each in found.ratio_ci95]}
    row |= {"control": round(found.control, 4), "control_ci95": [round(each, 4) for each in found.control_ci95]}
    row |= {"p50_ms": round(found.a.p50, 4), "clock": found.environment["clock"], "verdict": found.verdict.words}
    return row, [(found.ratio, found.ratio_ci95), (found.control, found.control_ci95)]


def summary(samples: list[Sample], verdicts: list[str]) -> Row:
    effects = sorted(max(value, 1 / value) - 1 for value, _ in samples)
    return {
        "comparisons": len(samples),
        "median_effect": round(effects[len(effects) // 2], 4),
        "largest_effect": round(effects[-1], 4),
        "intervals_with_1": sum(low <= 1 <= high for _, (low, high) in samples),
        "called_different": sum(each.startswith(("faster", "slower")) for each in verdicts),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=4.0, help="measuring time of each file")
    asked = parser.parse_args()
    samples: list[Sample] = []
    verdicts: list[str] = []
    with TemporaryDirectory() as name:
        model = load_model(asked.model)
        a, copy = Path(name) / "a.onnx", Path(name) / "copy.onnx"
        OnnxExporter(example_inputs(model, images=2), opset=None, dynamic_batch=False).export(model.module, a)
        shutil.copy(a, copy)
        for _ in range(asked.repeats):
            with Device().open() as device:
                row, found = repeat(device, a, copy, asked.seconds)
            samples += found
            verdicts.append(str(row["verdict"]))
            print(json.dumps(row), flush=True)
    print(json.dumps(summary(samples, verdicts)))


if __name__ == "__main__":
    main()
