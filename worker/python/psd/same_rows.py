"""Notices that the workers of a job send equal gradients, because nothing divides the rows among them."""

from __future__ import annotations

import math
from typing import Any, Sequence

import torch

from .worker import Worker, log

_EVERY = 100  # the default of option health.every
_LOOKS = 2  # consecutive looks that must agree before the warning
_KEPT = 16  # steps whose norms are kept; the servers' figures arrive about once per second
_MOST = 128  # tensors whose figures the servers send


class SameRows:
    """Warns, once, when all workers send equal gradients.

    The servers send worker 0 the norm of each tensor's mean gradient in some steps (option health.every). With equal gradients, it is
    the norm of this worker's own gradient. With any others it is not: the norm of a mean is smaller than the mean of the norms, by
    another factor for each tensor. So two looks at all tensors leave no doubt, and the other steps cost nothing."""

    def __init__(self, worker: Worker) -> None:
        at, settings = worker.position, worker.settings
        self.worker = worker
        self.is_over = at.worker != 0 or not settings.in_rounds or settings.accumulate > 1
        self._clip_norm = settings.clip_norm
        self._own: dict[int, list[float | None]] = {}  # norm of each gradient of a step; None: the tensor had none
        self._told = 0  # the step that the newest figures are of
        self._equal: list[int] = []  # the newest consecutive looks that agree

    def is_due(self, step: int) -> bool:
        """Whether the servers look at this step, with the default of health.every; with another one, at some of the same."""
        return not self.is_over and ((step - 1) % _EVERY == 0 or (step < _EVERY and step & (step - 1) == 0))

    def look(self, step: int, gradients: Sequence[Any], others_took_part: bool) -> None:
        """Take the gradients that this worker has sent for `step`, None for a tensor without one, and compare those of an earlier step."""
        if others_took_part:
            self._own[step] = [None if g is None else float(torch.linalg.vector_norm(g, dtype=torch.float64)) for g in gradients]
            self._own = dict(list(self._own.items())[-_KEPT:])
        first = self.worker.health(0)
        if first is None or first.step == self._told or first.step not in self._own:
            return
        self._told = first.step
        self._equal = [*self._equal, first.step] if self._are_equal(first.step) else []
        if len(self._equal) == _LOOKS:
            self.is_over = True
            log.warning("same_rows in steps %s the gradients of all workers were equal: they train on the same rows; divide each batch "
                        "among them with psd.Sampler(dataset, optimizer, batch_size) or psd.batches", " and ".join(map(str, self._equal)))

    def _are_equal(self, step: int) -> bool:
        own = self._own[step]
        total = math.sqrt(sum(norm * norm for norm in own if norm is not None))
        factor = min(1.0, self._clip_norm / (total + 1e-6)) if self._clip_norm else 1.0
        n = 0
        for index, norm in enumerate(own[:_MOST]):
            if norm is None:
                continue
            health = self.worker.health(index)
            if health is None or health.step != step or not math.isclose(health.gradient_norm, norm * factor, rel_tol=1e-5):
                return False
            n += norm > 0
        return n >= min(2, len(own))
