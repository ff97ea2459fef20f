"""Weights as files: safetensors with only numpy, and the newest checkpoint of a job."""

from __future__ import annotations

import errno
import json
import os
import stat
import sys
import threading
from pathlib import Path
from typing import Any, BinaryIO, Mapping

import numpy as np
import numpy.typing as npt

from .arrays import _as_numpy
from .errors import NoFileError, PsdError, SystemDeniedError, UsageError

_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1", "U8": "|u1", "BOOL": "|b1"}
_NAMES = {np.dtype(dtype): name for name, dtype in _TYPES.items()}


class DataError(PsdError):
    """A file is malformed or damaged."""


def _path(path: Any) -> str:
    try:
        name = os.fspath(path)
    except TypeError:
        name = None
    if not isinstance(name, str) or not name:
        raise UsageError(f"the path is {path!r:.60}", hint="name a file")
    return name


_CURES_OF_READING = {errno.ENOENT: "is the path right?", errno.EISDIR: "name a file, or read a checkpoint.dir by psd.read"}


def _denied(verb: str, path: str, why: OSError, hint: str) -> SystemDeniedError:
    number = why.errno or errno.EIO
    kind = NoFileError if verb == "read" and number == errno.ENOENT else SystemDeniedError
    error = kind(f"cannot {verb} {path}: {os.strerror(number)}", hint=hint)
    error.errno, error.filename = number, path
    return error


def _open(path: Path) -> tuple[dict[str, Any], memoryview]:
    """Header and data."""
    try:
        blob = np.fromfile(path, np.uint8)
    except OSError as why:
        raise _denied("read", str(path), why, _CURES_OF_READING.get(why.errno, "name a file that this user may read")) from None
    size = int(blob[:8].view("<u8")[0]) if blob.size >= 8 else 0
    if not 2 <= size <= blob.size - 8:
        raise DataError(f"{path} is not a safetensors file: it has {blob.size} bytes, but its header claims {size}")
    try:
        header = json.loads(blob[8:8 + size].tobytes())
    except ValueError as why:
        raise DataError(f"{path} is not a safetensors file: {why}") from None
    if not isinstance(header, dict):
        raise DataError(f"{path} is not a safetensors file: its header is not an object")
    return header, blob.data[8 + size:]


def _array(path: Path, name: str, entry: Any, data: memoryview) -> npt.NDArray[Any]:
    try:
        begin, end = entry["data_offsets"]
        if entry["dtype"] == "BF16":
            wide = np.frombuffer(data[begin:end], "<u2").astype("<u4") << 16
            return wide.view("<f4").reshape(entry["shape"])
        return np.frombuffer(data[begin:end], _TYPES[entry["dtype"]]).reshape(entry["shape"])
    except (KeyError, TypeError, ValueError) as why:
        raise DataError(f"{path}: tensor {name} is damaged, or of a type that numpy does not have ({why})") from None


def load(path: str | os.PathLike[str]) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a safetensors file by name; bf16 as float32. They share one memory, and are writable. NoFileError, which is also
    Python's FileNotFoundError: there is no such file; SystemDeniedError, an OSError: it cannot be read; DataError: it is damaged."""
    file = Path(_path(path))
    header, data = _open(file)
    header.pop("__metadata__", None)
    return {name: _array(file, name, entry, data) for name, entry in header.items()}


def _bits(tensor: Any) -> Any:
    """A tensor of bfloat16, which numpy does not have, as integers: torch's, or an array of another library."""
    return tensor.detach().view(sys.modules["torch"].int16) if hasattr(tensor, "detach") else np.asarray(tensor).view(np.uint16)


