"""targets.yaml: the devices a recipe may name, how to reach them and how to run models there.

Looked for as `--target-file`, then `targets.yaml` in the current folder, then `~/.config/compress/targets.yaml`.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    PlainSerializer,
    PlainValidator,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from compressor.errors import RecipeError, did_you_mean
from compressor.recipe.fields import Count, RecipeBlock, Truth, Version, Word, checked_beside, given, refused
from compressor.recipe.read import raise_all, read_text
from compressor.recipe.validation import explain_errors
from compressor.recipe.yaml_source import parse_yaml

BUILT_IN = ("local", "none")
FILE = "targets.yaml"

Name = Annotated[Word, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]
# What begins with a dash would be an option of ssh or adb, and what holds a space or a quote a second word.
Host = Annotated[Word, StringConstraints(pattern=r"^[A-Za-z0-9_:\[][A-Za-z0-9._:%\]-]*$", max_length=255)]
Login = Annotated[Word, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._@-]*$", max_length=64)]


def _command(value: object) -> object:
    """A command as one word list: 'nice python3' or [nice, python3]."""
    if isinstance(value, str):
        try:
            value = shlex.split(value)
        except ValueError as error:
            raise refused(f"a command ({error})") from None
    if isinstance(value, (list, tuple)) and value and all(isinstance(each, str) and each for each in value):
        return tuple(value)
    raise refused("a command, such as /opt/venv/bin/python3, or its words as a list")


Command = Annotated[
    tuple[str, ...],
    PlainValidator(_command),
    PlainSerializer(shlex.join),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]


class SshConfig(RecipeBlock):
    host: Host
    user: Login | None = None
    port: Annotated[Count, Field(le=65535)] = 22
    key: Word | None = Field(default=None, description="path of the private key; null = what ssh itself would use")
    known_hosts: Word | None = Field(default=None, description="path; null = what ssh itself would use")


class AdbConfig(RecipeBlock):
    serial: Host | None = Field(default=None, description="of `adb devices`; null = the only one")


class DeviceConfig(RecipeBlock):
    """A device: by `ssh`, by `adb`, or this machine where neither stands."""

    name: Name
    ssh: SshConfig | None = None
    adb: AdbConfig | None = None
    python: Command | None = Field(default=None, description="what runs Python there, with numpy and onnxruntime")
    provider: Literal["cpu", "cuda", "tensorrt", "openvino", "coreml", "xnnpack", "qnn"] = "cpu"
    options: dict[Word, Word] = Field(default={}, description="options of the provider, as ONNX Runtime names them")
    cpu_fallback: Truth = Field(default=False, description="let the CPU execute what the provider can't")
    graph: Literal["none", "basic", "extended", "all"] = Field(default="all", description="graph optimisation level")
    threads: Annotated[Count, Field(le=1024)] = 1
    folder: Annotated[Word, StringConstraints(pattern=r"^/")] | None = Field(
        default=None, description="where files go there; null = /tmp, on Android /data/local/tmp"
    )
    power: str = Field(default="", max_length=200, description="in words, for the report: supply, governor, cooling")

    @field_validator("name")
    @classmethod
    def _not_built_in(cls, name: str) -> str:
        if name in BUILT_IN:
            raise refused(f"another name, {' and '.join(BUILT_IN)} are built in")
        return name

    @model_validator(mode="wrap")
    @classmethod
    def _one_way(cls, data: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        both = {"ssh", "adb"} <= given(data).keys()
        faults = [("adb", "either ssh or adb, a device is reached one way")] if both else []
        return checked_beside(data, handler, "targets", faults)


class DevicesFile(RecipeBlock):
    version: Version
    targets: Annotated[tuple[DeviceConfig, ...], Field(min_length=1)]

    @model_validator(mode="wrap")
    @classmethod
    def _each_once(cls, data: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        return checked_beside(data, handler, "targets", cls._twice(data))

    @classmethod
    def _twice(cls, data: object) -> Iterator[tuple[str, str]]:
        entries = given(data).get("targets")
        names = [given(each).get("name") for each in entries] if isinstance(entries, list) else []
        if len(set(map(str, names))) < len(names):
            yield "targets", "each name once"


def find_target(name: str, file: Path | None = None) -> DeviceConfig | None:
    """What targets.yaml says of a device; None for those that are built in.

    Raises:
        RecipeError: no such target, or a file with faults: all of them at once.
    """
    if name in BUILT_IN:
        return None
    path = file or next((each for each in (Path(FILE), _of_user()) if each.is_file()), None)
    if path is None:
        known = f"{' or '.join(BUILT_IN)}, or describe it in {FILE} here or in {_of_user()}"
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
    """Every target of a file. Raises RecipeError, carrying every fault at once."""
    source = str(path)
    try:
        tree = parse_yaml(read_text(path, source), source)
        faults = list(tree.faults)
        try:
            found = DevicesFile.model_validate(tree.data)
        except ValidationError as error:
            faults += explain_errors(error, tree, DevicesFile)
        raise_all(faults)
        return found
    except FileNotFoundError:
        raise RecipeError(
            "targets/no-such-file", source, "the file does not exist", "give another with --target-file"
        ) from None
    except RecipeError as error:
        raise _of_targets(error) from None


def _of_targets(error: RecipeError) -> RecipeError:
    """Return the same error with targets as its subject: the file is read as a recipe is."""
    code = f"targets/{error.code.partition('/')[2]}"
    return RecipeError(code, error.place, error.problem, error.hint, tuple(map(_of_targets, error.more)))


def _of_user() -> Path:
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "compress" / FILE
