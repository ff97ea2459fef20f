"""A worker of a job: register arrays, exchange gradients for weights.

Threads: a Worker may be used from any thread, one call at a time; others wait. Processes: a forked process cannot use its parent's.
Ctrl-C ends any wait within about 0.1 s; `with` then leaves the job cleanly.
"""

from __future__ import annotations

import atexit
import ctypes
import logging
import math
import os
import re
import sys
import threading
import time
import weakref
from collections import deque
from ctypes import byref, c_float, c_uint64, c_void_p, sizeof
from numbers import Real
from types import TracebackType
from typing import Any, Callable, Generator, Mapping, NamedTuple, Sequence, Union

import numpy as np

from . import arrays, capi
from .arrays import Array
from .errors import Stopped, UsageError, WentBackError, error_of, in_python
from .state import Field, fields

log = logging.getLogger("psd")

_LEVELS = (logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG)
_INVALID = -1
_DEADLINE = -12
_NOTHING_YET = -13
_STOPPED = -16
_DATA = -6
_STILL_HERE = (-1, -12, -13, _STOPPED)  # the phase after leaving
_ORDINARY = (b"pushes of workers", b"parts of server", b"the last checkpoint")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_ADDRESS = re.compile(r"tcp://(?:\[[^\]\s]+\]|[^\s:/]+):(\d{1,5})|ipc://.+")
_UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}
Timeout = Union[float, str, None]  # seconds, or a duration as in job files ("15s"); None: no limit
LEAVE_TIMEOUT = 5.0  # seconds that leaving may take by default
_STOP_GRACE = 2.0  # seconds that a worker that has to end waits for its step, because others need its gradient, as psd-worker does
_EX_STOPPED = 75  # stopped before finishing: start again to continue
_LONG_STEP = 60.0  # seconds after which a wait for others' step is a warning
_QUIET = 10.0  # seconds between warnings of steps that were not made


class Position(NamedTuple):
    """A worker's position for its next exchange."""

    clock: int  #: number of the next exchange, from 1: in bsp the round, which may start late
    version: int  #: steps behind the weights now held
    rank: int  #: 0 .. world-1, for cutting batches
    world: int  #: workers in the job now
    worker: int  #: id, from 0: the number in logs, file names and status
    incarnation: int
    run: int  #: number of the job's run: another one each time the servers resume it
    has_slow: bool  #: the optimizer keeps slow weights: evaluate those
    gathered: bool = False  #: the last round's gradients wait for those of later ones (sync.accumulate)


class Settings(NamedTuple):
    """How the job trains, from its servers."""

    text: str  #: all of it, on one line
    mode: str
    optimizer: str  #: the rule with all its values
    lr_rule: str
    lr: float  #: base learning rate in force when this worker joined
    clip_value: float
    clip_norm: float
    max_staleness: int
    servers: int
    lease_ms: int
    codec_push: str
    codec_pull: str
    has_slow: bool
    in_rounds: bool  #: a step is made of one push of each worker; False: each push is a step
    checkpoints: bool
    schedule: str
    schedule_unit: str
    groups: str  #: tensors with other settings, in the form of option groups; "": none
    accumulate: int = 1  #: rounds that make one step together


class Group(NamedTuple):
    """How the job trains a tensor: by its group (option groups), or by the job's own rule."""

    match: str  #: the pattern of the group; "": no pattern matches the tensor's name
    optimizer: str  #: the rule with all its values; without meaning for a frozen tensor
    lr_mult: float  #: its learning rate is the job's times this
    clips: bool  #: its gradient is clipped by the job's bounds
    freezes: bool  #: it stays as it is


class Health(NamedTuple):
    """How a tensor was trained in a step that the servers looked at (option health.every)."""

    step: int  #: which step of the job
    gradient_norm: float  #: of the mean gradient as the optimizer got it; NaN, as all of these: it never had one
    weight_norm: float  #: before the step
    update_ratio: float  #: the norm of what the step changed, over that of the weights
    zero_share: float  #: of the gradients that were 0
    cut_share: float  #: of those that clip.value cut, or, without it, that are too large to be squared


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


class _Handle:
    """The library's handle, and the objects that must live as long: closed when the last reference is gone, including arrays from
    `alloc`."""

    def __init__(self, join: str | None, close: Callable[..., Any] | None = None) -> None:
        self.pointer = c_void_p()
        self.guard = guards.get(join or os.environ.get("PSD_JOIN") or "")
        self._close = close or capi.load().psd_worker_close
        self.is_quiet = False  # the worker has left, so that the library's thread logs nothing more
        self.pending: BaseException | None = None  # raised while the library waited
        self.is_stopping, self.stop_by = False, math.inf  # whether the worker has to end, and until when it waits for its step
        self.says = _Log()
        self.log = capi.LogFunction(self.says)
        look = _look_for_signals(weakref.ref(self))  # no reference cycle, so that dropping the last array or worker closes it at once
        next(look)
        self.interrupted = capi.InterruptedFunction(look.send)
        _handles.add(self)

    def close(self) -> None:
        if self.pointer:
            self._close(byref(self.pointer))

    def __del__(self) -> None:
        # While Python ends, it ends any thread that calls back, as the library's does to log, and closing would wait for that thread
        # for ever. _end has closed those that may log, and the system frees the others.
        if self.pointer and not sys.is_finalizing():
            _outside_the_library(self.close)


