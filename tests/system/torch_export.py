#!/usr/bin/python3
"""torch_export.py BIN SOURCE - torch can continue from psdctl export: psd trains a job on two servers, the checkpoint before its
last step is exported and loaded into torch by the code in docs/checkpoints.md, torch makes the last step, and gets psd's weights
and state. numpy finds the same arrays in the npz. With Lookahead the slow weights are exported unless the fast ones are requested.
Skipped (77) where Debian's python3-torch is not installed."""
import re
import subprocess
import sys
import tempfile

try:
    import numpy as np
    import torch
except ImportError as why:
    print(f"torch_export: skipped: {why}; apt-get install python3-torch")
    sys.exit(77)

BIN, SOURCE = sys.argv[1:]
STEPS = 12  # radam is past its first rectified step, lookahead past a sync
# Shapes of all ranks; 5000 elements are several chunks, so both servers have a part.
MODEL = {"fc1.weight": (50, 100), "frozen": (7,), "fc1.bias": (50,), "conv": (2, 3, 4, 5), "scale": ()}
FROZEN = {"frozen"}  # never has a gradient: torch leaves it without state
SIZES = {name: int(np.prod(shape)) for name, shape in MODEL.items()}
TOLERANCE = 1e-6  # the smallest of tests/golden/docs/checkpoints.md: both sides begin this one step as equals

# psd's rule, with a learning rate that moves weights by about their own size, so that a wrong state shows; torch's class;
# what torch is told beside the exported param_groups: its nadam of one tensor at a time multiplies mu in twice (mended in
# torch 2), that of all at once does not.
RULES = [
    ("sgd(lr=0.3)", "SGD", {}),
    ("sgd(lr=0.3, momentum=0.9, dampening=0.1, weight_decay=0.01)", "SGD", {}),
    ("nesterov(lr=0.3)", "SGD", {}),
    ("adam(lr=0.3)", "Adam", {}),
    ("adam(lr=0.3, amsgrad=1, weight_decay=0.01)", "Adam", {}),
    ("adamw(lr=0.3)", "AdamW", {}),
    ("nadam(lr=0.3)", "NAdam", {"foreach": True}),
    ("radam(lr=0.3)", "RAdam", {}),
    ("adamax(lr=0.3)", "Adamax", {}),
    ("adagrad(lr=0.5, lr_decay=0.01, initial_accumulator=0.1)", "Adagrad", {}),
    ("adadelta(lr=100)", "Adadelta", {}),
    ("rmsprop(lr=0.1)", "RMSprop", {}),
    ("rmsprop(lr=0.1, centered=1, momentum=0.9)", "RMSprop", {}),
    ("lookahead(adam(lr=0.3), k=5)", "Adam", {}),  # the last step is no sync: it is adam's
]


def page(word):
    """The page's block of Python that contains this word, as a namespace."""
    with open(f"{SOURCE}/docs/checkpoints.md") as file:
        blocks = re.findall(r"^```python\n(.*?)^```", file.read(), re.M | re.S)
    names = {}
    exec(next(block for block in blocks if word in block), names)
    return names


PAGE = page("def read_safetensors")
read_safetensors, read_model, read_optimizer = (PAGE[f"read_{what}"] for what in ("safetensors", "model", "optimizer"))


def cut(values):
    """The values of all tensors, by tensor."""
    out, at = {}, 0
    for name, shape in MODEL.items():
        out[name] = values[at : at + SIZES[name]].reshape(shape)
        at += SIZES[name]
    return out


def start_server(rule, directory, *more):
    """A server, and the address on its first line."""
    server = subprocess.Popen(
        [f"{BIN}/psd", "--insecure", "--servers=2", f"--optimizer={rule}", "--listen=tcp://127.0.0.1:0", "--status-listen=none",
         "--log-level=error", "--threads=1", f"--checkpoint-dir={directory}", "--checkpoint-every=0s",
         f"--checkpoint-every-steps={STEPS}", *more],
        stdout=subprocess.PIPE, text=True)
    return server, re.search(r"data=(\S+)", server.stdout.readline()).group(1)


def train(rule, directory, values, gradients):
    """Train the model from these values; the weights after each step. Checkpoints of clocks STEPS and STEPS + 1 are
    in the directory."""
    first, join = start_server(rule, directory)
    second, _ = start_server(rule, directory, f"--join={join}")
    tensors = [f"{name}{'~' if name in FROZEN else '='}{'x'.join(map(str, shape))}" for name, shape in MODEL.items()]
    worker = subprocess.run([f"{BIN}/drive_job", join, *tensors], input=values.tobytes() + gradients.tobytes(),
                            stdout=subprocess.PIPE, timeout=120)
    codes = [worker.returncode] + [server.wait(timeout=60) for server in (first, second)]
    assert codes == [0, 0, 0], f"{rule}: worker and servers ended with {codes}"
    return np.frombuffer(worker.stdout, "<f4").reshape(gradients.shape)


