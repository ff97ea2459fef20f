"""psd.Optimizer does to a torch model what the same rule of torch does, and says what is wrong with a script that cannot be right."""

from __future__ import annotations

import copy
import errno
import gc
import hashlib
import logging
import os
import pickle
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import unittest
from pathlib import Path
from typing import Any, Callable
from unittest import mock

import support

support.need("numpy", "torch")

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.utils.checkpoint  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402

import psd  # noqa: E402

torch.set_num_threads(1)
log = logging.getLogger("psd")

# psd's rule, torch's class, and what torch is told. torch 1's nadam of one tensor at a time multiplies mu in twice (mended in torch
# 2), that of all at once does not.
RULES: list[tuple[str, Any, dict[str, Any]]] = [
    ("sgd(lr=0.1)", torch.optim.SGD, {"lr": 0.1}),
    ("sgd(lr=0.1, momentum=0.9, dampening=0.1, weight_decay=0.01)", torch.optim.SGD,
     {"lr": 0.1, "momentum": 0.9, "dampening": 0.1, "weight_decay": 0.01}),
    ("momentum(lr=0.05)", torch.optim.SGD, {"lr": 0.05, "momentum": 0.9}),
    ("nesterov(lr=0.05)", torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    ("adagrad(lr=0.05)", torch.optim.Adagrad, {"lr": 0.05}),
    ("adadelta(lr=1)", torch.optim.Adadelta, {"lr": 1.0}),
    ("rmsprop(lr=0.003)", torch.optim.RMSprop, {"lr": 0.003}),
    ("adam(lr=0.003)", torch.optim.Adam, {"lr": 0.003}),
    ("adam(lr=0.003, amsgrad=1)", torch.optim.Adam, {"lr": 0.003, "amsgrad": True}),
    ("adamw(lr=0.003)", torch.optim.AdamW, {"lr": 0.003}),
    ("nadam(lr=0.003)", torch.optim.NAdam, {"lr": 0.003, "foreach": True}),
    ("radam(lr=0.003)", torch.optim.RAdam, {"lr": 0.003}),
    ("adamax(lr=0.003)", torch.optim.Adamax, {"lr": 0.003}),
]
STEPS = 100


def make_model() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))


X = torch.randn(64, 8, generator=torch.Generator().manual_seed(2))
Y = torch.randint(0, 4, (64,), generator=torch.Generator().manual_seed(3))


def train(model: nn.Module, opt: Any, steps: int, rows: slice = slice(None)) -> list[float]:
    losses = []
    for _ in range(steps):
        opt.zero_grad()
        loss = nn.functional.cross_entropy(model(X[rows]), Y[rows])
        loss.backward()
        opt.step()
        losses.append(loss.item())
    return losses


def weights_of(model: nn.Module) -> list[list[float]]:
    return [p.detach().flatten().tolist() for p in model.parameters()]


class Equal(unittest.TestCase):
    def test_losses_are_those_of_torch_for_each_rule_of_both(self) -> None:
        for rule, kind, told in RULES:
            with self.subTest(rule), support.Servers(f"--optimizer={rule}") as servers:
                model, other = make_model(), make_model()
                with psd.Optimizer(model.named_parameters(), rule, join=servers.join, insecure=True) as opt:
                    losses = train(model, opt, STEPS)
                np.testing.assert_allclose(losses, train(other, kind(other.parameters(), **told), STEPS), rtol=0, atol=1e-5)
                self.assertEqual(servers.wait(), [0])

    def test_two_models_of_one_optimizer_in_turn_are_two_optimizers_of_torch(self) -> None:
        def in_turn(models: Any, steps: list[Any], zero_grad: Callable[[], None]) -> None:
            for n in range(20):
                models[n % 2].requires_grad_(True)
                models[1 - n % 2].requires_grad_(False)
                zero_grad()
                nn.functional.cross_entropy(models[0](X) * (1 - n % 2 * 2) + models[1](X), Y).backward()
                steps[n % 2]()

        ours, torchs = (nn.ModuleList([make_model(), make_model()]) for _ in range(2))
        with support.Servers("--optimizer=adam(lr=0.003)") as servers:
            with psd.Optimizer(ours.named_parameters(), join=servers.join, insecure=True) as opt:
                in_turn(ours, [opt.step, opt.step], opt.zero_grad)
        optimizers = [torch.optim.Adam(model.parameters(), lr=0.003) for model in torchs]
        in_turn(torchs, [one.step for one in optimizers], lambda: [one.zero_grad() for one in optimizers] and None)
        for a, b in zip(weights_of(ours), weights_of(torchs)):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)

    def test_two_workers_and_servers_make_the_union_batchs_steps(self) -> None:
        with support.Servers("--optimizer=adam(lr=0.003)") as servers:
            one = make_model()
            with psd.Optimizer(one.named_parameters(), join=servers.join, insecure=True) as opt:
                train(one, opt, 20)
        with support.Servers("--optimizer=adam(lr=0.003)", "--workers-min=2", n=2) as servers:
            models = [make_model(), make_model()]

            def work(i: int) -> None:
                with psd.Optimizer(models[i].named_parameters(), join=servers.join, insecure=True, worker=i) as opt:
                    opt.loss = 1.0
                    for _ in range(20):
                        opt.zero_grad()
                        rank = opt.position.rank
                        opt.batch_samples = 32
                        rows = slice(32 * rank, 32 * rank + 32)
                        nn.functional.cross_entropy(models[i](X[rows]), Y[rows]).backward()
                        opt.step()

            threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            self.assertEqual(servers.wait(), [0, 0])
        self.assertEqual(weights_of(models[0]), weights_of(models[1]))
        for a, b in zip(weights_of(one), weights_of(models[0])):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


