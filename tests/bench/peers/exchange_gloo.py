#!/usr/bin/python3
"""exchange_gloo.py - data-parallel training without a parameter server: the ranks add up their gradients by Gloo's all-reduce over
loopback, and each makes the optimizer's step (sgd) on its own weights."""
import argparse

from repeat import Ranks, import_torch

parser = argparse.ArgumentParser()
parser.add_argument("--parameters", type=int, default=25165824)
parser.add_argument("--ranks", type=int, default=2)
parser.add_argument("--units", type=int, default=1)
args = parser.parse_args()
torch = import_torch()
ranks = Ranks(args.ranks)
weights = torch.full((args.parameters,), 0.5)
gradient = torch.full((args.parameters,), 0.0)  # the sum takes its place, and must not grow from turn to turn


def exchange():
    torch.distributed.all_reduce(gradient)
    weights.add_(gradient, alpha=-0.01 / args.ranks)


ranks.serve(exchange, args.units, 1)
