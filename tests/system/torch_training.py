#!/usr/bin/python3
"""torch_training.py BIN - a job with the settings of a training script trains as torch does: adamw, cosine with warmup, clipping to
norm 1 and to one that bites, no decay on biases, four rounds to a step. Both begin with the same weights and take the same rows in
the same order; the losses of the first 20 steps differ by at most 1e-5. The rows are drawn here, or are MNIST's, where MNIST names
the directory of its four files. Skipped (77) where Debian's python3-torch is not installed."""
import copy
import gzip
import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile

try:
    import numpy as np
    import torch
    from torch import nn
    from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR
except ImportError as why:
    print(f"torch_training: skipped: {why}; apt-get install python3-torch")
    sys.exit(77)

BIN = os.path.abspath(sys.argv[1])
STEPS, ROUNDS, BATCH, WORKERS = 20, 4, 64, 2
LAYERS = (784, 128, 10)
LR, DECAY, WARMUP, START, LEAST = 3e-3, 0.1, 5, 0.1, 1e-5
NORMS = (1.0, 0.2)  # gradients of MNIST stay below the first
WITHIN = 1e-5


def write_idx(path, array):
    with gzip.open(path, "wb") as file:
        file.write(struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes())


def read_idx(directory, name, n_dims):
    path = next(pathlib.Path(directory).glob(name + "*"))
    data = (gzip.open if path.suffix == ".gz" else open)(path, "rb").read()
    return np.frombuffer(data, np.uint8, offset=4 + 4 * n_dims).reshape(struct.unpack_from(f">{n_dims}I", data, 4))


def draw(n):
    """Images of ten shapes, each with different noise, and their labels."""
    rng = np.random.default_rng(7)
    shapes, labels = rng.integers(0, 2, (10, 28, 28)) * 160, rng.integers(0, 10, n)
    return np.clip(shapes[labels] + rng.normal(0, 60, (n, 28, 28)), 0, 255).astype(np.uint8), labels.astype(np.uint8)


def write_safetensors(path, arrays):
    header, at = {}, 0
    for name, array in arrays.items():
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(array.tobytes() for array in arrays.values()))


def by_torch(model, images, labels, norm):
    """The mean loss of each step's rows, and how many steps were clipped."""
    decayed = [value for name, value in model.named_parameters() if not name.endswith("bias")]
    others = [value for name, value in model.named_parameters() if name.endswith("bias")]
    opt = torch.optim.AdamW([{"params": decayed}, {"params": others, "weight_decay": 0}], lr=LR, weight_decay=DECAY)
    schedule = SequentialLR(opt, [LinearLR(opt, START, 1, WARMUP), CosineAnnealingLR(opt, STEPS - WARMUP, LEAST)], [WARMUP])
    losses, clipped = [], 0
    for step in range(STEPS):
        opt.zero_grad()
        losses.append(0.0)
        for r in range(step * ROUNDS, (step + 1) * ROUNDS):
            rows = slice(r * BATCH, (r + 1) * BATCH)
            loss = nn.functional.cross_entropy(model(images[rows]), labels[rows]) / ROUNDS
            loss.backward()
            losses[-1] += loss.item()
        clipped += nn.utils.clip_grad_norm_(model.parameters(), norm).item() > norm
        opt.step()
        schedule.step()
    return losses, clipped


def by_psd(servers, norm):
    run = f"run-{servers}-{norm}"
    words = [f"{BIN}/psdctl", "run", "--progress=none", f"--servers={servers}", f"--workers-min={WORKERS}", f"--run-dir={run}",
             "--model-kind=mlp", f"--model-layers={','.join(map(str, LAYERS))}", "--init=first.safetensors",
             "--data-train=idx:images.gz", "--data-labels=labels.gz", "--data-shuffle=false", f"--data-batch={BATCH}", "--eval-every=0",
             f"--stop-steps={STEPS}", f"--optimizer=adamw(lr={LR}, weight_decay={DECAY})", "--groups=*.bias(weight_decay=0)",
             f"--schedule=cosine(steps={STEPS - WARMUP}, min={LEAST}, warmup={WARMUP}, warmup_start={START})", f"--clip-norm={norm}",
             f"--sync-accumulate={ROUNDS}"]
    end = subprocess.run(words, capture_output=True, text=True)
    if end.returncode:
        print(f"torch_training: {' '.join(words)} ended with {end.returncode}:\n{end.stdout}{end.stderr}")
        sys.exit(1)
    loss, samples = np.zeros(STEPS + 1), np.zeros(STEPS + 1)
    for path in pathlib.Path(run).glob("metrics*.jsonl"):
        for row in map(json.loads, path.read_text().splitlines()):
            if "train/loss" in row:
                loss[row["step"]] += row["train/loss"] * row["train/samples"]
                samples[row["step"]] += row["train/samples"]
    assert (samples[1:] == ROUNDS * BATCH).all(), samples
    return loss[1:] / samples[1:]


where = os.environ.get("MNIST")
images, labels = draw(STEPS * ROUNDS * BATCH)
if where:
    images, labels = read_idx(where, "train-images", 3), read_idx(where, "train-labels", 1)
os.chdir(tempfile.mkdtemp())
write_idx("images.gz", images)
write_idx("labels.gz", labels)
torch.manual_seed(1)
model = nn.Sequential()
for i, (wide, narrow) in enumerate(zip(LAYERS, LAYERS[1:]), 1):
    if i > 1:
        model.add_module(f"relu{i}", nn.ReLU())
    model.add_module(f"fc{i}", nn.Linear(wide, narrow))
write_safetensors("first.safetensors", {name: value.detach().numpy() for name, value in model.named_parameters()})
rows = torch.from_numpy(images.reshape(len(images), -1).copy()).float() / 255
for norm, n in [(norm, n) for norm in NORMS for n in (1, 2)]:
    theirs, clipped = by_torch(copy.deepcopy(model), rows, torch.from_numpy(labels.copy()).long(), norm)
    assert clipped or norm == NORMS[0], "a test of clipping has something to clip"
    ours = by_psd(n, norm)
    worst = np.abs(ours - theirs).max()
    print(f"torch_training: {n} servers, norm {norm}, {clipped} steps clipped: losses from {ours[0]:.4f} to {ours[-1]:.4f}, at most {worst:.2g} from torch's")
    if not worst <= WITHIN or not ours[-1] < 0.8 * ours[0]:
        print(f"psd   {ours}\ntorch {np.array(theirs)}")
        sys.exit(1)
