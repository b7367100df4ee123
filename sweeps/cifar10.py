"""The classroom's CIFAR-10 classifier: `runmanager launch cifar10`. It is in docs/recipes/cifar10.md, with its variations."""

from collections import OrderedDict
from functools import partial

import torch
import torch.nn.functional as F

from networks.cifar_cnn import CifarCNN
from runmanager import Sweep, Trainer

sweep = Sweep(
    params=OrderedDict(lr=[0.001], batch_size=[4]),
    trainer=Trainer(
        data="cifar10",
        normalize=(0.5, 0.5),  # of each channel: from 0..1 to -1..1
        network=CifarCNN,
        optimizer=partial(torch.optim.SGD, momentum=0.9),
        loss=F.cross_entropy,
        epochs=2,
        metrics=["per_class", "confusion"],
        log_every=2000,
        show_predictions=16,
    ),
    objective="val_accuracy",
    mode="max",
)
