"""Networks of several families, and small data sets, for sweeps that compare fused training with training alone."""

import importlib.util

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_NUM_DIGITS, _DIGIT_PIXELS, _NUM_CLASSES = 1797, 64, 10


class SecondCNN(nn.Module):
    """Three 3×3 convolutions with strides instead of pooling; 26,506 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(32, 64, 3, stride=2, padding=1)
        self.out = nn.Linear(64 * 2 * 2, _NUM_CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Scores [N, 10] of images [N, 1, 28, 28]."""
        x = F.relu(self.conv3(F.relu(self.conv2(F.relu(self.conv1(images))))))  # [N, 64, 4, 4]
        scores: Tensor = self.out(F.avg_pool2d(x, 2).flatten(1))
        return scores


def mlp() -> nn.Module:
    """784-128-64-10."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))


def with_batch_norm() -> nn.Module:
    """Two convolutions with BatchNorm behind each."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, bias=False),  # [N, 8, 13, 13]
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, bias=False),  # [N, 16, 6, 6]
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 6 * 6, _NUM_CLASSES),
    )


def with_dropout() -> nn.Module:
    """784-128-10, dropout between."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Dropout(0.3), nn.Linear(128, _NUM_CLASSES))


class SmallTransformer(nn.Module):
    """The rows of a picture as 28 words, one encoder layer of width 32 with 4 heads."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(28, 32)
        self.place = nn.Parameter(torch.zeros(28, 32))
        self.encoder = nn.TransformerEncoderLayer(32, nhead=4, dim_feedforward=64, dropout=0.0, batch_first=True)
        self.out = nn.Linear(32, _NUM_CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Scores [N, 10] of images [N, 1, 28, 28]."""
        words = self.embed(images.squeeze(1)) + self.place  # [N, 28, 32]
        scores: Tensor = self.out(self.encoder(words).mean(dim=1))
        return scores


def digits_network() -> nn.Module:
    """64-32-10."""
    return nn.Sequential(nn.Linear(_DIGIT_PIXELS, 32), nn.ReLU(), nn.Linear(32, _NUM_CLASSES))


def has_real_digits() -> bool:
    """Whether scikit-learn is installed, which brings them."""
    return importlib.util.find_spec("sklearn") is not None


def digits() -> tuple[Tensor, Tensor]:
    """Pixels [1797, 64] from 0 to 1 and classes [1797]: scikit-learn's digits, or without it random ones of that shape."""
    if not has_real_digits():
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randint(0, 17, (_NUM_DIGITS, _DIGIT_PIXELS), generator=generator) / 16
        return inputs, torch.randint(0, _NUM_CLASSES, (_NUM_DIGITS,), generator=generator)
    from sklearn.datasets import load_digits  # type: ignore[import-untyped,import-not-found,unused-ignore]

    found = load_digits()
    return torch.tensor(found.data, dtype=torch.float32) / 16, torch.tensor(found.target)
