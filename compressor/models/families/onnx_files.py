"""`path/to/model.onnx`: the architecture is the graph of a file."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from compressor.core import ModelSpec
from compressor.models.families.base import Family


def is_onnx(source: str) -> bool:
    """Return whether a source is an ONNX file."""
    return source.endswith(".onnx")


class OnnxFiles(Family):
    """Networks that an ONNX file describes. They have no prefix; the form of the source decides."""

    prefix = ""
    rank = 0

    def owns(self, source: str) -> bool:
        return is_onnx(source)

    def build(self, spec: ModelSpec, name: str) -> nn.Module:
        """Build the module of the file, as `Family.build` does.

        Args:
            spec: Its inputs.
            name: The file.

        Returns:
            The module, with the weights of the file as far as it has them.

        Raises:
            ModelError: The file cannot be imported.
        """
        from compressor.models.onnx_import.load_onnx import branches_of, build_from_graph
        from compressor.models.onnx_import.read_graph import read_graph

        return build_from_graph(read_graph(Path(name), branches_of(spec)), spec)

    def save_architecture(self, spec: ModelSpec, folder: Path) -> str:
        """Write the graph without large weights beside the slim ones, as `Family.save_architecture` does.

        Args:
            spec: The architecture.
            folder: The output folder.

        Returns:
            The name of the file in the folder.
        """
        from compressor.models.onnx_import.load_onnx import branches_of
        from compressor.models.onnx_import.write_back import ARCHITECTURE, write_architecture

        write_architecture(Path(spec.source), folder / ARCHITECTURE, branches_of(spec))
        return ARCHITECTURE


FAMILY = OnnxFiles()
