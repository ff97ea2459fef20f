"""A torch optimizer whose steps are made by psd servers.

    opt = psd.Optimizer(model.named_parameters(), "lookahead(radam(lr=1e-3), k=5)")
    ...
    opt.zero_grad(); loss.backward(); opt.step()

Gradients are sent during backward, tensor by tensor, as autograd finishes them; `step` waits for the weights that the servers make
from those of all workers, and writes them to the model's parameters, in place. The rule's state is on the servers (option
checkpoint.dir saves it).
"""

from __future__ import annotations

import math
import os
import re
import signal
import threading
import weakref
import zlib
from collections import deque
from contextlib import contextmanager
from functools import partial, wraps
from inspect import signature
from types import FrameType, TracebackType
from typing import Any, Callable, Iterable, Iterator, Mapping, TypeVar, cast

import numpy as np
import torch

from .arrays import Array, check_apart
from .data import Loader, Sampler
from .errors import Stopped, UsageError, WentBackError
from .same_rows import SameRows
from .worker import _EX_STOPPED, Position, Worker, connect, log, number

_VALUE = re.compile(r"(\w+)=([-+.\d][-+.\w]*)")  # values in a rule's text; those of the wrapped rule come first
# Keys that torch's optimizers and schedulers keep in groups besides values of the rule.
_NOT_VALUES = ("params", "names", "initial_lr", "max_lr", "min_lr", "base_lr", "maximize", "foreach", "capturable", "differentiable",
               "fused")
_LOOKED_WHOLE = 3  # steps in which all of a gradient is looked at again
_LOOKED_AT = 64  # elements of each parameter by which changes through p.data are seen

_Call = TypeVar("_Call", bound=Callable[..., Any])


