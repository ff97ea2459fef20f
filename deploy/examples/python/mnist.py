"""A convolutional network on MNIST, on psd servers. Usage: mnist.py DIRECTORY-OF-THE-FOUR-FILES [EPOCHS]"""
import gzip
import sys
from pathlib import Path

import psd
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def read(name, first):
    path = next(Path(sys.argv[1]).glob(name + "*"))
    data = (gzip.open if path.suffix == ".gz" else open)(path, "rb").read()
    return torch.frombuffer(bytearray(data[first:]), dtype=torch.uint8)


def data_set(which):
    images = read(which + "-images", 16).float().reshape(-1, 1, 28, 28) / 255
    return TensorDataset(images, read(which + "-labels", 8).long())


torch.manual_seed(1)
train, test = data_set("train"), data_set("t10k")
model = nn.Sequential(nn.Conv2d(1, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 5), nn.ReLU(), nn.MaxPool2d(2),
                      nn.Flatten(), nn.Linear(512, 10))
opt = psd.Optimizer(model.named_parameters(), "adam(lr=1e-3)")
loader = DataLoader(train, batch_sampler=psd.Sampler(train, opt, batch_size=64))
for epoch in range(int(sys.argv[2]) if len(sys.argv) > 2 else 1):
    for x, y in loader:
        opt.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        opt.step()
    with torch.no_grad():
        accuracy = (model(test[:][0]).argmax(1) == test[:][1]).float().mean().item()
    print(f"epoch {epoch + 1} accuracy {accuracy:.4f}")
