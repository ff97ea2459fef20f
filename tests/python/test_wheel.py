"""A wheel is made without a network, and is whole where it is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import unittest
import zipfile
from pathlib import Path

import support

support.need("numpy", "pip", "setuptools", "wheel")

SOURCE = Path(__file__).resolve().parents[2] / "worker/python"


class Wheel(unittest.TestCase):
    def test_it_is_made_offline_and_runs(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            copy = shutil.copytree(SOURCE, Path(directory) / "source", ignore=shutil.ignore_patterns("__pycache__"))
            subprocess.run([sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index", "-w", directory,
                            str(copy)], check=True, capture_output=True)
            wheel, = Path(directory).glob("psd-*-py3-none-any.whl")
            with zipfile.ZipFile(wheel) as file:
                self.assertEqual({name for name in file.namelist() if name.startswith("psd/")},
                                 {f"psd/{path.name}" for path in (SOURCE / "psd").iterdir() if path.is_file()})
                file.extractall(f"{directory}/site")
            said = subprocess.run([sys.executable, "-m", "psd", "--version"], capture_output=True, text=True, cwd=directory,
                                  env={**os.environ, "PYTHONPATH": f"{directory}/site"})
            self.assertRegex(said.stdout, "^psd .* libpsdworker ")


if __name__ == "__main__":
    support.main()