def _outside_the_library(end: Callable[[], None]) -> None:
    """Call this, which waits for the library's thread. Python may collect garbage in just that one, which calls back to log: then in
    another thread."""
    if isinstance(threading.current_thread(), threading._DummyThread):
        threading.Thread(target=end).start()
    else:
        end()


# Of the jobs of psd.launch, by the address to join: called while a worker or follower waits, to raise an exception that ends the wait.
guards: dict[str, Callable[[], None]] = {}


class _Log:
    """Passes on what the library says, which includes a line of worker.waiting every few seconds. A wait that may last is a warning at
    once, one for a step of others after a minute, and then every minute."""

    def __init__(self) -> None:
        self._step, self._since = b"", 0.0  # for what step the last line waited, and since when, or since the last warning
        self.is_over = False  # the worker has left, as far as it could: nobody waits any more

    def __call__(self, _: Any, level: int, event: bytes, line: bytes) -> None:
        text = line.decode(errors="replace")
        if event == b"worker.waiting" and self.is_over:
            return
        if event == b"worker.waiting":
            text = in_python(text)
            level = min(level, 1) if self._may_last(line) else level
        log.log(_LEVELS[min(max(level, 0), 3)], "%s %s", event.decode(), text)

    def _may_last(self, line: bytes) -> bool:
        if not any(words in line for words in _ORDINARY):
            return True
        now = time.monotonic()
        if line != self._step:
            self._step, self._since = line, now
        if now < self._since + _LONG_STEP:
            return False
        self._since = now
        return True


def _look_for_signals(handle: weakref.ref[_Handle]) -> Generator[int, None, None]:
    """Each resumption lets Python handle its signals, in the main thread, looks after the job's servers if psd.launch has started
    them, and after a stop that is under way; an exception ends the wait. A generator, because it resumes inside its `try`, whereas a
    function would be entered outside of one."""
    enough = 0
    while True:
        try:
            yield enough
            enough = 0
            _look_after_job(handle)
        except GeneratorExit:
            return
        except BaseException as raised:  # mainly KeyboardInterrupt
            enough = 1
            self = handle()
            if self is not None:
                self.pending = raised.with_traceback(None)  # which would hold this frame, and end it with its own end
            del self


def _look_after_job(handle: weakref.ref[_Handle]) -> None:
    held = handle()
    if held is None:
        return
    if held.guard is not None:
        held.guard()
    if held.is_stopping:
        held.stop_by = min(held.stop_by, time.monotonic() + _STOP_GRACE)
        if time.monotonic() >= held.stop_by:
            log.warning("stop a signal has asked this worker to end, and its step did not end within %g s", _STOP_GRACE)
            raise Stopped(_EX_STOPPED)


class Ticket(NamedTuple):
    """An open exchange."""

    worker: Worker
    number: int

    def wait(self, timeout: Timeout = None) -> None:
        """As Worker.wait."""
        self.worker.wait(timeout)


def _field_list(given: Sequence[Field]) -> ctypes.Array[capi.FieldStruct]:
    """Fields of state as the library takes them; they must live as long."""
    out = (capi.FieldStruct * len(given))()
    for place, (tensor, field, value) in zip(out, given):
        place.tensor, place.field = tensor.encode(), field.encode()
        if isinstance(value, float):
            place.number = value
        else:
            place.data, place.n = value.ctypes.data, value.size
    return out


