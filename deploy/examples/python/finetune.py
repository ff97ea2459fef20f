"""Fine-tuning: starts from the weights of notebook.py, and keeps the first layer as it is. Usage: finetune.py FILE"""
import sys

import psd
import torch
from torch import nn

x = torch.linspace(-1, 1, 256)[:, None]
y = torch.sin(3 * x) + 0.5
model = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1))
model.load_state_dict({name: torch.from_numpy(array) for name, array in psd.load(sys.argv[1]).items()})
model[0].requires_grad_(False)

with psd.launch("adam(lr=1e-2)"):
    opt = psd.Optimizer(model.named_parameters())
    schedule = torch.optim.lr_scheduler.StepLR(opt, step_size=20, gamma=0.5)
    for step, (a, b) in enumerate(psd.batches((x, y), opt, batch_size=64, epochs=20)):
        opt.zero_grad()
        loss = nn.functional.mse_loss(model(a), b)
        opt.watch(loss).backward()
        opt.step()
        schedule.step()
    print(f"error {nn.functional.mse_loss(model(x), y).item():.5f}")
