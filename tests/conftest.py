from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Nets this small only wait for a second thread. Bits depend on it, so fixtures of modules do as well."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", autouse=True)
def short_collections() -> None:
    """Take what exists out of Python's collections: those that each training begins with would visit every object of
    torch, most of a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def quick_export() -> Iterator[None]:
    """Export with TorchScript, in a tenth of the time of torch's other exporter, where the file is not the subject."""
    from compressor.export.onnx import Attempt, OnnxExporter

    every = OnnxExporter._attempts

    def by_torchscript(self: OnnxExporter, *arguments: Any) -> Iterator[Attempt]:
        return (attempt for attempt in every(self, *arguments) if attempt.exporter == "torchscript")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OnnxExporter, "_attempts", by_torchscript)
        yield
