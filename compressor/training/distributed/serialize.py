"""Python objects as bytes for other processes: with functions made at run time, and classes of a user's own files."""

from __future__ import annotations

import io
import pickle
import sys
from importlib.machinery import PathFinder
from typing import Any

import cloudpickle
from torch import Tensor
from torch.multiprocessing.reductions import reduce_tensor

from compressor.errors import RecipeError

SHARED = 1 << 20  # bytes


def serialize(value: object) -> bytes:
    """`pickle.loads` makes it again, wherever this package is installed. Raises RecipeError for what can't be sent."""
    _by_value()
    try:
        return bytes(cloudpickle.dumps(value))
    except Exception as error:  # modules may have a word in it
        problem = f"the model cannot be sent to other processes ({type(error).__name__}: {error})"
        raise RecipeError("training/not-serializable", "several processes", problem, "train on one device") from error


def serialize_shared(value: object) -> bytes:
    """As `serialize`, for one process that this one has started: large tensors in it are the same memory there."""
    _by_value()
    buffer = io.BytesIO()
    _Sharing(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    return buffer.getvalue()


class _Sharing(cloudpickle.CloudPickler):  # type: ignore[misc]  # has no types
    def reducer_override(self, value: Any) -> Any:
        if type(value) is Tensor and value.device.type == "cpu" and value.nbytes >= SHARED:
            return reduce_tensor(value)  # type: ignore[no-untyped-call]
        return super().reducer_override(value)


def _by_value() -> None:
    """Modules that another process could not import by their names: the user's own files, imported from a path."""
    for name, module in list(sys.modules.items()):
        if "." not in name and getattr(module, "__file__", None) and PathFinder.find_spec(name) is None:
            cloudpickle.register_pickle_by_value(module)
