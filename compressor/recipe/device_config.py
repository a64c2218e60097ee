"""targets.yaml: the devices that a recipe may name, how to reach them, and how to run models on them.

The file is `--target-file`, else `targets.yaml` in the current folder, else `~/.config/compress/targets.yaml`.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    PlainSerializer,
    PlainValidator,
    StrictBool,
    StringConstraints,
    WithJsonSchema,
    field_validator,
)

from compressor.errors import CompressorError, RecipeError, did_you_mean
from compressor.field_types import Count, Word, refused
from compressor.recipe.block import Conflict, RecipeBlock, written_keys
from compressor.recipe.fields import Version
from compressor.recipe.read import read_text
from compressor.recipe.validation import validate
from compressor.recipe.yaml_source import parse_yaml

BUILT_IN = ("local", "none")
FILE = "targets.yaml"

Name = Annotated[Word, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]
# A leading dash would make an option of ssh or adb of it, a space or a quote a second word.
Host = Annotated[Word, StringConstraints(pattern=r"^[A-Za-z0-9_:\[][A-Za-z0-9._:%\]-]*$", max_length=255)]
Login = Annotated[Word, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._@-]*$", max_length=64)]


def _parse_command(value: object) -> object:
    """The words of a command: 'nice python3' or [nice, python3]."""
    if isinstance(value, str):
        try:
            value = shlex.split(value)
        except ValueError as error:
            raise refused(f"a command ({error})") from None
    if isinstance(value, (list, tuple)) and value and all(isinstance(word, str) and word for word in value):
        return tuple(value)
    raise refused("a command, such as /opt/venv/bin/python3, or its words as a list")


Command = Annotated[
    tuple[str, ...],
    PlainValidator(_parse_command),
    PlainSerializer(shlex.join),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]


class SshConfig(RecipeBlock):
    """Access by ssh."""

    host: Host
    user: Login | None = None
    port: Annotated[Count, Field(le=65535)] = 22
    key: Word | None = Field(default=None, description="path of the private key; null = the default of ssh")
    known_hosts: Word | None = Field(default=None, description="path; null = the default of ssh")


class AdbConfig(RecipeBlock):
    """Access by adb."""

    serial: Host | None = Field(default=None, description="as `adb devices` lists it; null = the only device")


class DeviceConfig(RecipeBlock):
    """A device that is reached by `ssh` or by `adb`; without either, this machine."""

    name: Name
    ssh: SshConfig | None = None
    adb: AdbConfig | None = None
    python: Command | None = Field(
        default=None, description="command that runs Python there, with numpy and onnxruntime"
    )
    provider: Literal["cpu", "cuda", "tensorrt", "openvino", "coreml", "xnnpack", "qnn"] = "cpu"
    options: dict[Word, Word] = Field(
        default={}, description="options of the execution provider, by the names of ONNX Runtime"
    )
    cpu_fallback: StrictBool = Field(
        default=False, description="let the CPU execute the operators that the provider does not support"
    )
    graph: Literal["none", "basic", "extended", "all"] = Field(default="all", description="graph optimization level")
    threads: Annotated[Count, Field(le=1024)] = 1
    folder: Annotated[Word, StringConstraints(pattern=r"^/")] | None = Field(
        default=None, description="folder for files on the device; null = /tmp, on Android /data/local/tmp"
    )
    power: str = Field(
        default="", max_length=200, description="power supply, governor and cooling in words, for the report"
    )

    @field_validator("name")
    @classmethod
    def _not_built_in(cls, name: str) -> str:
        if name in BUILT_IN:
            raise refused(f"another name, {' and '.join(BUILT_IN)} are built in")
        return name

    @classmethod
    def conflicts(cls, keys: Mapping[str, object]) -> Iterator[Conflict]:
        if {"ssh", "adb"} <= keys.keys():
            yield "adb", "either ssh or adb, a device is reached one way"


class DevicesFile(RecipeBlock):
    """The file: the devices by name."""

    version: Version
    targets: Annotated[tuple[DeviceConfig, ...], Field(min_length=1)]

    @classmethod
    def conflicts(cls, keys: Mapping[str, Any]) -> Iterator[Conflict]:
        entries = keys.get("targets")
        names = [written_keys(entry).get("name") for entry in entries] if isinstance(entries, list) else []
        if len(set(map(str, names))) < len(names):
            yield "targets", "each name once"


def find_target(name: str, file: Path | None = None) -> DeviceConfig | None:
    """Look up a device in targets.yaml.

    Args:
        name: The name of the device.
        file: The file to read instead of the usual ones.

    Returns:
        The device; None for those that are built in.

    Raises:
        RecipeError: There is no such device, or the file has faults; the error carries all of them.
    """
    if name in BUILT_IN:
        return None
    path = file or next((path for path in (Path(FILE), _user_file()) if path.is_file()), None)
    if path is None:
        known = f"{' or '.join(BUILT_IN)}, or describe it in {FILE} here or in {_user_file()}"
        raise RecipeError(
            "target/no-targets-file", "bench.target", f"it is {name}, but there is no {FILE}", f"choose {known}"
        )
    entries = {entry.name: entry for entry in read_targets(path).targets}
    if name not in entries:
        options = (*entries, *BUILT_IN)
        hint = f"{did_you_mean(name, options)}one of: {', '.join(options)}"
        raise RecipeError("target/unknown-name", "bench.target", f"{name} is not in {path}", hint)
    return entries[name]


def read_targets(path: Path) -> DevicesFile:
    """Read every device of a file. Raises RecipeError, which carries every fault."""
    source = str(path)
    try:
        return validate(DevicesFile, parse_yaml(read_text(path, source), source))
    except FileNotFoundError:
        raise RecipeError(
            "targets/no-such-file", source, "the file does not exist", "give another with --target-file"
        ) from None
    except RecipeError as error:
        raise _with_subject(error) from None


def _with_subject(error: CompressorError) -> RecipeError:
    """The same error about targets instead of a recipe: both are read by the same code."""
    slug = error.code.partition("/")[2]
    more = tuple(map(_with_subject, error.errors[1:]))
    return RecipeError(f"targets/{slug}", error.place, error.problem, error.hint, more)


def _user_file() -> Path:
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "compress" / FILE
