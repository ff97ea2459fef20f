"""Reads the weights of a running job, without taking part in it."""

from __future__ import annotations

import ctypes
import os
import threading
from ctypes import byref, c_float, sizeof
from types import TracebackType

import numpy as np

from . import capi
from .arrays import Array
from .errors import UsageError, error_of
from .worker import Timeout, _bytes, _Handle, _ms, _STOPPED, address


class Follower:
    """Reads the weights of a running job, for evaluation or serving, as often as you like.

        with psd.Follower("tcp://ps0:7470", key="eval.key", server_public="ps.pub") as follower:
            weights = follower.pull()

    A follower is not a worker: it has no rank, no round waits for it, and it may end at any time. The arguments are those of psd.connect,
    but `join_timeout` is only the longest wait for a `cluster_file`, because pull has its own `timeout`. With keys, it needs one of role
    reader or worker (psdctl keygen NAME --role=reader). Any thread may use it, one call at a time."""

    def __init__(self, join: str | None = None, *, job: str | None = None, name: str | None = None,
                 join_timeout: Timeout = 0.0, key: str | os.PathLike[str] | None = None,
                 server_public: str | os.PathLike[str] | None = None, insecure: bool = False,
                 cluster_file: str | os.PathLike[str] | None = None, job_file: str | os.PathLike[str] | None = None) -> None:
        self._lib = capi.load()
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._handle = handle = _Handle(join, self._lib.psd_follower_close)
        config = capi.Config(size=sizeof(capi.Config), join=address(join), job=_bytes(job), name=_bytes(name),
                             join_timeout_ms=_ms(join_timeout), log=handle.log, key=_bytes(key),
                             server_public=_bytes(server_public), insecure=insecure, cluster_file=_bytes(cluster_file),
                             job_file=_bytes(job_file), interrupted=handle.interrupted)
        code = self._lib.psd_follower_open(byref(handle.pointer), byref(config))
        if not handle.pointer:
            raise error_of(-2, "no memory for a follower")
        self._check(code)

    def _check(self, code: int) -> None:
        if code >= 0:
            return
        handle = self._handle
        if code == _STOPPED and handle.pending is not None:
            pending, handle.pending = handle.pending, None
            raise pending
        raise error_of(code, (self._lib.psd_follower_error(handle.pointer) or b"").decode(errors="replace"))

    def _check_usable(self) -> None:
        if not self._handle.pointer:
            raise UsageError("this follower is closed", hint="make another psd.Follower")
        if self._process != os.getpid():
            raise UsageError(f"this follower belongs to process {self._process}, of which this one is a fork",
                             hint="make a psd.Follower in the process that uses it")

    def pull(self, slow: bool = True, timeout: Timeout = 60.0) -> dict[str, Array]:
        """Read the weights as they are now, by name, as new arrays; all are of one version, however many servers there are (in asp,
        servers may be a few pushes apart). With Lookahead, they are the slow weights, unless `slow` is False. It waits up to
        `timeout` seconds (None: no limit), also while servers are restarted, and then raises DeadlineError; when the job has ended,
        it raises RefusedError."""
        with self._lock:
            self._check_usable()
            self._check(self._lib.psd_follower_pull(self._handle.pointer, slow, _ms(timeout)))
            out = {}
            for i in range(self._lib.psd_follower_n_tensors(self._handle.pointer)):
                tensor = capi.Tensor()
                self._check(self._lib.psd_follower_tensor(self._handle.pointer, i, byref(tensor)))
                shape = tuple(tensor.shape[d] for d in range(tensor.n_dims))
                values = ctypes.cast(tensor.data, ctypes.POINTER(c_float))
                out[tensor.name.decode()] = np.ctypeslib.as_array(values, shape or (1,)).reshape(shape).copy()
            return out

    @property
    def version(self) -> int:
        """The number of steps that made the weights that were pulled last."""
        self._check_usable()
        return int(self._lib.psd_follower_version(self._handle.pointer))

    def close(self) -> None:
        """Disconnect."""
        with self._lock:
            self._handle.close()

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.close()