def export(checkpoints, clock, out, *more):
    subprocess.run([f"{BIN}/psdctl", "export", f"--to={out}", *more, checkpoints, str(clock)], check=True,
                   stdout=subprocess.DEVNULL)


def load_into_torch(out, kind, more):
    """The exported model and optimizer, loaded into torch by the code in docs/checkpoints.md."""
    weights = {name: torch.nn.Parameter(array) for name, array in read_model(out).items()}
    kept = read_optimizer(out)
    assert kept["param_groups"][0]["names"] == list(weights) == list(MODEL)
    kept["param_groups"][0].update(more)
    optimizer = getattr(torch.optim, kind)(weights.values(), lr=1.0)
    optimizer.load_state_dict(kept)
    return weights, optimizer


def check_close(what, got, wanted, scale):
    """Within the tolerance of tests/golden/docs/checkpoints.md."""
    error = np.abs(got.astype(np.float64) - wanted)
    worst = float(np.max(error / (TOLERANCE * scale + 1e-30), initial=0))
    assert worst <= 1, f"{what}: off by {worst:.2f} tolerances"
    return worst


def check_state(rule, optimizer, weights, before, after):
    """Check that torch's state after the step equals psd's in the next checkpoint."""
    frozen = {str(list(MODEL).index(name)) for name in FROZEN}
    was = read_safetensors(f"{before}/optimizer_state.safetensors")
    for name, array in read_safetensors(f"{after}/optimizer_state.safetensors").items():
        _, i, field = name.split("/")
        ours = optimizer.state[list(weights.values())[int(i)]]
        assert i not in frozen or rule.startswith("adagrad"), f"{rule}: {name} of a tensor that was never updated"
        if field == "step" and rule.startswith(("sgd", "nesterov")):
            continue  # torch's sgd does not count
        scale = max(np.max(np.abs(array)), np.max(np.abs(was[name])))  # sums may cancel
        check_close(f"{rule}: {name}", np.asarray(ours[field]), array, scale)


def check_npz(rule, out):
    for file in ("model", "optimizer_state"):
        arrays, npz = read_safetensors(f"{out}/{file}.safetensors"), np.load(f"{out}/{file}.npz")
        assert sorted(npz) == sorted(arrays), f"{rule}: {file}.npz has {list(npz)}"
        for name, array in arrays.items():
            same = npz[name].dtype == array.dtype and np.array_equal(npz[name], array)
            assert same, f"{rule}: {name} of {file}.npz differs"


def check_slow(rule, checkpoints, out, psds):
    """The export without --weights: Lookahead's slow weights, to which the last sync set the fast ones; under other rules, the
    weights."""
    last = STEPS // 5 * 5 if rule.startswith("lookahead") else STEPS
    export(checkpoints, STEPS, out)
    for name, array in read_safetensors(f"{out}/model.safetensors").items():
        assert np.array_equal(array, cut(psds[last - 1])[name]), f"{rule}: {name} is not of step {last}"


def check_rule(rule, kind, more, directory):
    random = np.random.default_rng(7)
    n = sum(SIZES.values())
    values = random.normal(size=n).astype("<f4")
    gradients = random.normal(size=(STEPS + 1, n)).astype("<f4")
    checkpoints, before, after = (f"{directory}/{name}" for name in ("checkpoints", "before", "after"))
    psds = train(rule, checkpoints, values, gradients)
    export(checkpoints, STEPS, before, "--optimizer", "--weights=fast")
    export(checkpoints, STEPS + 1, after, "--optimizer", "--weights=fast")
    export(checkpoints, STEPS, before, "--optimizer", "--weights=fast", "--format=npz", "--force")

    weights, optimizer = load_into_torch(before, kind, more)
    for name, array in cut(psds[STEPS - 1]).items():
        assert np.array_equal(weights[name].detach().numpy(), array), f"{rule}: {name} is not what the worker had"
    for name, array in cut(gradients[STEPS]).items():
        weights[name].grad = None if name in FROZEN else torch.from_numpy(array.copy())
    optimizer.step()
    scale = cut(np.max(np.abs(np.vstack([values, psds])), axis=0))
    worst = 0.0
    for name, array in cut(psds[STEPS]).items():
        moved = np.abs(array - cut(psds[STEPS - 1])[name])
        assert (np.max(moved) > 0) == (name not in FROZEN), f"{rule}: {name} moved by {np.max(moved)}"
        worst = max(worst, check_close(f"{rule}: {name}", weights[name].detach().numpy(), array, scale[name]))
    check_state(rule, optimizer, weights, before, after)
    check_npz(rule, before)
    check_slow(rule, checkpoints, f"{directory}/slow", psds)
    print(f"{rule}: torch goes on as psd does, within {worst:.2f} of the tolerance")


def main():
    for rule, kind, more in RULES:
        with tempfile.TemporaryDirectory() as directory:
            check_rule(rule, kind, more, directory)


main()
