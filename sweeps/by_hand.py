"""The classroom loop: you drive, runmanager keeps the books. Run it with `python sweeps/by_hand.py`."""

import sys
from collections import OrderedDict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from runmanager import RunBuilder, RunManager
from runmanager.data.fashion_mnist import fashion_mnist_sample

sys.path.insert(0, str(Path(__file__).parents[1]))  # the project's folder, where networks/ is
from networks.fashion_cnn import FashionCNN

params = OrderedDict(lr=[0.01, 0.001], batch_size=[100, 1000], shuffle=[True, False])
train_set = fashion_mnist_sample().train

m = RunManager("by_hand")
for run in RunBuilder.get_runs(params):
    torch.manual_seed(0)
    network = FashionCNN()
    loader = DataLoader(train_set, batch_size=run.batch_size, shuffle=run.shuffle)
    optimizer = torch.optim.Adam(network.parameters(), lr=run.lr)

    m.begin_run(run, network, loader)
    for epoch in range(3):
        m.begin_epoch()
        for images, labels in loader:
            preds = network(images)
            loss = F.cross_entropy(preds, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            m.track_loss(loss)
            m.track_num_correct(preds, labels)
        m.end_epoch()
    m.end_run()
m.save("results/by_hand_copy")
