"""libpsdworker by ctypes: its path, and the types of its functions (psd/worker.h)."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
from ctypes import (CFUNCTYPE, POINTER, Structure, c_char_p, c_double, c_float, c_int, c_size_t, c_uint32, c_uint64,
                    c_void_p)
from functools import lru_cache
from pathlib import Path

from . import __version__
from .errors import LibraryError

SONAME = "libpsdworker.so.0"

LogFunction = CFUNCTYPE(None, c_void_p, c_int, c_char_p, c_char_p)
InterruptedFunction = CFUNCTYPE(c_int, c_void_p)


class Config(Structure):
    """psd_worker_config_t"""

    _fields_ = [("size", c_size_t), ("join", c_char_p), ("job", c_char_p), ("name", c_char_p), ("worker", c_int),
                ("join_timeout_ms", c_int), ("log", LogFunction), ("log_arg", c_void_p), ("key", c_char_p),
                ("server_public", c_char_p), ("insecure", c_int), ("cluster_file", c_char_p), ("recipe", c_char_p),
                ("rows", c_uint64), ("job_file", c_char_p), ("interrupted", InterruptedFunction),
                ("interrupted_arg", c_void_p), ("net_threads", c_int)]


class Tensor(Structure):
    """psd_tensor_t"""

    _fields_ = [("name", c_char_p), ("shape", POINTER(c_uint64)), ("n_dims", c_size_t), ("data", c_void_p)]


class FieldStruct(Structure):
    """psd_worker_field_t"""

    _fields_ = [("tensor", c_char_p), ("field", c_char_p), ("data", c_void_p), ("n", c_size_t), ("number", c_double)]


class StateStruct(Structure):
    """psd_worker_state_t"""

    _fields_ = [("size", c_size_t), ("field", POINTER(FieldStruct)), ("n", c_size_t), ("partial", c_int), ("optimizer", c_char_p),
                ("groups", c_char_p)]


class PositionStruct(Structure):
    """psd_position_t"""

    _fields_ = [("size", c_size_t), ("clock", c_uint64), ("version", c_uint64), ("rank", c_uint32), ("world", c_uint32),
                ("worker", c_uint32), ("incarnation", c_uint64), ("run", c_uint64), ("has_slow", c_int),
                ("gathered", c_int)]


class SettingsStruct(Structure):
    """psd_worker_settings_t"""

    _fields_ = [("size", c_size_t), ("text", c_char_p), ("mode", c_char_p), ("optimizer", c_char_p), ("lr_rule", c_char_p),
                ("lr", c_double), ("clip_value", c_double), ("clip_norm", c_double), ("max_staleness", c_uint64),
                ("servers", c_uint32), ("lease_ms", c_uint32), ("codec_push", c_char_p), ("codec_pull", c_char_p),
                ("has_slow", c_int), ("in_rounds", c_int), ("checkpoints", c_int), ("schedule", c_char_p),
                ("schedule_unit", c_char_p), ("groups", c_char_p), ("accumulate", c_uint32)]


class GroupStruct(Structure):
    """psd_worker_group_t"""

    _fields_ = [("size", c_size_t), ("match", c_char_p), ("optimizer", c_char_p), ("lr_mult", c_double), ("clips", c_int),
                ("freezes", c_int)]


class HealthStruct(Structure):
    """psd_worker_health_t"""

    _fields_ = [("size", c_size_t), ("step", c_uint64), ("gradient_norm", c_double), ("weight_norm", c_double),
                ("update_ratio", c_double), ("zero_share", c_double), ("cut_share", c_double)]


# Name, result, arguments.
_FUNCTIONS = (
    ("psd_worker_connect", c_int, (POINTER(c_void_p), POINTER(Config))),
    ("psd_worker_alloc", POINTER(c_float), (c_void_p, c_size_t)),
    ("psd_worker_alloc_weights", POINTER(c_float), (c_void_p, c_size_t)),
    ("psd_worker_register", c_int, (c_void_p, POINTER(Tensor), c_size_t)),
    ("psd_worker_register_with", c_int, (c_void_p, POINTER(Tensor), c_size_t, POINTER(StateStruct))),
    ("psd_worker_position", c_int, (c_void_p, POINTER(PositionStruct))),
    ("psd_worker_settings", c_int, (c_void_p, POINTER(SettingsStruct))),
    ("psd_worker_check_rule", c_int, (c_void_p, c_char_p)),
    ("psd_worker_group", c_int, (c_void_p, c_char_p, POINTER(GroupStruct))),
    ("psd_worker_health", c_int, (c_void_p, c_size_t, POINTER(HealthStruct))),
    ("psd_worker_round_loss", c_double, (c_void_p,)),
    ("psd_worker_step_lr", c_double, (c_void_p,)),
    ("psd_worker_job_samples", c_uint64, (c_void_p,)),
    ("psd_worker_exchange", c_int, (c_void_p, POINTER(c_void_p), c_uint64, c_double, POINTER(c_uint64))),
    ("psd_worker_push", c_int, (c_void_p, c_size_t, c_void_p, c_uint64, c_double, POINTER(c_uint64))),
    ("psd_worker_wait", c_int, (c_void_p, c_uint64, c_int)),
    ("psd_worker_fd", c_int, (c_void_p,)),
    ("psd_worker_pull_slow", c_int, (c_void_p, POINTER(c_void_p), c_int)),
    ("psd_worker_say_rows", c_int, (c_void_p, c_char_p, c_int)),
    ("psd_worker_set_lr", c_int, (c_void_p, c_double, c_int)),
    ("psd_worker_report", c_int, (c_void_p, c_char_p, c_double)),
    ("psd_worker_asked_to_leave", c_int, (c_void_p,)),
    ("psd_worker_leave", c_int, (c_void_p, c_int, c_int)),
    ("psd_worker_close", None, (POINTER(c_void_p),)),
    ("psd_worker_error", c_char_p, (c_void_p,)),
    ("psd_follower_open", c_int, (POINTER(c_void_p), POINTER(Config))),
    ("psd_follower_pull", c_int, (c_void_p, c_int, c_int)),
    ("psd_follower_n_tensors", c_size_t, (c_void_p,)),
    ("psd_follower_tensor", c_int, (c_void_p, c_size_t, POINTER(Tensor))),
    ("psd_follower_version", c_uint64, (c_void_p,)),
    ("psd_follower_error", c_char_p, (c_void_p,)),
    ("psd_follower_close", None, (POINTER(c_void_p),)),
    ("psd_version", c_char_p, ()),
)


def _candidates() -> list[str]:
    """The path in PSD_LIBRARY if it is set; otherwise the library beside this package, then the system's."""
    told = os.environ.get("PSD_LIBRARY")
    if told:
        return [told]
    beside = [str(path) for path in (Path(__file__).parent / SONAME, Path(__file__).parent / "libpsdworker.so") if path.exists()]
    return [*beside, SONAME]


@lru_cache(maxsize=None)
def load() -> ctypes.CDLL:
    """The library, loaded at first use. Calls release the GIL. LibraryError when it is missing, or of another minor version."""
    why = ""
    for path in _candidates():
        try:
            found = ctypes.CDLL(path)
        except OSError as error:
            why = str(error)
            continue
        try:
            for name, result, arguments in _FUNCTIONS:
                function = getattr(found, name)
                function.restype = result
                function.argtypes = arguments
        except AttributeError as error:
            raise LibraryError(f"{path} is of another version: {error}") from None
        version = found.psd_version().decode()
        if version.split(".")[:2] != __version__.split(".")[:2]:
            raise LibraryError(f"{path} is version {version}, but this package is {__version__}", hint="install the same version of both")
        return found
    raise LibraryError(f"libpsdworker was not found ({why})")


def path() -> str:
    """The path from which the linker loaded the library."""
    return load()._name
