"""What a family of models answers: its names or its files, how they are built, loaded and saved."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from compressor.core import ImageSize, LoadedModel, ModelSpec
from compressor.errors import CompressorError, ModelError
from compressor.models.inputs.batch_dims import BatchDimSetting
from compressor.models.inputs.user_inputs import ShowSamples, no_samples
from compressor.silence import silent_logging, silent_output


@dataclass(frozen=True, slots=True)
class Defaults:
    """Input size, classes and normalization that an architecture expects unless they are set."""

    input: ImageSize
    num_classes: int
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None


@dataclass(frozen=True, slots=True)
class PublishedWeights:
    """A published state dict, and the model that it belongs to."""

    tensors: Mapping[str, Tensor]
    input: ImageSize
    num_classes: int | None  # None: as the tensors imply
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class LoadSettings:
    """What the user sets about a file or folder of a library."""

    shapes: tuple[tuple[int, ...], ...] | None = None  # of each input, without the batch
    batch_dim: BatchDimSetting = "auto"
    num_classes: int | None = None
    weights: str | None = None  # key or prefix, if a file holds several
    samples: ShowSamples = no_samples


@dataclass(frozen=True, slots=True)
class LibraryFiles:
    """What a library itself can load from an output folder."""

    library: str
    path: str | None  # in the output folder; None = only compressor.load builds the slim module
    call: str  # how it is loaded
    reason: str | None = None  # why the library alone cannot build the slim module


class Family(ABC):
    """A source of models, whose form says which it is; the architecture can be built again without its weights."""

    prefix: ClassVar[str]
    """What a source begins with; empty where another form decides."""
    rank: ClassVar[int]
    """Order of the families: the lowest one that has an architecture is preferred."""
    draws_only_weights: ClassVar[bool] = True
    """Whether building needs random numbers for weights only, so that they can be omitted before loading."""

    def owns(self, source: str) -> bool:
        """Return whether a source belongs to this family, by its form."""
        return source.partition(":")[0] == self.prefix

    @abstractmethod
    def build(self, spec: ModelSpec, name: str) -> nn.Module:
        """Build an architecture with random weights, without auxiliary heads.

        Args:
            spec: Its source, classes and input.
            name: The source without the prefix.

        Returns:
            The module.

        Raises:
            ModelError: It cannot be built with these sizes.
        """

    def save_architecture(self, spec: ModelSpec, folder: Path) -> str:
        """Write what is needed to build an architecture again into an output folder, if anything.

        Args:
            spec: The architecture.
            folder: The output folder.

        Returns:
            The source by which the folder names it: a path inside the folder, or the source itself.
        """
        return spec.source


class NamedFamily(Family):
    """Architectures that have names, `prefix:NAME`, and are fingerprinted."""

    form: ClassVar[str] = "NAME"
    """What follows the prefix, as help writes it."""
    library: ClassVar[str | None] = None
    """The installed package whose version decides which architectures there are."""

    @abstractmethod
    def names(self) -> list[str]:
        """Return the names that are suggested and fingerprinted."""

    def has(self, name: str) -> bool:
        """Return whether the family can build a name."""
        return name in self.names()

    @abstractmethod
    def defaults(self, name: str) -> Defaults:
        """Return what an architecture expects unless it is set."""

    def published_weights(
        self, spec: ModelSpec, name: str, tag: str, size: ImageSize | None
    ) -> PublishedWeights | nn.Module:
        """Load published weights.

        Args:
            spec: The architecture.
            name: Its name in the family.
            tag: The name of the weights.
            size: The input size that the user sets, if any.

        Returns:
            The weights, or a module that has them.

        Raises:
            ModelError: There are no such weights, or they cannot be downloaded.
        """
        raise unknown_weights(spec, tag, f"give {spec.source} alone, which has random weights")

    def specs_from_shapes(self, shapes: Mapping[str, tuple[int, ...]], size: ImageSize | None) -> list[ModelSpec]:
        """Return architectures that shapes imply, beyond those that are fingerprinted.

        Args:
            shapes: The shapes of a state dict.
            size: Channels, height and width of the input; None takes the architecture's own.

        Returns:
            Candidates, which may differ from the state dict.
        """
        return []


class FileFamily(Family):
    """Files or folders of a library, `prefix:PATH` or the path alone, which hold architecture and weights."""

    form: ClassVar[str]
    """What follows the prefix, as help writes it."""

    @abstractmethod
    def claims(self, path: Path) -> bool:
        """Return whether a file or folder that is given without a prefix belongs to this family, by its content."""

    @abstractmethod
    def load(self, path: Path, name: str, settings: LoadSettings) -> LoadedModel:
        """Load a file or folder that holds both the architecture and its weights.

        Args:
            path: The file or folder.
            name: The model as the user names it.
            settings: What the user sets.

        Returns:
            The model.

        Raises:
            ModelError: The file is none of this family's, or a setting contradicts it.
            UntrustedFile: Loading it would run code.
        """

    @abstractmethod
    def save(self, model: LoadedModel, folder: Path) -> LibraryFiles:
        """Write the slim model as the library itself reads it.

        Args:
            model: The slim model.
            folder: The output folder.

        Returns:
            What was written, or why nothing was.
        """


def unknown_weights(spec: ModelSpec, tag: str, hint: str) -> ModelError:
    """Describe published weights that do not exist.

    Args:
        spec: The architecture.
        tag: The name of the weights.
        hint: The next step.

    Returns:
        The error.
    """
    return ModelError("weights/unknown-name", f"{spec.source}@{tag}", f"there are no weights {tag!r}", hint)


def call_builder(source: str, function: Any, *args: Any, **settings: Any) -> Any:
    """Call a library's builder.

    Args:
        source: The architecture that the message names.
        function: The builder.
        args: Its arguments.
        settings: Its keyword arguments.

    Returns:
        What the builder returns.

    Raises:
        ModelError: The builder does not take the name or the sizes.
    """
    try:
        return function(*args, **settings)
    except CompressorError:
        raise
    except Exception as error:  # builders raise whatever their layers happen to raise
        sizes = ", ".join(f"{key}={value}" for key, value in settings.items() if key not in ("weights", "pretrained"))
        problem = f"it cannot be built{f' with {sizes}' if sizes else ''} ({type(error).__name__}: {error})"
        raise ModelError("model/not-buildable", source, problem, "set sizes that the architecture takes") from None


def download(source: str, fetch: Callable[[], Any]) -> Any:
    """Call a library's download, silently.

    Args:
        source: The weights that the message names.
        fetch: The download.

    Returns:
        What the download returns.

    Raises:
        ModelError: The download failed.
    """
    try:
        with silent_logging(logging.ERROR), silent_output():  # the clients announce themselves and every retry
            return fetch()
    except Exception as error:  # no network, no space, a wrong hash, no such file: each client has its own errors
        problem = f"the weights could not be downloaded ({type(error).__name__}: {str(error)[:200]})"
        raise ModelError(
            "weights/download-failed", source, problem, "check the network connection, or give a checkpoint file"
        ) from None
