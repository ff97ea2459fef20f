"""What docs/python.md says is so: its blocks run, its commands name files and options that there are, its two lines are the difference
between two scripts, and the examples train."""

from __future__ import annotations

import builtins
import difflib
import os
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import support

support.need("numpy", "torch")

import numpy as np  # noqa: E402

SOURCE = Path(__file__).resolve().parents[2]
EXAMPLES = SOURCE / "deploy/examples/python"
PAGE = (SOURCE / "docs/python.md").read_text()
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.M | re.S)


def draw_digits(directory: Path) -> None:
    """MNIST's four files, with ten drawn shapes, moved about and noisy, for digits."""
    rng = np.random.RandomState(1)
    shapes = rng.rand(10, 20, 20) > 0.6
    for which, n in (("train", 1600), ("t10k", 400)):
        labels = rng.randint(0, 10, n)
        images = rng.randint(0, 60, (n, 28, 28)).astype(np.uint8)
        for image, label in zip(images, labels):
            i, j = rng.randint(3, 6, 2)
            image[i:i + 20, j:j + 20] += (shapes[label] * 180).astype(np.uint8)
        (directory / f"{which}-images-idx3-ubyte").write_bytes(bytes(16) + images.tobytes())
        (directory / f"{which}-labels-idx1-ubyte").write_bytes(bytes(8) + labels.astype(np.uint8).tobytes())


def run(script: str | Path, *arguments: str, code: str | None = None, **environment: str) -> str:
    words = [sys.executable, "-c", code] if code is not None else [sys.executable, str(script)]
    said = subprocess.run([*words, *arguments], capture_output=True, text=True, env={**ENVIRONMENT, **environment}, timeout=600)
    assert said.returncode == 0, said.stderr
    return said.stdout


def train(rule: str, *command: str, n: int = 2, more: tuple[str, ...] = ()) -> list[str]:
    """What `n` workers of a job say."""
    with support.Servers(f"--optimizer={rule}", f"--workers-min={n}", *more) as servers:
        workers = [subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={
            **ENVIRONMENT, "PSD_JOIN": servers.join, "PSD_INSECURE": "true", "PSD_WORKER__ID": str(i)}) for i in range(n)]
        said = [worker.communicate(timeout=support.PATIENCE) for worker in workers]
        assert [worker.returncode for worker in workers] == [0] * n, said
        assert servers.wait() == [0]
        return [out for out, _ in said]


