"""A convolutional network on MNIST with numpy only, on psd servers. Usage: mnist_numpy.py DIRECTORY-OF-THE-FOUR-FILES [EPOCHS]"""
import gzip
import sys
from pathlib import Path

import numpy as np
import psd


def read(name, first):
    path = next(Path(sys.argv[1]).glob(name + "*"))
    data = (gzip.open if path.suffix == ".gz" else open)(path, "rb").read()
    return np.frombuffer(data, np.uint8, offset=first)


def data_set(which):
    return read(which + "-images", 16).reshape(-1, 28, 28).astype(np.float32) / 255, read(which + "-labels", 8)


def forward(x):
    """Convolution 5x5, ReLU, the largest of 4x4, and a linear layer."""
    patches = np.lib.stride_tricks.sliding_window_view(x, (5, 5), axis=(1, 2)).reshape(len(x), 576, 25)
    a = patches @ model["conv.weight"].T + model["conv.bias"]
    pooled = a.reshape(len(x), 6, 4, 6, 4, 16).transpose(0, 1, 3, 5, 2, 4).reshape(len(x), -1, 16)
    top = pooled.argmax(2)
    h = np.maximum(np.take_along_axis(pooled, top[..., None], 2)[..., 0], 0)
    return patches, top, h, h @ model["out.weight"].T + model["out.bias"]


def backward(x, y):
    """The loss and the gradient of each tensor, means over the batch."""
    patches, top, h, z = forward(x)
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    loss = -np.log(p[np.arange(len(y)), y] + 1e-12).mean()
    p[np.arange(len(y)), y] -= 1
    p /= len(y)
    dh = (p @ model["out.weight"]) * (h > 0)
    pooled = np.zeros((*top.shape, 16), np.float32)
    np.put_along_axis(pooled, top[..., None], dh[..., None], 2)
    da = pooled.reshape(len(x), 6, 6, 16, 4, 4).transpose(0, 1, 4, 2, 5, 3).reshape(-1, 16)
    return loss, {"conv.weight": da.T @ patches.reshape(-1, 25), "conv.bias": da.sum(0), "out.weight": p.T @ h, "out.bias": p.sum(0)}


rng = np.random.RandomState(1)
model = {"conv.weight": rng.uniform(-0.2, 0.2, (16, 25)).astype(np.float32), "conv.bias": np.zeros(16, np.float32),
         "out.weight": rng.uniform(-0.04, 0.04, (10, 576)).astype(np.float32), "out.bias": np.zeros(10, np.float32)}
with psd.connect() as worker:
    worker.register(model)
    loss = 0.0
    for x, y in psd.batches(data_set("train"), worker, batch_size=64, epochs=int(sys.argv[2]) if len(sys.argv) > 2 else 1):
        loss, gradients = backward(x, y)
        worker.exchange(gradients, loss=loss)
    x, y = data_set("t10k")
    accuracy = np.mean(np.concatenate([forward(part)[3].argmax(1) for part in np.array_split(x, 20)]) == y)
    worker.report("test/accuracy", accuracy)
    print(f"loss {loss:.4f} accuracy {accuracy:.4f}")
