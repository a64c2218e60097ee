"""Python objects as bytes for other processes, including functions made at run time and classes of users' files."""

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

SHARED_BYTES = 1 << 20  # larger tensors are shared


def serialize(value: object) -> bytes:
    """Serialize an object for `pickle.loads` in any process that has this package. Raises RecipeError if it fails."""
    _register_user_modules()
    try:
        return bytes(cloudpickle.dumps(value))
    except Exception as error:  # the methods of users' classes may raise anything
        problem = f"the model cannot be sent to other processes ({type(error).__name__}: {error})"
        raise RecipeError("training/not-serializable", "several processes", problem, "train on one device") from error


def serialize_shared(value: object) -> bytes:
    """Serialize an object for a process that this one has started, which shares the memory of its large tensors."""
    _register_user_modules()
    buffer = io.BytesIO()
    _Sharing(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    return buffer.getvalue()


class _Sharing(cloudpickle.CloudPickler):  # type: ignore[misc]  # has no types
    def reducer_override(self, value: Any) -> Any:
        if type(value) is Tensor and value.device.type == "cpu" and value.nbytes >= SHARED_BYTES:
            return reduce_tensor(value)  # type: ignore[no-untyped-call]
        return super().reducer_override(value)


def _register_user_modules() -> None:
    """Send the content of modules that another process cannot import: users' files, which were loaded from a path."""
    for name, module in list(sys.modules.items()):
        if "." not in name and getattr(module, "__file__", None) and PathFinder.find_spec(name) is None:
            cloudpickle.register_pickle_by_value(module)