class Trace(unittest.TestCase):
    """Least squares on numbers of few bits, so that no sum of gradients rounds, in whatever order it is formed: the weights of each step
    have the same bits for psd-worker, a C client, and for torch, and for any number of workers and servers. Each step adds at most four
    bits to those of the weights, of which float32 has 24."""

    RULE = "--optimizer=lookahead(sgd(lr=0.25),k=2,alpha=0.5)"
    STEPS = 5
    ROWS = [(a, b, 2 * a - b + (a * b + 1) % 2) for a in (-1, 0, 1) for b in (-1, 0, 1) for _ in range(2)][:16]

    def model(self) -> dict[str, Any]:
        return {"fc1.weight": torch.tensor([[0.5, -0.25]]), "fc1.bias": torch.tensor([0.75])}

    def by_c(self, n_workers: int, n_servers: int) -> list[str]:
        with support.Servers(self.RULE, f"--workers-min={n_workers}", n=n_servers) as servers:
            top = servers.directory
            (top / "rows.csv").write_text("a,b,y\n" + "".join(f"{a},{b},{y}\n" for a, b, y in self.ROWS))
            psd.save(self.model(), top / "init.safetensors")
            flags = [f"--data-train=csv:{top}/rows.csv", f"--data-test=csv:{top}/rows.csv", "--model-kind=linear", "--data-batch=8",
                     f"--stop-steps={self.STEPS}", f"--init={top}/init.safetensors", f"--trace={top}/trace", "--insecure",
                     f"--join={servers.join}", "--progress=none", "--log-level=error"]
            workers = [subprocess.Popen([support.BIN / "psd-worker", *flags, f"--worker-id={i}", f"--run-dir={top}/{i}"],
                                        stdout=subprocess.DEVNULL) for i in range(n_workers)]
            self.assertEqual([worker.wait(timeout=support.PATIENCE) for worker in workers], [0] * n_workers)
            self.assertEqual(servers.wait(), [0] * n_servers)
            return sorted((top / "trace").read_text().splitlines())

    def by_torch(self, n_workers: int, n_servers: int) -> list[str]:
        x = torch.tensor([row[:2] for row in self.ROWS], dtype=torch.float32)
        y = torch.tensor([row[2:] for row in self.ROWS], dtype=torch.float32)
        lines = []

        def work(i: int, join: str) -> None:
            model = nn.ModuleDict({"fc1": nn.Linear(2, 1)})
            model.load_state_dict(self.model())
            with psd.Optimizer(model.named_parameters(), join=join, insecure=True, worker=i) as opt:
                for a, b in psd.batches((x, y), opt, batch_size=8, epochs=self.STEPS / 2):
                    opt.zero_grad()
                    nn.functional.mse_loss(model["fc1"](a), b).backward()
                    opt.step()
                    for name, p in model.named_parameters():
                        digest = hashlib.sha256(p.detach().numpy().tobytes()).hexdigest()
                        lines.append(f"{opt.position.clock - 1} {n_workers} {digest} {name}")

        with support.Servers(self.RULE, f"--workers-min={n_workers}", n=n_servers) as servers:
            threads = [threading.Thread(target=work, args=(i, servers.join)) for i in range(n_workers)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            self.assertEqual(servers.wait(), [0] * n_servers)
        return sorted(lines)

    def test_each_step_has_the_bits_of_the_c_clients_and_of_any_number_of_workers_and_servers(self) -> None:
        traces = [self.by_c(1, 1), self.by_torch(1, 1), self.by_c(2, 2), self.by_torch(2, 2)]
        self.assertEqual([len(trace) for trace in traces], [2 * self.STEPS, 2 * self.STEPS, 4 * self.STEPS, 4 * self.STEPS])
        self.assertEqual(traces[0], traces[1])
        self.assertEqual(traces[2], traces[3])
        steps = [{(line.split()[0], *line.split()[2:]) for line in trace} for trace in traces]
        self.assertEqual(steps[0], steps[2])
        self.assertEqual(len({line[1] for line in steps[0]}), 2 * self.STEPS, "each step changes both tensors")


class SameRows(unittest.TestCase):
    """Two workers, and a warning if nothing divides the rows between them."""

    def warnings(self, rows_of: Callable[[int, int, psd.Optimizer], slice | None], *flags: str, sampler: bool = False) -> list[str]:
        """What worker 0 logs until it is warned, or the servers have told it of five looks."""
        ends, told = threading.Event(), set()

        def work(i: int) -> None:
            model = make_model()
            with psd.Optimizer(model.named_parameters(), join=servers.join, insecure=True, worker=i) as opt:
                if sampler:
                    psd.Sampler(range(64), opt, 64)
                while not ends.is_set() or opt.position.clock <= last[0]:
                    rows = rows_of(opt.position.clock, i, opt)
                    if rows is None:
                        opt.skip()
                    else:
                        train(model, opt, 1, rows)
                    health = opt.worker.health(0)
                    told.add(health.step if health else 0)
                    if i == 0 and (len(told) > 5 or lines) and not ends.is_set():
                        last[0] = opt.position.clock
                        ends.set()

        last, lines = [0], []
        handler = logging.Handler(logging.WARNING)
        handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
        logging.getLogger("psd").addHandler(handler)
        self.addCleanup(logging.getLogger("psd").removeHandler, handler)
        with support.Servers("--optimizer=adam(lr=0.003)", "--workers-min=2", "--lease=1s", *flags) as servers:
            threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            self.assertEqual(servers.wait(), [0])
        logging.getLogger("psd").removeHandler(handler)
        return lines

    def test_equal_rows_are_warned_of_once_with_what_divides_them(self) -> None:
        shuffled = slice(0, 16)
        for flags in ((), ("--clip-norm=0.1",)):
            said = self.warnings(lambda clock, i, opt: shuffled, *flags)
            self.assertEqual(len(said), 1, said)
            self.assertRegex(said[0], r"^same_rows in steps \d+ and \d+ .*psd\.Sampler\(dataset, optimizer, batch_size\)")

    def test_other_rows_a_worker_without_rows_and_a_sampler_are_not(self) -> None:
        self.assertEqual(self.warnings(lambda clock, i, opt: slice(16 * i, 16 * i + 16)), [])
        self.assertEqual(self.warnings(lambda clock, i, opt: None if i else slice(0, 16)), [])
        self.assertEqual(self.warnings(lambda clock, i, opt: slice(0, 16), sampler=True), [])


class WarmStart(unittest.TestCase):
    """A job that begins with the weights and the state of a torch optimizer."""

    def test_torch_and_then_psd_is_torch_throughout_for_each_rule_of_both(self) -> None:
        for rule, kind, told in RULES:
            with self.subTest(rule), support.Servers(f"--optimizer={rule}", n=2) as servers:
                model, other = make_model(), make_model()
                torchs, throughout = kind(model.parameters(), **told), kind(other.parameters(), **told)
                train(model, torchs, STEPS)
                losses = train(other, throughout, 2 * STEPS)[STEPS:]
                with psd.Optimizer(model.named_parameters(), rule, join=servers.join, insecure=True, state=torchs) as opt:
                    np.testing.assert_allclose(train(model, opt, STEPS), losses, rtol=0, atol=1e-5)
                for a, b in zip(weights_of(model), weights_of(other)):
                    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
                self.assertEqual(servers.wait(), [0, 0])

    def test_a_server_that_dies_before_the_first_step_changes_nothing(self) -> None:
        ends = []
        for victim in (None, 0, 1):
            with support.Servers("--optimizer=adam(lr=0.003)", "--lease=2s", "--checkpoint-dir=DIR/saved", n=2) as servers:
                model = make_model()
                torchs = torch.optim.Adam(model.parameters(), lr=0.003)
                train(model, torchs, 10)
                with psd.Optimizer(model.named_parameters(), join=servers.join, insecure=True, state=torchs.state_dict()) as opt:
                    if victim is not None:
                        servers.kill(victim)
                        servers.restart(victim)
                        opt.skip()  # a round without samples makes no step, and waits for the servers
                    train(model, opt, 10)
                ends.append(weights_of(model))
        self.assertEqual(ends[0], ends[1])
        self.assertEqual(ends[0], ends[2])

    def test_state_that_is_not_the_jobs_is_refused_with_a_sentence(self) -> None:
        model = make_model()
        adam = torch.optim.Adam(model.parameters(), lr=0.003)
        train(model, adam, 3)
        sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        with support.Servers("--optimizer=sgd(lr=0.1, momentum=0.9)") as servers:
            def begin(**more: Any) -> psd.Optimizer:
                return psd.Optimizer(model.named_parameters(), join=servers.join, insecure=True, **more)

            with self.assertRaisesRegex(psd.UsageError, "the state of tensor 0.weight has exp_avg, which sgd does not keep"):
                begin(state=adam)
            with self.assertRaisesRegex(psd.UsageError, "there is no momentum_buffer of tensor 0.weight, which sgd keeps"):
                begin(state=sgd)
            with self.assertRaisesRegex(psd.UsageError, "a str is not|`state` is a str"):
                begin(state="adam.npz")
            turned = {f"state/{name}/momentum_buffer": np.zeros(tuple(p.shape)[::-1], np.float32)
                      for name, p in model.named_parameters()}
            with self.assertRaisesRegex(psd.UsageError, r"momentum_buffer of 0.weight has shape \[8, 16\], and the tensor has \[16, 8\]"):
                begin(state=turned)
            with self.assertRaisesRegex(psd.UsageError, "the rule is a type"):
                psd.Optimizer(model.named_parameters(), torch.optim.Adam, join=servers.join, insecure=True)  # type: ignore[arg-type]
            with self.assertRaisesRegex(psd.UsageError, "no argument lr"):
                begin(lr=0.1)
            with self.assertRaisesRegex(psd.UsageError, "no tensor has all the state that its optimizer keeps"):
                begin(state=adam, partial_state=True)
            wrong = {"state/0.weight/momentum_buffer": np.ones((3, 3))}
            with self.assertRaisesRegex(psd.UsageError, "momentum_buffer of tensor 0.weight has 9 elements; this job's has 128"):
                begin(state=wrong, partial_state=True)
            with self.assertRaisesRegex(psd.UsageError, r"`state` has 0.weight, which is a tensor of the model; give the state of"):
                begin(state=model.state_dict())
            with begin() as opt:
                with self.assertRaisesRegex(psd.UsageError, "make the optimizer with it"):
                    opt.load_state_dict(adam.state_dict())
                with self.assertRaisesRegex(psd.UsageError, "the groups of another kind of optimizer; load what"):
                    opt.load_state_dict(torch.optim.Adam(model.parameters()).state_dict())

    def test_a_second_moment_that_is_negative_is_refused_with_its_place(self) -> None:
        model = make_model()
        adam = torch.optim.Adam(model.parameters(), lr=0.003)
        train(model, adam, 3)
        adam.state[model[2].bias]["exp_avg_sq"][1] = -1.0
        with support.Servers("--optimizer=adam") as servers:
            for state in (adam, psd.import_state(adam, [name for name, _ in model.named_parameters()])):
                with self.assertRaisesRegex(psd.UsageError, "exp_avg_sq of tensor 2.bias is -1 at element 1, but adam never makes it "
                                                            "negative: .*; write the state again"):
                    psd.Optimizer(model.named_parameters(), join=servers.join, insecure=True, state=state)

    def test_what_is_missing_starts_again_where_that_is_allowed(self) -> None:
        model = make_model()
        torchs = torch.optim.SGD(list(model.parameters())[:2], lr=0.1, momentum=0.9)
        train(model, torchs, 3)
        other = make_model()
        other.load_state_dict(model.state_dict())
        both = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9)
        both.load_state_dict({"state": torchs.state_dict()["state"], "param_groups": both.state_dict()["param_groups"]})
        with support.Servers("--optimizer=sgd(lr=0.1, momentum=0.9)") as servers:
            state = psd.import_state(torchs, ["0.weight", "0.bias"])
            self.assertEqual(sorted(state), ["state/0.bias/momentum_buffer", "state/0.weight/momentum_buffer"])
            with psd.Optimizer(model.named_parameters(), join=servers.join, insecure=True, state=state, partial_state=True) as opt:
                np.testing.assert_allclose(train(model, opt, 5), train(other, both, 5), rtol=0, atol=1e-5)


