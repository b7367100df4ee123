"""A residual network for pictures of 32×32, after He et al., Deep Residual Learning, 2015, section 4.2."""

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor


class ResNet(nn.Module):
    """ResNet-8, 14, 20, ...: three stages of blocks, each stage half as large and twice as wide as the one before.

    With depth 20 and width 16 it has 269,722 parameters. The shortcuts have none (the paper's option A).
    """

    def __init__(self, depth: int = 20, width: int = 16, num_classes: int = 10) -> None:
        """`depth` counts the layers with weights, 6 for each block of a stage and 2; `width` is the channels of the first stage."""
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"depth={depth} is no ResNet's; give 8, 14, 20, 32, 44, 56 or another 6n + 2")
        num_blocks = (depth - 2) // 6
        self.conv = nn.Conv2d(3, width, kernel_size=3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        stages = [_stage(max(width, size // 2), size, num_blocks) for size in (width, 2 * width, 4 * width)]
        self.stages = nn.Sequential(*stages)
        self.out = nn.Linear(4 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:  # [N, 3, 32, 32]
        x = F.relu(self.norm(self.conv(images)))  # [N, width, 32, 32]
        x = self.stages(x)  # [N, 4 * width, 8, 8]
        return self.out(x.mean((2, 3)))  # [N, 10], scores


class Block(nn.Module):
    """Two 3×3 convolutions, to whose result its input is added; one that is wider than its input halves height and width."""

    def __init__(self, num_in: int, num_out: int) -> None:
        super().__init__()
        self.num_new, self.stride = num_out - num_in, 1 if num_in == num_out else 2
        self.conv1 = nn.Conv2d(num_in, num_out, kernel_size=3, stride=self.stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(num_out)
        self.conv2 = nn.Conv2d(num_out, num_out, kernel_size=3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(num_out)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(residual + self._shortcut(x))

    def _shortcut(self, x: Tensor) -> Tensor:
        """Every second pixel, with zeros for the channels that are new."""
        if not self.num_new:
            return x
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.num_new))


def _stage(num_in: int, num_out: int, num_blocks: int) -> nn.Sequential:
    return nn.Sequential(*(Block(num_in if place == 0 else num_out, num_out) for place in range(num_blocks)))
