"""The same eight runs on all 60,000 images of Fashion-MNIST."""

from collections import OrderedDict

import torch
import torch.nn.functional as F

from networks.fashion_cnn import FashionCNN
from runmanager import Sweep, Trainer

sweep = Sweep(
    params=OrderedDict(lr=[0.01, 0.001], batch_size=[100, 1000], shuffle=[True, False]),
    trainer=Trainer(
        data="fashion_mnist",
        network=FashionCNN,
        optimizer=lambda run, network: torch.optim.Adam(network.parameters(), lr=run.lr),
        loss=F.cross_entropy,
        epochs=3,
    ),
    objective="val_accuracy",
    mode="max",
)