class Torch(unittest.TestCase):
    """One worker, sgd(lr=0.5)."""

    def setUp(self) -> None:
        self.servers = support.Servers("--optimizer=sgd(lr=0.5)")
        self.addCleanup(self.servers.__exit__, None, None, None)

    def optimizer(self, parameters: Any, **more: Any) -> psd.Optimizer:
        opt = psd.Optimizer(parameters, join=self.servers.join, insecure=True, **more)
        self.addCleanup(opt.close)
        return opt

    def one(self, shape: tuple[int, ...] = (2, 2), **more: Any) -> tuple[nn.Parameter, psd.Optimizer]:
        w = nn.Parameter(torch.zeros(shape))
        return w, self.optimizer([("w", w)], **more)

    def test_weights_and_gradients_are_where_torch_has_them(self) -> None:
        w = nn.Parameter(torch.zeros(3, 4))
        address = w.data_ptr()
        opt = self.optimizer([("w", w)])
        for _ in range(3):
            opt.zero_grad()
            w.sum().backward()
            self.assertEqual(w.grad.data_ptr(), opt._flat.ctypes.data)
            opt.step()
            self.assertEqual((w.data_ptr(), opt.worker.weights["w"].ctypes.data), (address, address))
        self.assertEqual(w[2, 3].item(), -1.5)

    def test_all_gradients_but_the_last_leave_in_backward(self) -> None:
        model = make_model()
        opt = self.optimizer(model.named_parameters())
        opt.zero_grad()
        model(X).sum().backward()
        self.assertEqual(sum(slot.is_sent for slot in opt._slots), 3)
        opt.step()
        self.assertEqual(opt.position.clock, 2)

    def test_accumulation_is_one_step(self) -> None:
        w, opt = self.one()
        opt.zero_grad()
        with opt.no_sync():
            w.sum().backward()
            w.sum().backward()
        w.sum().backward()
        opt.step()
        self.assertEqual((w[0, 0].item(), opt.position.clock), (-1.5, 2))
        opt.zero_grad()
        with opt.no_sync():
            w.sum().backward()
        opt.step()
        self.assertEqual(w[0, 0].item(), -2.0)

    def test_a_closures_loss_comes_back_and_is_shown(self) -> None:
        w, opt = self.one()

        def closure() -> torch.Tensor:
            opt.zero_grad()
            loss = (w + 3).mean()
            opt.watch(loss).backward()
            return loss

        self.assertEqual(opt.step(closure).item(), 3.0)
        self.assertEqual((w[0, 0].item(), opt.worker.round_loss), (-0.125, 3.0))

    def test_unused_tied_and_frozen_parameters(self) -> None:
        class Tied(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a = nn.Linear(2, 2, bias=False)
                self.b = nn.Linear(2, 2, bias=False)
                self.b.weight = self.a.weight
                self.unused = nn.Parameter(torch.ones(3))
                self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)

        model = Tied()
        nn.init.zeros_(model.a.weight)
        opt = self.optimizer(model.named_parameters())
        self.assertEqual(opt.worker.names, ("unused", "a.weight"))
        opt.zero_grad()
        (model.a(torch.ones(1, 2)).sum() + 2 * model.b(torch.ones(1, 2)).sum() + model.frozen.sum()).backward()
        opt.step()
        self.assertEqual(model.a.weight.tolist(), [[-1.5, -1.5], [-1.5, -1.5]])
        self.assertEqual((model.unused.tolist(), model.frozen.tolist()), ([1, 1, 1], [1, 1]))

    def test_gradients_without_backward_are_sent_too(self) -> None:
        w, opt = self.one()
        opt.zero_grad()
        w.grad = torch.ones(2, 2)
        opt.step()
        opt.zero_grad()
        w.grad.fill_(2)
        opt.step()
        self.assertEqual(w[1, 1].item(), -1.5)

    def test_a_models_own_zero_grad_will_do_and_so_will_none(self) -> None:
        model = nn.Linear(2, 1, bias=False)
        nn.init.zeros_(model.weight)
        opt = self.optimizer(model.named_parameters())
        for clear in (opt.zero_grad, model.zero_grad, lambda: setattr(model.weight, "grad", None)):
            clear()
            model(torch.ones(1, 2)).sum().backward()
            opt.step()
        self.assertEqual(model.weight.tolist(), [[-1.5, -1.5]])
        self.assertEqual(model.weight.grad.data_ptr(), opt._flat.ctypes.data)

    def test_bf16_and_strided_parameters_have_masters_of_float32(self) -> None:
        half = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
        strided = nn.Parameter(torch.zeros(3, 2).t())
        opt = self.optimizer([("half", half), ("strided", strided)])
        for _ in range(4):
            opt.zero_grad()
            (half.float().sum() * 2**-9 + strided.sum()).backward()
            opt.step()
        self.assertEqual(opt.worker.weights["half"].tolist(), [1 - 2**-8] * 4)  # each of the four steps is lost in bf16
        self.assertEqual(half.tolist(), [0.99609375] * 4)
        self.assertEqual(strided.tolist(), [[-2.0] * 3] * 2)

    def test_workers_whose_parameters_have_other_float_types_train_one_model(self) -> None:
        masters: list[Any] = [None, None]
        with support.Servers("--optimizer=sgd(lr=0.5)", "--workers-min=2") as servers:
            def work(i: int, dtype: torch.dtype) -> None:
                w = nn.Parameter(torch.ones(4, dtype=dtype))
                with psd.Optimizer([("w", w)], join=servers.join, insecure=True, worker=i) as opt:
                    for _ in range(4):
                        opt.zero_grad()
                        (w.float().sum() * 2**-9).backward()
                        opt.step()
                    masters[i] = (opt.worker.weights["w"].tolist(), w.detach().double().tolist())

            threads = [threading.Thread(target=work, args=(i, dtype)) for i, dtype in enumerate((torch.bfloat16, torch.float64))]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            self.assertEqual(servers.wait(), [0])
        self.assertEqual(masters[0], ([1 - 2**-8] * 4, [0.99609375] * 4))
        self.assertEqual(masters[1], ([1 - 2**-8] * 4, [1 - 2**-8] * 4))

    def test_schedulers_set_the_servers_rate_once_per_change(self) -> None:
        w, opt = self.one()
        scheduler = torch.optim.lr_scheduler.StepLR(opt, step_size=2, gamma=0.5)
        calls: list[float] = []
        set_lr = opt.worker.set_lr
        opt.worker.set_lr = lambda lr: (calls.append(lr), set_lr(lr))[1]  # type: ignore[method-assign]
        for _ in range(6):
            opt.zero_grad()
            w.sum().backward()
            opt.step()
            scheduler.step()
        self.assertEqual(calls, [0.25, 0.125])
        self.assertEqual(w[0, 0].item(), -(0.5 + 0.5 + 0.25 + 0.25 + 0.125 + 0.125))
        state = opt.state_dict()
        self.assertEqual((state["psd"]["clock"], state["param_groups"][0]["lr"]), (7, 0.0625))
        opt.load_state_dict(state)
        self.assertEqual(opt.param_groups[0]["lr"], 0.0625)

    def test_groups_of_the_script_are_those_of_the_job(self) -> None:
        """Torch's own groups, under a scheduler, and the same groups with a job that trains tensors so."""
        def groups(model: nn.Module) -> list[dict[str, Any]]:
            named = dict(model.named_parameters())
            return [{"params": [(name, p) for name, p in named.items() if name.endswith("weight")], "weight_decay": 0.1},
                    {"params": [(name, p) for name, p in named.items() if name.endswith("bias")], "lr": 0.02}]

        torchs, ours = make_model(), make_model()
        plain = [{**group, "params": [p for _, p in group["params"]]} for group in groups(torchs)]
        reference = torch.optim.SGD(plain, lr=0.2, momentum=0.9)
        with psd.launch("momentum(lr=0.2)", groups="*.bias(lr_mult=0.1); *.weight(weight_decay=0.1)"):
            with psd.Optimizer(groups(ours)) as opt:
                self.assertEqual([group["lr"] for group in opt.param_groups], [0.2, 0.2 * 0.1])
                for one, other in ((torchs, reference), (ours, opt)):
                    scheduler = torch.optim.lr_scheduler.StepLR(other, step_size=2, gamma=0.5)
                    for _ in range(3):
                        train(one, other, 2)
                        scheduler.step()
                        scheduler.step()
                for a, b in zip(weights_of(torchs), weights_of(ours)):
                    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
                opt.param_groups[1]["lr"] = 1.0
                with self.assertRaisesRegex(psd.UsageError, "groups have the learning rates .*change all groups by the same factor"):
                    train(ours, opt, 1)

    def test_groups_that_the_job_does_not_have_are_refused_with_what_it_would_have_to_say(self) -> None:
        model = make_model()
        weight, bias = model[0].named_parameters()
        with psd.launch("adam(lr=0.1)", groups="weight(lr_mult=0.5, beta1=0.8)"):
            for group, sentence in (
                    ({"weight_decay": 0.1}, r'sets weight_decay 0.1, but the job trains it with 0; .*match: "bias", weight_decay: 0.1'),
                    ({"lr": 0.05}, r'sets lr 0.05, but the job trains it with 0.1; .*match: "bias", lr_mult: 0.5'),
                    ({"momentum": 0.9}, r"sets momentum, which adam\(lr=0.1, .* does not have"),
                    ({"betas": (0.8, 0.999)}, "sets beta1 0.8, but the job trains it with 0.9"),
                    ({"nesterov": "yes"}, "nesterov of a parameter group is 'yes'; give a number")):
                with self.subTest(sentence), self.assertRaisesRegex(psd.UsageError, sentence):
                    psd.Optimizer([{"params": [bias], **group}])
            with psd.Optimizer([{"params": [weight], "lr": 0.05, "betas": (0.8, 0.999)}, {"params": [bias], "lr": 0.1}]) as opt:
                self.assertEqual(opt.worker.group("weight"), psd.Group("weight", opt.worker.group("weight").optimizer, 0.5, True, False))
                self.assertEqual(opt.worker.group("other").match, "")

    def test_a_scaler_that_found_inf_has_this_worker_take_part_with_nothing(self) -> None:
        class Stage:
            name = "READY"

        class Scaler:
            """As torch 1's: hands itself to step()."""

            def __init__(self, opt: Any, inf: float) -> None:
                self.inf = inf
                self._per_optimizer_states = {id(opt): {"stage": Stage, "found_inf_per_device": {"cpu": torch.tensor(inf)}}}

            def unscale_(self, opt: Any) -> None:
                for p in opt.param_groups[0]["params"]:
                    p.grad.mul_(0.5)

        w, opt = self.one(overlap=False)
        for inf, expected in ((0.0, -0.5), (1.0, -0.5)):
            opt.zero_grad()
            (2 * w).sum().backward()
            opt.step(grad_scaler=Scaler(opt, inf))
            self.assertEqual(w[0, 0].item(), expected)
        opt.zero_grad()
        (2 * w).sum().backward()
        opt.grad_scale, opt.found_inf = torch.tensor(4.0), torch.tensor(0.0)  # as torch 2's does
        opt.step()
        self.assertEqual((w[0, 0].item(), opt.position.clock), (-0.75, 4))

    def test_clipping_by_hand_needs_no_overlap(self) -> None:
        w, opt = self.one(overlap=False)
        opt.zero_grad()
        (8 * w).sum().backward()
        nn.utils.clip_grad_norm_([w], 2.0)
        opt.step()
        self.assertAlmostEqual(w[0, 0].item(), -0.5, places=6)

    def test_clipping_by_value_after_a_gradient_has_left_is_refused_in_early_and_in_late_steps(self) -> None:
        v, w = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2, 2))
        opt = self.optimizer([("v", v), ("w", w)])
        for steps in (0, 5):
            for _ in range(steps):
                opt.zero_grad()
                (8 * w.sum() + 8 * v.sum()).backward()
                opt.step()
            opt.zero_grad()
            (8 * w.sum() + 8 * v.sum()).backward()
            nn.utils.clip_grad_value_([v, w], 2.0)
            with self.assertRaisesRegex(psd.UsageError, "the gradient of [vw] was changed after backward had sent it") as raised:
                opt.step()
            self.assertIn("clip.value", str(raised.exception))

    def test_the_gradient_that_leaves_in_the_step_is_the_one_that_the_script_has_left_there(self) -> None:
        def replace(p: Any) -> None:
            p.grad = p.grad * 0.5

        def delete(p: Any) -> None:
            p.grad = None

        def scale(p: Any) -> None:
            p.grad.mul_(0.5)

        v, w = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2, 2, dtype=torch.float64))
        opt = self.optimizer([("v", v), ("w", w)])
        n_made = 0
        for losses in (v, w), (w, v):  # autograd finishes one of them last
            for change, step in (replace, 2.0), (delete, 0.0), (scale, 2.0):
                for p in (v, w):
                    opt.zero_grad()
                    before = p.detach().clone()
                    sum((8 * q).sum() for q in losses).backward()
                    change(p)
                    try:
                        opt.step()
                    except psd.UsageError as e:
                        self.assertIn("was changed after backward had sent it", str(e))
                        with self.assertLogs(log, "WARNING"):
                            opt.zero_grad()
                        continue
                    n_made += 1
                    self.assertEqual((before - p.detach()).tolist(), [[step, step]] * 2, change.__name__)
        self.assertEqual(n_made, 6)

    def test_a_step_without_rows_is_warned_of_once_where_a_scheduler_would_miss_it(self) -> None:
        _, opt = self.one()
        with self.assertNoLogs(log, "WARNING"):
            opt.skip()
        torch.optim.lr_scheduler.StepLR(opt, 3)
        with self.assertLogs(log, "WARNING") as logs:
            opt.skip()
            opt.skip()
        self.assertEqual(len(logs.output), 1)
        self.assertRegex(logs.output[0], "rows.none clock=2 worker 0, .*drop_last=True .*the job's schedule")

    def test_another_model_in_a_job_that_this_program_has_trained_is_told_that_it_gets_the_job_s_weights(self) -> None:
        w, opt = self.one()
        w.sum().backward()
        opt.step()
        opt.close()
        for value, is_told in ((w.detach().clone(), False), (torch.ones(2, 2), True)):
            with self.assertLogs(log, "WARNING") as logs:
                log.warning("begins")
                self.optimizer([("w", nn.Parameter(value))]).close()
            self.assertEqual("weights.joined clock=2 an earlier psd.Optimizer of this program" in "".join(logs.output), is_told)

    def test_the_only_gradient_of_a_model_may_be_changed_before_its_step(self) -> None:
        w, opt = self.one()
        opt.zero_grad()
        (8 * w).sum().backward()
        w.grad = w.grad / w.grad.norm()
        opt.step()
        self.assertAlmostEqual(w[0, 0].item(), -0.25, places=6)
        opt.zero_grad()
        (8 * w).sum().backward()
        w.grad = None
        with self.assertRaisesRegex(psd.UsageError, "no parameter has a gradient"):
            opt.step()
        opt.zero_grad()
        (8 * w).sum().backward()
        opt.step()
        self.assertEqual((w[0, 0].item(), opt.position.clock), (-4.25, 3))

    def test_each_mistake_is_told_what_to_do(self) -> None:
        def second_backward(w: Any, opt: Any) -> None:
            opt.zero_grad()
            w.sum().backward()
            w.sum().backward()
            opt.step()

        def forgotten_zero_grad(w: Any, opt: Any) -> None:
            for _ in range(2):
                w.sum().backward()
                opt.step()

        def clipped(w: Any, opt: Any) -> None:
            v.grad, w.grad = None, None
            (w.sum() + v.sum()).backward()
            w.grad.mul_(0.5)
            v.grad.mul_(0.5)
            opt.step()

        def moved(w: Any, opt: Any) -> None:
            w.data = torch.ones(2, 2)
            w.sum().backward()
            opt.step()

        def twice(w: Any, opt: Any) -> None:
            (w * w).sum().backward()
            loss = (w * w).sum()
            opt.step()
            loss.backward()

        def evaluates_twice(w: Any, opt: Any) -> None:
            with opt.eval_weights(), opt.eval_weights():
                pass

        def has_a_rate_of_text(w: Any, opt: Any) -> None:
            opt.param_groups[0]["lr"] = "0.1"
            w.sum().backward()
            opt.step()

        def evaluates(w: Any, opt: Any) -> None:
            with opt.eval_weights():
                w.sum().backward()

        def steps_in_evaluation(w: Any, opt: Any) -> None:
            with opt.eval_weights():
                opt.step()

        def decays_later(w: Any, opt: Any) -> None:
            w.sum().backward()
            opt.param_groups[0]["weight_decay"] = 0.5
            opt.step()

        def loses_groups(w: Any, opt: Any) -> None:
            w.sum().backward()
            opt.param_groups.clear()
            opt.step()

        def skips_late(w: Any, opt: Any) -> None:
            (w.sum() + v.sum()).backward()
            opt.skip()

        def evaluates_late(w: Any, opt: Any) -> None:
            (w.sum() + v.sum()).backward()
            with opt.eval_weights():
                pass

        def after_the_end(w: Any, opt: Any) -> None:
            opt.close()
            w.sum().backward()
            opt.step()

        def has_no_rate(w: Any, opt: Any) -> None:
            opt.param_groups[0]["lr"] = float("nan")
            w.sum().backward()
            opt.step()

        v = nn.Parameter(torch.zeros(2, 2))
        mistakes: tuple[tuple[Callable[[Any, Any], None], str], ...] = (
            (lambda w, opt: opt.step(), "call loss.backward"),
            (second_backward, "no_sync"),
            (forgotten_zero_grad, "call opt.zero_grad"),
            (clipped, "clip.value, or give psd.Optimizer overlap=False"),
            (moved, "move or convert the model first"),
            (lambda w, opt: (setattr(w, "data", torch.zeros(3)), opt.zero_grad()), "w has moved .*; move or convert the model first"),
            (evaluates_twice, r"eval_weights\(\) within eval_weights\(\); leave the inner one out"),
            (has_a_rate_of_text, "lr of a parameter group is '0.1'; give a number"),
            (evaluates, r"backward within eval_weights\(\)"),
            (steps_in_evaluation, r"step within eval_weights\(\)"),
            (second_backward, r"opt.zero_grad\(\) gives this step up"),
            (clipped, r"opt.zero_grad\(\) gives this step up"),
            (decays_later, "parameter w sets weight_decay 0.5, but the job trains it with 0; .* weight_decay: 0.5"),
            (loses_groups, "groups were removed"),
            (has_no_rate, "the learning rate is nan; set a finite one"),
            (lambda w, opt: (opt.zero_grad(), setattr(opt, "batch_samples", 0), (w + v).sum().backward(), opt.step()),
             r"samples is 0; .* without rows, call skip\(\)"),
            (lambda w, opt: (opt.zero_grad(), setattr(opt, "batch_samples", "3"), (w + v).sum().backward(), opt.step()), "samples is '3'"),
            (lambda w, opt: opt.watch("abc"), "the loss is 'abc'; give a number"),
            (lambda w, opt: opt.watch(None), "the loss is None; give a number"),
            (lambda w, opt: opt.watch(w), "the loss has 4 elements; give one number: loss.mean"),
            (lambda w, opt: opt.worker.report("accuracy", "high"), "accuracy is 'high'; give a number"),
            (lambda w, opt: copy.copy(opt), "cannot be copied or pickled; save opt.state_dict"),
            (lambda w, opt: copy.deepcopy(opt), "cannot be copied or pickled"),
            (lambda w, opt: pickle.dumps(opt), "cannot be copied or pickled"),
            (lambda w, opt: pickle.dumps(opt.worker), "call psd.connect in each process"),
            (skips_late, r"call opt.step\(\), or opt.zero_grad\(\) to give this step up"),
            (evaluates_late, r"call opt.step\(\) first, or opt.zero_grad\(\) to give this step up"),
            (after_the_end, "make it in the process that trains"),
            (lambda w, opt: opt.add_param_group({"params": [v]}), "give all groups to psd.Optimizer at once"),
            (lambda w, opt: (w.sum().backward(), opt.step(grad_scaler=object())), "a GradScaler needs"),
            (lambda w, opt: psd.Sampler(range(4), opt, 0), "batch_size is 0"),
            (lambda w, opt: psd.Sampler(range(4), opt, True), "batch_size is True; give the number of rows"),
            (lambda w, opt: psd.Sampler(range(4), opt, 2, accumulate=True), "accumulate is True"),
            (lambda w, opt: psd.Sampler(range(4), opt, 2, seed=True), "seed is True"),
            (lambda w, opt: psd.Sampler(range(4), opt, 2, accumulate=3), "accumulate is 3"),
            (lambda w, opt: psd.Sampler(range(4), opt, 2, accumulate="2"), "accumulate is '2'; it is the number of batches"),
            (lambda w, opt: psd.Sampler(range(4), opt, 2, seed="a"), "seed is 'a'; give a whole number"),
            (lambda w, opt: psd.Sampler(range(0), opt, 2), "the data have no rows"),
            (lambda w, opt: psd.Sampler(range(4), opt, 5, drop_last=True), "4 rows are too few for a batch of 5; give a smaller"),
            (lambda w, opt: psd.Loader(X, opt, 2, sampler=[1]), "psd.Loader has no sampler; it chooses the rows"),
            (lambda w, opt: next(psd.batches(X, opt, 2, epochs=float("nan"))), "epochs is nan; give a finite number"),
            (lambda w, opt: next(psd.batches(X, opt, 2, epochs=-1)), "epochs is -1; give a finite number"),
            (lambda w, opt: psd.Sampler(range(4), opt, "2"), "batch_size is '2'; give the number of rows"),
            (lambda w, opt: psd.Sampler(range(4), None, 2), "a NoneType is given, .*; make psd.Optimizer first"),
            (lambda w, opt: psd.Sampler(iter("ab"), opt, 2), "the data are a str.*iterator, whose rows have no numbers; give arrays or"),
            (lambda w, opt: psd.Sampler(torch.utils.data.DistributedSampler(range(4), 2, 0), opt, 2), "a DistributedSampler, whose"),
            (lambda w, opt: psd.Sampler(mock.MagicMock(__len__=mock.Mock(side_effect=TypeError)), opt, 2), "a MagicMock, without a length"),
            (lambda w, opt: psd.Optimizer(nn.Linear(1, 1).parameters), "the parameters are a method; give model.named_parameters"),
            (lambda w, opt: next(psd.batches(X, opt, 2, epochs="3")), "epochs is '3'; give a number"),
            (lambda w, opt: next(psd.batches([1, 2], opt, 2, epochs=999)),
             "rows cannot be taken from list by a list of numbers; give arrays"),
            (lambda w, opt: next(psd.batches(mock.MagicMock(__len__=lambda _: 4, __getitem__=mock.Mock(side_effect=KeyError)), opt, 2)),
             r"from MagicMock by a list of numbers; .* table.to_numpy\(\)"),
            (lambda w, opt: list(psd.Sampler(range(4), opt, 2)), "call opt.step"),
            (lambda w, opt: list(DataLoader(X, sampler=psd.Sampler(X, opt, 2))), "as sampler=, .*; give it as batch_sampler=, without"),
            (lambda w, opt: list(DataLoader(X, sampler=psd.Sampler(X, opt, 2), batch_size=4, drop_last=True)), "as sampler="),
            (lambda w, opt: next(psd.batches((X, Y[:5]), opt, 2)), "64, 5 rows"),
            (lambda w, opt: (opt.skip(), opt.step()), r"for no batch, call opt.skip\(\) in place of step"),
        )
        for mistake, sentence in mistakes:
            w = nn.Parameter(torch.zeros(2, 2))
            v.grad = None
            with self.subTest(sentence), psd.connect(self.servers.join, insecure=True) as worker:
                opt = psd.Optimizer([("w", w), ("v", v)], worker=worker)
                with self.assertRaisesRegex(psd.UsageError, sentence):
                    mistake(w, opt)
                opt.close()
        w = nn.Parameter(torch.zeros(2, 2))
        opt = self.optimizer([("w", w), ("v", v)])
        with self.assertRaisesRegex(RuntimeError, "modified by an inplace operation"):
            twice(w, opt)

    def test_a_mistake_in_backward_ends_the_program(self) -> None:
        forgetful = support.script("""
import sys, torch, psd
model = torch.nn.Linear(2, 1)
opt = psd.Optimizer(model.named_parameters(), join=sys.argv[1], insecure=True)
opt.zero_grad()
while True:
    model(torch.ones(4, 2)).sum().backward()
    opt.step()
""", self.servers.join)
        self.assertRegex(forgetful.communicate(timeout=support.PATIENCE)[1], "call opt.zero_grad")
        self.assertEqual(forgetful.returncode, 1)

    def test_parameters_that_cannot_be_trained_are_refused_and_the_job_left(self) -> None:
        memory = torch.zeros(4)
        with torch.inference_mode():
            inferred = nn.Parameter(torch.zeros(2))
        for parameters, sentence in (
                ([], "no parameters"), ([("w", nn.Parameter(torch.zeros(2), requires_grad=False))], "needs a gradient"),
                ([("w", nn.Parameter(torch.zeros(2))), ("w", nn.Parameter(torch.zeros(2)))], "have the same name"),
                ([("w", nn.Parameter(torch.zeros(2, dtype=torch.cfloat)))], "train float parameters"),
                ([("w", nn.Parameter(torch.tensor([1.0, float("nan")])))], "must be finite"),
                ([("w", nn.Parameter(torch.zeros(2, device="meta")))], "on the device meta"),
                ([("w", inferred)], r"w was made in torch.inference_mode\(\)"),
                ([("w", nn.parameter.UninitializedParameter())], "w has no shape yet, .* lazy module .*; call the model once"),
                ([("w", nn.Parameter(memory[:3])), ("v", nn.Parameter(memory[2:]))],
                 "parameter w and parameter v share memory; .*b.weight = a.weight"),
                ([("v", nn.Parameter(memory.view(2, 2).t())), ("w", nn.Parameter(memory[:1]))], "parameter . and parameter . share memory"),
                ([("w", nn.Parameter(torch.zeros(1).expand(3)))], r"elements of parameter w share memory, .*p.clone\(\)"),
                ([(1, nn.Parameter(torch.zeros(2)))], "a tensor has the name 1; give a str of 1 to 127 bytes"),
                ([("x" * 128, nn.Parameter(torch.zeros(2)))], "has the name 'xxx.*[.]{3}; give a str"),
                (nn.Linear(1, 1), "are a Linear; give model.named_parameters"), (torch.zeros(2), "are a Tensor; give model"),
                (["w"], "parameter parameter.0 is a str"), ([{"lr": 0.5}], 'a parameter group has no params; give it some: {"params"'),
                ([{"params": [memory]}, memory], "is a dict, not a tensor; .* a list of groups only"),
                ([{"params": [nn.Parameter(memory)], "betas": 0.9}], "betas of a parameter group is 0.9; give two numbers")):
            with self.subTest(sentence), self.assertRaisesRegex(psd.UsageError, sentence):
                self.optimizer(parameters)
        with self.assertRaisesRegex(psd.RefusedError, "asks for adam"):
            self.one(rule="adam")
        opt = self.optimizer([("w", nn.Parameter(memory[:2])), ("v", nn.Parameter(memory[2:])), ("none", nn.Parameter(memory[:0])),
                              ("even", nn.Parameter(torch.zeros(4)[::2]))])
        self.assertEqual(opt.worker.names, ("w", "v", "even"), "an empty one has nothing to train")

    def test_other_frozen_weights_and_other_shapes_are_refused(self) -> None:
        def model(frozen: float, n: int = 2) -> list[tuple[str, nn.Parameter]]:
            return [("w", nn.Parameter(torch.zeros(n))), ("f", nn.Parameter(torch.full((2,), frozen), requires_grad=False))]

        self.optimizer(model(1))
        with self.assertRaisesRegex(psd.RefusedError, "frozen tensors"):
            self.optimizer(model(2), worker=1)
        with self.assertRaises(psd.RefusedError):
            self.optimizer(model(1, 3), worker=1)

    def test_a_second_optimizer_of_a_thread_and_a_second_process_of_an_id_are_refused(self) -> None:
        w, opt = self.one()
        with self.assertRaisesRegex(psd.UsageError, r"has a psd.Optimizer in this job already, .* end the first with opt.close\(\)"):
            self.one()
        with self.assertRaisesRegex(psd.DeadlineError, "worker 0 is .*; give each a worker= of its own"):
            self.one(worker=0, join_timeout=5.0)
        w.sum().backward()
        opt.step()
        self.assertEqual(opt.position.clock, 2)
        opt.close()
        del opt
        self.one()[1].skip()

    def test_an_exception_in_backward_is_the_models_own_and_the_job_goes_on(self) -> None:
        class Fails(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, x: Any) -> Any:
                return x.clone()

            @staticmethod
            def backward(ctx: Any, gradient: Any) -> Any:
                raise ValueError("no gradient of this")

        for overlap in (True, False):
            w, v = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
            opt = psd.Optimizer([("w", w), ("v", v)], join=self.servers.join, insecure=True, overlap=overlap)
            self.addCleanup(opt.close)
            opt.skip()
            before, clock = w.detach().clone(), opt.position.clock
            opt.zero_grad()
            with self.assertRaisesRegex(ValueError, "no gradient of this"):
                (Fails.apply(w).sum() + v.sum()).backward()
            for call in (opt.step, opt.step):
                with self.assertRaisesRegex(psd.UsageError, r"backward did not come to its end, .*; call opt.zero_grad\(\)"):
                    call()
            with self.subTest(overlap=overlap), self.assertLogs("psd", logging.WARNING) as logs:
                log.warning("begins")
                opt.zero_grad()
            self.assertEqual(len(logs.output), 1 + overlap, "a gradient had left")
            (w.sum() + v.sum()).backward()
            opt.step()
            self.assertEqual(((before - w).tolist(), opt.position.clock), ([0.5, 0.5], clock + 1 + overlap))
            opt.zero_grad()
            with opt.no_sync(), self.assertRaisesRegex(ValueError, "no gradient of this"):
                (Fails.apply(w).sum() + v.sum()).backward()
            with self.assertRaisesRegex(psd.UsageError, "backward did not come to its end"):
                opt.step()
            opt.close()

    def test_backward_in_backward_and_in_other_threads_comes_to_its_end(self) -> None:
        layers = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
        opt = self.optimizer(layers.named_parameters())
        x = torch.ones(1, 2, requires_grad=True)

        def recomputes() -> None:
            layers[1](torch.utils.checkpoint.checkpoint(layers[0], x)).sum().backward()

        def differentiates_twice() -> None:
            y = layers(x).sum()
            (y + torch.autograd.grad(y, x, create_graph=True)[0].pow(2).sum()).backward()

        def in_a_thread() -> None:
            thread = threading.Thread(target=lambda: layers(x).sum().backward())
            thread.start()
            thread.join()

        for backward in (recomputes, differentiates_twice, in_a_thread) * 2:
            opt.zero_grad()
            backward()
            opt.step()
        self.assertEqual(opt.position.clock, 7)

    def goes_on(self, w: Any, v: Any, opt: psd.Optimizer) -> None:
        """Zeroing gives up the step that was begun, with one warning, and the next one is whole."""
        with self.assertLogs("psd", logging.WARNING) as logs:
            opt.zero_grad()
        self.assertRegex(logs.output[0], r"step.given_up .* of 2 tensors")
        self.assertEqual(len(logs.output), 1)
        before = w.detach().clone(), v.detach().clone()
        (w.sum() + v.sum()).backward()
        opt.step()
        self.assertEqual(((before[0] - w).tolist(), (before[1] - v).tolist()), ([0.5, 0.5], [0.5, 0.5]))

    def test_a_step_that_was_not_ended_is_given_up_by_zero_grad_and_the_next_one_is_whole(self) -> None:
        w, v = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
        opt = self.optimizer([("w", w), ("v", v)])

        def interrupt(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        def after(call: Callable[..., Any]) -> Callable[..., Any]:
            return lambda *given, **more: (call(*given, **more), interrupt())

        def breaks(home: Any, name: str, by: Callable[..., Any]) -> None:
            opt.zero_grad()
            with mock.patch.object(home, name, by), self.assertRaises(KeyboardInterrupt):
                (w.sum() + v.sum()).backward()
                opt.step()

        slot = opt._slots[1]
        for home, name, by in ((opt.worker, "push_address", after(opt.worker.push_address)), (opt.worker, "wait", interrupt),
                               (opt.worker, "wait", after(opt.worker.wait)), (slot, "land", interrupt), (slot, "land", after(slot.land))):
            with self.subTest(name=name):
                breaks(home, name, by)
                with self.assertRaisesRegex(psd.UsageError, r"this step was interrupted; call opt.zero_grad\(\)"):
                    opt.step()
                self.goes_on(w, v, opt)
        opt.zero_grad()
        for _ in range(2):
            (w.sum() + v.sum()).backward()
        with self.assertRaisesRegex(psd.UsageError, "a second backward"):
            opt.zero_grad()
        self.goes_on(w, v, opt)
        opt.zero_grad()
        (w.sum() + v.sum()).backward()
        self.goes_on(w, v, opt)
        opt.skip()

    def test_weights_that_the_script_changes_are_warned_of_once(self) -> None:
        model = make_model()
        opt = self.optimizer(model.named_parameters())
        with self.assertLogs("psd", logging.WARNING) as logs:
            log.warning("begins")
            train(model, opt, 2)
            with opt.eval_weights():
                pass
            train(model, opt, 1)
            self.assertEqual(len(logs.output), 1)
            for _ in range(2):
                model.load_state_dict(make_model().state_dict())
                train(model, opt, 1)
        self.assertEqual(len(logs.output), 2)
        self.assertRegex(logs.output[1], "weights.changed tensor=0.weight .* change weights before psd.Optimizer is made .4 tensors.")

    def test_weights_that_are_changed_through_data_are_warned_of_too(self) -> None:
        changes: tuple[tuple[torch.Tensor, Callable[[torch.Tensor], Any]], ...] = (
            (torch.zeros(700, 900), lambda data: data.clamp_(-0.1, 0.1)), (torch.zeros(700, 900), lambda data: data[350:].zero_()),
            (torch.zeros(()), lambda data: data.mul_(0.5)),
            (torch.zeros(3, 4, dtype=torch.bfloat16).t(), lambda data: data.copy_(data * 2)),
            (torch.zeros(2, dtype=torch.float64), lambda data: data[1].add_(1)))
        for i, (_, change) in enumerate(changes):
            model = [nn.Parameter(w.clone()) for w, _ in changes]
            opt = psd.Optimizer([(str(n), p) for n, p in enumerate(model)], join=self.servers.join, insecure=True)
            with self.assertLogs("psd", logging.WARNING) as logs:
                for step in range(4):
                    opt.zero_grad()
                    torch.stack([p.sum().double() for p in model]).sum().backward()
                    if step > 1:
                        change(model[i].data)
                    opt.step()
                    if step == 1:
                        log.warning("begins")
            self.assertEqual(len(logs.output), 2, logs.output)
            self.assertRegex(logs.output[1], f"weights.changed tensor={i} ")
            opt.close()

    def test_two_threads_at_once_are_told_so(self) -> None:
        w, opt = self.one()
        said: list[str] = []

        def meanwhile(call: Callable[[], Any]) -> None:
            def works() -> None:
                try:
                    call()
                except psd.UsageError as why:
                    said.append(str(why))

            other = threading.Thread(target=works)
            other.start()
            other.join()

        wait = opt.worker.wait
        for call in (opt.zero_grad, opt.step, opt.skip, lambda: w.sum().backward()):
            opt.zero_grad()
            w.sum().backward()
            with mock.patch.object(opt.worker, "wait", lambda: (meanwhile(call), wait())):
                opt.step()
        with self.assertRaises(psd.UsageError) as why:
            opt.zero_grad()
        said.append(str(why.exception))
        opt.zero_grad()
        w.sum().backward()
        meanwhile(lambda: w.sum().backward())
        with self.assertRaises(psd.UsageError) as why:
            opt.step()
        said.append(str(why.exception))
        self.assertEqual(len(said), 5)
        for text in said:
            self.assertRegex(text, "two threads use this psd.Optimizer at once; give each thread a model")
        opt.zero_grad()
        meanwhile(lambda: (w.sum().backward(), opt.step()))
        self.assertEqual(len(said), 5, "one after another is fine")

    def test_sparse_gradients_are_sent_as_dense_ones(self) -> None:
        table = nn.Embedding(4, 2, sparse=True)
        nn.init.zeros_(table.weight)
        opt = self.optimizer(table.named_parameters())
        for clear in (opt.zero_grad, lambda: setattr(table.weight, "grad", None)):
            clear()
            table(torch.tensor([1, 1, 3])).sum().backward()
            opt.step()
        self.assertEqual(table.weight.tolist(), [[0, 0], [-2, -2], [0, 0], [-1, -1]])

    def test_a_child_of_fork_leaves_the_parents_gradients_alone(self) -> None:
        w, opt = self.one()
        opt.zero_grad()
        with opt.no_sync():
            w.sum().backward()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                (w * 7).sum().backward()
                assert w.grad is not None and float(w.grad[0, 0]) == 7
                w.grad.zero_()
                opt.zero_grad()
            except psd.UsageError as refusal:
                code = 0 if "made before a fork" in str(refusal) else 2
            finally:
                os._exit(code)
        self.assertEqual(os.waitpid(child, 0)[1], 0)
        self.assertEqual(w.grad.tolist() if w.grad is not None else None, [[1, 1], [1, 1]])

    def test_tied_parameters_of_joined_lists_count_once(self) -> None:
        a, b = nn.Linear(2, 2), nn.Linear(2, 2)
        b.weight = a.weight
        opt = self.optimizer([*a.named_parameters("a"), *b.named_parameters("b")])
        self.assertEqual(opt.worker.names, ("a.weight", "a.bias", "b.bias"))
        b(a(torch.ones(1, 2))).sum().backward()
        opt.step()
        self.assertEqual(opt.watch(0.5), 0.5)

    def test_a_dict_of_parameters_has_their_names(self) -> None:
        self.assertEqual(self.optimizer(dict(make_model().named_parameters())).worker.names, ("0.weight", "0.bias", "2.weight", "2.bias"))

    def test_a_sampler_for_each_epoch_is_warned_of_with_its_cause(self) -> None:
        w, opt = self.one()

        def epoch() -> int:
            n = 0
            for _ in psd.Sampler(range(4), opt, 2):
                opt.zero_grad()
                w.sum().backward()
                opt.step()
                n += 1
            return n

        self.assertEqual(epoch(), 2)
        with self.assertLogs("psd", logging.WARNING) as logs:
            self.assertEqual(epoch(), 0)
        self.assertRegex(logs.output[0], "epochs.done clock=3 this psd.Sampler, .* is new, .* make one for all epochs before the loop")

    def test_a_parameter_that_is_unfrozen_later_is_an_error(self) -> None:
        w, v = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2), requires_grad=False)
        opt = self.optimizer([("w", w), ("v", v)])
        v.requires_grad_(True)
        (w.sum() + v.sum()).backward()
        with self.assertRaisesRegex(psd.UsageError, "parameter v needs a gradient now, but was frozen"):
            opt.step()
        v.requires_grad_(False)
        opt.step()
        self.assertEqual(w.tolist(), [-0.5, -0.5])

    def test_gradients_that_are_nan_again_and_again_end_the_job_with_a_hint(self) -> None:
        with support.Servers("--optimizer=sgd(lr=0.5)", "--sync-max-skipped=3") as servers:
            w = nn.Parameter(torch.zeros(2))
            opt = psd.Optimizer([("w", w)], join=servers.join, insecure=True)
            with self.assertLogs("psd", logging.WARNING) as logs, self.assertRaisesRegex(
                    psd.JobFailedError, "first in tensor w; lower the learning rate, set clip.norm, or look at the data$"):
                for _ in range(10):
                    opt.zero_grad()
                    (w * float("nan")).sum().backward()
                    opt.step()
            self.assertRegex(logs.output[0], "gradient.nonfinite clock=1 tensor=w no step was made, .* is nan; look at the batch")
            opt.close()

    def test_memory_is_flat(self) -> None:
        model = make_model()
        opt = self.optimizer(model.named_parameters())
        train(model, opt, 200)
        gc.collect()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        train(model, opt, int(os.environ.get("MEMORY_STEPS", "1000")))
        self.assertLess(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, 1024)


