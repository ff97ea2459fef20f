"""A job for as long as a block lasts, as in a notebook: two servers here, this process as the worker."""
import psd
import torch
from torch import nn

torch.manual_seed(1)
x = torch.linspace(-1, 1, 256)[:, None]
y = torch.sin(3 * x)
model = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1))

with psd.launch("lookahead(adam(lr=1e-2), k=5)", servers=2):
    opt = psd.Optimizer(model.named_parameters())
    for a, b in psd.batches((x, y), opt, batch_size=32, epochs=150):
        opt.zero_grad()
        loss = nn.functional.mse_loss(model(a), b)
        opt.watch(loss).backward()
        opt.step()
    with opt.eval_weights(), torch.no_grad():
        print(f"error {nn.functional.mse_loss(model(x), y).item():.5f}")
    psd.save({name: p for name, p in model.named_parameters()}, "sine.safetensors")
