"""The classroom's network for Fashion-MNIST."""

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor


class FashionCNN(nn.Module):
    """Two 5×5 convolutions with pooling, then three linear layers; 32,998 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, kernel_size=5)
        self.conv2 = nn.Conv2d(6, 12, kernel_size=5)
        self.fc1 = nn.Linear(12 * 4 * 4, 120)
        self.fc2 = nn.Linear(120, 60)
        self.out = nn.Linear(60, 10)

    def forward(self, images: Tensor) -> Tensor:  # [N, 1, 28, 28]
        x = F.max_pool2d(F.relu(self.conv1(images)), 2)  # [N, 6, 12, 12]
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)  # [N, 12, 4, 4]
        x = x.flatten(start_dim=1)
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return self.out(x)  # [N, 10], scores