class Worker:
    """A worker of a job; psd.connect makes one. As a context manager it leaves the job at the end: finished, or, when an exception
    passes through, unfinished."""

    def __init__(self, handle: _Handle) -> None:
        self._handle = handle
        self._lib = capi.load()
        self._lock = threading.RLock()
        self._process = os.getpid()
        self._names: tuple[str, ...] = ()
        self._weights: tuple[Array, ...] = ()
        self._ticket = c_uint64()
        self._only_read: set[int] = set()  # addresses of arrays of alloc_weights
        self._lent: dict[int, Any] = {}  # gradients of the open exchange, which the library reads
        self._n_samples = 1  # of the open exchange
        self._at: Position | None = None  # after the last exchange, or after registration
        self._in_rounds = True
        self._quiet_until, self._n_skipped = 0.0, 0  # until when no step that was not made is warned of, and how many there were since
        self._slow: Any = None  # arrays that a pull may still write, if an exception ended its wait
        self._rows: list[str] = []  # what psd.Sampler and psd.batches divide, in their words; the servers know the first _n_said
        self._n_said = 0
        self._is_open = False
        self._has_left = False
        self._raised = ""  # the sentence of the last exception
        self.batch_samples = 1  #: rows of the last batch from psd.Sampler or psd.batches
        self.divides_rows = False  #: whether psd.Sampler or psd.batches cuts its batches
        _workers.add(self)

    def __reduce_ex__(self, _: Any) -> Any:
        raise UsageError("a psd.Worker is a connection, and cannot be copied or pickled", hint="call psd.connect in each process")

    # ---- calls ----

    def _check(self, code: int) -> int:
        """Raise the exception for a code of the library."""
        handle = self._handle
        if code >= 0:
            return code
        if code == _STOPPED and handle.pending is not None:
            pending, handle.pending = handle.pending, None
            raise pending
        error = error_of(code, (self._lib.psd_worker_error(handle.pointer) or b"").decode(errors="replace"))
        self._raised = str(error)
        raise error

    @property
    def _pointer(self) -> c_void_p:
        if self.is_of_parent:
            raise UsageError(f"this worker belongs to process {self._process}, which forked this one",
                             hint="connect again in this process, or start it by multiprocessing's 'spawn'")
        if self._has_left:
            raise UsageError("this worker has left its job", hint="call psd.connect to join again")
        return self._handle.pointer

    # ---- the model ----

    def alloc(self, shape: int | tuple[int, ...]) -> Array:
        """An array of zeros, float32, in memory that servers of this machine may read: gradients in it travel without a copy. It
        stays valid after the worker has left."""
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        if not all(isinstance(size, (int, np.integer)) and size >= 0 for size in shape):
            raise UsageError(f"the shape is {shape}", hint="give whole numbers, none of them negative")
        n = int(np.prod(shape, dtype=np.int64))
        return np.ctypeslib.as_array(self._take(self._lib.psd_worker_alloc, n)).reshape(shape)

    def alloc_weights(self, values: Any) -> Array:
        """A read-only array with a copy of these values, as float32: register it, and in bsp, weights of servers of this machine come to
        it without a copy. Its values are undefined while an exchange is open; otherwise it stays valid, after the worker has left too.
        Writing to it raises ValueError; never write to it by other means, such as torch.from_numpy, because that may end the process.
        Give each large tensor an array of its own."""
        given = arrays._as_numpy(values, "the array of initial values")
        if given.dtype.kind not in "fiu" or not given.size:
            raise UsageError(f"the initial values are {given.size} of {given.dtype}", hint="give at least one number")
        memory = self._take(self._lib.psd_worker_alloc_weights, given.size)
        np.ctypeslib.as_array(memory)[:] = given.reshape(-1)
        self._only_read.add(ctypes.addressof(memory))
        return np.asarray(memoryview(memory).toreadonly()).reshape(given.shape)

    def _take(self, alloc: Callable[..., Any], n: int) -> ctypes.Array[c_float]:
        """`n` floats of the library, which stay as long as there is a reference to them."""
        with self._lock:
            pointer = alloc(self._pointer, n)
            if not pointer:
                self._check(-2)
        memory = (c_float * n).from_address(ctypes.addressof(pointer.contents))
        memory._handle = self._handle  # type: ignore[attr-defined]  # this frees it
        return memory

    def register(self, tensors: Mapping[str, Any], state: Any = None, partial_state: bool = False,
                 state_names: Sequence[str] | None = None) -> None:
        """Register the trained tensors, once: float32 arrays by name, contiguous, all finite. They hold the initial values now, the
        job's weights when this returns, and newer ones after each exchange; they are written in place. All workers must register
        the same list; the values of the first worker become the job's.

        `state` is the optimizer state that belongs to these values: a torch optimizer, its state_dict(), or a mapping such as
        {"state/w/exp_avg": array, "state/w/step": 100}, which psd.load reads from a file of psdctl export. A new job starts with it;
        a job that has started, or continues from a checkpoint, ignores it. It must be all that the job's optimizer keeps; with
        `partial_state`, tensors without it start with a new optimizer. `state_names` are the names of all parameters of a torch
        optimizer, in its order, if they differ from these tensors."""
        if not isinstance(tensors, Mapping):
            raise UsageError(f"the tensors are a {type(tensors).__name__}", hint='give arrays by name: {"w": array}')
        if not tensors:
            raise UsageError("no tensors were given to register", hint='give arrays by name: {"w": array}')
        views = tuple(arrays.target(array, name, self._only_read) for name, array in tensors.items())
        empty = [name for name, view in zip(tensors, views) if not view.size]
        if empty:
            raise UsageError(f"{empty[0]} has no elements", hint="leave it out")
        arrays.check_apart((name, view.ctypes.data, view.nbytes) for name, view in zip(tensors, views))
        shapes = [(c_uint64 * max(view.ndim, 1))(*view.shape) for view in views]
        list_ = (capi.Tensor * len(views))(*(
            capi.Tensor(_name(name), shape, view.ndim, view.ctypes.data) for name, shape, view in zip(tensors, shapes, views)))
        given = [] if state is None else fields(state, list(tensors), state_names)
        for tensor, field, value in given:
            shape, its = np.shape(value), np.shape(tensors.get(tensor, ()))
            if len(shape) > 1 and len(its) > 1 and shape != its and np.prod(shape) == np.prod(its):
                raise UsageError(f"{field} of {tensor} has shape {list(shape)}, and the tensor has {list(its)}",
                                 hint="give the state of this model; is it transposed?")
        struct = capi.StateStruct(sizeof(capi.StateStruct), _field_list(given), len(given), partial_state, None, None)
        with self._lock:
            code = self._lib.psd_worker_register_with(self._pointer, list_, len(views),
                                                      None if state is None else byref(struct))
            if code == _DATA:
                raise UsageError((self._lib.psd_worker_error(self._pointer) or b"").decode(errors="replace"), code,
                                 hint="give the state that the job's optimizer keeps, or partial_state=True for what there is of it")
            self._check(code)
            self._names, self._weights = tuple(tensors), views
            self._at, self._in_rounds = self.position, self.settings.in_rounds

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the registered tensors, in their order."""
        return self._names

    @property
    def weights(self) -> dict[str, Array]:
        """The registered arrays, by name: the newest weights while no exchange is open."""
        return dict(zip(self._names, self._weights))

    # ---- training ----

    def _gradient(self, index: int, array: Any) -> int | None:
        if array is None:
            return None
        view = arrays.source(array, self._names[index], self._weights[index].shape)
        self._lent[index] = view
        return view.ctypes.data

    def _samples(self, told: int | None) -> int:
        samples = self.batch_samples if told is None else told
        if not isinstance(samples, (int, np.integer)) or not 1 <= samples <= 2**40:
            raise UsageError(f"samples is {samples!r}",
                             hint="give the number of rows behind the mean gradient, 1 to 2^40; without rows, call skip()")
        return int(samples)

    def _in_order(self, gradients: Mapping[str, Any] | Sequence[Any]) -> Sequence[Any]:
        if isinstance(gradients, Mapping):
            unknown = [name for name in gradients if name not in self._names]
            if unknown:
                raise UsageError(f"no tensor {unknown[0]!r} is registered", hint=f"there are {', '.join(self._names[:8])}")
            return [gradients.get(name) for name in self._names]
        if not hasattr(gradients, "__len__"):
            raise UsageError(f"the gradients are a {type(gradients).__name__}",
                             hint='give arrays by name, {"w": array}, or a list in the order of registration')
        if len(gradients) != len(self._names):
            raise UsageError(f"{len(gradients)} gradients for {len(self._names)} tensors", hint="give one for each, or None")
        return gradients

    def say_rows(self, rows: str) -> None:
        """Say what rows this worker divides with the others, and how, before its next exchange; psd.Sampler, psd.Loader and psd.batches
        do. If another worker has said something else, that exchange raises RefusedError, which quotes both."""
        if rows not in self._rows:
            self._rows.append(rows)

    def _check_registered(self) -> None:
        if not self._names:
            raise UsageError("no tensors are registered", hint='call register first, with arrays by name: {"w": array}')

    def _prepare(self) -> None:
        """Before an exchange is opened."""
        self._check_registered()
        self._lent.clear()
        while self._n_said < len(self._rows):
            try:
                self._check(self._lib.psd_worker_say_rows(self._pointer, _text(self._rows[self._n_said], "the rows"), -1))
                self._n_said += 1
            except WentBackError:
                continue

    def begin(self, gradients: Mapping[str, Any] | Sequence[Any] | None, samples: int | None = None,
              loss: float = float("nan")) -> Ticket:
        """Push the mean gradient over `samples` samples, and begin to pull the next weights. `samples` None: those of the batch
        from psd.batches, or 1. Gradients come by name, or in the order of registration; None, or left out: this tensor has none.
        `gradients` None: take part without a gradient. The arrays belong to the library until Ticket.wait returns. `loss` is the
        mean loss, for status."""
        with self._lock:
            pointer = self._pointer
            if self._is_open:
                raise UsageError("an exchange is open already", hint="wait for it first")
            self._prepare()
            values = None
            if gradients is None:
                samples = 0
            else:
                samples = self._samples(samples)
                addresses = [self._gradient(i, g) for i, g in enumerate(self._in_order(gradients))]
                values = (c_void_p * len(addresses))(*addresses)
            self._n_samples = samples or 0
            self._check(self._lib.psd_worker_exchange(pointer, values, self._n_samples, number(loss, "the loss"), byref(self._ticket)))
            self._is_open = True
            return Ticket(self, self._ticket.value)

    def exchange(self, gradients: Mapping[str, Any] | Sequence[Any] | None, samples: int | None = None, loss: float = float("nan"),
                 timeout: Timeout = None) -> Position:
        """`begin` and `wait`: push gradients, and return when the registered arrays hold the resulting weights."""
        self.begin(gradients, samples, loss)
        self.wait(timeout)
        assert self._at is not None
        return self._at

    def skip(self) -> None:
        """Take part in the next step with nothing."""
        self.exchange(None)

    def push(self, tensor: str | int, gradient: Any, samples: int | None = None, loss: float = float("nan")) -> None:
        """The same, tensor by tensor, as soon as each gradient is known, in any order; each tensor once, with None if it has no
        gradient. The first call opens the exchange, the last completes it; then wait."""
        self._check_registered()
        index = tensor if isinstance(tensor, int) else self._index(tensor)
        with self._lock:
            pointer = self._pointer
            samples = self._samples(samples)
            if not self._is_open:
                self._prepare()
                self._n_samples = samples
            if not 0 <= index < len(self._names):
                raise UsageError(f"there is no tensor {index}", hint=f"{len(self._names)} are registered, from 0")
            at = self._gradient(index, gradient)
            self._check(self._lib.psd_worker_push(pointer, index, at, samples, number(loss, "the loss"), byref(self._ticket)))
            self._is_open = True

    def push_address(self, index: int, at: int | None, gradient: Array, samples: int, loss: float) -> None:
        """`push` of an array that the caller has checked, at this address; None: it is not a gradient this time."""
        with self._lock:
            samples = self._samples(samples)
            if not self._is_open:
                self._prepare()
                self._n_samples = samples
            if at is not None:
                self._lent[index] = gradient
            self._check(self._lib.psd_worker_push(self._pointer, index, at, samples, loss, byref(self._ticket)))
            self._is_open = True

    def settle(self) -> None:
        """End an exchange that an exception has left in its middle, wherever that was: tensors that were not pushed have no gradient in
        it. Then the arrays hold the resulting weights. Without an exchange, nothing happens."""
        with self._lock:
            if not self._ticket.value:
                return
            code = self._lib.psd_worker_wait(self._pointer, self._ticket, 1)
            if code == _INVALID:
                for index in range(len(self._names)):  # refused for those that have been pushed
                    self._lib.psd_worker_push(self._pointer, index, None, self._n_samples, float("nan"), byref(self._ticket))
            elif code not in (0, _DEADLINE):
                self._check(code)
            self._is_open = True
            self.wait()

    def _index(self, name: str) -> int:
        try:
            return self._names.index(name)
        except ValueError:
            raise UsageError(f"no tensor {name!r} is registered", hint=f"there are {', '.join(self._names[:8])}") from None

    def wait(self, timeout: Timeout = None) -> None:
        """Wait for the open exchange, `timeout` seconds at most; None: as long as it takes; DeadlineError leaves it open. If
        servers were lost, the job continues from a checkpoint by itself: the arrays then hold its weights, and `position` has the
        next clock, which may be an earlier one."""
        with self._lock:
            pointer = self._pointer
            if not self._is_open:
                raise UsageError("no exchange is open", hint="push gradients first")
            code = self._lib.psd_worker_wait(pointer, self._ticket, _wait_ms(timeout))
            if code == 0:
                self._note_step()
            if code == 0 or code in (-8, -11, -17):
                self._is_open = False
                self._lent.clear()
            self._check(code)

    def _note_step(self) -> None:
        """Warn if this worker's gradient has made no step, because it has Inf or NaN; sometimes, because it may be so in each step."""
        before, self._at = self._at, self.position
        if before is None or not self._n_samples or (self._at.run, self._at.clock) != (before.run, before.clock + 1):
            return
        if self._in_rounds and self._at.version != before.version:
            return
        found = {index: at for index, gradient in self._lent.items() if (at := arrays.find_nonfinite(gradient))}
        if not found:
            if self._in_rounds and not self._at.gathered:
                log.info("gradient.nonfinite clock=%d the round made no step: the gradient of another worker, which its log names, has "
                         "Inf or NaN", before.clock)
            return
        self._n_skipped += 1
        if time.monotonic() < self._quiet_until:
            return
        self._quiet_until = time.monotonic() + _QUIET
        log.warning("gradient.nonfinite clock=%d tensor=%s no step was made, because element %d of the gradient is %s; look at the batch, "
                    "lower the learning rate, or set the job's clip.norm%s", before.clock, self._names[min(found)], *found[min(found)],
                    f" ({self._n_skipped} steps since the last such line)" if self._n_skipped > 1 else "")
        self._n_skipped = 0

    def fileno(self) -> int:
        """A descriptor that is readable when the open exchange is done, for select and event loops."""
        return int(self._lib.psd_worker_fd(self._pointer))

    def pull_slow(self, out: Mapping[str, Any] | None = None, timeout: Timeout = None) -> dict[str, Array]:
        """The slow weights (Lookahead's; the weights themselves under any other rule) as of the last exchange, by name, into the
        arrays of `out`, or new ones. No exchange may be open. WentBackError: a server was lost meanwhile."""
        with self._lock:
            pointer = self._pointer
            if self._is_open:
                raise UsageError("an exchange is open", hint="wait for it first")
            views = [arrays.target(out[name], name) if out else np.empty_like(weights)
                     for name, weights in zip(self._names, self._weights)]
            for name, view, weights in zip(self._names, views, self._weights):
                if view.shape != weights.shape:
                    raise UsageError(f"out[{name!r}] has the shape {view.shape}, but the tensor has {weights.shape}")
            addresses = (c_void_p * len(views))(*(view.ctypes.data for view in views))
            self._slow = views
            self._check(self._lib.psd_worker_pull_slow(pointer, addresses, _wait_ms(timeout)))
            return dict(zip(self._names, views))

    def set_lr(self, lr: float, timeout: Timeout = None) -> None:
        """Set the job's learning rate for all workers, from the next step on. No exchange may be open."""
        with self._lock:
            self._check(self._lib.psd_worker_set_lr(self._pointer, number(lr, "the learning rate"), _wait_ms(timeout)))

    def report(self, name: str, value: float) -> None:
        """Show a number ("val/accuracy") on the servers' status page. Does not wait."""
        with self._lock:
            self._check(self._lib.psd_worker_report(self._pointer, _text(name, "the name of a report"), number(value, name)))

    # ---- facts ----

    @property
    def position(self) -> Position:
        """This worker's position for its next exchange: derive each batch from it."""
        out = capi.PositionStruct(size=sizeof(capi.PositionStruct))
        with self._lock:
            self._check(self._lib.psd_worker_position(self._pointer, byref(out)))
        return Position(out.clock, out.version, out.rank, out.world, out.worker, out.incarnation, out.run, bool(out.has_slow),
                        bool(out.gathered))

    @property
    def settings(self) -> Settings:
        """How the job trains."""
        out = capi.SettingsStruct(size=sizeof(capi.SettingsStruct))
        with self._lock:
            self._check(self._lib.psd_worker_settings(self._pointer, byref(out)))
        values = {name: _plain(getattr(out, name)) for name, *_ in capi.SettingsStruct._fields_[1:]}
        return Settings(**{**values, **{name: bool(values[name]) for name in ("has_slow", "in_rounds", "checkpoints")}})

    def check_rule(self, rule: str) -> None:
        """RefusedError, naming both rules, unless the job trains with this one; defaults may be left out."""
        with self._lock:
            self._check(self._lib.psd_worker_check_rule(self._pointer, _text(rule, "the rule")))

    def group(self, tensor: str) -> Group:
        """How the job trains a tensor of that name, registered or not."""
        out = capi.GroupStruct(size=sizeof(capi.GroupStruct))
        with self._lock:
            self._check(self._lib.psd_worker_group(self._pointer, _name(tensor), byref(out)))
            return Group(_plain(out.match), _plain(out.optimizer), out.lr_mult, bool(out.clips), bool(out.freezes))

    def health(self, tensor: int) -> Health | None:
        """The newest figures of a tensor, by its number as registered; None: this worker has received none. Only worker 0 receives them."""
        out = capi.HealthStruct(size=sizeof(capi.HealthStruct))
        with self._lock:
            code = self._lib.psd_worker_health(self._pointer, tensor, byref(out))
            if code == _NOTHING_YET:
                return None
            self._check(code)
            return Health(*(getattr(out, name) for name in Health._fields))

    @property
    def round_loss(self) -> float:
        """Mean loss of the last step's samples, those of all workers, as they have reported it; 0 before the first."""
        return float(self._lib.psd_worker_round_loss(self._pointer))

    @property
    def step_lr(self) -> float:
        """Learning rate of the last step, as the schedule made it; if the servers have made none since they started, of the next one."""
        return float(self._lib.psd_worker_step_lr(self._pointer))

    @property
    def job_samples(self) -> int:
        """Samples of all workers behind the weights now held, since the job's first step."""
        return int(self._lib.psd_worker_job_samples(self._pointer))

    @property
    def samples_per_round(self) -> float:
        """Mean number of samples, of all workers, of the rounds behind the weights now held; NaN: none, or a mode without rounds."""
        settings = self.settings
        rounds = self.position.version * settings.accumulate
        return self.job_samples / rounds if settings.in_rounds and rounds else math.nan

    @property
    def is_asked_to_leave(self) -> bool:
        """Whether an operator has asked this worker to leave (psdctl drain). Look between exchanges."""
        return bool(self._lib.psd_worker_asked_to_leave(self._pointer))

    # ---- the end ----

    @property
    def has_left(self) -> bool:
        """Whether it has left the job; in a child of fork(), also true of the parent's worker."""
        return self._has_left or self.is_of_parent

    @property
    def is_of_parent(self) -> bool:
        """Whether this process is a child of fork(), and the worker is its parent's."""
        return self._process != os.getpid()

    def leave(self, finished: bool = True, timeout: Timeout = LEAVE_TIMEOUT) -> None:
        """Leave the job cleanly; `finished`: this worker's work is done. WentBackError: a server was lost before the last weights
        were safe; continue training from `position`, then leave again."""
        if self.has_left:
            return
        with self._lock:
            self._handle.is_stopping &= finished  # leaving unfinished is what a stop asks for
            code = self._lib.psd_worker_leave(self._pointer, finished, _wait_ms(timeout))
            self._is_open = False
            self._lent.clear()
            self._has_left = code not in _STILL_HERE
            self._handle.is_quiet = code == 0
            if self._has_left and self._names:
                _ends.append(finished and code == 0)
            self._check(code)

    def stop(self) -> None:
        """This worker has to end: a wait for a step that does not come ends with Stopped, and its work is not done."""
        self._handle.is_stopping = True

    def close(self) -> None:
        """Leave, unfinished, if it has not left yet, and ignore errors."""
        self._leave_quietly(finished=False)
        self._note_gone()

    def _note_gone(self) -> None:
        """It has left, as far as it could."""
        self._has_left = self._handle.says.is_over = True

    def _leave_quietly(self, finished: bool) -> bool:
        """Log an error instead of raising it, as a warning unless it was raised before; returns whether there was none."""
        raised = self._raised
        try:
            self.leave(finished)
        except Exception as why:  # the servers notice by its silence
            level = logging.ERROR if isinstance(why, WentBackError) and finished else logging.WARNING
            log.log(logging.INFO if str(why) == raised else level, "leave %s", why)
            return False
        return True

    def __del__(self) -> None:
        """Without a word, the others would wait for the lease to pass, and then for a replacement."""
        if self._names and not self.has_left and not sys.is_finalizing():
            log.warning("worker.dropped nothing refers to this psd.Worker or psd.Optimizer any more, so it leaves the job before its work "
                        "is done; keep it until training is over, and then call leave(), or use `with`")
            _outside_the_library(self.close)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if kind is None:
            self.leave(finished=bool(self._names))
        else:
            self.close()


