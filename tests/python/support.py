"""Servers for tests, as real processes on loopback, and how a test file runs: with ctest's code for a skipped one where a package is
missing. BIN, the directory of the built programs, comes from the environment (CMake sets it)."""

from __future__ import annotations

import faulthandler
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from types import TracebackType

BIN = Path(os.environ.get("BIN", ""))
SKIPPED = 77
LONGEST_S = 1200  # of a file; ctest would end it without a word at 1800
PATIENCE = 600  # seconds for what takes one or two, so that only a hang exceeds it


def need(*modules: str) -> None:
    """End as a skipped test where Python lacks one of these."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            print(f"skipped: there is no {module}; apt-get install python3-{module}")
            sys.exit(SKIPPED)


class Servers:
    """A job's servers. `join` is server 0's address; `kill` and `restart` do that to one; `wait` is until all have ended by themselves."""

    def __init__(self, *flags: str, n: int = 1) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="psd-python-"))
        self.flags = [flag.replace("DIR", str(self.directory)) for flag in flags]
        self.n = n
        self.processes: list[subprocess.Popen[str]] = []
        self.listen: list[str] = []
        for _ in range(n):
            self._start()

    def _start(self, index: int | None = None) -> None:
        i = len(self.processes) if index is None else index
        listen = "tcp://127.0.0.1:0" if index is None else self.listen[i]
        command = [str(BIN / "psd"), "--insecure", f"--servers={self.n}", f"--server-index={i}", f"--listen={listen}",
                   "--status-listen=none", "--log-level=error", "--threads=1", *self.flags]
        if i:
            command.append(f"--join={self.listen[0]}")
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        said = re.search(r"data=(\S+)", process.stdout.readline())
        assert said, f"{command} did not begin"
        if index is None:
            self.processes.append(process)
            self.listen.append(said.group(1))
        else:
            self.processes[i] = process

    @property
    def join(self) -> str:
        return self.listen[0]

    def kill(self, i: int) -> None:
        self.processes[i].kill()
        self.processes[i].wait()
        out = self.processes[i].stdout
        assert out is not None
        out.close()

    def restart(self, i: int) -> None:
        self._start(i)

    def wait(self) -> list[int]:
        return [process.wait(timeout=PATIENCE) for process in self.processes]

    def __enter__(self) -> Servers:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
        shutil.rmtree(self.directory)


def script(text: str, *arguments: str, **more: str) -> subprocess.Popen[str]:
    """Start a program in Python."""
    return subprocess.Popen([sys.executable, "-c", text, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env={**os.environ, **more})


def end(program: subprocess.Popen[str]) -> int:
    """Its exit code, once it has ended."""
    program.communicate(timeout=PATIENCE)
    return program.returncode


def main() -> None:
    """Run the tests of the file; one that hangs ends with the place where it does."""
    faulthandler.dump_traceback_later(LONGEST_S, exit=True)
    unittest.main(verbosity=0)