class _Slot:
    """One trained parameter: the arrays that the library reads and writes, and the state of its gradient."""

    def __init__(self, index: int, name: str, parameter: Any, weights: Array, gradient: Any) -> None:
        self.index, self.name, self.parameter = index, name, parameter
        self.weights = weights  # registered with the library
        self.master = None if _shares(parameter, weights) else torch.from_numpy(weights)  # None: they are the parameter itself
        self.gradient = gradient  # torch's view of the array that the library reads
        self.address: int = gradient.data_ptr()
        self.lent: Array = gradient.numpy()
        self.storage: int = parameter.data_ptr()
        self.touch = parameter.detach().reshape(-1)[:0]  # an empty write to it notifies autograd of new weights
        self.elements = _elements(parameter)
        self.looked = b""  # some of the elements, when psd last wrote them
        self.is_sent = self.is_here = False
        self.made: Any = None  # the gradient that was sent, and its version then
        self.made_version = 0
        self.sent = b""  # what look_at_made saw then
        self.n_sent = 0
        self.version = -1  # of the parameter, when psd last wrote it
        self.last: Any = None  # the parameter's gradient when it was last zeroed or stepped, and its version then
        self.base = 0

    @property
    def in_place(self) -> bool:
        """Whether autograd accumulates the gradient in the library's array."""
        return self.master is None

    def adopt(self) -> None:
        """Make autograd write into the library's array, which is zero, if possible."""
        self.parameter.grad = self.gradient if self.in_place else None
        self._note()

    def _note(self) -> None:
        self.last = self.parameter.grad
        self.base = 0 if self.last is None else self.last._version

    def has_news(self) -> bool:
        """Whether there is a gradient since the last zero_grad or step, from any source."""
        made = self.parameter.grad
        return made is not None and (made is not self.last or made._version > self.base)

    def is_on_top(self) -> bool:
        """Whether a backward has just added to a gradient that was not zeroed."""
        return self.parameter.grad is self.last and self.parameter.grad._version < self.base + 2

    def take(self) -> bool:
        """Copy the parameter's gradient to the library's array; True: the copy from a GPU is still in progress."""
        made = self.parameter.grad
        self.is_here, self.made, self.made_version = True, made, made._version
        if made is self.gradient:
            self._note_made()
            return False
        self.gradient.copy_(made.to_dense() if made.is_sparse else made.detach(), non_blocking=made.is_cuda)
        if self.in_place:
            self.parameter.grad = self.made = self.gradient
            self.made_version = self.gradient._version
        self._note_made()
        return bool(made.is_cuda)

    def _note_made(self) -> None:
        self.n_sent += 1
        self.sent = self._look_at_made()

    def _look_at_made(self) -> bytes:
        """All of the sent gradient in the first steps, later some elements of it; nothing of one on a GPU or of a sparse one."""
        elements = None if self.made.is_sparse else _elements(self.made)
        if elements is None:
            return b""
        if self.n_sent <= _LOOKED_WHOLE:
            return zlib.crc32(elements.base.tobytes()).to_bytes(4, "little")
        return bytes(elements[::self.made.numel() // _LOOKED_AT | 1])

    def _is_remade(self) -> bool:
        """Whether the gradient has been replaced, changed or deleted since it was taken."""
        return bool(self.parameter.grad is not self.made or self.made._version != self.made_version
                    or self._look_at_made() != self.sent)

    def let_go_of_remade(self) -> None:
        """If the gradient was taken but not yet sent, and is another one now, it is to be taken anew."""
        if self.is_here and not self.is_sent and self._is_remade():
            self.is_here, self.made = False, None

    def check(self) -> None:
        """Check that the gradient has not changed since it was sent, and the place."""
        if self.is_sent and self._is_remade():
            raise UsageError(f"the gradient of {self.name} was changed after backward had sent it",
                             hint="clip by the job's clip.norm or clip.value, or give psd.Optimizer overlap=False; opt.zero_grad() gives "
                                  "this step up")
        self.check_place()

    def check_place(self) -> None:
        """Check that the parameter has not moved."""
        if self.parameter.data_ptr() != self.storage:
            raise UsageError(f"parameter {self.name} has moved since psd.Optimizer was made",
                             hint="move or convert the model first, then make the optimizer")

    def land(self) -> None:
        """Take new weights."""
        if self.master is not None:
            self.parameter.detach().copy_(self.master)
        else:
            self.touch.zero_()
        self.version = self.parameter._version
        self.looked = self.look()
        self.is_sent = self.is_here = False
        self.made = None
        self._note()

    def look(self) -> bytes:
        """Some of the parameter's elements, at even distances, which are all of them if there are few; none of one on a GPU."""
        return b"" if self.elements is None else bytes(self.elements[::self.parameter.numel() // _LOOKED_AT | 1])

    def is_changed(self) -> bool:
        """Whether the script has changed the parameter since psd wrote it. torch does not count changes through p.data."""
        return bool(self.parameter._version != self.version) or self.look() != self.looked


def _shares(parameter: Any, weights: Array) -> bool:
    return bool(parameter.device.type == "cpu" and parameter.data_ptr() == weights.ctypes.data)


def _elements(parameter: Any) -> Any:
    """All elements of a parameter in the CPU's memory, of any type and order, as one dimension; None: it is elsewhere."""
    if parameter.device.type != "cpu":
        return None
    values = parameter.detach()
    return (values.view(torch.int16) if values.element_size() == 2 else values).numpy().flat


def _named(params: Iterable[Any]) -> list[dict[str, Any]]:
    """Groups with "params" and their "names", from any argument of torch's optimizers, or from named_parameters()."""
    if isinstance(params, (torch.nn.Module, torch.Tensor)) or not isinstance(params, Iterable):
        raise UsageError(f"the parameters are a {type(params).__name__}", hint="give model.named_parameters()")
    given = list(params.items() if isinstance(params, Mapping) else params)
    groups = [dict(group) for group in given] if given and all(isinstance(group, dict) for group in given) else [{"params": given}]
    if any("params" not in group for group in groups):
        raise UsageError("a parameter group has no params", hint='give it some: {"params": layer.named_parameters(), ...}')
    n = 0
    for group in groups:
        members = group["params"]
        members = [members] if isinstance(members, torch.Tensor) else list(members)
        pairs = [member if isinstance(member, tuple) else (f"parameter.{n + i}", member) for i, member in enumerate(members)]
        once: dict[int, tuple[Any, Any]] = {}  # tied ones count once, by their first name
        for name, p in pairs:
            if not isinstance(p, torch.Tensor):
                raise UsageError(f"parameter {name} is a {type(p).__name__}, not a tensor",
                                 hint="give model.named_parameters(), or a list of groups only")
            if torch.nn.parameter.is_lazy(p):
                raise UsageError(f"parameter {name} has no shape yet, as those of a lazy module before its first batch",
                                 hint="call the model once, with a batch, before psd.Optimizer is made: model(inputs)")
            once.setdefault(id(p), (name, p))
        group["params"], group["names"] = [p for _, p in once.values()], [name for name, _ in once.values()]
        n += len(pairs)
    if not n:
        raise UsageError("there are no parameters to train", hint="give model.named_parameters(), an iterator that can be used only once")
    return groups


def _values(group: dict[str, Any]) -> dict[str, float]:
    """The training values of a group, by psd's names: torch's betas become beta1 and beta2."""
    values = {key: value for key, value in group.items() if key not in _NOT_VALUES}
    if "betas" in values:
        betas = values.pop("betas")
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise UsageError(f"betas of a parameter group is {betas!r}", hint="give two numbers: (0.9, 0.999)")
        values["beta1"], values["beta2"] = betas
    return {key: number(value, f"{key} of a parameter group") for key, value in values.items()}


def _in_turn(call: _Call) -> _Call:
    """A method that one thread at a time may be in."""

    @wraps(call)
    def taking_turns(self: Optimizer, *given: Any, **more: Any) -> Any:
        if not self._turn.acquire(blocking=False):
            raise _two_threads()
        try:
            return call(self, *given, **more)
        finally:
            self._turn.release()

    return cast(_Call, taking_turns)


def _two_threads() -> UsageError:
    return UsageError("two threads use this psd.Optimizer at once",
                      hint="give each thread a model and a psd.Optimizer of its own, with worker=0, 1, ..., or train in one thread")


class Optimizer(torch.optim.Optimizer):
    """Trains a model's parameters on the servers of a job.

    `params` is model.named_parameters(), model.parameters() or a list of groups of them; those that need no gradient are left as
    they are. The values of a group (lr, weight_decay, betas, ...) must be those that the job's option groups gives its tensors.
    `rule`, if given, must be the job's (option optimizer). `worker` is one from psd.connect; without it, or with an id, further
    arguments are those of psd.connect, and values not given come from the environment. With `overlap` False, gradients are sent in
    step(), so that they may be changed after backward, as gradient clipping and GradScaler do.

    `state` is the optimizer that has trained these parameters so far, or its state_dict(): the servers continue with its moments and
    its step count; the learning rate is the job's. With `partial_state`, parameters without state start with a new optimizer.

    torch's methods work as in torch: zero_grad, step(closure), param_groups, state_dict, and LR schedulers, which set the servers'
    rate. Tied parameters count once. Parameters without a gradient take no part in the step. Each worker keeps its own buffers,
    such as BatchNorm's. As a context manager it leaves the job at the end; so does the end of the program.
    """

    _step_supports_amp_scaling = True  # tells GradScaler that step() itself handles the scale

    def __init__(self, params: Iterable[Any], rule: str | None = None, *, worker: Worker | int | None = None, overlap: bool = True,
                 state: Any = None, partial_state: bool = False, **job: Any) -> None:
        groups = _named(params)
        if rule is not None and not isinstance(rule, str):
            raise UsageError(f"the rule is a {type(rule).__name__}", hint='name it, with its values: "adam(lr=1e-3)"')
        for name in job.keys() - signature(connect).parameters.keys():
            raise UsageError(f"psd.Optimizer has no argument {name}",
                             hint='values of the rule are part of it: psd.Optimizer(params, "adam(lr=1e-3)")')
        self._thread, self._job = threading.get_ident(), _name_of_job(job)
        self._turn = threading.RLock()
        if worker is None:
            self._refuse_second()
        if isinstance(worker, Worker):
            self.worker = worker
        else:
            job.setdefault("recipe", _describe_frozen(groups))
            self.worker = connect(worker=worker, **job)
        try:
            self._begin(groups, rule, overlap, state, partial_state)
        except BaseException:
            self.worker.close()
            raise

    def _refuse_second(self) -> None:
        """Each step waits for those of all workers, so a thread that is two of them would wait for itself."""
        for other in list(_optimizers):
            if (other._thread, other._job) == (self._thread, self._job) and not other.worker.has_left and other.worker.settings.in_rounds:
                raise UsageError("this thread has a psd.Optimizer in this job already, whose step would wait for this one's",
                                 hint="give one optimizer the parameters of both models, end the first with opt.close(), or give "
                                      "each a job of its own (join=)")

    def _begin(self, groups: list[dict[str, Any]], rule: str | None, overlap: bool, state: Any, partial_state: bool) -> None:
        if rule is not None:
            self.worker.check_rule(rule)
        settings = self.worker.settings
        self._slots: list[_Slot] = []
        self._is_ready = False
        self._lr_mults = [self._check_group(group) for group in groups]
        for group, mult in zip(groups, self._lr_mults):
            group["lr"] = settings.lr * mult  # the rate in force, which a schedule may have moved
        super().__init__(groups, {"lr": settings.lr, "rule": settings.optimizer})
        self._lr: float | None = settings.lr
        self._rule_keys = {key for key, _ in _VALUE.findall(settings.optimizer)} - {"lr"} | {"betas", "momentum", "weight_decay", "eps"}
        self._told = [self._rule_values(group) for group in self.param_groups]
        self._frozen = [(name, p) for group in self.param_groups for name, p in zip(group["names"], group["params"]) if not p.requires_grad]
        self._has_warned = self._has_warned_of_skip = False
        self._run = 0  # of the job, at the last step
        self.overlap = overlap
        self.loss: float = float("nan")  # mean loss of the batch, for the status page; see `watch`
        self._watched: Any = None
        self.batch_samples = 1
        self.divides_rows = False
        self._n_sent = 0
        self._holds = self._is_open = self._is_stale = self._evaluates = False
        self._is_torn = False  # an exception came while gradients were sent or weights awaited
        self._is_backward = False  # one has begun and has not come to its end
        self._gradient_thread = 0  # which made the newest gradient
        self._is_stepping = False  # backward is over, and weights may change
        self._copies: deque[tuple[Any, _Slot]] = deque()  # on their way from a GPU
        self._hooks: list[Any] = []
        self._mistake: BaseException | None = None  # made in backward
        self._make_slots()
        own = self._sum_of_weights()
        self.worker.register({slot.name: slot.weights for slot in self._slots}, state, partial_state,
                             [name for group in groups for name in group["names"]])
        if own != self._sum_of_weights() and self.position.version:
            log.warning("weights.joined clock=%d an earlier psd.Optimizer of this program has trained in this job, so this model, which "
                        "had other weights, goes on with the job's; to train it from its own, give it a job of its own, as by another "
                        "psd.launch", self.position.clock)
        for slot in self._slots:
            slot.adopt()
            slot.land()
            self._hooks.append(_on_accumulated(slot.parameter, partial(self._on_gradient, slot)))
        self._same_rows = SameRows(self.worker)
        _optimizers.add(self)
        self._is_ready = True
        self._stops = 0
        self._watch_signal()

    def _sum_of_weights(self) -> int:
        """A checksum, in a job in which an earlier optimizer of this program was; otherwise 0."""
        crc = 0
        for slot in self._slots if self._job in _jobs_left else ():
            crc = zlib.crc32(slot.weights.tobytes(), crc)
        return crc

    def _check_group(self, group: dict[str, Any]) -> float:
        """The factor on the job's rate for a group of the script. The group's values must equal those of the job for its
        tensors."""
        lr = float(dict(_VALUE.findall(self.worker.settings.optimizer))["lr"])
        mults = set()
        for name, p in zip(group["names"], group["params"]):
            if not p.requires_grad:
                continue
            trained = self.worker.group(name)
            does = {"lr": lr * trained.lr_mult, "freeze": float(trained.freezes),
                    **{key: float(value) for key, value in _VALUE.findall(trained.optimizer) if key != "lr"}}
            mults.add(trained.lr_mult)
            for key, value in _values(group).items():
                if key not in does:
                    raise UsageError(f"the group of parameter {name} sets {key}, which {trained.optimizer} does not have",
                                     hint="leave it out, or have the job train by a rule that has it")
                if not math.isclose(value, does[key], rel_tol=1e-9):
                    says = f"lr_mult: {value / lr:g}" if key == "lr" else f"{key}: {value:g}"
                    raise UsageError(f"the group of parameter {name} sets {key} {value:g}, but the job trains it with {does[key]:g}",
                                     hint=f'give the job\'s option groups a group {{match: "{name}", {says}}}, or leave {key} out')
        return mults.pop() if len(mults) == 1 else 1.0

    def _make_slots(self) -> None:
        """Choose the memory for each parameter's weights and gradient: the parameter itself and one array of the library if it is
        contiguous float32 on the CPU; otherwise float32 arrays as copies, pinned for a GPU."""
        trained = [(name, p) for group in self.param_groups for name, p in zip(group["names"], group["params"])
                   if p.requires_grad and p.numel()]
        if not trained:
            raise UsageError("no parameter needs a gradient", hint="set requires_grad for the parameters to train")
        if len({name for name, _ in trained}) < len(trained):
            raise UsageError("two parameters have the same name", hint="give named_parameters() of one model, or names of your own")
        _check_memory(trained)
        flat = self.worker.alloc(sum(p.numel() for _, p in trained if p.device.type == "cpu") or 1)
        self._flat, at = flat, 0
        for index, (name, p) in enumerate(trained):
            shape, n = tuple(p.shape), p.numel()
            if p.device.type == "meta":
                raise UsageError(f"parameter {name} is on the device meta, without values",
                                 hint='give it memory and values first: model.to_empty(device="cpu"), and initialize it')
            if p.is_inference():
                raise UsageError(f"parameter {name} was made in torch.inference_mode(), and cannot be trained",
                                 hint="make the model, and psd.Optimizer, outside of it")
            if p.is_complex() or not p.is_floating_point():
                raise UsageError(f"parameter {name} is of {p.dtype}", hint="train float parameters")
            if p.device.type == "cpu":
                gradient = torch.from_numpy(flat[at:at + n].reshape(shape))
                at += n
            else:
                gradient = torch.zeros(shape, dtype=torch.float32, pin_memory=True)
            if p.device.type == "cpu" and p.dtype == torch.float32 and p.is_contiguous():
                weights = p.detach().numpy()
            else:
                master = torch.empty(shape, dtype=torch.float32, pin_memory=p.device.type != "cpu")
                weights = master.copy_(p.detach()).numpy()
            self._slots.append(_Slot(index, name, p, weights, gradient))

    def __reduce_ex__(self, _: Any) -> Any:
        raise UsageError("a psd.Optimizer is part of a job, and cannot be copied or pickled",
                         hint="save opt.state_dict(); the rule's state is in the job's checkpoints")

    # ---- gradients ----

    def _on_gradient(self, slot: _Slot) -> None:
        """Called when autograd has accumulated the gradient of a parameter. Any thread of autograd, one at a time. An exception here
        would leave autograd in a state in which the process hangs at its end, so the first one is kept, and raised by the next call."""
        if not self._is_ready or self.worker.has_left or self._mistake:
            return
        try:
            self._note_backward()
            if not self._holds:
                self._take_gradient(slot)
        except BaseException as mistake:
            self._mistake = mistake
            self._is_torn = self._is_open and not isinstance(mistake, UsageError)

    def _note_backward(self) -> None:
        """Have autograd say when this backward has come to its end, which it does not if an exception ends it."""
        if self._is_stepping:
            raise _two_threads()
        if not self._is_backward:
            self._is_backward = True
            torch.autograd.Variable._execution_engine.queue_callback(self._on_backward_end)

    def _on_backward_end(self) -> None:
        self._is_backward = False

    def _raise_mistake(self) -> None:
        mistake, self._mistake = self._mistake, None
        if mistake is not None:
            raise mistake

    def _take_gradient(self, slot: _Slot) -> None:
        if self._evaluates:
            raise UsageError("backward within eval_weights()", hint="train outside of it: these weights are only for evaluation")
        if slot.is_here and self._gradient_thread != threading.get_ident():
            raise _two_threads()
        if slot.is_here:
            raise UsageError(f"a second backward before step(): {slot.name} has its gradient already",
                             hint="wrap all but the last backward of a step in opt.no_sync(), or give overlap=False; opt.zero_grad() gives "
                                  "this step up")
        if self._is_stale and slot.is_on_top():
            raise UsageError("zero_grad() was not called since the last step", hint="call opt.zero_grad() before backward")
        self._gradient_thread = threading.get_ident()
        if not self.overlap:
            return
        under_way = slot.take()
        if under_way:
            event = torch.cuda.Event()
            event.record()
            self._copies.append((event, slot))
        self._send_copied(wait=False)
        if not under_way:
            self._send(slot)

    def _send(self, slot: _Slot, last: bool = False) -> None:
        """Push a gradient, except the last one before step(), because weights must not change while backward runs."""
        if not last and self._n_sent >= len(self._slots) - 1:
            return
        if not self._is_open:
            self._open()
        self.worker.push_address(slot.index, slot.address if slot.is_here else None, slot.lent, self.batch_samples, self._loss())
        slot.is_sent = True
        self._n_sent += 1

    def _send_copied(self, wait: bool) -> None:
        while self._copies and (wait or self._copies[0][0].query()):
            event, slot = self._copies.popleft()
            event.synchronize()
            self._send(slot)

    def _loss(self) -> float:
        watched, self._watched = self._watched, None
        if watched is not None:
            self.loss = float(watched)
        return self.loss

    def watch(self, loss: Any) -> Any:
        """Show this loss on the status page, and return it: opt.watch(loss).backward()."""
        if torch.is_tensor(loss) and loss.numel() != 1:
            raise UsageError(f"the loss has {loss.numel()} elements", hint="give one number: loss.mean()")
        self._watched = loss.detach() if torch.is_tensor(loss) else number(loss, "the loss")
        return loss

    def _open(self) -> None:
        """Before the first gradient of a step, send the rate if a scheduler has changed it."""
        self._check_usable()
        rates = [(number(group["lr"], "lr of a parameter group"), mult)
                 for group, mult in zip(self.param_groups, self._lr_mults) if mult] or [(0.0, 1.0)]
        if not all(math.isfinite(rate) for rate, _ in rates):
            raise UsageError(f"the learning rate is {rates[0][0]:g}", hint="set a finite one; does a scheduler make it?")
        rate, mult = min(rates, key=lambda pair: abs(pair[1] - 1))
        lr = rate / mult
        if any(not math.isclose(rate, lr * mult, rel_tol=1e-9) for rate, mult in rates):
            raise UsageError(f"groups have the learning rates {', '.join(f'{rate:g}' for rate, _ in rates)}",
                             hint="a job has one rate, which its option groups multiplies by lr_mult: change all groups by the same factor")
        self._is_open = True
        if self._lr is None or not math.isclose(lr, self._lr, rel_tol=1e-12):
            if self.worker.position.rank == 0:
                _again(lambda: self.worker.set_lr(lr))
            self._lr = lr

    def _check_usable(self) -> None:
        self._raise_mistake()
        if self._evaluates:
            raise UsageError("a step within eval_weights()", hint="train outside of it")
        if self._is_torn and self._is_open:
            raise UsageError("this step was interrupted", hint="call opt.zero_grad(), which gives it up, and then backward")
        if self.worker.has_left:
            raise UsageError("this optimizer has left its job, or was made before a fork",
                             hint="make it in the process that trains, once per process")

    @_in_turn
    def zero_grad(self, set_to_none: bool = False) -> None:
        """Set all gradients to zero. They stay in the library's memory; `set_to_none` has no effect. If backward or step() did not come
        to its end, because of Ctrl-C or another exception, this gives the step up, with a warning: gradients that were sent cannot be
        taken back, so the step is made with these and without the others."""
        if self.worker.is_of_parent:
            raise UsageError("this optimizer was made before a fork", hint="make it in the process that trains, once per process")
        self._raise_mistake()
        if self._is_open:
            self._give_up()
        self._flat.fill(0)
        for slot in self._slots:
            slot.check_place()
            slot.adopt()
            slot.is_here = False
        self._is_stale = self._is_backward = False

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Gradients of backward inside the block stay here and add up; the next backward after it sends the sum."""
        held, self._holds = self._holds, True
        try:
            yield
        finally:
            self._holds = held

    # ---- steps ----

    def _give_up(self) -> None:
        """Finish a step that did not come to its end with the gradients that were sent."""
        if self.worker.has_left:
            self._is_open = False
            return
        log.warning("step.given_up clock=%d zero_grad() came before step() had ended; the step is made with the gradients that were sent, "
                    "those of %d of %d tensors", self.position.clock, self._n_sent, len(self._slots))
        self._copies.clear()
        self.worker.settle()
        self._land()

    @_in_turn
    def step(self, closure: Callable[[], Any] | None = None, **scaler: Any) -> Any:
        """Send the gradients that backward has not sent, and wait for the new weights; returns `closure`'s loss, if given. If the
        job goes back to a checkpoint, this continues from there by itself, at `position`. Raises SystemExit (psd.Stopped) when this
        worker must end."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
            if torch.is_tensor(loss):
                self.watch(loss)
        self._is_stepping = True
        try:
            self._make_step(scaler.get("grad_scaler"))
        finally:
            self._is_stepping = False
        return loss

    def _make_step(self, grad_scaler: Any) -> None:
        self._check_usable()
        if self._is_backward:
            raise UsageError("backward did not come to its end, so some gradients are missing or are those of a part of the loss",
                             hint="call opt.zero_grad(), which gives this step up, and then backward")
        self._check_unchanged()
        is_finite = self._unscale(grad_scaler)
        self._send_copied(wait=True)
        for slot in self._slots:
            slot.check()
            slot.let_go_of_remade()
            if not slot.is_here and slot.has_news():
                slot.take()
        if any(slot.parameter.grad is not None and slot.parameter.grad.is_cuda for slot in self._slots):
            torch.cuda.synchronize()
        if not any(slot.is_here for slot in self._slots):
            raise UsageError("no parameter has a gradient",
                             hint="call loss.backward() before step(); for no batch, call opt.skip() in place of step()")
        self._is_torn = True
        if is_finite:
            for slot in [slot for slot in self._slots if not slot.is_sent]:
                self._send(slot, last=True)
        else:
            self._open()
            self.worker.begin(None)
        self._finish()

    def _check_unchanged(self) -> None:
        """Find what the script has changed since the optimizer was made and the servers do not know."""
        for name, p in self._frozen:
            if p.requires_grad:
                raise UsageError(f"parameter {name} needs a gradient now, but was frozen when psd.Optimizer was made, so nothing trains it",
                                 hint="freeze it after psd.Optimizer is made, or set requires_grad_(False) for it")
        if len(self.param_groups) != len(self._told) or any(
                len(group["params"]) != len(group["names"]) for group in self.param_groups):
            raise UsageError("parameter groups were removed or changed after the job had begun",
                             hint="leave param_groups as they are; to stop training a tensor, set requires_grad_(False) for it")
        for group, told in zip(self.param_groups, self._told):
            values = self._rule_values(group)
            if values != told:
                self._check_group({"params": group["params"], "names": group["names"], **values})
                told.update(values)
        changed = [] if self._has_warned else [slot.name for slot in self._slots if slot.is_changed()]
        if changed:
            self._has_warned = True
            log.warning("weights.changed tensor=%s the script has changed it since the last step, but the step replaces it by the servers' "
                        "weights: change weights before psd.Optimizer is made%s", changed[0],
                        f" ({len(changed)} tensors)" if len(changed) > 1 else "")

    def _rule_values(self, group: dict[str, Any]) -> dict[str, Any]:
        """The values of a group that the servers would have to know, besides its rate."""
        return {key: value for key, value in group.items() if key in self._rule_keys}

    def _unscale(self, grad_scaler: Any) -> bool:
        """Divide gradients by the scale of a GradScaler; False: they are not finite, so this worker contributes none. torch 1
        passes the scaler, torch 2 sets two attributes."""
        scale, found = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        if self.overlap and (grad_scaler, scale, found) != (None, None, None):
            raise UsageError("a GradScaler needs gradients before they are sent", hint="give psd.Optimizer overlap=False")
        if grad_scaler is not None:
            state = grad_scaler._per_optimizer_states[id(self)]
            if state["stage"].name == "READY":
                grad_scaler.unscale_(self)
            found = sum(float(on_device) for on_device in state["found_inf_per_device"].values())
        elif scale is not None:
            for slot in self._slots:
                if slot.has_news():
                    slot.parameter.grad.div_(scale)
        return found is None or float(found) == 0

    def _finish(self) -> None:
        """Wait for the weights, and write them to the model."""
        samples, before = self.batch_samples, self.worker.job_samples
        self.worker.wait()
        at = self.worker.position
        if at.world > 1 and not self.divides_rows and self._same_rows.is_due(at.version):
            gradients = [slot.gradient if slot.is_here else None for slot in self._slots]
            self._same_rows.look(at.version, gradients, self.worker.job_samples > before + samples)
        self._land()
        self.batch_samples = 1
        if self._stops or self.worker.is_asked_to_leave:
            self._stop()

    def _land(self) -> None:
        """Take the new weights."""
        for slot in self._slots:
            slot.land()
        run = self.worker.position.run
        if self._run and run != self._run:
            self._lr = None  # a checkpoint's rate may be in force: set it again
        self._run = run
        self._is_open = self._is_torn = False
        self._is_stale, self._n_sent = True, 0

    @_in_turn
    def skip(self) -> None:
        """Take part in the next step without a gradient, as a worker without rows does; in place of step()."""
        self._check_usable()
        if self._is_open:
            raise UsageError("skip() after backward has sent gradients", hint="call opt.step(), or opt.zero_grad() to give this step up")
        if not self._has_warned_of_skip and self.position.rank == 0 and any("initial_lr" in group for group in self.param_groups):
            self._has_warned_of_skip = True
            log.warning("rows.none clock=%d worker 0, whose scheduler sets the rate of the job, has no batch in this step, so a scheduler "
                        "that goes on with each batch falls behind the job; have a row for each worker in each step, by drop_last=True or "
                        "another batch_size, or use the job's schedule", self.position.clock)
        self._is_torn = True
        self._open()
        self.worker.begin(None)
        self._finish()

    @property
    def position(self) -> Position:
        """The position of the job: derive each batch from it (psd.Sampler, psd.batches)."""
        return self.worker.position

    @property
    def samples_per_round(self) -> float:
        """As Worker.samples_per_round."""
        return self.worker.samples_per_round

    def say_rows(self, rows: str) -> None:
        """As Worker.say_rows."""
        self.worker.say_rows(rows)

    # ---- evaluation ----

    @contextmanager
    def eval_weights(self, model: Any = None, batches: Iterable[Any] | None = None) -> Iterator[None]:
        """Inside the block, the model has the weights to evaluate: Lookahead's slow ones; under other rules, its own. BatchNorm's
        statistics belong to the training weights; with `model` and some `batches` of inputs (or of tuples that begin with inputs)
        they are recomputed for these weights. Give a plain loader, DataLoader(train, batch_size=64), or a list of batches: those of
        psd.Sampler are parts of steps. Afterwards everything is as before."""
        if self._evaluates:
            raise UsageError("eval_weights() within eval_weights()",
                             hint="leave the inner one out: the model has the weights to evaluate already")
        self._check_usable()
        if model is not None and not isinstance(model, torch.nn.Module):
            raise UsageError(f"eval_weights() got a {type(model).__name__} as the model", hint="give eval_weights(model, batches)")
        batches = () if batches is None else batches
        if not isinstance(batches, Iterable):
            raise UsageError(f"eval_weights() got a {type(batches).__name__} as batches",
                             hint="give a plain loader, DataLoader(train, batch_size=64), or a list of batches")
        if isinstance(getattr(batches, "batch_sampler", batches), (Sampler, Loader)):
            raise UsageError("eval_weights() got a loader that cuts the batches of steps, as psd.Sampler and psd.Loader do",
                             hint="give a plain loader: DataLoader(train, batch_size=64)")
        if self._is_open:
            raise UsageError("eval_weights() after backward has sent gradients",
                             hint="call opt.step() first, or opt.zero_grad() to give this step up")
        buffers = [(module._buffers, name, buffer, buffer.clone()) for module in (model.modules() if model is not None else ())
                   for name, buffer in module._buffers.items() if buffer is not None]
        kept: list[Array] = []
        if self.worker.position.has_slow:
            slow = _again(self.worker.pull_slow)
            kept = [slot.weights.copy() for slot in self._slots]
            self._put([slow[slot.name] for slot in self._slots])
        self._evaluates = True
        try:
            if model is not None:
                self._measure(model, batches)
            yield
        finally:
            self._evaluates = False
            if kept:
                self._put(kept)
            for home, name, buffer, before in buffers:
                home[name] = buffer.copy_(before)
        self._raise_mistake()

    def _measure(self, model: Any, batches: Iterable[Any]) -> None:
        """Compute the statistics of BatchNorm for the model's present weights."""
        n = 0

        def counted() -> Iterator[Any]:
            nonlocal n
            for batch in batches:
                n += 1
                yield batch

        torch.optim.swa_utils.update_bn(counted(), model)
        if not n and any(isinstance(module, torch.nn.modules.batchnorm._BatchNorm) for module in model.modules()):
            raise UsageError("eval_weights() got no batches, but the model has BatchNorm",
                             hint="give some, such as a plain DataLoader(train, batch_size=64), or leave out the model")

    def _put(self, values: list[Array]) -> None:
        for slot, value in zip(self._slots, values):
            np.copyto(slot.weights, value)
            slot.land()

    # ---- torch's own ----

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in torch, but not after the model was registered."""
        if getattr(self, "_is_ready", False):
            raise UsageError("a parameter group was added after the job had begun", hint="give all groups to psd.Optimizer at once")
        super().add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """Groups with their rates and, under "psd", the position of the job. The rule's state is on the servers: checkpoint.dir
        saves it."""
        return {**super().state_dict(), "psd": {"rule": self.worker.settings.optimizer, "clock": self.position.clock}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Groups, with their rates, as state_dict() has them. The state of a torch optimizer has to be there when the job begins: give it
        to psd.Optimizer as `state`."""
        if state_dict.get("state"):
            raise UsageError("load_state_dict() of an optimizer's state, after the job has begun",
                             hint="make the optimizer with it: psd.Optimizer(model.named_parameters(), ..., state=state_dict)")
        if any("names" not in group for group in state_dict.get("param_groups", [])):
            raise UsageError("load_state_dict() of the groups of another kind of optimizer",
                             hint="load what state_dict() of a psd.Optimizer gave; to start with a torch optimizer's state, use state=")
        super().load_state_dict(state_dict)

    # ---- the end ----

    def _watch_signal(self) -> None:
        """Make SIGTERM end the program after its step, as in psd-worker, unless the program has its own handler."""
        self._handles_signal = (threading.current_thread() is threading.main_thread()
                                and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
        if self._handles_signal:
            signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self._stops += 1
        self.worker.stop()
        if self._stops > 1 or not self._run:  # the second signal, or one before training began
            raise Stopped(_EX_STOPPED)

    def _stop(self) -> None:
        code = _EX_STOPPED if self._stops else 0
        log.info("stop clock=%d", self.position.clock)
        self.close()
        raise Stopped(code)

    def close(self, finished: bool = False) -> None:
        """Leave the job; `finished`: this worker's work is done."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        if self._handles_signal and signal.getsignal(signal.SIGTERM) == self._on_signal:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if finished:
            self.worker.leave()
        else:
            self.worker.close()
        _jobs_left.add(self._job)

    def __enter__(self) -> Optimizer:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self.close(finished=kind is None)


_optimizers: weakref.WeakSet[Optimizer] = weakref.WeakSet()
_jobs_left: set[tuple[str, ...]] = set()  # in which there was an optimizer of this program


def _let_go_of_gradients() -> None:
    """In a child of fork(), such as a DataLoader's: gradients are in memory that it shares with its parent, so the models that it has
    inherited begin without."""
    for optimizer in list(_optimizers):
        for slot in optimizer._slots:
            slot.parameter.grad = None


os.register_at_fork(after_in_child=_let_go_of_gradients)


def _name_of_job(job: Mapping[str, Any]) -> tuple[str, ...]:
    """What tells jobs apart: the arguments of psd.connect, or the environment's values."""
    return tuple(str(job.get(name) or os.environ.get(variable, "")) for name, variable in (
        ("join", "PSD_JOIN"), ("job", "PSD_JOB"), ("cluster_file", "PSD_CLUSTER__FILE"), ("job_file", "")))


def _on_accumulated(parameter: Any, call: Callable[[], None]) -> Any:
    """Call `call` whenever autograd has added to the parameter's gradient; returns a function that ends this."""
    if hasattr(parameter, "register_post_accumulate_grad_hook"):
        return parameter.register_post_accumulate_grad_hook(lambda _: call())
    with torch.enable_grad():
        node = parameter.expand_as(parameter).grad_fn.next_functions[0][0]
    hook = node.register_hook(lambda *_: call())
    hook.node = node  # which, with its hook, lives as long as there is a reference to it
    return hook


def _again(call: Callable[[], Any]) -> Any:
    """Call again after the servers have gone back, so that the request reaches the new run."""
    for _ in range(9):
        try:
            return call()
        except WentBackError:
            continue
    return call()


def _check_memory(trained: list[tuple[str, Any]]) -> None:
    """UsageError when two elements of these parameters are the same memory."""
    memory = []
    for name, p in trained:
        extent = 1 + sum((size - 1) * stride for size, stride in zip(p.shape, p.stride()))
        if extent < p.numel():
            raise UsageError(f"elements of parameter {name} share memory, as expand() makes them", hint="make it of a copy: p.clone()")
        if extent == p.numel() and p.device.type != "meta":  # otherwise there are gaps, in which others may be
            memory.append((f"parameter {name}", p.data_ptr(), extent * p.element_size()))
    check_apart(memory)


def _describe_frozen(groups: list[dict[str, Any]]) -> str | None:
    """A description of the parameters that are not trained, which must be the same for all workers."""
    frozen = [p.detach() for group in groups for p in group["params"] if not p.requires_grad]
    crc = 0
    for p in frozen:
        crc = zlib.crc32(p.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data, crc)
    return f"{len(frozen)} frozen tensors, crc32 {crc:08x}" if frozen else None
