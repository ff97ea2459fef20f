"""What the peers have in common: the child's half of what tests/bench/repeat.h describes, and ranks that work together.
Each is run by Debian's interpreter, which knows Debian's torch."""
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


class Ranks:
    """This process and ranks - 1 forks of it, with one thread for arithmetic each, which is the fastest at these sizes."""

    def __init__(self, ranks):
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
        if ranks > 1:
            torch.distributed.init_process_group("gloo", init_method=meeting, rank=self.rank, world_size=ranks)

    def serve(self, unit, units, at_once):
        """Repeat `unit` whenever the parent asks; others follow this rank `at_once` units at a time."""
        if self.rank:
            while os.read(self.order, 1):
                for _ in range(at_once):
                    unit()
                os.write(self.answer, b".")
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
        self.directory.cleanup()