_handles: weakref.WeakSet[_Handle] = weakref.WeakSet()
_workers: weakref.WeakSet[Worker] = weakref.WeakSet()
_ends: deque[bool] = deque(maxlen=1)  # whether the last worker of this process that has trained and left was finished


def is_done() -> bool:
    """Whether this process has trained, and its work is done if it ends normally now."""
    return any(worker.names for worker in open_workers()) or True in _ends


def open_workers() -> list[Worker]:
    """The workers of this process that are in a job."""
    return [worker for worker in _workers if not worker.has_left]


def leave_all(finished: bool, but: list[Worker]) -> bool:
    """Make all workers of this process leave except those; returns whether one of them had trained, and is done."""
    ended_well = False
    for worker in open_workers():
        if worker in but:
            continue
        if finished and worker.names and not worker._handle.is_stopping:
            ended_well |= worker._leave_quietly(finished=True)
            worker._note_gone()
        else:
            worker.close()
    return ended_well


def _end() -> None:
    """At the end of the program: finished, unless an exception ends it. Handles of workers that could not leave are closed, because
    their threads would log in a Python that is no longer there; those of the others keep the memory of arrays to the very end."""
    leave_all(getattr(sys, "last_value", None) is None, [])
    for handle in list(_handles):
        if not handle.is_quiet:
            handle.close()


