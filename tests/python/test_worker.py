"""The package's low level: what an exchange does to arrays of any kind, and what a wrong call is told."""

from __future__ import annotations

import _thread
import array
import gc
import logging
import math
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import warnings
import weakref
from pathlib import Path
from typing import Any
from unittest import mock

import support

support.need("numpy")

import numpy as np  # noqa: E402

import psd  # noqa: E402
from psd import __main__ as command  # noqa: E402
from psd import capi  # noqa: E402
from psd.state import fields  # noqa: E402
from psd.worker import _LONG_STEP, _Log, _ms, leave_all  # noqa: E402


class Line(unittest.TestCase):
    """Against one server that trains by sgd(lr=0.5)."""

    def setUp(self) -> None:
        self.servers = support.Servers("--optimizer=sgd(lr=0.5)")
        self.addCleanup(self.servers.__exit__, None, None, None)
        self.worker = psd.connect(self.servers.join, insecure=True)
        self.addCleanup(self.worker.close)
        self.w, self.b = np.zeros((2, 3), np.float32), np.zeros((), np.float32)

    def register(self) -> None:
        self.worker.register({"w": self.w, "b": self.b})

    def test_an_exchange_writes_the_weights_in_place(self) -> None:
        self.register()
        self.assertEqual(self.worker.position[:4], (1, 0, 0, 1))
        at = self.worker.exchange({"w": np.ones((2, 3), np.float32), "b": np.float32(2).reshape(())}, samples=4, loss=0.25)
        self.assertEqual(self.w.tolist(), [[-0.5] * 3] * 2)
        self.assertEqual(self.b, -1.0)
        self.assertEqual(at.clock, 2)
        self.assertEqual((self.worker.round_loss, self.worker.job_samples, self.worker.step_lr), (0.25, 4, 0.5))
        self.assertEqual(self.worker.weights["w"].ctypes.data, self.w.ctypes.data)

    def test_register_comes_first(self) -> None:
        for call in (lambda: self.worker.exchange({"w": self.w}), lambda: self.worker.exchange(None), lambda: self.worker.push("w", self.w),
                     lambda: self.worker.push(0, self.w)):
            with self.assertRaisesRegex(psd.UsageError, "no tensors are registered; call register first"):
                call()

    def test_another_model_is_refused_with_both_sides_of_the_tensor_that_differs(self) -> None:
        self.register()
        with self.assertRaisesRegex(psd.RefusedError, r"worker 1 registers another model: its tensor 1 is b \[4\], the job's is b \[\]; "
                                    "give all workers the same tensors"), psd.connect(self.servers.join, insecure=True) as other:
            other.register({"w": self.w, "b": np.zeros(4, np.float32)})

    def test_tensor_by_tensor_gives_the_same(self) -> None:
        self.register()
        self.worker.push("b", None)
        self.worker.push(0, np.ones((2, 3), np.float32))
        self.worker.wait()
        self.assertEqual((self.w[1, 2], self.b), (-0.5, 0.0))

    def test_nothing_is_a_contribution(self) -> None:
        self.register()
        self.assertEqual(self.worker.exchange(None).clock, 2)
        self.assertEqual(self.w.any(), False)

    def test_a_step_that_nan_has_prevented_is_warned_of_by_tensor_and_clock_but_not_each_time(self) -> None:
        self.register()
        bad = np.zeros((2, 3), np.float32)
        bad[1, 0] = np.nan
        with self.assertLogs("psd", logging.WARNING) as logs:
            for _ in range(3):
                self.worker.exchange({"w": bad, "b": np.float32(1e30).reshape(())})
            self.worker.exchange({})
            self.worker._quiet_until = 0.0
            self.worker.push("w", np.full((2, 3), -np.inf, np.float32))
            self.worker.push("b", None)
            self.worker.wait()
        self.assertEqual(len(logs.output), 2, logs.output)
        self.assertRegex(logs.output[0], "gradient.nonfinite clock=1 tensor=w no step was made, because element 3 of the gradient is nan; "
                         "look at .* clip.norm$")
        self.assertRegex(logs.output[1], r"clock=5 tensor=w .* element 0 of the gradient is -inf; .* \(3 steps since the last such line\)$")

    def test_where_each_push_is_a_step_nan_is_warned_of_too(self) -> None:
        with support.Servers("--optimizer=sgd(lr=0.5)", "--sync-mode=asp") as servers, psd.connect(servers.join, insecure=True) as worker:
            worker.register({"w": self.w})
            with self.assertLogs("psd", logging.WARNING) as logs:
                worker.exchange([np.ones((2, 3), np.float32)])
                worker.exchange([np.full((2, 3), np.nan, np.float32)])
            self.assertRegex(logs.output[0], "gradient.nonfinite clock=2 tensor=w no step")

    def test_arrays_of_the_library_outlive_the_worker(self) -> None:
        self.register()
        gradient = self.worker.alloc((2, 3))
        self.assertEqual(gradient.ctypes.data % 64, 0)
        gradient[:] = 1
        self.worker.exchange([gradient, None])
        self.assertEqual(self.w[0, 0], -0.5)
        self.worker.leave()
        gradient += 1
        self.assertEqual(gradient.sum(), 12)

    def test_weights_that_are_only_read_come_in_the_servers_memory_and_cannot_be_written(self) -> None:
        n = 1 << 16
        values = np.arange(n, dtype=np.float64).reshape(n // 16, 16)
        w, b = self.worker.alloc_weights(values), self.worker.alloc_weights(np.array(7))
        self.assertEqual((w.dtype, w.shape, b.shape, w.sum(), b), (np.float32, values.shape, (), values.sum(), 7))
        self.worker.register({"w": w, "b": b})
        for _ in range(3):
            self.worker.exchange([np.ones_like(w), np.float32(1).reshape(())])
        np.testing.assert_array_equal(w, values - 1.5)
        mapped = [line.rpartition(" /")[2] for line in Path("/proc/self/maps").read_text().splitlines()
                  if int(line.partition("-")[0], 16) <= w.ctypes.data < int(line.partition("-")[2].split()[0], 16)]
        self.assertEqual(mapped, ["memfd:psd (deleted)"])
        with self.assertRaisesRegex(ValueError, "read-only"):
            w[0, 0] = 1
        with self.assertRaisesRegex(ValueError, "cannot set WRITEABLE"):
            w.flags.writeable = True
        with self.assertRaisesRegex(psd.UsageError, "w cannot be written in place"):
            self.worker.pull_slow({"w": w, "b": b})
        np.testing.assert_array_equal(self.worker.pull_slow()["w"], values - 1.5)
        self.worker.leave()
        np.testing.assert_array_equal(w, values - 1.5)
        with self.assertRaisesRegex(psd.UsageError, "has left"):
            self.worker.alloc_weights(values)

    def test_what_cannot_be_weights_is_refused(self) -> None:
        frozen = np.zeros(2, np.float32)
        frozen.flags.writeable = False
        for call, sentence in ((lambda: self.worker.alloc_weights(np.zeros(0)), "0 of float64; give at least one number"),
                               (lambda: self.worker.alloc_weights(np.zeros(2, complex)), "of complex128"),
                               (lambda: self.worker.alloc_weights(7), "is a int, not an array"),
                               (lambda: self.worker.register({"w": frozen}), "w cannot be written in place; .* worker's alloc_weights")):
            with self.subTest(sentence), self.assertRaisesRegex(psd.UsageError, sentence):
                call()

    def test_a_leave_past_its_deadline_has_not_left_and_may_be_repeated(self) -> None:
        self.register()
        self.servers.processes[0].send_signal(signal.SIGSTOP)
        try:
            with self.assertRaises(psd.DeadlineError):
                self.worker.leave(timeout=0.05)
            self.assertFalse(self.worker.has_left)
        finally:
            self.servers.processes[0].send_signal(signal.SIGCONT)
        self.worker.leave(timeout=support.PATIENCE)
        self.assertTrue(self.worker.has_left)
        self.assertEqual(self.servers.wait(), [0], "it knows that the work is done")

    def test_a_stop_ends_a_wait_but_not_the_leave_that_it_asks_for(self) -> None:
        self.register()
        self.servers.processes[0].send_signal(signal.SIGSTOP)
        self.worker.stop()
        with mock.patch("psd.worker._STOP_GRACE", 0), self.assertLogs("psd", logging.WARNING), self.assertRaises(psd.Stopped) as raised:
            self.worker.exchange(None)
        self.assertEqual(raised.exception.code, 75)
        with self.assertRaisesRegex(psd.DeadlineError, "leave: nothing after 500 ms"):
            self.worker.leave(finished=False, timeout=0.5)
        self.servers.processes[0].send_signal(signal.SIGCONT)
        self.worker.leave(finished=False)

    def test_at_the_end_of_the_program_a_worker_without_tensors_leaves_unfinished(self) -> None:
        self.assertFalse(leave_all(True, []), "it has not trained")
        self.assertTrue(self.worker.has_left)
        with psd.connect(self.servers.join, insecure=True, worker=0, join_timeout=30.0) as other:
            other.register({"w": self.w})
            self.assertTrue(leave_all(True, []))
            self.assertTrue(other.has_left)
        self.assertEqual(self.servers.wait(), [0])

    def test_an_id_is_asked_for_0_too(self) -> None:
        with self.assertRaisesRegex(psd.PsdError, "worker 0 is .*; you are .*give each a worker= of its own"):
            psd.connect(self.servers.join, insecure=True, worker=0, join_timeout=0.5)
        with psd.connect(self.servers.join, insecure=True, worker=5) as other:
            self.assertEqual(other.position.worker, 5)
        self.assertEqual(self.worker.position.worker, 0)

    def test_arrays_without_numpy_are_arrays(self) -> None:
        class Interface:
            def __init__(self) -> None:
                self.held = np.full((2, 3), 2, np.float32)

            @property
            def __array_interface__(self) -> object:
                return self.held.__array_interface__

        class Packed:
            held = np.full((2, 3), 4, np.float32)

            def __dlpack__(self) -> object:
                return self.held.__dlpack__()

            def __dlpack_device__(self) -> tuple[int, int]:
                return (1, 0)

        flat = array.array("f", [0] * 6)
        self.worker.register({"w": self.w, "flat": flat})
        self.worker.exchange([Interface(), array.array("f", [1] * 6)])
        self.assertEqual((self.w[0, 0], flat[5]), (-1.0, -0.5))
        self.worker.exchange([Packed(), None])
        self.assertEqual(self.w[0, 0], -3.0)

    def test_what_is_not_contiguous_float32_is_copied_with_a_warning(self) -> None:
        self.register()
        with self.assertWarnsRegex(psd.PsdPerformanceWarning, "gradient of w is of float64"):
            self.worker.exchange([np.ones((2, 3)), None])
        with self.assertWarnsRegex(psd.PsdPerformanceWarning, "gradient of w is not contiguous"):
            self.worker.exchange([np.ones((3, 2), np.float32).T, None])
        self.assertEqual(self.w[1, 1], -1.0)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            self.worker.exchange([np.ones((2, 3), np.float32), None])

    def test_slow_weights_are_pulled_into_new_or_given_arrays(self) -> None:
        self.register()
        self.worker.exchange([np.ones((2, 3), np.float32), None])
        self.assertEqual(self.worker.pull_slow()["w"].tolist(), self.w.tolist())
        out = {"w": np.empty((2, 3), np.float32), "b": np.empty((), np.float32)}
        self.worker.pull_slow(out, timeout=10)
        self.assertEqual(out["w"][0, 1], -0.5)

    def test_the_learning_rate_that_is_set_is_the_next_steps(self) -> None:
        self.register()
        self.worker.set_lr(1.0)
        self.worker.exchange([np.ones((2, 3), np.float32), None])
        self.assertEqual(self.w[0, 0], -1.0)

    def test_a_skipped_round_a_pause_and_a_late_worker_do_not_shift_the_schedule(self) -> None:
        def rates(gradient: float, *workers: psd.Worker) -> list[float]:
            """A round with three rows from each: the rates that they are told."""
            for worker in workers:
                worker.push("w", np.full(2, gradient, np.float32), samples=3)
            for worker in workers:
                worker.wait()
            return [worker.step_lr for worker in workers]

        def steer(*words: str) -> None:
            subprocess.run([support.BIN / "psdctl", *words, f"--join={servers.join}"], check=True, stdout=subprocess.DEVNULL)

        flags = ["--optimizer=sgd(lr=1)", "--schedule=linear(steps=4096)", "--schedule-unit=sample"]
        with support.Servers(*flags, n=2) as servers, psd.connect(servers.join, insecure=True) as first:
            first.register({"w": np.zeros(2, np.float32)})
            self.assertEqual(first.step_lr, 1, "of the next step")
            self.assertEqual(rates(1, first), [1])
            self.assertEqual(rates(math.nan, first), [1], "there was no step")
            self.assertEqual(rates(1, first), [1 - 3 / 4096])
            steer("pause")
            steer("resume")
            self.assertEqual(rates(1, first), [1 - 6 / 4096])
            with psd.connect(servers.join, insecure=True) as late:
                registers = threading.Thread(target=late.register, args=({"w": np.zeros(2, np.float32)},))
                registers.start()
                while first.position.world == 1:
                    before = first.job_samples
                    self.assertEqual(rates(1, first), [1 - before / 4096])
                registers.join()
                self.assertEqual(late.step_lr, first.step_lr)
                before = first.job_samples
                self.assertEqual(rates(1, first, late), [1 - before / 4096] * 2)
                steer("set", "optimizer.lr=0.5")
                self.assertEqual(rates(1, first, late), [(1 - (before + 6) / 4096) / 2] * 2)

    def test_settings_and_the_rule_are_the_jobs(self) -> None:
        self.assertEqual((self.worker.settings.mode, self.worker.settings.lr, self.worker.settings.has_slow), ("bsp", 0.5, False))
        self.worker.check_rule("sgd(lr=0.5)")
        with self.assertRaisesRegex(psd.RefusedError, "asks for adam.*trains with sgd.*; make them equal$"):
            self.worker.check_rule("adam")
        with self.assertRaisesRegex(psd.UsageError, "nearest is 'adam'"):
            self.worker.check_rule("adamm")

    def test_worker_0_is_told_how_each_tensor_was_trained(self) -> None:
        self.register()
        self.assertIsNone(self.worker.health(0), "no step was looked at yet")
        self.worker.exchange([np.ones((2, 3), np.float32), None])  # the first step is always looked at
        until = time.monotonic() + 60
        while (health := self.worker.health(0)) is None and time.monotonic() < until:
            time.sleep(0.01)
        assert health is not None
        self.assertEqual((health.step, health.zero_share, health.cut_share), (1, 0, 0))
        self.assertAlmostEqual(health.gradient_norm, 6 ** 0.5)
        other = self.worker.health(1)
        assert other is not None
        self.assertTrue(np.isnan(other.gradient_norm), "no worker had a gradient of it")
        with self.assertRaisesRegex(psd.UsageError, "there is no tensor 2"):
            self.worker.health(2)

    def test_each_wrong_call_is_told_what_to_do_and_changes_nothing(self) -> None:
        worker, w = self.worker, self.w
        ones, flat = np.ones((2, 3), np.float32), np.zeros(4, np.float32)
        before = (
            (lambda: worker.register({}), "no tensors were given"),
            (lambda: worker.register({"w": np.zeros(3)}), "holds float64; register float32"),
            (lambda: worker.register({"w": np.zeros(3, np.int32)}), "holds int32; register float32"),
            (lambda: worker.register({"w": np.zeros((3, 2), np.float32).T}), "not contiguous"),
            (lambda: worker.register({"w": np.broadcast_to(w[0], (3,))}), "cannot be written in place"),
            (lambda: worker.register({"w": "weights"}), "is a str, not an array"),
            (lambda: worker.register({"w": np.full(2, np.nan, np.float32)}), "must be finite"),
            (lambda: worker.register({"w": np.zeros((0, 3), np.float32)}), "w has no elements; leave it out"),
            (lambda: worker.register([w]), "the tensors are a list; give arrays by name"),
            (lambda: worker.register({"w": flat[:3], "v": flat[2:]}), "w and v share memory; train the array of which they are views"),
            (lambda: worker.register({"all": flat, "v": flat[1:2], "w": flat[3:]}), "all and . share memory"),
            (lambda: worker.alloc(-1), r"the shape is \(-1,\); give whole numbers"),
            (lambda: worker.alloc((2, 1.5)), "give whole numbers"),
            (lambda: worker.exchange([ones]), "no tensors are registered; call register first"),
            (lambda: worker.leave(finished=True), "no tensors are registered"),
        )
        after = (
            (lambda: worker.register({"w": w}), "registered already"),
            (lambda: worker.exchange([ones]), "1 gradients for 2 tensors"),
            (lambda: worker.exchange(1.0), 'the gradients are a float; give arrays by name, .* or a list'),
            (lambda: worker.exchange({"v": ones}), "no tensor 'v' is registered; there are w, b"),
            (lambda: worker.exchange([ones[0], None]), r"shape \(3,\), but the tensor has \(2, 3\)"),
            (lambda: worker.exchange([ones.astype(np.int64), None]), "holds int64; convert it"),
            (lambda: worker.exchange([ones, None], samples=0), "samples is 0"),
            (lambda: worker.push("v", ones), "no tensor 'v'"),
            (lambda: worker.push(7, ones), "there is no tensor 7"),
            (lambda: worker.push("w", ones, samples=-1), "samples is -1"),
            (lambda: worker.wait(), "no exchange is open"),
            (lambda: worker.pull_slow({"w": w[0], "b": self.b}), r"out\['w'\] has the shape"),
            (lambda: worker.set_lr(float("nan")), "between 0 and 1e9"),
            (lambda: worker.report("", 1.0), "1 to 63 bytes"),
            (lambda: worker.report(b"loss", 1.0), "the name of a report is b'loss'; give a str"),
            (lambda: worker.check_rule(None), "the rule is None; give a str"),
        )
        for call, sentence in before:
            with self.subTest(sentence), self.assertRaisesRegex(psd.UsageError, sentence):
                call()
        self.register()
        for call, sentence in after:
            with self.subTest(sentence), self.assertRaisesRegex(psd.UsageError, sentence):
                call()
        worker.push("w", ones)
        opened = (
            (lambda: worker.push("w", ones), "w was pushed already"),
            (lambda: worker.push("b", None, samples=2), "this exchange is over 1"),
            (lambda: worker.begin([ones, None]), "open already"),
            (lambda: worker.pull_slow(), "wait for it first"),
            (lambda: worker.wait(), "tensor b has not"),
        )
        for call, sentence in opened:
            with self.subTest(sentence), self.assertRaisesRegex(psd.UsageError, sentence):
                call()
        worker.push("b", None)
        worker.wait()
        self.assertEqual(self.w[0, 0], -0.5)
        worker.leave()
        with self.assertRaisesRegex(psd.UsageError, "has left its job; call psd.connect"):
            worker.exchange([ones, None])
        worker.leave()

    def test_a_child_of_fork_is_told_to_connect_again_and_the_parent_trains_on(self) -> None:
        self.register()
        child = os.fork()
        if not child:
            try:
                self.worker.exchange(None)
            except psd.UsageError as why:
                os._exit(0 if "connect again in this process" in str(why) and self.worker.has_left else 2)
            os._exit(1)
        self.assertEqual(os.waitpid(child, 0)[1], 0)
        self.assertEqual(self.worker.exchange(None).clock, 2)

    def test_threads_take_turns(self) -> None:
        self.register()
        failures: list[BaseException] = []

        def train() -> None:
            try:
                for _ in range(50):
                    self.worker.report("x", 1.0)
                    self.worker.position
            except BaseException as why:
                failures.append(why)

        threads = [threading.Thread(target=train) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(50):
            self.worker.exchange(None)
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])

    def test_no_cycle_keeps_a_worker_that_nobody_refers_to(self) -> None:
        gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)
        other = psd.connect(self.servers.join, insecure=True)
        handle = weakref.ref(other._handle)
        other.close()
        del other
        self.assertIsNone(handle())

    def test_a_worker_that_is_collected_in_a_thread_of_the_library_leaves_in_another(self) -> None:
        last = [psd.connect(self.servers.join, insecure=True)]
        last[0].register({"w": self.w})
        handle, collected, close = weakref.ref(last[0]._handle), threading.Event(), psd.Worker.close
        closed_in = []

        def note_thread(worker: psd.Worker) -> None:
            closed_in.append(type(threading.current_thread()))
            close(worker)

        with self.assertLogs("psd", logging.INFO) as logs, mock.patch.object(psd.Worker, "close", note_thread):
            _thread.start_new_thread(lambda: (last.clear(), collected.set()), ())  # as unknown to threading as one of the library
            self.assertTrue(collected.wait(support.PATIENCE))
            while handle() is not None:
                os.sched_yield()
        self.assertRegex("".join(logs.output), "worker.dropped")
        self.assertEqual(closed_in, [threading.Thread])

    def test_a_worker_that_nobody_refers_to_leaves_with_a_warning(self) -> None:
        self.worker.close()
        worker = psd.connect(self.servers.join, insecure=True)
        worker.register({"w": self.w})
        with self.assertLogs("psd", logging.WARNING) as logs:
            del worker
        self.assertRegex("".join(logs.output), "worker.dropped .* leaves the job before its work is done; keep it until training is over")
        self.assertEqual(psd.connect(self.servers.join, insecure=True, worker=0).position.worker, 0, "its place is free at once")


