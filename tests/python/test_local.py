"""psd.launch: a job for as long as a block lasts."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import subprocess
import sys
import tempfile
import unittest
import urllib.request
from pathlib import Path
from typing import Callable
from unittest import mock

import support

support.need("numpy")

import numpy as np  # noqa: E402

import psd  # noqa: E402


def count_servers(job: str) -> int:
    said = subprocess.run(["pgrep", "-f", "--", f"--job={job} --servers"], capture_output=True, text=True).stdout
    return len(said.split())


def work(directory: str) -> None:
    with psd.connect() as worker:
        w = np.zeros(2, np.float32)
        worker.register({"w": w})
        for _ in range(3):
            worker.exchange([np.ones(2, np.float32)])
        with open(f"{directory}/{worker.position.worker}", "w") as file:
            file.write(str(w.tolist()))


def fail(_: str) -> None:
    raise SystemExit(3)


def exit_well(_: str) -> None:
    worker = psd.connect()
    worker.register({"w": np.zeros(2, np.float32)})
    raise SystemExit(0)


def raise_in_turn() -> None:
    """Worker 1 raises an exception in the job's first step, for which worker 0 waits."""
    with psd.connect(join_timeout=None) as worker:
        worker.register({"w": np.zeros(2, np.float32)})
        if os.environ["PSD_WORKER__ID"] == "1":
            raise ValueError("no gradient today")
        worker.exchange(None)
        worker.exchange(None)


def kill_a_server(pid: int) -> None:
    """After which all workers wait."""
    with psd.connect(join_timeout=None) as worker:
        worker.register({"w": np.zeros(2, np.float32)})
        os.kill(pid, signal.SIGKILL)
        worker.exchange(None)


