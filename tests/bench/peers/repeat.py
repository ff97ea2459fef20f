"""Shared code of the peers: the child's half of the protocol in tests/bench/repeat.h, and ranks that work together. Debian's
interpreter, which finds Debian's torch, runs them."""
import os
import statistics
import sys
import tempfile
import time


def import_torch():
    """torch, or the end of this program with the reason."""
    try:
        import torch
        import torch.distributed
    except ImportError as why:
        print(f"skip {why}; apt-get install python3-torch".replace('"', "'"), flush=True)
        sys.exit(0)
    return torch


def import_package():
    """The package psd, or the end of this program with the reason."""
    try:
        import numpy  # noqa: F401
        import psd
    except ImportError as why:
        print(f"skip {why}; apt-get install python3-numpy".replace('"', "'"), flush=True)
        sys.exit(0)
    return psd


class Ranks:
    """This process and ranks - 1 forks of it, with one thread for arithmetic each, which is the fastest at these sizes; `gloo`:
    they reduce among themselves."""

    def __init__(self, ranks, gloo=True):
        self.orders, self.answers, self.rank = [], [], 0
        self.directory = tempfile.TemporaryDirectory(prefix="psd-bench-")
        meeting = f"file://{self.directory.name}/meeting"
        for rank in range(1, ranks):
            order, answer = os.pipe(), os.pipe()
            if os.fork() == 0:
                self.rank, self.order, self.answer = rank, order[0], answer[1]
                os.close(order[1])
                for fd in self.orders:
                    os.close(fd)
                break
            os.close(order[0])
            self.orders.append(order[1])
            self.answers.append(answer[0])
        torch = import_torch()
        torch.set_num_threads(1)
        if ranks > 1 and gloo:
            torch.distributed.init_process_group("gloo", init_method=meeting, rank=self.rank, world_size=ranks)

    def serve(self, unit, units, at_once, finish=lambda: None):
        """Repeat `unit` whenever the parent asks; others follow this rank `at_once` units at a time. Each rank ends with
        `finish`."""
        if self.rank:
            while os.read(self.order, 1):
                for _ in range(at_once):
                    unit()
                os.write(self.answer, b".")
            finish()
            os._exit(0)

        def together():
            for fd in self.orders:
                os.write(fd, b".")
            for _ in range(at_once):
                unit()
            for fd in self.answers:
                os.read(fd, 1)

        for _ in range(5):
            together()
        print("ready", flush=True)
        while sys.stdin.readline():
            times = []
            for _ in range(units // at_once):
                begin = time.perf_counter()
                together()
                times.append((time.perf_counter() - begin) / at_once)
            print(f"{statistics.fmean(times):.9f} {statistics.median(times):.9f}", flush=True)
        for fd in self.orders:
            os.close(fd)
        finish()
        self.directory.cleanup()
