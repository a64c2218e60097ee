"""Static int8 quantization of an exported model by ONNX Runtime's quantizer.

Weights are symmetric with one scale per filter, so zeros remain zero. The ranges of activations come from real images.
The outputs differ from those of the float32 file, so the metric of the int8 file is measured separately.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from torch import Tensor, nn

from compressor.atomic_write import atomic_path
from compressor.errors import ModelError
from compressor.export.cpu_session import cpu_session
from compressor.export.save_onnx import write_errors_named
from compressor.silence import silent_logging


class _Images(CalibrationDataReader):  # type: ignore[misc]  # ships no types
    """Batches as the quantizer reads them."""

    def __init__(self, float32: OnnxModule, batches: Iterable[Tensor]) -> None:
        self._batches = (float32.feed(part) for batch in batches for part in float32.parts(batch))

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)


class OnnxModule(nn.Module):
    """An ONNX file with one input and one output as a module: float32 batches in and out, on the CPU."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._session = cpu_session(path)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1:
            raise ValueError(f"{len(inputs)} inputs and {len(outputs)} outputs, not one of each")
        self._input, self._batch = inputs[0].name, inputs[0].shape[0]

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([torch.from_numpy(self._session.run(None, self.feed(part))[0]) for part in self.parts(x)])

    def parts(self, x: Tensor) -> tuple[Tensor, ...]:
        """Split a batch into the sizes that the file accepts."""
        return torch.split(x, self._batch) if isinstance(self._batch, int) else (x,)

    def feed(self, x: Tensor) -> dict[str, Any]:
        """The inputs of the session for a batch."""
        return {self._input: x.contiguous().numpy()}

    def __deepcopy__(self, memo: object) -> OnnxModule:
        return self  # runs do not change the session


def quantize_int8(path: Path, out: Path, batches: Iterable[Tensor]) -> OnnxModule:
    """Quantize an ONNX file.

    Args:
        path: The float32 file.
        out: The int8 file to write.
        batches: Images (n, channels, height, width) that determine the ranges of activations.

    Returns:
        The int8 file as a module.

    Raises:
        ModelError: The quantizer or the runtime cannot process the model.
        RecipeError: `out` cannot be written.
    """
    try:
        # The quantizer recommends to optimize models beforehand.
        with write_errors_named(out), silent_logging(logging.WARNING), atomic_path(out) as draft:
            quantize_static(
                str(path),
                str(draft),
                _Images(OnnxModule(path), batches),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                weight_type=QuantType.QInt8,
                activation_type=QuantType.QUInt8,
                extra_options={"WeightSymmetric": True},
            )
        return OnnxModule(out)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise ModelError(
            "export/int8-failed", path.name, f"it cannot be quantized: {error}", "set export.int8: false"
        ) from error
