"""The content of plan.json: its schema, and how records of an output folder are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from compressor.core import LoadedModel, ModelInput, NMPattern
from compressor.errors import ModelError

PLAN = "plan.json"


Record = TypeVar("Record", bound=BaseModel)


Attributes = Mapping[str, Mapping[str, int | Sequence[int]]]
"""module name -> attribute -> value; sequences are tuples in the module."""


class _Input(BaseModel):
    shape: tuple[int, ...]
    dtype: str
    integer_range: tuple[int, int] | None = Field(alias="whole")
    name: str
    batch_dim: int | None = 0  # earlier versions knew no other
    values: tuple[int | float, ...] | None = None


class _Model(BaseModel):
    source: str
    inputs: tuple[_Input, ...] = Field(min_length=1)
    num_classes: int | None
    arguments: dict[str, JsonValue] = {}
    outputs: tuple[int, ...] = ()


class _Cost(BaseModel):
    params: int
    macs: int
    weights: int = 0  # not counted by earlier versions
    nodes: int = 0


class PlanRecord(BaseModel):
    model_config = ConfigDict(extra="ignore")  # `layers` is for people

    version: Literal[1]
    model: _Model
    name: str
    kept: dict[str, dict[int, tuple[int, ...]]]
    attributes: dict[str, dict[str, int | tuple[int, ...]]]
    dropped_blocks: tuple[str, ...] = ()  # none in earlier versions
    original: _Cost | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    weights_sha256: str | None = None
    packed: dict[str, tuple[int, int]] = {}


def plan_json(
    loaded: LoadedModel,
    attributes: Attributes,
    layers: Mapping[str, object],
    *,
    weights_sha256: str | None = None,
    packed: Mapping[str, NMPattern] = MappingProxyType({}),
) -> dict[str, object]:
    """Make the content of plan.json.

    Args:
        loaded: The slim model, with `kept` and `original`.
        attributes: The widths that modules keep as numbers.
        layers: Widths before and after, for readers; loading ignores them.
        weights_sha256: SHA-256 of the file of weights.
        packed: The N:M pattern of every weight that is stored as values and indices.

    Returns:
        A record that JSON can hold.
    """
    return {
        "version": 1,
        "model": {
            "source": loaded.spec.source,
            "inputs": [_input_json(one) for one in loaded.spec.inputs],
            "num_classes": loaded.spec.num_classes,
            "arguments": dict(loaded.spec.arguments),
            "outputs": list(loaded.spec.outputs),
        },
        "name": loaded.name,
        "weights_sha256": weights_sha256,
        "packed": {name: list(pattern) for name, pattern in packed.items()},
        "kept": {
            tensor: {str(dim): list(indices) for dim, indices in dims.items()} for tensor, dims in loaded.kept.items()
        },
        "attributes": {
            module: {name: value if isinstance(value, int) else list(value) for name, value in values.items()}
            for module, values in attributes.items()
        },
        "dropped_blocks": list(loaded.dropped),
        "original": None if loaded.original is None else asdict(loaded.original),
        "mean": None if loaded.mean is None else list(loaded.mean),
        "std": None if loaded.std is None else list(loaded.std),
        "layers": dict(layers),
    }


def _input_json(one: ModelInput) -> dict[str, object]:
    fields = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(one).items()}
    return {_Input.model_fields[name].alias or name: value for name, value in fields.items()}


def read_record(path: Path, schema: type[Record]) -> Record:
    """Read and check a JSON file of an output folder.

    Args:
        path: The file.
        schema: The record that it must hold.

    Returns:
        The record.

    Raises:
        ModelError: The file is missing, cannot be read, or has a wrong key, which the message names.
    """
    try:
        return schema.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        problem = f"it has no {path.name}" if path.parent.is_dir() else "the folder does not exist"
        raise ModelError(
            "output-folder/no-such-file", str(path.parent), problem, "give a folder that compress wrote"
        ) from None
    except OSError as error:
        raise ModelError(
            "output-folder/not-readable",
            str(path),
            f"it cannot be read ({error.strerror})",
            "make it readable for this user",
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise ModelError(
            "output-folder/malformed-record", f"{path}: {place}", first["msg"], "compress the model again"
        ) from None
