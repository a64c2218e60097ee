"""Static int8 quantisation of an exported model, by ONNX Runtime's own quantiser.

Weights are symmetric, one scale a filter: a zero stays a zero. Activations get their ranges from real images. The file
answers differently from the one it was made from, so its quality is measured on its own.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from torch import Tensor, nn

from compressor.atomic_write import atomic_path
from compressor.errors import ModelError
from compressor.export.onnx import writing


class _Images(CalibrationDataReader):  # type: ignore[misc]  # ships no types
    def __init__(self, float32: OnnxModule, batches: Iterable[Tensor]) -> None:
        self._batches = (float32.feed(part) for batch in batches for part in float32.parts(batch))

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)


class OnnxModule(nn.Module):
    """An ONNX file of one input and one output as a module: float32 batches in, float32 out, on the CPU."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # errors come as exceptions; the library would print them as well
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1:
            raise ValueError(f"{len(inputs)} inputs and {len(outputs)} outputs, not one of each")
        self._input, self._batch = inputs[0].name, inputs[0].shape[0]

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([torch.from_numpy(self._session.run(None, self.feed(part))[0]) for part in self.parts(x)])

    def parts(self, x: Tensor) -> tuple[Tensor, ...]:
        """The batch in the sizes that the file takes."""
        return torch.split(x, self._batch) if isinstance(self._batch, int) else (x,)

    def feed(self, x: Tensor) -> dict[str, Any]:
        return {self._input: x.contiguous().numpy()}

    def __deepcopy__(self, memo: object) -> OnnxModule:
        return self  # a session holds no state that a run changes


def quantize_int8(path: Path, out: Path, batches: Iterable[Tensor]) -> OnnxModule:
    """Write `path` as int8 to `out`, with the ranges of activations taken from `batches`; the file, ready to run.

    Raises ModelError where the quantiser or the runtime refuses.
    """
    try:
        with writing(out), _quiet(), atomic_path(out) as draft:
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


@contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser logs advice on models that were not optimised beforehand, to the root logger."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