def _stays(path: str) -> bool:
    """Whether the file must be written where it is, because it is not a file that another one could replace."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return False
    if stat.S_ISDIR(mode) or stat.S_ISBLK(mode):
        raise UsageError(f"cannot write {path}: it is a {'directory' if stat.S_ISDIR(mode) else 'disk'}", hint="name a file")
    return not stat.S_ISREG(mode) or path.startswith(("/dev/std", "/dev/fd/", "/proc/"))


_CURES = {
    errno.ENOSPC: "free space, or name a file on another disk",
    errno.EDQUOT: "free space, or name a file on another disk",
    errno.ENOENT: "make its directory first",
    errno.EACCES: "name a file in a directory that this user may write to",
    errno.EROFS: "name a file in a directory that this user may write to",
}


def _write(file: BinaryIO, parts: list[npt.NDArray[Any]]) -> None:
    for part in parts:
        file.write(part.reshape(-1).view(np.uint8).data)


def save(tensors: Mapping[str, Any], path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None) -> None:
    """Write arrays of any library, by name, as a safetensors file, atomically: model.state_dict(), or {"w": array}. It follows symbolic
    links, and writes into a device, a FIFO or /dev/stdout without replacing it. SystemDeniedError, an OSError, says why it cannot write;
    a file that was there before is then unchanged."""
    name_of_file = _path(path)
    if not isinstance(tensors, Mapping) or not all(isinstance(name, str) for name in tensors):
        raise UsageError(f"a {type(tensors).__name__} was given to save, not arrays by name",
                         hint='give model.state_dict(), or {"w": array}')
    if not all(isinstance(text, str) for pair in (metadata or {}).items() for text in pair):
        raise UsageError("the metadata are not texts", hint="safetensors files have only texts: {name: str(value)}")
    if "__metadata__" in tensors:
        raise UsageError("a tensor has the name __metadata__, which safetensors files have for notes", hint="give it another name")
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    parts, at = [], 0
    for name, tensor in tensors.items():
        is_bf16 = str(getattr(tensor, "dtype", "")).endswith("bfloat16")
        view = _as_numpy(_bits(tensor) if is_bf16 else tensor, name)
        array = np.ascontiguousarray(view).reshape(view.shape)
        dtype = "BF16" if is_bf16 else _NAMES.get(array.dtype.newbyteorder("<"))
        if dtype is None:
            raise UsageError(f"{name} holds {array.dtype}, which safetensors files do not have")
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        parts.append(array.astype(array.dtype.newbyteorder("<"), copy=False))
        at += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    parts.insert(0, np.frombuffer(len(text).to_bytes(8, "little") + text, np.uint8))
    try:
        _write_to(name_of_file, parts)
    except OSError as why:
        raise _denied("write", name_of_file, why, _CURES.get(why.errno or errno.EIO, "name another file")) from None


def _write_to(path: str, parts: list[npt.NDArray[Any]]) -> None:
    if _stays(path):
        with open(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOCTTY), "wb") as file:
            _write(file, parts)
        return
    file_path = os.path.realpath(path)
    new = Path(f"{file_path}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with open(new, "wb") as file:
            _write(file, parts)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, file_path)
    finally:
        new.unlink(missing_ok=True)


def _newest(directory: Path) -> Path:
    """The manifest with the highest clock whose files all exist with the right lengths."""
    found = sorted(directory.glob("MANIFEST-*.json"), reverse=True)
    for path in found:
        files = json.loads(path.read_text())["files"]
        folder = directory / path.stem.partition("-")[2]
        if all((folder / file["name"]).is_file() and (folder / file["name"]).stat().st_size == file["bytes"] for file in files):
            return path
    raise DataError(f"{directory} holds no complete checkpoint", hint="give the job's checkpoint.dir")


def read(source: str | os.PathLike[str], clock: int | None = None, slow: bool = True, *, timeout: float | str | None = 60.0,
         **job: Any) -> dict[str, npt.NDArray[np.float32]]:
    """Read a job's weights without joining it, by name, as new arrays; with Lookahead the slow ones, unless `slow` is False.

    `source` is the address of a running job, "tcp://HOST:7470": its weights as they are now, all of one version, within `timeout`
    seconds; further arguments are those of psd.Follower, which you can ask again. Or it is the job's `checkpoint.dir`: the weights of
    the newest whole checkpoint, or of that `clock` (psdctl checkpoint save makes one). Lengths are checked; `psdctl checkpoint verify`
    checks every byte."""
    if "join_timeout" in job:
        raise UsageError("psd.read has no argument join_timeout", hint="give timeout=, the longest wait of this call")
    if isinstance(source, str) and source.startswith(("tcp://", "ipc://")):
        if clock is not None:
            raise UsageError("a running job has only its present weights", hint="give checkpoint.dir to read those of a clock")
        from .follower import Follower

        with Follower(source, **job) as follower:
            return follower.pull(slow, timeout)
    if job:
        raise UsageError(f"{next(iter(job))} is for a running job, and {source} is not an address", hint='give "tcp://HOST:PORT"')
    top = Path(source)
    path = top / f"MANIFEST-{clock:012d}.json" if clock is not None else _newest(top)
    try:
        manifest = json.loads(path.read_text())
        out = {tensor["name"]: np.full(tensor["shape"], np.nan, np.float32) for tensor in manifest["tensors"]}
        files = [top / path.stem.partition("-")[2] / file["name"] for file in manifest["files"]]
    except (OSError, ValueError, KeyError, TypeError) as why:
        raise DataError(f"{path} is not a checkpoint manifest: {why}") from None
    n_read = 0
    for file in files:
        entries = load(file)
        for name, part in entries.items():
            tensor, _, rest = name.rpartition("[")
            span, _, field = rest.partition("]")
            if field != ("/slow_param" if slow and f"{tensor}[{span}]/slow_param" in entries else ""):
                continue
            begin, _, end = span.partition(":")
            out[tensor].reshape(-1)[int(begin):int(end)] = part.reshape(-1)
            n_read += part.size
    if n_read != sum(array.size for array in out.values()):
        raise DataError(f"{path} has {n_read} of {sum(array.size for array in out.values())} weights",
                        hint="check it with psdctl checkpoint verify")
    return out