class Evaluation(unittest.TestCase):
    def test_slow_weights_are_looked_at_and_the_fast_ones_come_back(self) -> None:
        with support.Servers("--optimizer=lookahead(sgd(lr=1),k=2,alpha=0.5)") as servers:
            model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1, affine=False))
            nn.init.zeros_(model[0].weight)
            with psd.Optimizer(model.named_parameters(), join=servers.join, insecure=True) as opt:
                for _ in range(3):
                    opt.zero_grad()
                    model[0](torch.ones(1, 1)).sum().backward()
                    opt.step()
                # fast -1, -2; then both -1; then fast -2
                with opt.eval_weights():
                    self.assertEqual(model[0].weight.item(), -1.0)
                with opt.eval_weights(model, [torch.tensor([[0.0], [2.0]])]):
                    self.assertEqual(model[1].running_mean.item(), -1.0)
                self.assertEqual((model[0].weight.item(), model[1].running_mean.item()), (-2.0, 0.0))
                data = torch.zeros(4, 1)
                for batches, sentence in (((), "got no batches, but the model has BatchNorm; give some"),
                                          (None, "got no batches, but the model has BatchNorm; give some"),
                                          (3, "a int as batches; give a plain loader"),
                                          (DataLoader(data, batch_sampler=psd.Sampler(data, opt, 2)),
                                           "give a plain loader: DataLoader"),
                                          (psd.Loader(data, opt, 2), "give a plain loader: DataLoader")):
                    with self.assertRaisesRegex(psd.UsageError, sentence), opt.eval_weights(model, batches):
                        pass
                    self.assertEqual((model[0].weight.item(), model[1].running_mean.item()), (-2.0, 0.0))
                with opt.eval_weights(model[0], None):
                    self.assertEqual(model[0].weight.item(), -1.0)
                with self.assertRaisesRegex(psd.UsageError, r"a Tensor as the model; give eval_weights\(model, batches\)"), \
                        opt.eval_weights(data):
                    pass


