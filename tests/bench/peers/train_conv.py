#!/usr/bin/python3
"""train_conv.py - steps of the example's convolutional network, 64 rows in all, on two ranks: by psd.Optimizer and one server, or
by DistributedDataParallel over Gloo. Rows are in memory; their values do not matter for the time."""
import argparse
import contextlib
import os

from repeat import Ranks, import_package, import_torch

parser = argparse.ArgumentParser()
parser.add_argument("--by", choices=("psd", "ddp"), required=True)
parser.add_argument("--units", type=int, default=60, help="steps in one repetition")
args = parser.parse_args()
RANKS, ROWS, BATCH = 2, 6400, 32
job = contextlib.ExitStack()
if args.by == "psd":
    psd = import_package()
    import_torch()
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):  # the address of the status page
        job = psd.launch("adam(lr=1e-3)", workers=RANKS)
with job:
    ranks = Ranks(RANKS, gloo=args.by == "ddp")
    torch = import_torch()
    nn = torch.nn
    torch.manual_seed(1)
    rows, labels = torch.rand(ROWS, 1, 28, 28), torch.randint(10, (ROWS,))
    model = nn.Sequential(nn.Conv2d(1, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 5), nn.ReLU(), nn.MaxPool2d(2),
                          nn.Flatten(), nn.Linear(512, 10))
    if args.by == "psd":
        optimizer = psd.Optimizer(model.named_parameters())
    else:
        model = nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, foreach=True)
    order, at = torch.randperm(ROWS)[ranks.rank::RANKS], 0  # each rank has rows of its own

    def step():
        global at
        batch = order[at:at + BATCH]
        at = (at + BATCH) % len(order)
        optimizer.zero_grad(set_to_none=False)  # DDP's gradients are views of what it sends
        nn.functional.cross_entropy(model(rows[batch]), labels[batch]).backward()
        optimizer.step()

    ranks.serve(step, args.units, min(args.units, 20), finish=lambda: args.by == "psd" and optimizer.close(finished=True))
