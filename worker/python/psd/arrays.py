"""Arrays of any library as numpy arrays, without a copy if possible."""

from __future__ import annotations

import warnings
from typing import Any, Container, Iterable

import numpy as np
import numpy.typing as npt

from .errors import PsdPerformanceWarning, UsageError

Array = npt.NDArray[np.float32]


def _as_numpy(array: Any, name: str) -> npt.NDArray[Any]:
    """A view of an object with numpy's interface, the buffer protocol or DLPack, in this order; of torch's by its numpy()."""
    if isinstance(array, np.ndarray):
        return array
    if hasattr(array, "detach"):
        array = array.detach()
    device = getattr(array, "device", None)
    if getattr(device, "type", "cpu") != "cpu":
        raise UsageError(f"{name} is on {device}", hint="copy it to the CPU first, as psd.Optimizer does for torch's models")
    try:
        if hasattr(array, "numpy"):
            return np.asarray(array.numpy())
        if hasattr(array, "__array_interface__"):
            return np.asarray(array)
        if hasattr(array, "__dlpack__"):
            return np.from_dlpack(array)
        return np.asarray(memoryview(array))
    except (TypeError, BufferError, RuntimeError) as why:
        raise UsageError(f"{name} is a {type(array).__name__}, not an array ({why})",
                         hint="give a numpy array, or anything with DLPack, the buffer protocol or __array_interface__") from None


def target(array: Any, name: str, only_read: Container[int] = ()) -> Array:
    """A tensor that can be written in place: float32, contiguous, writable, or, at one of these addresses, written only by the library.
    UsageError for any other."""
    view = _as_numpy(array, name)
    if view.dtype != np.float32:
        raise UsageError(f"{name} holds {view.dtype}", hint="register float32: array.astype(numpy.float32)")
    if not view.flags.c_contiguous:
        raise UsageError(f"{name} is not contiguous, but weights are written in place",
                         hint="register numpy.ascontiguousarray(...), and use that array")
    if not view.flags.writeable and view.ctypes.data not in only_read:
        raise UsageError(f"{name} cannot be written in place",
                         hint="register a numpy array, and copy from it after each exchange, or one from this worker's alloc_weights")
    return view


def source(array: Any, name: str, shape: tuple[int, ...]) -> Array:
    """A gradient of that shape; copied unless it is contiguous float32, with one warning per reason."""
    view = _as_numpy(array, name)
    if view.shape != shape:
        raise UsageError(f"the gradient of {name} has the shape {view.shape}, but the tensor has {shape}", hint="give it that shape")
    if view.dtype == np.float32 and view.flags.c_contiguous:
        return view
    if view.dtype.kind != "f":
        raise UsageError(f"the gradient of {name} holds {view.dtype}", hint="convert it: array.astype(numpy.float32)")
    what = f"is of {view.dtype}" if view.dtype != np.float32 else "is not contiguous"
    warnings.warn(f"the gradient of {name} {what} and is copied in each exchange", PsdPerformanceWarning, stacklevel=4)
    return np.ascontiguousarray(view, dtype=np.float32)


def find_nonfinite(gradient: Array) -> tuple[int, float] | None:
    """The first element that is Inf or NaN, by its number in memory, and its value."""
    flat = gradient.reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(np.dot(flat, flat)):  # far faster than looking at each
            return None
    bad = np.flatnonzero(~np.isfinite(flat))
    return (int(bad[0]), float(flat[bad[0]])) if bad.size else None


def check_apart(memory: Iterable[tuple[str, int, int]]) -> None:
    """UsageError when two tensors, each by name, address and bytes, have memory in common, because each is trained."""
    last, end = "", 0
    for name, at, size in sorted(memory, key=lambda range_: range_[1]):
        if at < end:
            raise UsageError(f"{last} and {name} share memory",
                             hint="train the array of which they are views as one tensor, or give one of them a copy; to tie two layers "
                                  "of torch, assign the parameter itself: b.weight = a.weight")
        last, end = name, at + size