class Batches(unittest.TestCase):
    def test_rows_are_those_of_psd_worker_whatever_the_number_of_workers(self) -> None:
        from psd.data import Order

        order = Order(10, 4, seed=7)
        self.assertEqual(order.steps, 3)
        state, rows = 7 + 1000, list(range(10))  # the first epoch, by the header's words
        for i in range(9, 0, -1):
            state = (state + 0x9E3779B97F4A7C15) % 2**64
            z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
            z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
            j = (z ^ (z >> 31)) % (i + 1)
            rows[i], rows[j] = rows[j], rows[i]
        for clock in (1, 2, 3):
            whole = order.at(clock, 0, 1).rows.tolist()
            self.assertEqual(whole, rows[4 * clock - 4:4 * clock])
            self.assertEqual(sum((order.at(clock, rank, 3).rows.tolist() for rank in range(3)), []), whole)
        self.assertNotEqual(order.at(4, 0, 1).rows.tolist(), rows[:4])
        self.assertEqual(Order(10, 4, shuffle=False, drop_last=True).steps, 2)

    def test_a_script_that_goes_on_with_another_batch_size_is_warned_of(self) -> None:
        with support.Servers("--optimizer=sgd(lr=0.1)") as servers:
            for batch_size, is_other in ((16, False), (16, False), (8, True)):
                model = make_model()
                opt = psd.Optimizer(model.named_parameters(), join=servers.join, insecure=True)
                with self.assertLogs("psd", "WARNING") as logs:
                    log.warning("begins")
                    batches = psd.batches((X, Y), opt, batch_size=batch_size, epochs=9)
                for _ in range(3):
                    x, y = next(batches)
                    opt.zero_grad()
                    nn.functional.cross_entropy(model(x), y).backward()
                    opt.step()
                opt.close()
                self.assertEqual("the job's steps so far had a mean of 16 samples" in "".join(logs.output), is_other, batch_size)

    def test_a_loader_ends_its_epochs_with_the_job(self) -> None:
        data = torch.utils.data.TensorDataset(X[:10], Y[:10])
        with support.Servers("--optimizer=sgd(lr=0.1)") as servers:
            model = make_model()
            with psd.Optimizer(model.named_parameters(), join=servers.join, insecure=True) as opt:
                sampler = psd.Sampler(data, opt, batch_size=4)
                loader = DataLoader(data, batch_sampler=sampler)
                self.assertEqual(len(loader), 3)
                sizes = []
                for _ in range(2):
                    for x, y in loader:
                        opt.zero_grad()
                        nn.functional.cross_entropy(model(x), y).backward()
                        opt.step()
                        sizes.append(len(x))
                self.assertEqual((sizes, opt.worker.job_samples), ([4, 4, 2] * 2, 20))
                opt.divides_rows = False  # as in a program that begins now
                late = psd.Sampler(data, opt, batch_size=4)
                with self.assertLogs("psd", "WARNING") as logs:
                    self.assertEqual((list(late), list(late)), ([], []))
                self.assertRegex("".join(logs.output), r"^WARNING:psd:epochs.done clock=7 the job has trained 2 epochs already, [^:]*$")
                for x, y in psd.batches((X[:10], Y[:10]), opt, batch_size=4, epochs=3):
                    opt.zero_grad()
                    nn.functional.cross_entropy(model(x), y).backward()
                    opt.step()
                self.assertEqual(opt.position.clock, 10)
                for step, part in enumerate(psd.Sampler(data, opt, batch_size=10, accumulate=2)._until(11)):
                    opt.zero_grad() if not step % 2 else None
                    with opt.no_sync():
                        model(X[part]).sum().backward()
                    if step % 2:
                        opt.step()
                self.assertEqual((opt.position.clock, opt.worker.job_samples), (12, 50))

    def test_a_loader_that_fetches_ahead_is_refused_and_the_job_goes_on(self) -> None:
        data = torch.utils.data.TensorDataset(X[:10], Y[:10])
        with support.Servers("--optimizer=sgd(lr=0.1)") as servers:
            model = make_model()
            with psd.Optimizer(model.named_parameters(), join=servers.join, insecure=True) as opt:
                loader = DataLoader(data, num_workers=2, batch_sampler=psd.Sampler(data, opt, batch_size=4))
                with self.assertRaisesRegex(psd.UsageError, "use num_workers=0"):
                    for _ in loader:
                        pass
                train(model, opt, 1)
                self.assertEqual(opt.position.clock, 2)
            self.assertEqual(servers.wait(), [0])

    def test_psd_loader_fetches_ahead_the_rows_of_psd_batches(self) -> None:
        data, sizes, ends = torch.utils.data.TensorDataset(X[:10], Y[:10]), [], []
        for loads in (False, True):
            with support.Servers("--optimizer=sgd(lr=0.1)") as servers:
                model = make_model()
                with psd.Optimizer(model.named_parameters(), join=servers.join, insecure=True) as opt:
                    loader = psd.Loader(data, opt, batch_size=4, num_workers=2)
                    self.assertEqual(len(loader), 3)
                    rows = psd.batches((X[:10], Y[:10]), opt, batch_size=4, epochs=2)
                    for x, y in (batch for _ in range(2) for batch in loader) if loads else rows:
                        opt.zero_grad()
                        nn.functional.cross_entropy(model(x), y).backward()
                        opt.step()
                        sizes.append(len(x))
                    self.assertEqual((opt.position.clock, opt.worker.job_samples), (7, 20))
                    ends.append(weights_of(model))
                    if loads:
                        with self.assertRaisesRegex(psd.UsageError, "call opt.step"):
                            list(loader)
                self.assertEqual(servers.wait(), [0])
        self.assertEqual((sizes, ends[0]), ([4, 4, 2] * 4, ends[1]))

    def test_a_step_with_fewer_rows_than_workers_is_one_of_all(self) -> None:
        with support.Servers("--optimizer=sgd(lr=0.5)", "--workers-min=2") as servers:
            weights = [np.zeros(1, np.float32), np.zeros(1, np.float32)]
            seen: list[list[float]] = [[], []]

            def work(i: int) -> None:
                with psd.connect(servers.join, insecure=True, worker=i) as worker:
                    worker.register({"w": weights[i]})
                    for rows in psd.batches(np.array([1.0, 2, 3], np.float32), worker, 2, shuffle=False):
                        seen[i] += rows.tolist()
                        worker.exchange([rows[:1]])

            threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            self.assertEqual(servers.wait(), [0])
            self.assertEqual(sorted(seen[0] + seen[1]), [1, 2, 3])
            self.assertEqual([w.tolist() for w in weights], [[-0.5 * 1.5 - 0.5 * 3]] * 2)


