"""Builds a user's own network: `path/to/file.py:factory[@checkpoint]`."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from compressor.errors import ModelError
from compressor.listed import listed
from compressor.models.missing_file import missing_code
from compressor.models.preparation.prepare import refuse_opaque
from compressor.user_code import find_callable, importable, user_errors_as

_CODE = re.compile(r"(?P<file>.+\.py):(?P<factory>[^@:/\\]*)(?:@(?P<checkpoint>.+))?")
_NAMED_KINDS = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def is_code(source: str) -> bool:
    """Return whether a source is `path/to/file.py:factory[@checkpoint]`."""
    return _CODE.fullmatch(source) is not None


def split_code(source: str) -> tuple[Path, str, str | None]:
    """Split `net.py:make@w.pt` into net.py, make and w.pt."""
    match = _CODE.fullmatch(source)
    assert match is not None, source
    return Path(match["file"]), match["factory"], match["checkpoint"]


@dataclass(frozen=True, slots=True)
class ModelFactory:
    """A function or class of a user's file that builds a network."""

    path: Path
    name: str
    function: Callable[..., Any]

    def __str__(self) -> str:
        return f"{self.path}:{self.name}"


def import_factory(source: str) -> ModelFactory:
    """Run the file of `path/to/file.py:factory`, and find the factory.

    Raises:
        ModelError: The code failed, or has no such function or class.
    """
    path, name, _ = split_code(source)
    with _running(path):
        function = find_callable(_import(path), path, name, ModelError, "model-code/no-such-callable")
    return ModelFactory(path, name, function)


def build_module(
    factory: ModelFactory, num_classes: int | None, arguments: Mapping[str, object] = MappingProxyType({})
) -> nn.Module:
    """Call the factory.

    Args:
        factory: The factory.
        num_classes: The argument `num_classes`, if the factory takes it.
        arguments: The arguments that a class is built with.

    Returns:
        The module as the factory returns it, in float32 and eval mode; wrappers are still on it.

    Raises:
        ModelError: The code failed, or did not return a module whose parts can be changed.
    """
    with _running(factory.path):
        classes = {"num_classes": num_classes} if num_classes is not None and _takes_classes(factory.function) else {}
        module = factory.function(**_with_attributes(arguments), **classes)
    if not isinstance(module, nn.Module):
        problem = f"it returned {type(module).__name__}"
        raise ModelError("model-code/not-a-module", str(factory), problem, "return a torch.nn.Module")
    refuse_opaque(module, str(factory))
    lazy = [name for name, tensor in module.named_parameters() if is_lazy(tensor)]
    if lazy:
        problem = f"it has lazy parameters without a shape ({listed(lazy, 3)})"
        raise ModelError(
            "model-code/lazy-parameters",
            str(factory),
            problem,
            "run the module once on an example input before returning it",
        )
    return module.float().eval()


def constructor_arguments(factory: ModelFactory, saved: Mapping[str, object]) -> Mapping[str, object]:
    """Return the saved hyper-parameters that a class takes, as Lightning passes them; none for a function.

    Args:
        factory: The class or function.
        saved: Hyper-parameters of a checkpoint, plain data only.

    Returns:
        The arguments of the constructor.

    Raises:
        ModelError: The constructor needs an argument that was not saved as plain data.
    """
    if not isinstance(factory.function, type):
        return {}
    parameters = inspect.signature(factory.function).parameters.values()
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    accepted = [parameter for parameter in parameters if parameter.kind in _NAMED_KINDS]
    names = {parameter.name for parameter in accepted}
    arguments = {key: value for key, value in saved.items() if takes_any or key in names}
    missing = [
        parameter.name
        for parameter in accepted
        if parameter.default is inspect.Parameter.empty and parameter.name not in arguments
    ]
    if missing:
        problem = f"its constructor needs {', '.join(missing)}, and the checkpoint has no such plain hyper-parameter"
        hint = "give a function that builds it: file.py:factory@checkpoint"
        raise ModelError("model-code/missing-arguments", str(factory), problem, hint)
    return arguments


class _AttributeDict(dict[str, object]):
    """Hyper-parameters saved as one argument, which are read both as `hparams.width` and `hparams["width"]`."""

    def __getattr__(self, name: str) -> object:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def _with_attributes(arguments: Mapping[str, object]) -> dict[str, object]:
    return {name: _AttributeDict(value) if isinstance(value, dict) else value for name, value in arguments.items()}


def _module_name(path: Path) -> str:
    return f"compressor_user_{path.stem}_{blake2b(str(path.resolve()).encode(), digest_size=4).hexdigest()}"


def imported_code(path: Path) -> ModuleType:
    """Return the module of a user's file, which was imported when the network was built."""
    return sys.modules[_module_name(path)]


@contextmanager
def _running(path: Path) -> Iterator[None]:
    """Within, user code runs: its neighbours are importable, and what it raises is an error of the model."""
    with user_errors_as(ModelError, "model-code/user-code-raised", f"{path}:1", path), importable(path.parent):
        yield


def _import(path: Path) -> ModuleType:
    if not path.is_file():
        raise missing_code(path)
    name = _module_name(path)
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickling look their module up by name
    spec.loader.exec_module(module)
    return module


def _takes_classes(factory: Callable[..., object]) -> bool:
    return "num_classes" in inspect.signature(factory).parameters
