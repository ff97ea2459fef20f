"""A job on this machine for the duration of a block: its servers and, optionally, its workers."""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Callable, Sequence

from .errors import PsdError, UnavailableError, UsageError
from . import capi
from .worker import leave_all, log, open_workers

START_TIMEOUT = 60.0  # seconds that a server may take to become ready
END_TIMEOUT = 40.0  # and that all may take to end, including a last checkpoint


def _programs() -> Path:
    """The directory of psd and psdctl: beside the library, as in a build or an installation, or on PATH."""
    lib = Path(capi.path()).resolve().parent
    found = shutil.which("psdctl")
    for directory in (lib.parent / "bin", lib.parent.parent / "bin", Path(found).resolve().parent if found else lib):
        if (directory / "psd").exists() and (directory / "psdctl").exists():
            return directory
    raise UnavailableError("the programs psd and psdctl were not found", hint="install psd-server, or put them on PATH")


def _work(index: int, environment: dict[str, str], function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ.update(environment, PSD_WORKER__ID=str(index))
    function(*arguments)


def _join(processes: Sequence[BaseProcess]) -> list[str]:
    """Wait for all; returns what became of those that failed, the first one first, and logs it at once, because others may wait for it."""
    bad = []
    running: dict[Any, tuple[int, BaseProcess]] = {process.sentinel: (i, process) for i, process in enumerate(processes)}
    while running:
        for sentinel in wait(list(running)):
            i, process = running.pop(sentinel)
            process.join()
            code = process.exitcode or 0
            if code:
                bad.append(f"worker {i} " + (f"was killed by signal {-code}" if code < 0 else f"ended with {code}"))
                log.error("worker.ended worker=%d %s", i, bad[-1])
    return bad


class LocalJob:
    """The servers of a job on this machine; psd.launch makes one. In its block, psd.Optimizer and psd.connect find it by
    themselves. At the end of the block, workers of this process leave, and the servers exit."""

    def __init__(self, optimizer: str, servers: int, workers: int, job: str, options: dict[str, Any]) -> None:
        if servers < 1 or workers < 1:
            raise UsageError(f"a job cannot have {servers} servers and {workers} workers", hint="give at least 1 of each")
        self.workers = workers
        self.directory = Path(tempfile.mkdtemp(prefix="psd-"))  #: of the servers' logs, until the end of the block
        self.join = self.status = ""
        self._before = {name: os.environ.get(name) for name in ("PSD_JOIN", "PSD_JOB", "PSD_INSECURE")}
        self._others = open_workers()
        self._servers: list[subprocess.Popen[str]] = []
        flags = ["--insecure", f"--job={job}", f"--servers={servers}", f"--workers-min={workers}", f"--optimizer={optimizer}",
                 *(f"--{name.replace('_', '-')}={_text(value)}" for name, value in options.items())]
        try:
            for index in range(servers):
                self._start(index, flags)
        except BaseException:
            self._end()
            raise
        self._environment = {"PSD_JOIN": self.join, "PSD_JOB": job, "PSD_INSECURE": "true"}
        os.environ.update(self._environment)
        print(f"psd: status page {self.status}", flush=True)

    def _start(self, index: int, flags: list[str]) -> None:
        programs = _programs()
        log = self.directory / f"server-{index}.log"
        # psdctl's child ends with this process, and gets no Ctrl-C from the terminal.
        command = [str(programs / "psdctl"), "--as-child", str(os.getpid()), str(programs / "psd"), *flags,
                   f"--server-index={index}", "--listen=tcp://127.0.0.1:0", "--status-listen=127.0.0.1:0"]
        if index:
            command.append(f"--join={self.join}")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PSD_")}
        with open(log, "w") as file:
            server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, text=True, env=environment)
        self._servers.append(server)
        assert server.stdout is not None
        said = re.match(r"psd ready \S+ data=(\S+) status=(\S+)", server.stdout.readline())
        if not said:
            server.wait()
            lines = log.read_text(errors="replace").strip().splitlines() or ["it printed nothing"]
            raise UnavailableError(f"server {index} did not start: {lines[-1]}", hint="")
        if not index:
            self.join, self.status = said.groups()

    def run(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Call `function` in each of the job's workers, new processes with the environment of this job; return when all are done.
        It must be importable, as multiprocessing's "spawn" requires. PsdError when one of them fails."""
        context = multiprocessing.get_context("spawn")
        processes = [context.Process(target=_work, args=(i, self._environment, function, arguments)) for i in range(self.workers)]
        try:
            for process in processes:
                process.start()
            bad = _join(processes)
        finally:
            for process in processes:
                if process.is_alive():
                    process.terminate()
                    process.join()
        if bad:
            raise PsdError(bad[0], hint="its output is above")

    def _end(self) -> None:
        deadline = time.monotonic() + END_TIMEOUT
        for server in self._servers:
            try:
                server.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
            assert server.stdout is not None
            server.stdout.close()
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        shutil.rmtree(self.directory, ignore_errors=True)

    def close(self, finished: bool = True) -> None:
        """Make this process's workers leave; then the servers exit, or are stopped by a signal if workers have not finished."""
        has_worked = leave_all(finished, self._others)
        if not (finished and has_worked):
            for server in self._servers:
                server.terminate()
        self._end()

    def __enter__(self) -> LocalJob:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self.close(finished=kind is None)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def launch(optimizer: str = "sgd(lr=0.01)", servers: int = 1, workers: int = 1, *, job: str = "psd", **options: Any) -> LocalJob:
    """Start a job's servers on this machine, and print where its status page is:

        with psd.launch("adam(lr=1e-3)", servers=2):
            opt = psd.Optimizer(model.named_parameters())

    `workers` processes must join before training starts; LocalJob.run starts them. Further arguments are options of psd, by the
    names of their flags (checkpoint_dir="c", sync_mode="asp"). All its processes end with the block, or with this process."""
    if sys.platform != "linux":
        raise UnavailableError("psd runs on Linux")
    return LocalJob(optimizer, servers, workers, job, options)