class Page(unittest.TestCase):
    def test_the_import_and_two_lines_are_all_that_differs(self) -> None:
        plain, changed = ((EXAMPLES / name).read_text().splitlines()[1:] for name in ("mnist_torch.py", "mnist.py"))
        differences = [line for line in difflib.unified_diff(plain, changed, n=0, lineterm="") if line[:3] not in ("---", "+++", "@@ ")]
        self.assertEqual("\n".join(differences) + "\n", blocks("diff")[0])
        self.assertEqual(len(differences), 5)

    def test_its_programs_run(self) -> None:
        said = [run("", code=text) for text in blocks("python")]
        self.assertRegex(said[0], r"^psd: status page http://127.0.0.1:\d+\nwell\n$")
        self.assertRegex(said[-2], r"\[ 3. -1.\]\n$")

    def test_its_commands_name_what_there_is(self) -> None:
        commands = [line[2:] for block in blocks("console") for line in block.splitlines()]
        self.assertEqual(len(commands), 8)
        for command in commands:
            for word in command.split():
                if word.startswith("deploy/"):
                    self.assertTrue((SOURCE / word).exists(), command)
                if word.endswith(".yaml"):
                    check = subprocess.run([support.BIN / "psdctl", "config", "check", SOURCE / word], capture_output=True, text=True)
                    self.assertNotRegex(check.stderr, "unknown key", command)
        self.assertEqual(run("", "--version", code="import sys, psd.__main__ as m; m.main(sys.argv[1:])").split()[0], "psd")

    def test_its_job_file_and_script_train_by_its_command(self) -> None:
        command = next(line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("$ psdctl run job.yaml"))
        with tempfile.TemporaryDirectory() as directory:
            (Path(directory) / "job.yaml").write_text(blocks("yaml")[0])
            (Path(directory) / "train.py").write_text(next(text for text in blocks("py") if "psd.Sampler" in text))
            said = subprocess.run([str(support.BIN / "psdctl"), *command.replace("python3", sys.executable).split()[1:]], cwd=directory,
                                  capture_output=True, text=True, env=ENVIRONMENT, timeout=600)
            self.assertEqual(said.returncode, 0, said.stderr)
            import psd

            np.testing.assert_allclose(psd.load(f"{directory}/line.safetensors")["weight"], [[3, -1]], atol=0.05)

    def test_its_job_ends_with_the_same_weights_when_a_worker_or_a_server_is_killed(self) -> None:
        job = next(text for text in blocks("yaml") if "checkpoint" in text).replace("every_steps: 50", "every_steps: 5")
        script = next(text for text in blocks("py") if "psd.Sampler" in text)
        kill = """
        if os.environ["PSD_WORKER__ID"] == "1" and opt.position.clock == 13 and not os.path.exists("killed"):
            open("killed", "x").close()
            server = subprocess.check_output(["pgrep", "-P", str(os.getppid()), "-f", "server-index=1"])
            os.kill(os.getpid() if os.environ["KILLS"] == "worker" else int(server), signal.SIGKILL)
"""
        weights = {}
        for kills in ("", "worker", "server"):
            with self.subTest(kills), tempfile.TemporaryDirectory() as directory:
                top = Path(directory)
                (top / "job.yaml").write_text(job)
                (top / "train.py").write_text("import os, signal, subprocess\n" + script.replace(
                    "        opt.step()\n", "        opt.step()\n" + (kill if kills else "")))
                said = subprocess.run([str(support.BIN / "psdctl"), "run", "job.yaml", "--", sys.executable, "train.py"], cwd=top,
                                      capture_output=True, text=True, env={**ENVIRONMENT, "KILLS": kills}, timeout=support.PATIENCE)
                self.assertEqual(said.returncode, 0, said.stderr)
                if kills:
                    self.assertRegex(said.stderr, f'run.restart role="{kills} 1" ended="was killed by signal 9')
                weights[kills] = (top / "line.safetensors").read_bytes()
        self.assertEqual(set(weights.values()), {weights[""]})

    def test_names_that_the_page_has_are_the_packages(self) -> None:
        import psd

        for name in set(re.findall(r"`psd\.(\w+)", PAGE)) | set(re.findall(r"`(\w+Error)`", PAGE)):
            self.assertTrue(hasattr(psd, name) or hasattr(builtins, name), name)
        for name in re.findall(r"`opt\.(\w+)", PAGE):
            self.assertTrue(hasattr(psd.Optimizer, name) or name in ("worker", "batch_samples"), name)


class Examples(unittest.TestCase):
    def test_mnist_in_torch_and_in_numpy(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            draw_digits(Path(directory))
            self.assertGreater(float(run(EXAMPLES / "mnist_torch.py", directory, "3").split()[-1]), 0.9)
            for script, epochs, least in (("mnist.py", "3", 0.9), ("mnist_numpy.py", "6", 0.9)):
                said = train("adam(lr=1e-3)", str(EXAMPLES / script), directory, epochs)
                scores = {float(words.split()[-1]) for words in said}
                self.assertEqual(len(scores), 1, said)
                self.assertGreater(scores.pop(), least, said)

    def test_a_job_that_continues_from_its_checkpoint_repeats_no_epoch(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            draw_digits(Path(directory))
            more = (f"--checkpoint-dir={directory}/saved", "--checkpoint-every-steps=10")
            once = train("adam(lr=1e-3)", str(EXAMPLES / "mnist.py"), directory, "1", n=1, more=more)
            twice = train("adam(lr=1e-3)", str(EXAMPLES / "mnist.py"), directory, "2", n=1, more=more)
            self.assertEqual(twice[0].splitlines()[0], once[0].splitlines()[0], "the weights of the first epoch's end")
            self.assertEqual(len(twice[0].splitlines()), 2)

    def test_characters_are_learned(self) -> None:
        said = train("lookahead(radam(lr=1e-2), k=5)", str(EXAMPLES / "characters.py"), "150", str(SOURCE / "LICENSE"),
                     more=("--clip-norm=1",))
        before, after = map(float, re.findall(r"loss (\S+) then (\S+)", said[0])[0])
        self.assertGreater(before, 3)
        self.assertLess(after, 2.6)

    def test_a_notebook_and_what_goes_on_from_its_weights(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            said = run("", code=f"import os\nos.chdir({directory!r})\n" + (EXAMPLES / "notebook.py").read_text())
            self.assertLess(float(said.split()[-1]), 0.05)
            self.assertLess(float(run(EXAMPLES / "finetune.py", f"{directory}/sine.safetensors").split()[-1]), 0.1)


if __name__ == "__main__":
    support.main()
