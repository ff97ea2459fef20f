"""python3 -m psd --version: the versions of the package and of the library, and the library's path."""

from __future__ import annotations

import argparse

from . import __version__
from . import capi


def main(arguments: list[str] | None = None) -> int:
    """Carry out the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python3 -m psd", description="train on parameter servers; see docs/python.md")
    parser.add_argument("--version", action="store_true", help="print the versions of the package and of libpsdworker")
    told = parser.parse_args(arguments)
    if not told.version:
        parser.print_help()
        return 64
    print(f"psd {__version__} libpsdworker {capi.load().psd_version().decode()} ({capi.path()})")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
