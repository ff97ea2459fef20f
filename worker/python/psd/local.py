"""A job on this machine for the duration of a block: its servers and, optionally, its workers."""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import TracebackType
from typing import Any, Callable, Sequence

from .errors import PsdError, Stopped, SystemDeniedError, UnavailableError, UsageError
from . import capi
from .worker import guards, is_done, leave_all, log, open_workers

START_TIMEOUT = 60.0  # seconds that a server may take to become ready
END_TIMEOUT = 40.0  # and that all may take to end, including a last checkpoint
STOP_TIMEOUT = 2.0  # that workers may take to end after each signal
PERIOD = 0.2  # between looks at the servers while workers run
GRACE = 0.3  # in which workers may learn from a server that ends why it does
_OWN_OPTIONS = {"insecure", "join", "listen", "server_index", "status_listen"}
_WRONG_ARGUMENTS = (64, 78)  # exit codes of a server
_DENIED = (71, 74)  # by the system, such as a full disk that has no room for the last checkpoint
_TOLD_TO_END = (0, 75, -signal.SIGTERM)  # how a server ends that was asked to
LAST_LINES = 8  # of a process that failed, which an exception quotes


def _programs() -> Path:
    """The directory of psd and psdctl: beside the library, as in a build or an installation, or on PATH."""
    lib = Path(capi.path()).resolve().parent
    found = shutil.which("psdctl")
    for directory in (lib.parent / "bin", lib.parent.parent / "bin", Path(found).resolve().parent if found else lib):
        if (directory / "psd").exists() and (directory / "psdctl").exists():
            return directory
    raise UnavailableError("the programs psd and psdctl were not found", hint="install psd-server, or put them on PATH")


def _work(index: int, environment: dict[str, str], words: Path, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """A process of run(). It leaves the file `words`: empty if its work is done, with its last lines if it fails, none if it just ends."""
    os.environ.update(environment, PSD_WORKER__ID=str(index))
    ends_well = False
    try:
        function(*arguments)
        ends_well = is_done()
    except SystemExit as end:
        leave_all(not end.code, [])  # those of the function's frame, which the exception holds
        ends_well = isinstance(end, Stopped) or is_done()
        raise
    except Exception:
        words.write_text(traceback.format_exc())
        leave_all(False, [])
        raise
    finally:
        if ends_well:
            words.touch()


def _check_importable(function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """A new process imports the program, and in it the function."""
    if not callable(function):
        raise UsageError(f"run() was given a {type(function).__name__}, not a function",
                         hint="give it without calling it, and its arguments after it: run(train, 10)")
    file = getattr(sys.modules["__main__"], "__file__", None)
    if file is not None and not os.path.exists(file):
        raise UsageError(f"the new processes of run() cannot import the program {file}",
                         hint="save it as a file, and start that: python3 train.py")
    if file is None and getattr(function, "__module__", None) == "__main__":
        raise UsageError("the new processes of run() cannot import a function of a notebook or of the command line",
                         hint="write it to a file, and import it from there: from train import function")
    try:
        ForkingPickler.dumps((function, arguments))
    except Exception as why:
        raise UsageError(f"run() cannot pass its arguments to new processes: {why}",
                         hint="give a function that a file defines at its top level, and arguments that pickle can copy") from None


def _end(code: int) -> str:
    return f"was killed by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"ended with {code}"


def _make_directory() -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix="psd-"))
    except OSError as why:
        raise SystemDeniedError(f"psd.launch cannot make a directory for its logs: {why}",
                                hint="free space, or set TMPDIR to a directory that this user may write to") from None


def _in_python(line: str) -> str:
    """What a server says of a flag, with the name of psd.launch's argument."""
    line = re.sub(r"^(psd: |--[\w-]+: )", "", line)
    return re.sub(r"--([a-z][\w-]*)", lambda flag: flag[1].replace("-", "_"), line)


def _last_lines(file: Path) -> str:
    lines = file.read_text(errors="replace").splitlines() if file.exists() else []
    return "".join(f"\n  {line}" for line in lines[-LAST_LINES:])


