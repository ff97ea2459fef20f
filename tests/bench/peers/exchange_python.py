#!/usr/bin/python3
"""exchange_python.py - the same as exchange_psd, with the Python package: one worker exchanges a model with one server, from and
into arrays of the library."""
import argparse
import contextlib
import os

from repeat import Ranks, import_package

parser = argparse.ArgumentParser()
parser.add_argument("--parameters", type=int, default=25165824)
parser.add_argument("--units", type=int, default=1)
args = parser.parse_args()
psd = import_package()
with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):  # the address of the status page
    job = psd.launch("sgd(lr=0.01)")
with job, psd.connect() as worker:
    weights, gradient = worker.alloc(args.parameters), worker.alloc(args.parameters)
    weights[:], gradient[:] = 0.5, 1e-3
    worker.register({"t0": weights})
    Ranks(1, gloo=False).serve(lambda: worker.exchange([gradient], samples=64, loss=1.0), args.units, 1)
