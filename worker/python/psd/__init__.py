"""psd - train on parameter servers.

    import psd
    opt = psd.Optimizer(model.named_parameters())           # PyTorch: then zero_grad, backward and step as usual

    worker = psd.connect("tcp://127.0.0.1:7470")
    worker.register({"w": w, "b": b})                       # arrays of any library; weights are written to them
    worker.exchange({"w": gradient_of_w, "b": gradient_of_b}, samples=64)

`python3 -m psd --version` prints versions. Nothing is imported before it is used: neither
numpy nor torch by `import psd`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .data import Loader, Sampler, batches
    from .errors import (ConfigError, DeadlineError, FencedError, JobFailedError, LibraryError, NotAuthorizedError, PsdError,
                         NoFileError, PsdPerformanceWarning, RefusedError, Stopped, SystemDeniedError, UnavailableError, UsageError,
                         WentBackError)
    from .follower import Follower
    from .local import LocalJob, launch
    from .optimizer import Optimizer
    from .safetensors import DataError, load, read, save
    from .state import import_state
    from .worker import Group, Health, Position, Settings, Ticket, Worker, connect

__version__ = "0.1.0"

_HOME = {
    "data": ("Loader", "Sampler", "batches"),
    "errors": ("ConfigError", "DeadlineError", "FencedError", "JobFailedError", "LibraryError", "NotAuthorizedError", "PsdError",
               "NoFileError", "PsdPerformanceWarning", "RefusedError", "Stopped", "SystemDeniedError", "UnavailableError", "UsageError",
               "WentBackError"),
    "follower": ("Follower",),
    "local": ("LocalJob", "launch"),
    "optimizer": ("Optimizer",),
    "safetensors": ("DataError", "load", "read", "save"),
    "state": ("import_state",),
    "worker": ("Group", "Health", "Position", "Settings", "Ticket", "Worker", "connect"),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "ConfigError", "DataError", "DeadlineError", "FencedError", "Follower", "Group", "Health", "JobFailedError", "LibraryError",
    "Loader", "LocalJob", "NoFileError",
    "NotAuthorizedError", "Optimizer", "Position", "PsdError", "PsdPerformanceWarning", "RefusedError", "Sampler",
    "Settings", "Stopped", "SystemDeniedError", "Ticket", "UnavailableError", "UsageError", "WentBackError", "Worker",
    "__version__", "batches", "connect", "import_state", "launch", "load", "read", "save"
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module 'psd' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f".{_MODULE[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