def _stop(processes: Sequence[BaseProcess]) -> None:
    """End them: the first signal ends a psd.Optimizer after its step, the second one in it."""
    for stop in (BaseProcess.terminate, BaseProcess.terminate, BaseProcess.kill):
        until = time.monotonic() + STOP_TIMEOUT
        for process in processes:
            if process.is_alive():
                stop(process)
        for process in processes:
            if process.is_alive():
                process.join(max(until - time.monotonic(), 0))


class LocalJob:
    """The servers of a job on this machine; psd.launch makes one. In its block, psd.Optimizer and psd.connect find it by
    themselves. At the end of the block, workers of this process leave, and the servers exit."""

    def __init__(self, optimizer: str, servers: int, workers: int, job: str, options: dict[str, Any]) -> None:
        if not isinstance(optimizer, str):
            raise UsageError(f"the optimizer is a {type(optimizer).__name__}", hint='name it, with its values: "adam(lr=1e-3)"')
        for name in _OWN_OPTIONS & options.keys():
            raise UsageError(f"psd.launch sets {name} itself", hint="leave it out; psdctl run takes all options")
        if "restarts" in options:
            raise UsageError("psd.launch restarts nothing", hint="start this program by psdctl run JOB -- PROGRAM, which does")
        if not all(isinstance(n, int) and n > 0 for n in (servers, workers)):
            raise UsageError(f"a job cannot have {servers!r} servers and {workers!r} workers", hint="give at least 1 of each")
        self.workers = workers
        self.directory = _make_directory()  #: of the servers' logs, until the end of the block
        self.join = self.status = ""
        self._before = {name: os.environ.get(name) for name in ("PSD_JOIN", "PSD_JOB", "PSD_INSECURE")}
        self._others = open_workers()
        self._lost_at, self._process = 0.0, os.getpid()
        self._is_told = False  # an exception has said that a server has died, or that all have ended
        self._has_terminated = False  # the servers were told to end
        self._servers: list[subprocess.Popen[str]] = []
        flags = ["--insecure", f"--job={job}", f"--servers={servers}", f"--workers-min={workers}", f"--optimizer={optimizer}",
                 *(f"--{name.replace('_', '-')}={_text(value)}" for name, value in options.items())]
        try:
            for index in range(servers):
                self._start(index, flags)
        except BaseException:
            for server in self._servers:  # which would wait for workers, and have nothing to save
                server.kill()
            self._end()
            raise
        self._environment = {"PSD_JOIN": self.join, "PSD_JOB": job, "PSD_INSECURE": "true"}
        os.environ.update(self._environment)
        guards[self.join] = self._guard
        print(f"psd: status page {self.status}", flush=True)

    def _log(self, index: int) -> Path:
        return self.directory / f"server-{index}.log"

    def _start(self, index: int, flags: list[str]) -> None:
        programs = _programs()
        log = self._log(index)
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
            code = server.wait()
            lines = log.read_text(errors="replace").strip().splitlines() or ["it printed nothing"]
            if code in _WRONG_ARGUMENTS:
                raise UsageError(f"psd.launch cannot start with these arguments: {'; '.join(map(_in_python, lines))}")
            raise UnavailableError(f"server {index} did not start: {lines[-1]}", hint="")
        if not index:
            self.join, self.status = said.groups()

    def _find_lost(self) -> PsdError | None:
        """The first server that has died."""
        for index, server in enumerate(self._servers):
            code = server.poll()
            if code and not (self._has_terminated and code in _TOLD_TO_END):
                words = _last_lines(self._log(index))
                hints = [] if code in _DENIED else ["psdctl run would start it again from a checkpoint, psd.launch does not"]
                kind = SystemDeniedError if code in _DENIED else UnavailableError
                return kind(f"server {index} {_end(code)}", hint="; ".join(hints + [f"its last lines:{words}"] * bool(words)))
        return None

    def _find_finished(self) -> PsdError | None:
        """Servers end when all workers have finished."""
        if any(server.poll() is None for server in self._servers):
            return None
        return UnavailableError("the job of this psd.launch is finished, and its servers have ended",
                                hint="train to the end with one psd.Optimizer, or open another psd.launch for more")

    def _find_ended(self) -> PsdError | None:
        """A server that has died, or the end of all. A process that was forked from this one cannot tell, because they are not its
        children."""
        if os.getpid() != self._process:
            return None
        return self._find_lost() or self._find_finished()

    def _guard(self) -> None:
        """While a worker of this process waits: raise if a server has died, or all have ended, unless the worker may yet hear why."""
        lost = self._find_ended()
        if lost is None:
            return
        self._lost_at = self._lost_at or time.monotonic()
        if time.monotonic() - self._lost_at >= GRACE:
            self._is_told = True
            raise lost

    def _words(self, index: int) -> Path:
        return self.directory / f"worker-{index}.txt"

    def run(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Call `function` in each of the job's workers, new processes with the environment of this job; return when all are done.
        It must be importable, as multiprocessing's "spawn" requires. As soon as one of them fails or a server dies, the others are
        stopped, and PsdError says which, how it ended, and its last lines."""
        _check_importable(function, arguments)
        ended = self._find_ended()
        if ended:
            self._is_told = True
            raise ended
        context = multiprocessing.get_context("spawn")
        processes = [context.Process(target=_work, args=(i, self._environment, self._words(i), function, arguments))
                     for i in range(self.workers)]
        try:
            for process in processes:
                process.start()
            self._join(processes)
        finally:
            _stop(processes)

    def _join(self, processes: Sequence[BaseProcess]) -> None:
        """Wait for all, or until the first has failed, because the others may wait for it."""
        running = {process.sentinel: i for i, process in enumerate(processes)}
        while running:
            ended = [running.pop(sentinel) for sentinel in wait(list(running), PERIOD) if isinstance(sentinel, int)]
            for i in ended:
                processes[i].join()
            failed = sorted((processes[i].exitcode or 0, i) for i in ended if processes[i].exitcode)  # killed ones first
            for code, i in failed:
                log.error("worker.ended worker=%d %s", i, _end(code))
            for i in ended:
                if not processes[i].exitcode and running and not self._words(i).exists():
                    log.warning("worker.ended worker=%d ended before the job did: it has not joined, or has left before its work was done, "
                                "and the others may wait for it; let the function return when training is over, without os._exit() and "
                                "opt.close()", i)
            if failed:
                code, i = failed[0]
                words = _last_lines(self._words(i))
                raise PsdError(f"worker {i} {_end(code)}", hint=f"its last lines:{words}" if words else "its output is above")
            lost = self._find_lost()
            if lost:
                self._is_told = True
                raise lost
        if not any(self._words(i).exists() for i in range(len(processes))):
            raise PsdError("no worker has finished training", hint="the function must make a psd.Optimizer or call psd.connect, and return "
                           "when training is over, without os._exit() and opt.close()")

    def _end(self) -> None:
        for server in self._servers:
            server.kill()  # if it has not ended
            server.wait()
            assert server.stdout is not None
            server.stdout.close()
        guards.pop(self.join, None)
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        shutil.rmtree(self.directory, ignore_errors=True)

    def _terminate(self) -> None:
        self._has_terminated = True
        for server in self._servers:
            server.terminate()

    def _await_end(self) -> PsdError | None:
        """Wait for all, and return the first one that has died, without which the others would wait."""
        deadline, lost = time.monotonic() + END_TIMEOUT, None
        for server in self._servers:
            while server.poll() is None and time.monotonic() < deadline:
                with suppress(subprocess.TimeoutExpired):
                    server.wait(PERIOD)
                lost = lost or self._find_lost()
                if lost and not self._has_terminated:
                    self._terminate()
        return lost or self._find_lost()

    def close(self, finished: bool = True) -> None:
        """Make this process's workers leave; then the servers exit, or are stopped by a signal if workers have not finished. PsdError
        if a server has died, or could not make the last checkpoint, unless one was raised before."""
        is_told = self._is_told
        has_worked = leave_all(finished, self._others)
        lost = self._find_lost()
        if lost or not (finished and has_worked):
            self._terminate()
        ended = self._await_end()
        lost = lost or ended
        self._end()
        if finished and lost and not is_told:
            raise lost

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
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise UsageError("psd.launch is called by a script that is only being imported, by a worker of its own job",
                         hint='put the call under if __name__ == "__main__":')
    return LocalJob(optimizer, servers, workers, job, options)
