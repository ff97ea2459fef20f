#!/usr/bin/python3
"""train_torch.py - steps of the MLP that train_psd trains, 784-128-10 with 64 rows in all, by torch: in one process, or with
several ranks by DistributedDataParallel over Gloo. Rows are in memory; their values do not matter for the time."""
import argparse

from repeat import Ranks, import_torch

parser = argparse.ArgumentParser()
parser.add_argument("--ranks", type=int, default=1)
parser.add_argument("--units", type=int, default=600, help="steps in one repetition")
args = parser.parse_args()
torch = import_torch()
ranks = Ranks(args.ranks)
torch.manual_seed(1)
ROWS, BATCH = 6400, 64 // args.ranks
rows, labels = torch.rand(ROWS, 784), torch.randint(10, (ROWS,))
model = torch.nn.Sequential(torch.nn.Linear(784, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
if args.ranks > 1:
    model = torch.nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, foreach=True)
loss = torch.nn.CrossEntropyLoss()
order, at = torch.randperm(ROWS), 0


def step():
    global at
    batch = order[at : at + BATCH]
    at = (at + BATCH) % ROWS
    optimizer.zero_grad(set_to_none=args.ranks == 1)  # DDP's gradients are views of what it sends
    loss(model(rows[batch]), labels[batch]).backward()
    optimizer.step()


ranks.serve(step, args.units, min(args.units, 50))
