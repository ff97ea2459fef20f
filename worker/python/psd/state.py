"""The state of an optimizer by name: {"state/fc1.weight/exp_avg": array, "state/fc1.weight/step": 100.0}, as psdctl export
writes it and option init.state reads it."""

from __future__ import annotations

from typing import Any, Iterable, Mapping, NamedTuple, Sequence

import numpy as np
import numpy.typing as npt

from .arrays import _as_numpy
from .errors import UsageError


class Field(NamedTuple):
    """One field of one tensor's state: an array, or a single number."""

    tensor: str
    field: str
    value: npt.NDArray[np.float32] | float


def _value(value: Any, name: str) -> npt.NDArray[np.float32] | float:
    if isinstance(value, (int, float)):
        return float(value)
    if hasattr(value, "is_floating_point"):  # torch's: numpy has no bfloat16, and cannot read from a GPU
        value = value.detach().cpu()
        value = value.float() if value.is_floating_point() and value.dim() else value.double()
    array = _as_numpy(value, name)
    if array.dtype.kind not in "fiub":
        raise UsageError(f"{name} has type {array.dtype}", hint="optimizer state consists of numbers")
    return np.ascontiguousarray(array, np.float32) if array.ndim else float(array)


def _names(groups: Iterable[Mapping[str, Any]], names: Sequence[str] | None) -> list[str]:
    """The names of the optimizer's parameters, in their order."""
    groups = list(groups)
    n = sum(len(group["params"]) for group in groups)
    if names is None:
        names = [name for group in groups for name in group.get("names", ())]
    names = list(names)
    if len(names) != n:
        raise UsageError(f"the optimizer has {n} parameters, but {len(names)} names are given",
                         hint="give the names in the optimizer's order: [name for name, _ in model.named_parameters()]")
    return names


def import_state(optimizer: Any, names: Sequence[str] | None = None) -> dict[str, npt.NDArray[np.float32] | float]:
    """The state of a torch optimizer, or of its state_dict(), by name, for psd.Optimizer(..., state=), Worker.register(...,
    state=), or psd.save and option init.state. Empty if there is none, as for sgd without momentum, or before the first step. `names`
    are those of its parameters, in its order; psd.Optimizer finds them itself."""
    state_dict = optimizer.state_dict() if hasattr(optimizer, "state_dict") else optimizer
    if not isinstance(state_dict, Mapping) or not {"state", "param_groups"} <= set(state_dict):
        raise UsageError(f"a {type(optimizer).__name__} is not the state of an optimizer",
                         hint="give a torch optimizer, its state_dict(), or what psd.load read from a state file")
    known = _names(state_dict["param_groups"], names)
    indices = [index for group in state_dict["param_groups"] for index in group["params"]]
    out: dict[str, npt.NDArray[np.float32] | float] = {}
    for index, name in zip(indices, known):
        for field, value in state_dict["state"].get(index, {}).items():
            if value is not None:  # torch's sgd has None before its first step
                out[f"state/{name}/{field}"] = _value(value, f"{field} of {name}")
    return out


def fields(state: Any, names: Sequence[str], all_names: Sequence[str] | None = None) -> list[Field]:
    """The fields in `state` (a torch optimizer, its state_dict, or a mapping as above) for tensors of these names. A number in
    place of a name is the tensor's index; `all_names` are those of all the optimizer's parameters."""
    if hasattr(state, "state_dict") or (isinstance(state, Mapping) and "param_groups" in state):
        state = import_state(state, all_names or names)
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise UsageError(f"`state` is a {type(state).__name__}",
                         hint="give a torch optimizer, its state_dict(), or what psd.load read from a state file")
    out = []
    for key, value in state.items():
        if key in names:
            raise UsageError(f"`state` has {key}, which is a tensor of the model",
                             hint="give the state of its optimizer: the optimizer itself, its state_dict(), or what psd.load read from "
                                  "a state file")
        rest = key[6:] if key.startswith(("state/", "state.")) else key
        tensor, cut, field = rest.rpartition("/" if "/" in rest else ".")
        if not cut or not tensor or not field:
            raise UsageError(f"{key!r} is not the name of a field of optimizer state", hint="names have the form state/<tensor>/<field>")
        if tensor not in names and tensor.isdecimal():
            if int(tensor) >= len(names):
                raise UsageError(f"{key!r} is for tensor number {tensor}, but there are {len(names)}, from 0", hint="give names instead")
            tensor = names[int(tensor)]
        out.append(Field(tensor, field, _value(value, key)))
    return out
