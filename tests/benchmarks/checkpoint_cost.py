"""What writing checkpoints takes of each training's time, as the run itself has measured it.

    python tests/benchmarks/checkpoint_cost.py [what stands after `compress`]

Runs the command and reads run.jsonl. Ends with 1 where a training spent 2 % or more on it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

RUN = ["cifar:resnet8@digits", "-r", "quickstart", "--target", "none"]
MOST = 0.02


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "compressor", "-q", *(sys.argv[1:] or RUN), "-o", f"{folder}/out"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        events = [json.loads(line) for line in Path(folder, "out", "run.jsonl").read_text().splitlines()]
    trained = [each for each in events if each["event"] == "trained"]
    for each in trained:
        spent = f"{each['written']} checkpoints in {each['writing_seconds']:.3f} s of {each['seconds']:.1f} s"
        print(f"{each['stage']}: {spent}, {100 * each['writing_seconds'] / each['seconds']:.2f} %")
    sys.exit(any(each["writing_seconds"] >= MOST * each["seconds"] for each in trained) or not trained)


if __name__ == "__main__":
    main()