SCRIPT = """
import sys, numpy, torch, psd, time
torch.set_num_threads(1)
torch.manual_seed(1)
model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(64, 4))
g = torch.Generator().manual_seed(2)
x, y = torch.randn(64, 1, 6, 6, generator=g), torch.randint(0, 4, (64,), generator=g)
opt = psd.Optimizer(model.named_parameters(), "adam(lr=0.003)", join=sys.argv[1], insecure=True, worker=int(sys.argv[2]))
rows = psd.batches((x, y), opt, batch_size=16, epochs=float(sys.argv[3]))
if sys.argv[5:]:
    loader = psd.Loader(torch.utils.data.TensorDataset(x, y), opt, batch_size=16, num_workers=1)
    rows = (batch for _ in range(int(sys.argv[3])) for batch in loader)
for a, b in rows:
    opt.zero_grad()
    torch.nn.functional.cross_entropy(model(a), b).backward()
    opt.step()
    print(opt.position.clock, flush=True)
    time.sleep(float(sys.argv[4]))
print("weights", [p.tolist() for p in model.parameters()])
"""


class Deaths(unittest.TestCase):
    flags = ("--optimizer=adam(lr=0.003)", "--workers-min=2", "--workers-lost=wait", "--lease=1s", "--checkpoint-dir=DIR/c",
             "--checkpoint-every-steps=5")

    def weights(self, kill: str | None, *loads: str) -> list[str]:
        with support.Servers(*self.flags, n=2) as servers:
            workers = [support.script(SCRIPT, servers.join, str(i), "10", "0" if kill is None else "0.02", *loads) for i in range(2)]
            if kill:
                assert workers[1].stdout is not None
                while workers[1].stdout.readline() not in ("13\n", ""):
                    pass
            if kill == "worker":
                workers[1].kill()
                workers[1].communicate()
                workers[1] = support.script(SCRIPT, servers.join, "1", "10", "0", *loads)
            if kill == "server":
                servers.kill(1)
                servers.restart(1)
            said = [worker.communicate(timeout=support.PATIENCE) for worker in workers]
            self.assertEqual([worker.returncode for worker in workers], [0, 0], said)
            self.assertEqual(servers.wait(), [0, 0])
            return [[line for line in out.splitlines() if line.startswith("weights")][0] for out, _ in said]

    def test_a_killed_worker_or_server_changes_no_bit(self) -> None:
        undisturbed = self.weights(None)
        self.assertEqual(undisturbed[0], undisturbed[1])
        self.assertEqual(self.weights("worker"), undisturbed)
        self.assertEqual(self.weights("server"), undisturbed)
        self.assertEqual(self.weights("worker", "by psd.Loader"), undisturbed)
        self.assertEqual(self.weights("server", "by psd.Loader"), undisturbed)

    def test_a_signal_ends_the_program_after_its_step(self) -> None:
        with support.Servers("--optimizer=adam(lr=0.003)") as servers:
            worker = support.script(SCRIPT, servers.join, "0", "1000", "0.01")
            assert worker.stdout is not None
            while worker.stdout.readline() not in ("5\n", ""):
                pass
            worker.send_signal(signal.SIGTERM)
            self.assertEqual(worker.communicate(timeout=support.PATIENCE)[1], "")
            self.assertEqual(worker.returncode, 75)

    def test_a_signal_ends_a_wait_for_a_step_that_does_not_come(self) -> None:
        text = """
import sys, torch, psd
w = torch.nn.Parameter(torch.zeros(2))
opt = psd.Optimizer([("w", w)], join=sys.argv[1], insecure=True)
for _ in range(2):
    opt.zero_grad()
    w.sum().backward()
    opt.step()
    print("stepped", flush=True)
"""
        with support.Servers("--workers-min=2") as servers:
            program = support.script(text, servers.join)
            with psd.connect(servers.join, insecure=True) as other:
                other.register({"w": np.zeros(2, np.float32)})
                other.exchange(None)
                assert program.stdout is not None
                self.assertEqual(program.stdout.readline(), "stepped\n")
                program.send_signal(signal.SIGTERM)
                out, said = program.communicate(timeout=support.PATIENCE)
                self.assertEqual((out, program.returncode), ("", 75))
                self.assertRegex(said, "stop a signal has asked this worker to end, and its step did not end within 2 s")
                other.close()

    def test_another_default_type_of_torch_changes_nothing(self) -> None:
        torch.set_default_dtype(torch.float64)
        self.addCleanup(torch.set_default_dtype, torch.float32)
        with support.Servers("--optimizer=sgd(lr=0.5)") as servers:
            w = nn.Parameter(torch.zeros(2))
            with psd.Optimizer([("w", w)], join=servers.join, insecure=True) as opt:
                w.sum().backward()
                opt.step()
            self.assertEqual((w.dtype, w.tolist()), (torch.float64, [-0.5, -0.5]))


