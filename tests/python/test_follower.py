"""psd.Follower reads the weights of a running job, all of one version, and changes nothing in it: real servers, workers and followers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import unittest
from pathlib import Path
from typing import Any

import support

support.need("numpy")

import numpy as np  # noqa: E402

import psd  # noqa: E402

SHAPES = {"w": (300, 400), "b": (7,), "s": ()}
FOLLOW = """
import sys, psd
with psd.Follower(sys.argv[1], insecure=True) as follower:
    while True:
        follower.pull()
        print(follower.version, flush=True)
"""


class Trainer:
    """A worker, on a thread: each step of sgd(lr=1) takes 1 from every weight."""

    def __init__(self, join: str, **how: Any) -> None:
        self.weights = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
        self.stops, self.steps, self.last = threading.Event(), 0, 0
        self.begun = threading.Event()
        self.how = how or {"insecure": True}
        self.thread = threading.Thread(target=self.work, args=(join,))
        self.thread.start()
        self.begun.wait(60)

    def work(self, join: str) -> None:
        with psd.connect(join, **self.how) as worker:
            worker.register(self.weights)
            gradient = {name: np.ones(shape, np.float32) for name, shape in SHAPES.items()}
            while not self.stops.is_set():
                self.last = worker.exchange(gradient).clock
                self.begun.set()

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, *_: Any) -> None:
        self.stops.set()
        self.thread.join()


class Follow(unittest.TestCase):
    def check(self, follower: psd.Follower, weights: dict[str, Any]) -> int:
        """Everything is of the version that the follower names."""
        self.assertEqual({name: array.shape for name, array in weights.items()}, SHAPES)
        for name, array in weights.items():
            self.assertEqual(set(array.flatten().tolist()), {-float(follower.version)}, name)
        return follower.version

    def test_each_pull_is_of_one_version_and_newer_ones_follow(self) -> None:
        with support.Servers("--optimizer=sgd(lr=1)", n=2) as servers, Trainer(servers.join):
            with psd.Follower(servers.join, insecure=True) as follower, psd.Follower(servers.join, insecure=True) as other:
                versions = []
                deadline = time.monotonic() + 60
                while len(set(versions)) < 5 and time.monotonic() < deadline:
                    versions.append(self.check(follower, follower.pull()))
                    self.check(other, other.pull())
                self.assertEqual(versions, sorted(versions))
                kept = follower.pull()
                version = self.check(follower, kept)
                values = {name: array.tolist() for name, array in kept.items()}
                for _ in range(3):
                    while follower.version == version and time.monotonic() < deadline:
                        follower.pull()
                    version = follower.version
                same = {name: array.tolist() for name, array in kept.items()} == values  # unittest would compare them for minutes
                self.assertTrue(same, "later pulls make their own arrays")
                self.assertGreaterEqual(len(set(versions)), 5)
            for use in (follower.pull, lambda: follower.version):
                with self.assertRaisesRegex(psd.UsageError, "this follower is closed; make another psd.Follower"):
                    use()
            self.assertEqual(set(psd.read(servers.join, insecure=True)), set(SHAPES))

    def test_the_slow_weights_are_lookaheads(self) -> None:
        with support.Servers("--optimizer=lookahead(sgd(lr=1), k=4, alpha=0.5)", n=2) as servers:
            w = np.zeros(50, np.float32)
            with psd.connect(servers.join, insecure=True) as worker, psd.Follower(servers.join, insecure=True) as follower:
                worker.register({"w": w})
                for _ in range(5):
                    worker.exchange({"w": np.ones_like(w)})
                self.assertEqual(set(follower.pull()["w"].tolist()), {-2.0})  # halfway from 0 to -4
                self.assertEqual(set(follower.pull(slow=False)["w"].tolist()), {-3.0})  # and one step on
                self.assertEqual(follower.version, 5)

    def test_a_follower_that_is_killed_changes_nothing(self) -> None:
        with support.Servers("--optimizer=adam(lr=0.01)", "--workers-min=1", n=2) as servers:
            w, steps = np.zeros(5000, np.float32), 0
            with psd.connect(servers.join, insecure=True) as worker:
                worker.register({"w": w})
                for life in range(3):
                    program = support.script(FOLLOW, servers.join)
                    assert program.stdout is not None
                    said: list[str] = []
                    reader = threading.Thread(target=lambda: said.append(program.stdout.readline()))  # type: ignore[union-attr]
                    reader.start()
                    while reader.is_alive() or steps % 20:
                        worker.exchange({"w": np.cos(np.arange(5000, dtype=np.float32) + steps)})
                        steps += 1
                    self.assertTrue(said[0].strip().isdigit(), said)
                    program.send_signal(signal.SIGKILL)
                    program.communicate()
                worker.exchange({"w": np.cos(np.arange(5000, dtype=np.float32) + steps)})
                self.assertEqual(worker.position.world, 1)
            self.assertEqual(servers.wait(), [0, 0])
        with support.Servers("--optimizer=adam(lr=0.01)") as servers, psd.connect(servers.join, insecure=True) as worker:
            undisturbed = np.zeros(5000, np.float32)
            worker.register({"w": undisturbed})
            for step in range(steps + 1):
                worker.exchange({"w": np.cos(np.arange(5000, dtype=np.float32) + step)})
            self.assertEqual(w.tobytes(), undisturbed.tobytes())

    def test_it_waits_while_servers_are_restarted_and_says_for_what(self) -> None:
        with support.Servers("--optimizer=sgd(lr=1)", "--checkpoint-dir=DIR/saved", "--checkpoint-every=100ms", "--lease=1s",
                             n=2) as servers, Trainer(servers.join):
            with psd.Follower(servers.join, insecure=True) as follower:
                for victim in (1, 0):
                    self.check(follower, follower.pull())
                    servers.kill(victim)
                    with self.assertRaisesRegex(psd.DeadlineError, "waiting for"):
                        follower.pull(timeout=0.5)
                    servers.restart(victim)
                    self.check(follower, follower.pull(timeout=60))

    def test_a_job_that_has_no_weights_yet_or_none_any_more_says_so(self) -> None:
        with support.Servers("--optimizer=sgd(lr=1)", n=2) as servers:
            said = ""
            deadline = time.monotonic() + 60
            while "the job to begin: it has no weights yet" not in said and time.monotonic() < deadline:
                with self.assertRaises(psd.DeadlineError) as raised:
                    psd.read(servers.join, insecure=True, timeout=0.5)
                said = str(raised.exception)
            self.assertIn("the job to begin: it has no weights yet", said)
        with self.assertRaisesRegex(psd.UsageError, "give checkpoint.dir"):
            psd.read("tcp://127.0.0.1:1", 5)
        with self.assertRaisesRegex(psd.UsageError, "no argument join_timeout; give timeout="):
            psd.read("tcp://127.0.0.1:1", insecure=True, join_timeout=5)
        with self.assertRaisesRegex(psd.UsageError, "is not an address"):
            psd.read("runs/none", insecure=True)
        with support.Servers("--optimizer=sgd(lr=1)", "--job=one") as servers, self.assertRaisesRegex(psd.RefusedError, "two"):
            psd.read(servers.join, job="two", insecure=True)

    def test_a_readers_key_reads_and_does_nothing_else(self) -> None:
        with support.Servers("--help-is-not-asked-for", n=0) as place:
            home = Path(place.directory)
            users = (("ps", "server"), ("w", "worker"), ("eye", "reader"), ("mon", "monitor"))
            lines = [subprocess.run([support.BIN / "psdctl", "keygen", home / name, f"--role={role}"], check=True, capture_output=True,
                                    text=True).stdout for name, role in users]
            (home / "allow").write_text("".join(line.replace(str(home) + "/", "") for line in lines))
            (home / "allow").chmod(0o600)
            server = subprocess.Popen([support.BIN / "psd", "--optimizer=sgd(lr=1)", "--listen=tcp://127.0.0.1:0", "--status-listen=none",
                                       "--log-level=error", f"--server-key={home}/ps.key", f"--allow={home}/allow"],
                                      stdout=subprocess.PIPE, text=True)
            assert server.stdout is not None
            try:
                join = server.stdout.readline().split("data=")[1].split()[0]
                keys = {"server_public": home / "ps.pub"}
                with Trainer(join, key=home / "w.key", **keys):
                    with psd.Follower(join, key=home / "eye.key", **keys) as follower:
                        self.check(follower, follower.pull())
                    self.assertEqual(set(psd.read(join, key=home / "w.key", **keys)), set(SHAPES))
                    with self.assertRaisesRegex(psd.RefusedError, "mon has the role monitor, which may not send FOLLOW"):
                        psd.read(join, key=home / "mon.key", **keys)
                    with self.assertRaisesRegex(psd.RefusedError, "eye has the role reader, which may not send HELLO"):
                        psd.connect(join, key=home / "eye.key", **keys)
            finally:
                server.kill()
                server.wait()
                server.stdout.close()


if __name__ == "__main__":
    assert os.environ.get("BIN") and sys.version_info >= (3, 9)
    support.main()
