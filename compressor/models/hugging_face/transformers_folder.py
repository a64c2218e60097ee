"""Reads what a folder of Hugging Face libraries holds beside code: configuration, weights, preprocessing."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from compressor.errors import ModelError
from compressor.file_digest import sha256
from compressor.models.checkpoints.checkpoint import read_checkpoint

CONFIG = "config.json"
INDEX = ".index.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_PROCESSOR = (".json", ".txt", ".model", ".jinja")
LARGEST_PROCESSOR = 2**26  # bytes
PREPROCESSING = ("preprocessor_config.json", "processor_config.json")

Statistics = tuple[float, ...] | None


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ModelError: The file cannot be read, or holds something else.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        problem = f"it cannot be read as JSON ({' '.join(str(error).split())[:120]})"
        raise ModelError("model-file/damaged", str(path), problem, "copy or download it again") from None
    if not isinstance(content, dict):
        problem = f"it holds a {type(content).__name__}, not an object"
        raise ModelError("model-file/damaged", str(path), problem, "copy or download it again")
    return content


def names_architecture(folder: Path) -> bool:
    """Return whether a folder's configuration says what network it holds."""
    if not (folder / CONFIG).is_file():
        return False
    config = read_json(folder / CONFIG)
    return any(isinstance(config.get(key), str) for key in ("model_type", "architecture"))


def weight_files(folder: Path) -> list[Path]:
    """Return the files of weights in a folder: one, or the shards that an index names.

    Raises:
        ModelError: There are none, or the index names a file elsewhere.
    """
    for name in WEIGHTS:
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}{INDEX}"
        if index.is_file():
            shards = sorted(set(read_json(index).get("weight_map", {}).values()))
            outside = [shard for shard in shards if not isinstance(shard, str) or Path(shard).name != shard]
            if outside or not shards:
                problem = f"it names {outside[0]!r}" if outside else "it names no files"
                raise ModelError("model-file/damaged", str(index), problem, "copy or download it again")
            return [folder / shard for shard in shards]
    problem = f"the folder has {CONFIG}, but neither {' nor '.join(WEIGHTS)}"
    raise ModelError("model-file/no-weights-in-folder", str(folder), problem, "copy or download the weights")


def read_tensors(folder: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Read all weights of a folder as float32, without running anything.

    Raises:
        ModelError: A file is missing or damaged.
        UntrustedFile: A file is a pickle with code.
        VerificationFailed: A weight is not finite.
    """
    tensors: dict[str, Tensor] = {}
    notes: dict[str, None] = {}
    for path in weight_files(folder):
        checkpoint = read_checkpoint(path)
        tensors |= checkpoint.tensors
        notes |= dict.fromkeys(checkpoint.notes)
    return tensors, tuple(notes)


def sha256_of_weights(folder: Path) -> str:
    """Return the SHA-256 of the file of weights; of the hashes of the shards, where there are several."""
    hashes = [sha256(path) for path in weight_files(folder)]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def copy_processor(source: Path, out: Path) -> None:
    """Copy what prepares inputs and reads outputs: tokenizer, processors, generation settings.

    Args:
        source: The folder of the dense model; nothing is copied where it no longer exists.
        out: The folder of the slim one.
    """
    if not source.is_dir():
        return
    for path in sorted(source.iterdir()):
        kept = path.is_file() and path.suffix in _PROCESSOR and path.stat().st_size < LARGEST_PROCESSOR
        if kept and not path.name.endswith(INDEX) and not (out / path.name).exists():
            shutil.copyfile(path, out / path.name)


def image_statistics(folder: Path) -> tuple[Statistics, Statistics]:
    """Return mean and standard deviation of pixels in 0..1 that the folder's image processor normalizes with."""
    processor = image_processor(folder)
    if not processor:
        return None, None
    mean, std = processor.get("image_mean"), processor.get("image_std")
    if not processor.get("do_normalize", mean is not None):
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if not isinstance(mean, list) or not isinstance(std, list):
        return None, None
    return tuple(map(float, mean)), tuple(map(float, std))


def image_processor(folder: Path) -> Mapping[str, Any]:
    """Return the settings of the folder's image processor; nothing where it has none."""
    for name in PREPROCESSING:
        if (folder / name).is_file():
            settings = read_json(folder / name)
            nested = settings.get("image_processor")
            settings = nested if isinstance(nested, dict) else settings
            if any(key in settings for key in ("image_mean", "size", "crop_size")):
                return settings
    return {}


def image_size(settings: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return height and width of what an image processor, or a model's configuration, makes or takes."""
    for key in ("crop_size", "image_size", "size"):
        match settings.get(key):
            case int(side):
                return side, side
            case [int(height), int(width)]:
                return height, width
            case {"height": int(height), "width": int(width)}:
                return height, width
            case {"shortest_edge": int(side)} if side <= 512:  # detectors resize to 800 and more
                return side, side
    return None