class Alone(unittest.TestCase):
    """What needs no server, or one of its own."""

    def test_nobody_to_join_and_a_key_that_is_not_there_are_errors_with_what_to_do(self) -> None:
        with self.assertRaisesRegex(psd.ConfigError, "set PSD_JOIN"):
            psd.connect()
        with self.assertRaisesRegex(psd.ConfigError, "there is no file /nowhere.key with a key; psdctl keygen makes one"):
            psd.connect("tcp://127.0.0.1:1", key="/nowhere.key", server_public="x" * 40)
        with self.assertRaises(psd.DeadlineError):
            psd.connect("tcp://127.0.0.1:1", insecure=True, join_timeout=0.3)

    def test_a_wrong_address_is_named_with_what_was_found_there(self) -> None:
        for call in (lambda: psd.connect("tcp://127.0.0.1:1", insecure=True, join_timeout=3),
                     lambda: psd.read("tcp://127.0.0.1:1", insecure=True, timeout=3)):
            said = ""
            while "no process listens at 127.0.0.1:1: connection refused" not in said:  # what takes 2 s, on an idle machine
                with self.assertRaisesRegex(psd.DeadlineError, "tcp://127.0.0.1:1") as raised:
                    call()
                said = str(raised.exception)

    def test_a_file_that_is_not_there_is_an_error_of_python_and_of_psd(self) -> None:
        for kind in (FileNotFoundError, psd.NoFileError, psd.PsdError):
            with self.assertRaisesRegex(kind, "^cannot read /nowhere.st: No such file or directory; is the path right") as raised:
                psd.load("/nowhere.st")
        self.assertEqual((raised.exception.errno, raised.exception.filename), (2, "/nowhere.st"))
        with self.assertRaisesRegex(psd.SystemDeniedError, "cannot read /: Is a directory; name a file"):
            psd.load("/")

    def test_hints_name_arguments_and_no_flags(self) -> None:
        here = "tcp://127.0.0.1:1"
        for call in (psd.connect, psd.Follower, lambda join=here, **how: psd.read(join, **how)):
            for arguments, how, sentence in (
                    ((here,), {}, r"give the key files \(key=FILE, server_public=FILE; .* or insecure=True to run"),
                    ((here,), {"insecure": True, "key": "k"}, "both keys and insecure=True"),
                    ((here,), {"key": "k"}, r"public key \(server_public=\)"),
                    (("tcp://192.0.2.1:1",), {"insecure": True}, "insecure=True is only for loopback")):
                with self.subTest(sentence), self.assertRaisesRegex(psd.ConfigError, sentence) as raised:
                    call(*arguments, **how)
                self.assertNotIn("--", str(raised.exception))
        for call in (psd.connect, psd.Follower):
            with self.assertRaisesRegex(psd.ConfigError, 'give join="tcp://HOST:7470", set PSD_JOIN'):
                call()

    def test_the_environment_says_whom_to_join(self) -> None:
        with support.Servers("--optimizer=sgd(lr=0.5)", "--job=lines") as servers:
            text = "import psd\nwith psd.connect() as w: print(w.settings.lr, w.position.worker)"
            told = support.script(text, PSD_JOIN=servers.join, PSD_INSECURE="true", PSD_JOB="lines", PSD_WORKER__ID="3")
            self.assertEqual(told.communicate(timeout=support.PATIENCE), ("0.5 3\n", ""))

    def test_numbers_in_names_of_state_are_those_of_the_tensors_from_0(self) -> None:
        state = {"state/0/exp_avg": np.zeros(2, np.float32), "state.1.step": 3, "state/w/step": 4.0}
        self.assertEqual([(f.tensor, f.field) for f in fields(state, ["w", "b"])], [("w", "exp_avg"), ("b", "step"), ("w", "step")])
        with self.assertRaisesRegex(psd.UsageError, "'state/2/step' is for tensor number 2, but there are 2, from 0"):
            fields({"state/2/step": 1}, ["w", "b"])

    def test_timeouts_are_in_seconds_and_none_is_no_limit(self) -> None:
        self.assertEqual([_ms(t) for t in (None, 0, 0.05, 1.5, 1e12)], [-1, 0, 50, 1500, 2**31 - 1])

    def test_what_is_no_address_is_refused_with_the_form_of_one(self) -> None:
        for wrong in ("127.0.0.1:7470", "localhost", "tcp://127.0.0.1", "tcp://127.0.0.1:0", "tcp://127.0.0.1:99999",
                      "tcp://127.0.0.1:7470/x", "http://127.0.0.1:80", 7470):
            for kind in (psd.connect, psd.Follower):
                with self.subTest(wrong), self.assertRaisesRegex(psd.UsageError, 'join is .*; give join="tcp://HOST:PORT"'):
                    kind(wrong, insecure=True, join_timeout=5)

    def test_a_wrong_key_is_refused_with_what_to_do(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            def keygen(name: str, role: str) -> str:
                said = subprocess.run([support.BIN / "psdctl", "keygen", name, f"--role={role}"], cwd=directory, capture_output=True,
                                      text=True, check=True).stdout
                return next(line for line in said.splitlines() if line.startswith(f"{name} "))

            keygen("server", "server")
            keygen("stranger", "worker")
            lines = [keygen("listed", "worker"), keygen("eye", "reader")]
            Path(directory, "allow").write_text("\n".join(lines) + "\n")
            server = subprocess.Popen(
                [support.BIN / "psd", "--servers=1", "--server-key=server.key", "--allow=allow", "--status-listen=none",
                 "--listen=tcp://127.0.0.1:0", "--log-level=error"], cwd=directory, stdout=subprocess.PIPE, text=True)
            self.addCleanup(lambda: (server.kill(), server.communicate()))
            assert server.stdout is not None
            join = server.stdout.readline().split("data=")[1].split()[0]
            public = f"{directory}/server.pub"
            for name, kind, sentence in (
                    ("stranger", psd.NotAuthorizedError, r"refuses this key: add a line with it, .*, to the servers' allow-list$"),
                    ("eye", psd.RefusedError, r"eye has the role reader, .*; use a key of another role"),
                    ("", psd.NotAuthorizedError, "expects keys, but this program runs with insecure=True; give key= and server_public=")):
                with self.subTest(name), self.assertRaisesRegex(kind, sentence):
                    psd.connect(join, **({"key": f"{directory}/{name}.key", "server_public": public} if name else {"insecure": True}))
            psd.connect(join, key=f"{directory}/listed.key", server_public=public).close()

    def test_arguments_of_other_types_are_refused(self) -> None:
        here = "tcp://127.0.0.1:1"
        for wrong in (-1, "0", 1.0, True):
            with self.subTest(wrong), self.assertRaisesRegex(psd.UsageError, f"worker is {wrong!r}; give this worker's number, from 0"):
                psd.connect(here, insecure=True, worker=wrong)
        for how, sentence in (({"worker": 10**12}, "worker .* is too high: workers count from 0 to "),
                              ({"job": "a b"}, 'job "a b" is not the name of a job: it is one word'),
                              ({"rows": -1}, "rows is -1; give a whole number"), ({"rows": "9"}, "rows is '9'; give a whole number"),
                              ({"net_threads": 1.5}, "net_threads is 1.5; give a whole number"), ({"net_threads": 99}, "it takes 0 to 16")):
            with self.subTest(sentence), self.assertRaisesRegex(psd.UsageError, sentence):
                psd.connect(here, insecure=True, **how)  # type: ignore[arg-type]
        for call in (psd.connect, psd.Follower):
            with self.assertRaisesRegex(psd.UsageError, "an argument is 3; names, keys and files are texts or paths"):
                call(here, insecure=True, job=3)

    def test_timeouts_may_be_durations_as_in_job_files_and_nothing_else(self) -> None:
        self.assertEqual([_ms(t) for t in ("500ms", "15s", "1.5s", "1m", "2h")], [500, 15000, 1500, 60000, 7200000])
        for wrong in (-1, float("nan"), "5", "60 s", "-1s", "1min", "", True, [5], b"5s"):
            for call in (lambda: psd.connect("tcp://127.0.0.1:1", insecure=True, join_timeout=wrong),
                         lambda: psd.Follower("tcp://127.0.0.1:1", insecure=True, join_timeout=wrong)):
                with self.subTest(wrong), self.assertRaisesRegex(psd.UsageError, 'the timeout is .*; give seconds, .*"15s"'):
                    call()

    def test_a_worker_that_is_given_up_is_told_so_by_every_call(self) -> None:
        with support.Servers("--sync-quarantine-after=1", "--workers-want=2") as servers:
            with psd.connect(servers.join, insecure=True) as worker:
                worker.register({"w": np.zeros(2, np.float32)})
                for _ in range(2):
                    with self.assertRaisesRegex(psd.FencedError, "call psd.connect again"):
                        worker.exchange([np.full(2, np.nan, np.float32)])
                worker.close()

    def test_a_job_of_another_name_is_refused(self) -> None:
        with support.Servers() as servers, self.assertRaisesRegex(psd.RefusedError, "other"):
            psd.connect(servers.join, insecure=True, job="other")
        with support.Servers("--job=one") as servers, self.assertRaisesRegex(psd.RefusedError, 'this is job one, .*; give job="one"'):
            psd.connect(servers.join, insecure=True)

    def test_a_lost_server_ends_a_wait_with_its_name(self) -> None:
        with support.Servers("--workers-min=2") as servers:
            first = psd.connect(servers.join, insecure=True, join_timeout=5.0)
            second = psd.connect(servers.join, insecure=True, join_timeout=5.0)
            thread = threading.Thread(target=second.register, args=({"w": np.zeros(2, np.float32)},))
            thread.start()
            first.register({"w": np.zeros(2, np.float32)})
            thread.join()
            first.begin([np.zeros(2, np.float32)])
            with self.assertRaisesRegex(psd.DeadlineError, "exchange: nothing after 100 ms"):
                first.wait(0.1)
            with self.assertRaisesRegex(psd.DeadlineError, "exchange: nothing after 1 ms"):
                first.wait(0)
            servers.kill(0)
            with self.assertRaisesRegex(psd.UnavailableError, "servers' logs"):
                first.wait()
            first.close()
            second.close()

    def test_a_wait_that_may_last_is_a_warning_and_a_slow_step_is_not(self) -> None:
        for words, level in ((b"worker 0 is here:7; give each a worker.id of its own", "WARNING"), (b"an answer from server 0", "WARNING"),
                             (b"more workers: 1 of 2 workers are here", "WARNING"), (b"pushes of workers 1 (round 7)", "INFO"),
                             (b"1 of 3 parts of server 0 (clock 7)", "INFO")):
            with self.subTest(words), self.assertLogs("psd", logging.INFO) as logs:
                _Log()(None, 2, b"worker.waiting", b'for="%s"' % words)
            self.assertTrue(logs.output[0].startswith(f"{level}:psd:worker.waiting "), logs.output)
            self.assertNotIn("worker.id", logs.output[0])

    def test_a_wait_for_one_step_of_others_is_a_warning_once_a_minute(self) -> None:
        passes_on = _Log()
        with mock.patch("time.monotonic", side_effect=[0, _LONG_STEP - 1, _LONG_STEP, _LONG_STEP + 1, 2 * _LONG_STEP, 3 * _LONG_STEP]), \
                self.assertLogs("psd", logging.INFO) as logs:
            for round_ in (7, 7, 7, 7, 7, 8):
                passes_on(None, 2, b"worker.waiting", b'for="pushes of workers 1 (round %d)"' % round_)
        self.assertEqual([line.partition(":")[0] for line in logs.output], ["INFO", "INFO", "WARNING", "INFO", "WARNING", "INFO"])

    def test_exceptions_of_other_processes_keep_their_sentence(self) -> None:
        error = psd.UnavailableError("server 1 is gone", -8)
        back = pickle.loads(pickle.dumps(error))
        self.assertEqual((type(back), str(back), back.code, back.hint), (type(error), str(error), -8, error.hint))

    def test_a_failure_that_was_raised_is_not_warned_of_again(self) -> None:
        with support.Servers("--sync-max-skipped=1") as servers, self.assertLogs("psd", logging.INFO) as logs:
            with self.assertRaises(psd.JobFailedError), psd.connect(servers.join, insecure=True) as worker:
                worker.register({"w": np.zeros(2, np.float32)})
                worker.exchange([np.full(2, np.nan, np.float32)])
        self.assertRegex("\n".join(logs.output), "INFO:psd:leave 1 round")

    def test_control_c_ends_a_wait_and_leaves_in_good_order(self) -> None:
        text = """
import sys, threading, time, numpy, psd
def tell(worker):
    while worker._lock.acquire(blocking=False):
        worker._lock.release()
        time.sleep(0.001)
    print("waiting", flush=True)
try:
    with psd.connect(sys.argv[1], insecure=True) as w:
        threading.Thread(target=tell, args=(w,)).start()
        w.register({"w": numpy.zeros(2, numpy.float32)})
except KeyboardInterrupt:
    print("left", w.has_left)
"""
        with support.Servers("--workers-min=2", "--join-timeout=60s") as servers:
            waiting = support.script(text, servers.join)
            assert waiting.stdout is not None
            self.assertEqual(waiting.stdout.readline(), "waiting\n")
            began = time.monotonic()
            waiting.send_signal(signal.SIGINT)
            self.assertEqual(waiting.communicate(timeout=support.PATIENCE), ("left True\n", ""))
            self.assertLess(time.monotonic() - began, 10)

    def test_nothing_waits_for_the_librarys_thread_once_the_interpreter_ends(self) -> None:
        text = """
import os, sys, psd
from psd.worker import _Handle
close = _Handle.close
def told(self):
    if sys.is_finalizing():
        os.write(1, b"closed too late\\n")
    close(self)
_Handle.close = told
class AtTheVeryEnd:
    def __init__(self): self.worker = psd.connect(join=sys.argv[1], insecure=True)
sys.kept = AtTheVeryEnd()
psd.connect(join=sys.argv[1], insecure=True)._handle.close()
print("over", flush=True)
"""
        with support.Servers() as servers:
            self.assertEqual(support.script(text, servers.join).communicate(timeout=support.PATIENCE)[0], "over\n")

    def test_control_c_ends_the_wait_for_a_cluster_file(self) -> None:
        text = """
import psd
print("waiting", flush=True)
psd.connect(cluster_file="/nowhere/cluster.json", insecure=True)
"""
        waiting = support.script(text)
        assert waiting.stdout is not None
        waiting.stdout.readline()
        began = time.monotonic()
        waiting.send_signal(signal.SIGINT)
        self.assertIn("KeyboardInterrupt", waiting.communicate(timeout=support.PATIENCE)[1])
        self.assertEqual(waiting.returncode, -signal.SIGINT)
        self.assertLess(time.monotonic() - began, 10)

    def test_a_program_that_ends_has_finished_and_one_that_fails_has_not(self) -> None:
        text = """
import sys, numpy, psd
w = psd.connect(sys.argv[1], insecure=True)
w.register({"w": numpy.zeros(2, numpy.float32)})
w.exchange(None)
if sys.argv[2] == "fail":
    raise ValueError("no")
"""
        with support.Servers() as servers:
            self.assertEqual(support.end(support.script(text, servers.join, "fail")), 1)
            self.assertEqual(support.end(support.script(text, servers.join, "end")), 0, "the job waits for a worker that finishes")
            self.assertEqual(servers.wait(), [0])

    def test_what_the_library_says_goes_to_logging_and_nothing_is_printed(self) -> None:
        with support.Servers() as servers, self.assertLogs("psd", logging.INFO) as logs:
            psd.connect(servers.join, insecure=True).close()
        self.assertRegex("\n".join(logs.output), "worker.welcome worker=0")

    def test_the_command_tells_versions(self) -> None:
        said = subprocess.run([sys.executable, "-m", "psd", "--version"], capture_output=True, text=True)
        self.assertRegex(said.stdout, rf"^psd {psd.__version__} libpsdworker {psd.__version__} \(/.*\.so")
        self.assertEqual(command.main(["--version"]), 0)
        self.assertEqual(command.main([]), 64)

    def test_a_library_that_is_not_there_or_another_is_named(self) -> None:
        for path, sentence in (("/nowhere.so", "libpsdworker was not found"), ("libm.so.6", "of another version")):
            said = support.script("import psd; psd.connect('x')", PSD_LIBRARY=path).communicate()[1]
            self.assertRegex(said, f"LibraryError: .*{sentence}.*PSD_LIBRARY[^\\n]*\\n$", "which is the last line")

    def test_import_brings_neither_numpy_nor_torch_and_few_modules_at_all(self) -> None:
        text = "import sys; before = set(sys.modules); import psd; dir(psd); print(psd.__version__, *(set(sys.modules) - before))"
        version, *brought = support.script(text).communicate()[0].split()
        self.assertEqual((version, [name for name in brought if name.startswith("psd")]), (psd.__version__, ["psd"]))
        self.assertFalse({name.split(".")[0] for name in brought} - {"psd"} - sys.stdlib_module_names, "only the standard library")
        self.assertLess(len(brought), 40, "each takes about half a millisecond")
        with self.assertRaisesRegex(AttributeError, "no attribute 'Optimiser'"):
            psd.Optimiser  # type: ignore[attr-defined]

    def test_structs_have_their_fields_where_the_header_has_them(self) -> None:
        header = support.BIN.parents[2] / "worker/psd/worker.h"
        if not header.exists():
            self.skipTest("the header is not beside the build")
        structs = {"psd_worker_config_t": capi.Config, "psd_tensor_t": capi.Tensor, "psd_position_t": capi.PositionStruct,
                   "psd_worker_settings_t": capi.SettingsStruct, "psd_worker_group_t": capi.GroupStruct,
                   "psd_worker_health_t": capi.HealthStruct}
        fields = [(name, field[0], getattr(struct, field[0])) for name, struct in structs.items() for field in struct._fields_]
        rows = "".join(f"    row(offsetof({name}, {field}), sizeof((({name} *)0)->{field}));\n" for name, field, _ in fields)
        program = ('#include <stddef.h>\n#include <stdio.h>\n' + f'#include "{header}"\n'
                   'static void row(size_t a, size_t b) { printf("%zu %zu\\n", a, b); }\n' + f"int main(void)\n{{\n{rows}}}\n")
        with tempfile.TemporaryDirectory() as directory:
            subprocess.run(["cc", "-x", "c", "-", "-o", f"{directory}/rows"], input=program, text=True, check=True)
            said = subprocess.run([f"{directory}/rows"], capture_output=True, text=True).stdout
        self.assertEqual([tuple(map(int, line.split())) for line in said.splitlines()],
                         [(place.offset, place.size) for _, _, place in fields])


class Rows(unittest.TestCase):
    """Two workers that divide rows."""

    def setUp(self) -> None:
        servers = support.Servers("--optimizer=sgd(lr=0.5)", "--workers-min=2")
        self.addCleanup(servers.__exit__, None, None, None)
        self.workers = [psd.connect(servers.join, insecure=True, worker=i) for i in range(2)]
        threads = [threading.Thread(target=worker.register, args=({"w": np.zeros(2, np.float32)},)) for worker in self.workers]
        for thread in threads:
            thread.start()
        for thread, worker in zip(threads, self.workers):
            thread.join()
            self.addCleanup(worker.close)

    def step(self, rows: int, batch_size: int, *workers: psd.Worker, **how: Any) -> None:
        for worker in workers:
            next(psd.batches(np.arange(rows), worker, batch_size, **how))
            worker.begin([np.ones(2, np.float32)])
        for worker in workers:
            worker.wait()

    def test_those_that_agree_may_go_on_to_other_rows(self) -> None:
        self.step(64, 16, *self.workers)
        self.step(48, 8, *self.workers, seed=2)
        self.assertEqual(self.workers[0].weights["w"].tolist(), [-1, -1])

    def test_one_with_another_batch_size_is_refused_with_the_values_of_both(self) -> None:
        self.refuse("64 rows, batch_size 8, seed 1, epochs 1", 64, 8)

    def test_one_with_other_data_is_refused(self) -> None:
        self.refuse("48 rows, batch_size 16, seed 1, epochs 1", 48, 16)

    def test_one_with_another_order_is_refused(self) -> None:
        self.refuse("64 rows, batch_size 16, shuffle False, drop_last, epochs 2", 64, 16, shuffle=False, drop_last=True, epochs=2)

    def refuse(self, sentence: str, *values: int, **how: Any) -> None:
        one, other = self.workers
        next(psd.batches(np.arange(64), one, 16))
        one.begin([np.ones(2, np.float32)])
        with self.assertRaisesRegex(psd.RefusedError, f"worker 1 takes its batches from {sentence}, but worker 0 from 64 rows, batch_size "
                                                      "16, seed 1, epochs 1; give all workers the same data and the same values"):
            self.step(*values, other, **how)


class Fake:
    """A trainer of the only worker of a job."""

    batch_samples, divides_rows, samples_per_round = 1, False, math.nan

    def __init__(self) -> None:
        self.clock = 1

    @property
    def position(self) -> psd.Position:
        return psd.Position(self.clock, 0, 0, 1, 0, 1, 1, False)

    def skip(self) -> None:
        self.clock += 1

    def say_rows(self, rows: str) -> None:
        pass


class Batches(unittest.TestCase):
    """Rows as a function of the job's position, without a job."""

    def test_a_part_of_an_epoch_is_the_nearest_number_of_steps(self) -> None:
        for epochs, wanted in ((1 / 3, 1), (0.5, 2), (0.9, 3), (1, 3), (2, 6)):
            trainer, steps = Fake(), 0
            for rows in psd.batches(np.arange(30), trainer, 10, epochs=epochs):
                self.assertEqual((len(rows), trainer.batch_samples), (10, 10))
                steps += 1
                trainer.skip()
            self.assertEqual(steps, wanted, f"{epochs} epochs of 3 steps")

    def test_a_look_at_a_batch_is_no_epoch(self) -> None:
        trainer, steps = Fake(), []
        sampler = psd.Sampler(range(30), trainer, 10)
        for _ in range(2):
            next(iter(sampler))
        for _ in range(3):
            for _ in sampler:
                trainer.skip()
            steps.append(trainer.clock - 1)
            if len(steps) == 1:
                next(iter(sampler))
        self.assertEqual(steps, [3, 6, 9])

    def test_a_job_that_has_trained_the_first_epochs_has_no_batches_of_them(self) -> None:
        trainer = Fake()
        trainer.clock = 7
        with self.assertLogs("psd", "WARNING"):
            sampler = psd.Sampler(range(30), trainer, 10)
            self.assertEqual([len([trainer.skip() for _ in sampler]) for _ in range(3)], [0, 0, 3])

    def test_a_job_that_has_trained_with_another_batch_size_is_warned_of(self) -> None:
        for clock, had, size, is_other in ((11, 64, 32, True), (21, 32, 64, True), (11, 32, 32, False), (2, 30, 32, False),
                                           (10, (4 * 64 + 8) / 5, 16, True), (1, math.nan, 16, False), (9, math.nan, 16, False),
                                           (6, (4 * 64 + 8) / 5, 64, False)):  # the last batch of an epoch is short
            trainer = Fake()
            trainer.clock, trainer.samples_per_round = clock, had
            with self.assertLogs("psd", "WARNING") as logs:
                logging.getLogger("psd").warning("end")
                for _ in range(9):
                    list(trainer.skip() for _ in psd.Sampler(range(264), trainer, size))
                    trainer.divides_rows = True
            said = [line for line in logs.output if "rows.otherwise" in line]
            self.assertEqual(len(said), int(is_other), (clock, had, size))
            if said:
                self.assertRegex(said[0], f"clock={clock} the job's steps so far had a mean of {had:.4g} samples, .* "
                                          rf"\(264 rows, batch_size {size}, seed 1\).* give the batch_size of before")

    def test_no_epochs_are_no_batches_and_a_warning(self) -> None:
        for epochs in (0, 0.1):
            with self.assertLogs("psd", "WARNING") as logs:
                self.assertEqual(list(psd.batches(np.arange(30), Fake(), 10, epochs=epochs)), [])
            self.assertEqual(len(logs.output), 1)
            self.assertRegex(logs.output[0], rf"epochs.done epochs={epochs} of 3 steps each are less than a step, so there are no batches")

    def test_batches_go_on_after_an_exception_of_the_data(self) -> None:
        class Data:
            n_cuts = 0

            def __len__(self) -> int:
                return 30

            def __getitem__(self, rows: list[int]) -> list[int]:
                self.n_cuts += 1
                if self.n_cuts == 2:
                    raise KeyboardInterrupt
                return rows

        trainer, seen, ends = Fake(), [], []
        batches = psd.batches(Data(), trainer, 10)
        for _ in range(2):
            try:
                for rows in batches:
                    seen += rows
                    trainer.skip()
                ends.append("over")
            except KeyboardInterrupt:
                ends.append("interrupted")
        self.assertEqual((sorted(seen), ends), (list(range(30)), ["interrupted", "over"]))

    def test_several_steps_with_one_batch_are_warned_of_once(self) -> None:
        trainer, n = Fake(), 0
        with self.assertLogs("psd", "WARNING") as logs:
            for _ in psd.batches(np.arange(60), trainer, 10):
                trainer.skip()
                trainer.skip()
                n += 1
        self.assertEqual((n, len(logs.output)), (3, 1))
        self.assertRegex(logs.output[0], "rows.skipped clock=2 2 steps were made since the batch of clock 1, .* take a batch for each")


if __name__ == "__main__":
    support.main()