def die_in_turn(directory: str) -> None:
    """Worker 1 is killed, and then worker 0 fails."""
    pid = Path(directory, "pid")
    if os.environ["PSD_WORKER__ID"] == "1":
        pid.with_suffix(".new").write_text(str(os.getpid()))
        os.rename(pid.with_suffix(".new"), pid)
        os.kill(os.getpid(), signal.SIGKILL)
    while not pid.exists():
        os.sched_yield()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        while Path(f"/proc/{pid.read_text()}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            os.sched_yield()
    raise SystemExit(3)


def end_early(directory: str, how: str) -> None:
    """Worker 1 ends, and worker 0 trains until that was told."""
    if os.environ["PSD_WORKER__ID"] == "1" and how == "return":
        return
    worker = psd.connect(join_timeout=None)
    if how != "return":
        worker.register({"w": np.zeros(2, np.float32)})
    if os.environ["PSD_WORKER__ID"] == "0":
        while not Path(directory, "told").exists():
            os.sched_yield()
        worker.leave(finished=how != "return")
    elif how == "_exit":
        os._exit(0)
    elif how == "close":
        worker.close()


class Told(logging.Handler):
    """Makes a file when a line is logged."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.lines = path, [""]

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        self.path.touch()


class Launch(unittest.TestCase):
    def launch(self, *arguments: object, **more: object) -> psd.LocalJob:
        self.said = io.StringIO()
        with contextlib.redirect_stdout(self.said):
            return psd.launch(*arguments, **more)  # type: ignore[arg-type]

    def test_a_process_forked_in_the_block_does_not_take_the_servers_for_ended(self) -> None:
        with self.launch() as job:
            job._lost_at = 1.0  # had they ended, they would have long ago
            child = os.fork()
            if not child:
                code = 1
                try:
                    job._guard()
                    code = 0
                finally:
                    os._exit(code)
            self.assertEqual(os.waitpid(child, 0)[1], 0)
            job._guard()

    def test_an_interrupt_while_servers_start_ends_those_that_have_started(self) -> None:
        start, started = psd.local.LocalJob._start, []

        def interrupted(self: psd.LocalJob, index: int, flags: list[str]) -> None:
            if index:
                started.extend(self._servers)
                raise KeyboardInterrupt
            start(self, index, flags)

        with mock.patch.object(psd.local.LocalJob, "_start", interrupted), self.assertRaises(KeyboardInterrupt):
            psd.launch("adam(lr=0.01)", servers=2)
        self.assertEqual([server.returncode for server in started], [-signal.SIGKILL])

    def test_a_block_has_servers_that_this_process_finds(self) -> None:
        name = f"block-{os.getpid()}"
        with self.launch("sgd(lr=0.5)", servers=2, job=name, net_local="off") as job:
            self.assertEqual(self.said.getvalue(), f"psd: status page {job.status}\n")
            self.assertEqual(count_servers(name), 2)
            with urllib.request.urlopen(f"{job.status}/livez") as answer:
                self.assertEqual(answer.status, 200)
            worker = psd.connect()
            w = np.zeros(2, np.float32)
            worker.register({"w": w})
            worker.exchange([np.ones(2, np.float32)])
            self.assertEqual((w.tolist(), worker.settings.servers), ([-0.5, -0.5], 2))
        self.assertEqual((count_servers(name), worker.has_left, job.directory.exists(), os.environ.get("PSD_JOIN")),
                         (0, True, False, None))

    def test_a_job_that_is_finished_says_so_to_whoever_comes_later(self) -> None:
        finished = "the job of this psd.launch is finished, and its servers have ended; .* open another psd.launch for more"
        with self.launch() as job:
            with psd.connect() as worker:
                worker.register({"w": np.zeros(2, np.float32)})
            for server in job._servers:
                self.assertEqual(server.wait(timeout=support.PATIENCE), 0)
            for late in (psd.connect, lambda: psd.Follower().pull(timeout=None), lambda: job.run(work, "")):
                with self.assertRaisesRegex(psd.UnavailableError, finished):
                    late()

    def test_an_exception_or_nobody_ends_it_too(self) -> None:
        name = f"none-{os.getpid()}"
        with self.launch(job=name):
            pass
        with self.assertRaises(ZeroDivisionError), self.launch(job=name):
            psd.connect()
            1 / 0
        self.assertEqual(count_servers(name), 0)

    def test_workers_are_processes_of_their_own(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            with self.launch("sgd(lr=0.5)", workers=2) as job:
                job.run(work, directory)
            self.assertEqual({path.name: path.read_text() for path in Path(directory).iterdir()},
                             {"0": "[-1.5, -1.5]", "1": "[-1.5, -1.5]"})
            with self.assertNoLogs("psd", logging.WARNING), self.launch(workers=2) as job:
                job.run(exit_well, directory)
            with self.assertRaisesRegex(psd.PsdError, "worker 0 ended with 3"), self.launch(workers=1) as job:
                job.run(fail, directory)

    def test_the_worker_that_was_killed_first_is_named(self) -> None:
        with self.assertLogs("psd", logging.ERROR) as logs, tempfile.TemporaryDirectory() as directory:
            with self.launch(workers=2) as job, self.assertRaisesRegex(
                    psd.PsdError, r"^worker 1 was killed by signal 9 \(Killed\); its output is above$"):
                job.run(die_in_turn, directory)
        self.assertRegex(logs.output[0], "worker.ended worker=1 was killed by signal 9")

    def test_a_worker_that_fails_ends_the_wait_of_the_others_with_its_last_lines(self) -> None:
        with self.launch(workers=2, workers_lost="wait") as job:
            with self.assertLogs("psd", logging.ERROR), self.assertRaisesRegex(
                    psd.PsdError, r"(?s)^worker 1 ended with 1; its last lines:\n.* in raise_in_turn.*ValueError: no gradient today$"):
                job.run(raise_in_turn)

    def test_a_worker_that_ends_with_0_before_its_work_is_done_is_named_at_once(self) -> None:
        for how in ("_exit", "close", "return"):
            with self.subTest(how), tempfile.TemporaryDirectory() as directory:
                told = Told(Path(directory, "told"))
                logging.getLogger("psd").addHandler(told)
                nobody = self.assertRaisesRegex(psd.PsdError, "^no worker has finished training; the function must make a psd.Optimizer")
                try:
                    with self.launch(workers=2) as job, nobody if how == "return" else contextlib.nullcontext():
                        job.run(end_early, directory, how)
                finally:
                    logging.getLogger("psd").removeHandler(told)
                ended = next(line for line in told.lines if line.startswith("worker.ended"))
                self.assertRegex(ended, "worker.ended worker=1 ended before the job did: it has not joined, or has left before")

    def test_a_server_that_dies_ends_all_waits_with_its_name_and_last_lines(self) -> None:
        sentence = r"(?s)^server 1 was killed by signal 9 \(Killed\); psdctl run would .*; its last lines:\n  ts="
        with self.launch(servers=2) as job, self.assertRaisesRegex(psd.UnavailableError, sentence):
            job.run(kill_a_server, job._servers[1].pid)
        waits: tuple[Callable[[psd.Worker], object], ...] = (
            lambda worker: worker.exchange(None), lambda worker: worker.pull_slow(), lambda worker: psd.connect(worker=0),
            lambda worker: psd.Follower().pull(timeout=None))
        for wait in waits:
            with self.launch(servers=2, log_level="error") as job:
                worker = psd.connect(join_timeout=None)
                worker.register({"w": np.zeros(2, np.float32), "v": np.zeros(2, np.float32)})
                job._servers[1].kill()
                with self.assertRaisesRegex(psd.UnavailableError, "^server 1 was killed by signal 9 .*, psd.launch does not$"):
                    wait(worker)

    def test_a_server_that_dies_before_the_end_of_the_block_is_an_error_there(self) -> None:
        for dead in (0, 1):
            with self.subTest(dead), mock.patch.object(psd.local, "END_TIMEOUT", support.PATIENCE):
                with self.assertRaisesRegex(psd.UnavailableError, f"server {dead} was killed by signal 9"), \
                        self.launch(servers=2, lease="1h") as job:
                    worker = psd.connect()
                    worker.register({"w": np.zeros(2, np.float32)})
                    job._servers[dead].kill()
                    job._servers[dead].wait()
                self.assertEqual((worker.has_left, job.directory.exists()), (True, False))
                with self.assertNoLogs("psd"):  # its library still waits, but nobody does
                    worker._handle.says(None, 2, b"worker.waiting", b'for="no process listens"')

    def test_a_server_that_cannot_save_when_it_is_told_to_end_is_an_error_too(self) -> None:
        program = ("import os, signal\nsignal.signal(signal.SIGTERM, lambda *_: (os.write(2, b'no space'), os._exit(74)))\n"
                   "print(flush=True)\nsignal.pause()\n")
        with self.assertRaisesRegex(psd.SystemDeniedError, "^server 1 ended with 74; its last lines:\n  no space$"), self.launch() as job:
            with open(job._log(1), "w") as log:
                server = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=log, text=True)
            job._servers.append(server)
            assert server.stdout is not None
            server.stdout.readline()

    def test_a_worker_that_could_not_leave_is_closed_before_python_ends(self) -> None:
        program = support.script("""
import atexit
atexit.register(lambda: print("is open:", *[bool(worker._handle.pointer) for worker in workers]))  # after psd's own
import contextlib, numpy, psd
workers = []
for kills in (True, False):
    with contextlib.suppress(psd.UnavailableError), psd.launch() as job:
        workers.append(psd.connect())
        workers[-1].register({"w": numpy.zeros(2, numpy.float32)})
        if kills:
            job._servers[0].kill()
""")
        said = program.communicate(timeout=support.PATIENCE)
        self.assertEqual((program.returncode, said[0].splitlines()[-1]), (0, "is open: False True"), said)

    def test_what_new_processes_cannot_import_is_refused_before_they_start(self) -> None:
        program = "import psd\ndef f(): pass\nwith psd.launch() as job: job.run(f)\n"
        typed = support.script(program).communicate(timeout=support.PATIENCE)[1]
        self.assertRegex(typed, "UsageError: .* a function of a notebook or of the command line; write it to a file, and import it")
        piped = subprocess.run([sys.executable, "-"], input=program, capture_output=True, text=True, timeout=support.PATIENCE)
        self.assertRegex(piped.stderr, "UsageError: .* cannot import the program <stdin>; save it as a file")
        with self.launch() as job:
            with self.assertRaisesRegex(psd.UsageError, "cannot pass its arguments .*; give a function that a file defines at its top"):
                job.run(lambda: None)
            with self.assertRaisesRegex(psd.UsageError, "and arguments that pickle can copy"):
                job.run(fail, lambda: None)
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "train.py")
            path.write_text(program)
            said = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=support.PATIENCE)
            self.assertRegex(said.stderr, 'called by a script that is only being imported, .* under if __name__ == "__main__":')

    def test_a_result_is_no_function(self) -> None:
        with self.launch(workers=2) as job, self.assertRaisesRegex(psd.UsageError, r"run\(\) was given a NoneType, not a function; give it "
                                                                   "without calling it"):
            job.run(None)  # type: ignore[arg-type]

    def test_what_cannot_start_says_why(self) -> None:
        with self.assertRaisesRegex(psd.UnavailableError, "server 0 did not start: .*cannot make files in /proc/none"):
            self.launch(checkpoint_dir="/proc/none")
        with mock.patch("tempfile.mkdtemp", side_effect=FileNotFoundError(2, "No such", "/none/psd")), self.assertRaisesRegex(
                psd.SystemDeniedError, "cannot make a directory for its logs: .*/none/psd.*; free space, or set TMPDIR"):
            self.launch()
        for how, sentence in (({"servers": 0}, "0 servers"), ({"servers": "2"}, "'2' servers"), ({"workers": 1.5}, "1.5 workers"),
                              ({"optimizer": len}, "the optimizer is a .*; name it"),
                              ({"optimizer": "adam(lr="}, "psd.launch cannot start .*: optimizer: rule, column 9: expected a finite"),
                              ({"optimizer": "adamm(lr=1)"}, "column 1: .*nearest is 'adam'"),
                              ({"worker_min": 3}, "unknown option worker_min; did you mean workers_min"),
                              ({"sync_mode": "x", "lease": -3}, "sync.mode is \"x\"; it takes bsp or asp; lease is \"-3\", not a valid"),
                              ({"listen": "tcp://127.0.0.1:1"}, "psd.launch sets listen itself; leave it out"),
                              ({"restarts": 3}, "restarts nothing; start this program by psdctl run")):
            with self.assertRaisesRegex(psd.UsageError, sentence):
                self.launch(**how)

    def test_servers_die_with_their_program(self) -> None:
        name = f"dies-{os.getpid()}"
        program = support.script("import os, sys, psd\npsd.launch(job=sys.argv[1])\nos.kill(os.getpid(), 9)", name)
        program.communicate(timeout=support.PATIENCE)
        for _ in range(6000):
            if not count_servers(name):
                break
        self.assertEqual(count_servers(name), 0)


if __name__ == "__main__":
    support.main()
