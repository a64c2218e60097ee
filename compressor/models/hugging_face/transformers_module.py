"""Builds modules of transformers from plain configurations. Code that a folder brings is never run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compressor.errors import CompressorError, ModelError, UntrustedFile
from compressor.listed import listed
from compressor.silence import silent_output

NAMED = 4  # tensors that a note names
_UNUSED = ("auto_map", "_name_or_path", "transformers_version", "dtype", "torch_dtype")  # a module depends on none


def transformers_library(where: object) -> Any:
    """Import transformers, silently.

    Raises:
        ModelError: It is not installed.
    """
    try:
        with _silence():
            import transformers
    except ImportError as error:
        problem = f"transformers builds this model, and it is not installed ({error})"
        hint = "pip install 'compressor[huggingface]'"
        raise ModelError("model/library-missing", str(where), problem, hint) from None
    return transformers


def architecture_of(config: Mapping[str, Any], where: object) -> tuple[type[nn.Module], dict[str, Any]]:
    """Find the class that a configuration names.

    Args:
        config: The content of config.json.
        where: The folder that messages name.

    Returns:
        The class, and the configuration without what a module does not depend on.

    Raises:
        ModelError: The installed transformers has no such network, or it is quantized.
        UntrustedFile: Only code in the folder has it.
    """
    transformers = transformers_library(where)
    if "quantization_config" in config:
        method = config["quantization_config"].get("quant_method", "some method")
        problem = f"its weights are quantized ({method}), and pruning needs floating-point weights"
        raise ModelError("model/quantized-module", str(where), problem, "give the model before its quantization")
    model_type = config.get("model_type")
    names = config.get("architectures") or []
    known = model_type in transformers.CONFIG_MAPPING
    cls = None
    if known and names:
        cls = getattr(transformers, str(names[0]), None)
    elif known:
        cls = transformers.MODEL_MAPPING.get(transformers.CONFIG_MAPPING[model_type], None)
    if isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel):
        return cls, {key: value for key, value in config.items() if key not in _UNUSED}
    wanted = f"{model_type}{f' ({names[0]})' if names else ''}"
    if config.get("auto_map"):
        problem = f"{wanted} is code in the folder ({', '.join(map(str, config['auto_map'].values()))[:120]})"
        hint = "give your own code that builds it: path/to/net.py:factory; nothing was executed"
        raise UntrustedFile("untrusted-file/remote-code", str(where), problem, hint)
    problem = f"transformers {transformers.__version__} has no {wanted}"
    raise ModelError("model/unknown-architecture", str(where), problem, "install a version that has it")


def build_architecture(cls: type[nn.Module], config: Mapping[str, Any], where: object) -> nn.Module:
    """Build a network with random weights.

    Args:
        cls: A class of transformers.
        config: Its configuration.
        where: What messages name.

    Returns:
        The module, without key-value caches.

    Raises:
        ModelError: The class does not take the configuration.
    """
    with _errors_named(where):
        module: nn.Module = cls(_config(config, where))
    return module


def save_module(module: nn.Module, folder: Path) -> None:
    """Write a module's configuration and weights as transformers reads them.

    Args:
        module: A module of transformers.
        folder: The folder, which is made.
    """
    with _silence():
        module.save_pretrained(folder)  # type: ignore[operator]  # of every module of transformers


def load_architecture(
    cls: type[nn.Module], config: Mapping[str, Any], tensors: Mapping[str, Tensor], where: object
) -> tuple[nn.Module, tuple[str, ...]]:
    """Build a network with the weights of a folder, renamed as transformers renames those of earlier versions.

    Args:
        cls: A class of transformers.
        config: Its configuration.
        tensors: The weights.
        where: The folder that messages name.

    Returns:
        The module in float32 and eval mode, and notes on weights that are missing or not used.

    Raises:
        ModelError: The weights are those of another network.
    """
    with _errors_named(where):
        module, info = cls.from_pretrained(  # type: ignore[attr-defined]  # a class of transformers
            None,
            config=_config(config, where),
            state_dict=dict(tensors),
            dtype=torch.float32,
            output_loading_info=True,
        )
    missing, unused = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    if 2 * len(missing) > len(module.state_dict()):
        problem = f"{len(missing)} of the tensors of {cls.__name__} are missing ({listed(missing, NAMED)})"
        raise ModelError("checkpoint/tensors-differ", str(where), problem, "give the weights of this architecture")
    notes = []
    if missing:
        notes.append(f"random weights, because the folder has none: {listed(missing, NAMED)}")
    if unused:
        notes.append(f"weights that the architecture does not have were left out: {listed(unused, NAMED)}")
    return module.float().eval(), tuple(notes)


def _config(config: Mapping[str, Any], where: object) -> Any:
    transformers = transformers_library(where)
    made = transformers.CONFIG_MAPPING[config["model_type"]].from_dict(dict(config))
    parts = [made, *(part for part in vars(made).values() if isinstance(part, transformers.PretrainedConfig))]
    for part in parts:
        if getattr(part, "use_cache", None):
            part.use_cache = False  # keys and values of earlier calls are no result
    return made


@contextlib.contextmanager
def _errors_named(where: object) -> Iterator[None]:
    try:
        with _silence():
            yield
    except CompressorError:
        raise
    except Exception as error:  # configurations are checked by whatever their layers happen to raise
        line = " ".join(str(error).split())[:300]
        problem = f"transformers cannot build it ({type(error).__name__}: {line})"
        raise ModelError("model/not-buildable", str(where), problem, "check config.json and the weights") from error


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Swallow progress bars and logs: stdout and stderr belong to the command line."""
    with silent_output():
        from transformers.utils import logging

        before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            yield
        finally:
            logging.set_verbosity(before)
            if bars:
                logging.enable_progress_bar()