class Files(unittest.TestCase):
    def test_what_is_saved_is_loaded_and_a_damaged_file_named(self) -> None:
        with support.Servers("--optimizer=lookahead(sgd(lr=0.5),k=2)", "--checkpoint-dir=DIR/c", "--checkpoint-every-steps=2",
                             "--checkpoint-keep=9", n=2) as servers:
            x, b = np.arange(600000, dtype=np.float32).reshape(600, 1000), np.zeros((), np.float32)
            with psd.connect(servers.join, insecure=True) as worker:
                worker.register({"x": x, "b": b})
                for _ in range(3):
                    worker.exchange([np.ones_like(x), None])
                slow = worker.pull_slow()["x"]
            servers.wait()
            top = servers.directory
            read = psd.read(top / "c")
            self.assertEqual((list(read), read["b"].shape), (["x", "b"], ()))
            np.testing.assert_array_equal(read["x"], slow)
            np.testing.assert_array_equal(psd.read(top / "c", slow=False)["x"], x)
            self.assertEqual(psd.read(top / "c", clock=0)["x"][599, 999], 599999)
            with self.assertRaisesRegex(psd.DataError, "no complete checkpoint; give the job's checkpoint.dir"):
                psd.read(top)
            with self.assertRaisesRegex(psd.DataError, "not a checkpoint manifest"):
                psd.read(top / "c", clock=1)
            newest = sorted((top / "c").glob("MANIFEST-*.json"))[-1]
            torn = next((top / "c" / newest.stem.partition("-")[2]).iterdir())
            torn.write_bytes(torn.read_bytes()[:-1])
            np.testing.assert_array_equal(psd.read(top / "c", slow=False)["x"], x + 0.5, "the newest whole one, of clock 2")
            many = {"t": torch.arange(4.0).reshape(2, 2), "i": np.arange(3), "s": np.float32(7).reshape(()), "z": np.zeros((0, 2), bool)}
            psd.save(many, top / "m.safetensors", {"by": "test"})
            back = psd.load(top / "m.safetensors")
            self.assertEqual({name: a.tolist() for name, a in back.items()}, {"t": [[0, 1], [2, 3]], "i": [0, 1, 2], "s": 7, "z": []})
            back["t"][0, 0] = 5
            with self.assertRaisesRegex(psd.UsageError, "complex64, which safetensors"):
                psd.save({"c": np.zeros(2, np.complex64)}, top / "n.safetensors")
            self.assertFalse((top / "n.safetensors").exists())
            for blob, sentence in ((b"", "has 0 bytes"), (b"\x08" + b"\0" * 7 + b"{notjson", "is not a safetensors file"),
                                   (b"\x02" + b"\0" * 7 + b"[]", "header is not an object"),
                                   ((top / "m.safetensors").read_bytes()[:-8], "damaged")):
                (top / "bad").write_bytes(blob)
                with self.subTest(sentence), self.assertRaisesRegex(psd.DataError, sentence):
                    psd.load(top / "bad")
            header = b'{"x":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}'
            (top / "bf").write_bytes(len(header).to_bytes(8, "little") + header + b"\x80\x3f")
            self.assertEqual(psd.load(top / "bf")["x"].tolist(), [1.0])

    def test_saving_follows_links_and_does_not_replace_a_fifo(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            top = Path(directory)
            (top / "link").symlink_to("new")
            for value in (1.0, 2.0):
                psd.save({"w": torch.tensor([value])}, top / "link")
                self.assertTrue((top / "link").is_symlink())
                self.assertEqual(psd.load(top / "new")["w"].tolist(), [value])
            os.mkfifo(top / "fifo")
            with subprocess.Popen(["cat", str(top / "fifo")], stdout=subprocess.PIPE) as reader:
                psd.save({"w": torch.tensor([2.0])}, top / "fifo")
                self.assertEqual(reader.communicate()[0], (top / "new").read_bytes())
            self.assertTrue((top / "fifo").is_fifo())
            with self.assertRaisesRegex(psd.UsageError, "it is a directory; name a file"):
                psd.save({}, top)
            with self.assertRaisesRegex(psd.SystemDeniedError, "^cannot write /dev/full: No space left on device; free space") as raised:
                psd.save({"w": torch.ones(1)}, "/dev/full")
            self.assertEqual((raised.exception.errno, raised.exception.filename), (errno.ENOSPC, "/dev/full"))
            with open(top / "out", "w") as out:
                subprocess.run([sys.executable, "-c", "import psd, numpy; print('rows', flush=True)\n"
                                "psd.save({'w': numpy.float32([2])}, '/dev/stdout')"], stdout=out, check=True)
            self.assertEqual((top / "out").read_bytes(), b"rows\n" + (top / "new").read_bytes())

    def test_threads_that_save_to_one_path_do_not_disturb_each_other(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            path, failures = Path(directory, "m"), []

            def save(value: float) -> None:
                try:
                    for _ in range(20):
                        psd.save({"w": np.full(100_000, value, np.float32)}, path)
                except Exception as why:
                    failures.append(why)

            threads = [threading.Thread(target=save, args=(value,)) for value in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            self.assertEqual((failures, len(set(psd.load(path)["w"].tolist())), list(path.parent.iterdir())), ([], 1, [path]))

    def test_what_cannot_be_written_is_named_with_the_cure_and_leaves_nothing_behind(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "m")
            psd.save({"w": torch.ones(1)}, path)
            for code, cure in ((errno.ENOSPC, "free space"), (errno.EROFS, "this user may write to"), (errno.EIO, "name another file")):
                with self.subTest(cure), mock.patch("os.fsync", side_effect=OSError(code, "why", "m.7.tmp")), \
                        self.assertRaisesRegex(OSError, f"^cannot write {path}: {os.strerror(code)}; .*{cure}") as raised:
                    psd.save({"w": torch.zeros(1)}, path)
                self.assertEqual(raised.exception.filename, str(path))
            self.assertEqual(([path], [1.0]), (list(path.parent.iterdir()), psd.load(path)["w"].tolist()))
            with self.assertRaisesRegex(psd.SystemDeniedError, "none/m: No such file or directory; make its directory first"):
                psd.save({}, Path(directory, "none/m"))

    def test_bfloat16_is_saved_as_it_is_and_what_has_no_place_is_refused(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "m"
            psd.save({"b": torch.tensor([[1.0, 2.5], [-3.0, 0.0]], dtype=torch.bfloat16).T, "w": torch.ones(1)}, path)
            self.assertEqual({name: array.tolist() for name, array in psd.load(path).items()}, {"b": [[1, -3], [2.5, 0]], "w": [1]})
            self.assertIn(b'"b":{"dtype":"BF16"', path.read_bytes())
            with self.assertRaisesRegex(psd.UsageError, "the metadata are not texts"):
                psd.save({}, path, {"epoch": 3})  # type: ignore[dict-item]
            for call, wrong in ((lambda wrong: psd.save({}, wrong), ""), (lambda wrong: psd.save({}, wrong), None), (psd.load, 3)):
                with self.subTest(wrong), self.assertRaisesRegex(psd.UsageError, f"the path is {wrong!r}; name a file"):
                    call(wrong)
            for tensors, sentence in (({"__metadata__": torch.ones(1)}, "give it another name"), (nn.Linear(1, 1), "give model.state_dict"),
                                      ({1: torch.ones(1)}, "not arrays by name")):
                with self.subTest(sentence), self.assertRaisesRegex(psd.UsageError, sentence):
                    psd.save(tensors, path)  # type: ignore[arg-type]


if __name__ == "__main__":
    support.main()
