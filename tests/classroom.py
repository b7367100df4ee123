"""The classroom's training epoch, for tests that are about something else."""

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from runmanager import RunManager


def train_epoch(
    m: RunManager, network: torch.nn.Module, loader: DataLoader, optimizer: torch.optim.Optimizer
) -> list[float]:
    """One tracked epoch, with a scalar `step_loss` for each step; returns the losses. Its caller begins and ends the epoch."""
    losses = []
    for images, labels in loader:
        preds = network(images)
        loss = F.cross_entropy(preds, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        m.track_loss(loss)
        m.track_num_correct(preds, labels)
        m.log_step(step_loss=loss)
        losses.append(loss.item())
    return losses
