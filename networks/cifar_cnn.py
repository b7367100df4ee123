"""The classroom's network for CIFAR-10."""

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor


class CifarCNN(nn.Module):
    """Two 5×5 convolutions with pooling, then three linear layers; 62,006 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, kernel_size=5)
        self.conv2 = nn.Conv2d(6, 16, kernel_size=5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.out = nn.Linear(84, 10)

    def forward(self, images: Tensor) -> Tensor:  # [N, 3, 32, 32]
        x = F.max_pool2d(F.relu(self.conv1(images)), 2)  # [N, 6, 14, 14]
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)  # [N, 16, 5, 5]
        x = x.flatten(start_dim=1)
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return self.out(x)  # [N, 10], scores