atexit.register(_end)


def _name(name: Any) -> bytes:
    """The name of a tensor for the library."""
    try:
        text = name.encode() if isinstance(name, str) else b""
    except UnicodeEncodeError:
        text = b""
    if not 0 < len(text) < 128 or b"\0" in text:
        shown = repr(name) if len(repr(name)) < 80 else repr(name)[:77] + "..."
        raise UsageError(f"a tensor has the name {shown}", hint="give a str of 1 to 127 bytes in UTF-8, without NUL")
    return text


def number(value: Any, what: str) -> float:
    """A number that the caller has given."""
    try:
        if not isinstance(value, (str, bytes)):
            return float(value)
    except (TypeError, ValueError):
        pass
    raise UsageError(f"{what} is {value!r:.60}", hint="give a number")


def address(join: Any) -> bytes | None:
    """Server 0's address for the library; None: it is in the environment."""
    if not join:
        return None
    found = _ADDRESS.fullmatch(join) if isinstance(join, str) else None
    if not found or (found[1] and not 0 < int(found[1]) < 65536):
        raise UsageError(f"join is {join!r:.80}, which is not the address of a server", hint='give join="tcp://HOST:PORT"')
    return os.fsencode(join)


def _ms(timeout: Timeout) -> int:
    """Convert a timeout for the library: seconds, or one of psd's durations; None: no limit."""
    if timeout is None:
        return -1
    ms = float("nan")
    if isinstance(timeout, str):
        found = _DURATION.fullmatch(timeout)
        ms = float(found[1]) * _UNITS[found[2]] if found else ms
    elif isinstance(timeout, Real) and not isinstance(timeout, bool):
        ms = float(timeout) * 1000
    if not ms >= 0:
        raise UsageError(f"the timeout is {timeout!r}",
                         hint='give seconds, such as 2.5, or a text with a unit, "500ms", "15s", "1m", "1h"; None: no limit')
    return int(min(ms, 2**31 - 1))


