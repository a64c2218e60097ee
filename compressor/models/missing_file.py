"""Files of models that do not exist. Loads no library, so that a mistyped path is reported at once."""

from __future__ import annotations

import re
from difflib import get_close_matches
from pathlib import Path

from compressor.errors import ModelError

_FAMILY = re.compile(r"^[a-z]{2,}:")  # as in `ultralytics:yolo.pt`
MODEL_FILES = (".pt", ".pth", ".th", ".ckpt", ".safetensors", ".pt2", ".bin", ".onnx")


def check_model_files(source: str) -> None:
    """Check that the files exist which a model is named by. What has no known ending is left to `load_model`.

    Raises:
        ModelError: A file does not exist.
    """
    stem, colon, rest = source.rpartition(".py:")
    code, checkpoint = Path(f"{stem}.py"), rest.partition("@")[2]
    if colon and not code.exists():
        raise missing_code(code)
    file = checkpoint if colon else _FAMILY.sub("", source)
    if file.endswith(MODEL_FILES) and not Path(file).exists():
        raise missing_model(Path(file))


def missing_model(path: Path) -> ModelError:
    """Describe a missing checkpoint, and suggest files of similar names beside it."""
    return ModelError("model-file/no-such-file", str(path), "the file does not exist", _beside(path))


def missing_code(path: Path) -> ModelError:
    """Describe a missing Python file."""
    hint = "give path/to/file.py:factory"
    return ModelError("model-code/no-such-file", str(path), "the file does not exist", hint)


def _beside(path: Path) -> str:
    try:
        names = [entry.name for entry in path.parent.iterdir() if not entry.name.startswith(".")]
    except OSError:
        return f"the folder {path.parent} cannot be read either; check the path"
    close = get_close_matches(path.name, names, n=3, cutoff=0.6)
    return f"did you mean {' or '.join(close)}?" if close else "check the path"
