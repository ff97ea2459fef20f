"""A GRU that learns to write, character by character, on psd servers. Usage: characters.py STEPS FILE...

The text is that of the files, such as a play, or the pages of a manual."""
import sys
from pathlib import Path

import numpy as np
import psd
import torch
from torch import nn

LENGTH = 32

text = "".join(Path(name).read_text() for name in sys.argv[2:])
alphabet = sorted(set(text))
codes = torch.tensor([alphabet.index(character) for character in text])
windows = np.arange(0, len(codes) - LENGTH - 1, 8)  # where a sequence may begin

torch.manual_seed(1)


class Writer(nn.Module):
    def __init__(self, n, width=96):
        super().__init__()
        self.embed = nn.Embedding(n, width)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.out = nn.Linear(width, n)
        self.out.weight = self.embed.weight  # tied

    def forward(self, x, state=None):
        h, state = self.gru(self.embed(x), state)
        return self.out(h), state


model = Writer(len(alphabet))
nn.init.normal_(model.embed.weight, std=0.1)
with psd.Optimizer(model.named_parameters()) as opt:
    losses = []
    for at in psd.batches(windows, opt, batch_size=32, epochs=1000):
        x = torch.stack([codes[i:i + LENGTH + 1] for i in at.tolist()])
        opt.zero_grad()
        z, _ = model(x[:, :-1])
        loss = nn.functional.cross_entropy(z.flatten(0, 1), x[:, 1:].flatten())
        opt.watch(loss).backward()
        opt.step()
        losses.append(loss.item())
        if opt.position.clock > int(sys.argv[1]):
            break
    print(f"loss {losses[0]:.3f} then {sum(losses[-20:]) / 20:.3f}")
    with opt.eval_weights(), torch.no_grad():
        x, state, written = codes[None, :1], None, ""
        for _ in range(60):
            z, state = model(x, state)
            x = torch.multinomial(z[:, -1].softmax(1), 1)
            written += alphabet[int(x)]
        print(repr(written))