def _wait_ms(timeout: Timeout) -> int:
    """The same for a call that waits: at least 1 ms, because with 0 the library's code is that of a job that has gone back."""
    return _ms(timeout) or 1


def _bytes(text: str | os.PathLike[str] | None) -> bytes | None:
    try:
        return None if text is None else os.fsencode(text)
    except TypeError:
        raise UsageError(f"an argument is {text!r:.60}", hint="names, keys and files are texts or paths") from None


def _id(worker: Any) -> int:
    """A worker's id for the library, from 1; 0: any."""
    if worker is None:
        return 0
    if isinstance(worker, bool) or not isinstance(worker, (int, np.integer)) or worker < 0:
        raise UsageError(f"worker is {worker!r:.60}", hint="give this worker's number, from 0, or leave it out to get a free one")
    return min(int(worker), 2**31 - 2) + 1


def _whole(value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 0 <= value < 2**63:
        raise UsageError(f"{what} is {value!r:.60}", hint="give a whole number from 0 on")
    return int(value)


def _text(text: Any, what: str) -> bytes:
    if not isinstance(text, str):
        raise UsageError(f"{what} is {text!r:.60}", hint="give a str")
    return text.encode()


def connect(join: str | None = None, *, job: str | None = None, worker: int | None = None, name: str | None = None,
            join_timeout: Timeout = 0.0, key: str | os.PathLike[str] | None = None,
            server_public: str | os.PathLike[str] | None = None, insecure: bool = False,
            cluster_file: str | os.PathLike[str] | None = None, job_file: str | os.PathLike[str] | None = None,
            recipe: str | None = None, rows: int = 0, net_threads: int = 0) -> Worker:
    """Join a job.

    `join` is server 0's address, "tcp://HOST:7470". Without it, and without `cluster_file`, values not given come from `job_file`,
    from the environment (PSD_JOIN, PSD_WORKER__KEY, ...), and from the launcher: psdctl run, Slurm, mpirun, Kubernetes. `job` must
    equal the servers' name for the job ("psd" by default), `worker` asks for that id, `name` is for display. `join_timeout`, in seconds
    or as a duration ("15s", as in a job file), is the longest wait for servers, now and later; 0: 60 s, or the value in the
    environment; None: no limit. `key` and `server_public` are files made by psdctl keygen; `insecure` runs without keys, only on this
    machine. Workers that give a `recipe`, a short description of their training data, must give the same one. `rows` of the training
    set are for schedules that
    count epochs. `net_threads` is the number of threads that encrypt and carry messages through sockets, each for some of the
    connections; 0: one, or the value in the environment.
    """
    handle = _Handle(join)
    config = capi.Config(size=sizeof(capi.Config), join=address(join), job=_bytes(job), name=_bytes(name),
                         worker=_id(worker),
                         join_timeout_ms=_ms(join_timeout), log=handle.log,
                         key=_bytes(key), server_public=_bytes(server_public), insecure=insecure,
                         cluster_file=_bytes(cluster_file), recipe=_bytes(recipe), rows=_whole(rows, "rows"),
                         job_file=_bytes(job_file),
                         interrupted=handle.interrupted, net_threads=min(_whole(net_threads, "net_threads"), 2**31 - 1))
    code = capi.load().psd_worker_connect(byref(handle.pointer), byref(config))
    if not handle.pointer:
        raise error_of(-2, "no memory for a worker")
    self = Worker(handle)
    if code != 0:
        self._has_left = code != _STOPPED
        try:
            self._check(code)
        finally:
            self.close()
    return self
