"""Small networks of every kind that is trained in groups. Each is made for a member's place, and may differ by it."""

import torch
import torch.nn.functional as F
from torch import nn

from tests.training.fused_twins import NUM_CLASSES, rows, tokens

RATES = [0.1, 0.5, 0.0, 0.9]  # of dropout, for each member


def mlp(index):
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, NUM_CLASSES))


def with_activations(index):
    """Their kernels round what is left over behind the last full vector in another way."""
    between = [nn.Sigmoid(), nn.SiLU(), nn.Softplus(), nn.ELU(), nn.Mish(), nn.GELU()]
    layers = [layer for one in between for layer in (nn.Linear(16, 16), one)]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(16, NUM_CLASSES))


class ClassroomCNN(nn.Module):
    """Two convolutions with pooling, then linear layers, as the classroom has it."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 3)
        self.fc1, self.out = nn.Linear(6 * 2 * 2, 10), nn.Linear(10, NUM_CLASSES)

    def forward(self, t):
        t = F.max_pool2d(F.relu(self.conv1(t)), 2, 2)
        t = F.max_pool2d(F.relu(self.conv2(t)), 2, 2)
        return self.out(F.relu(self.fc1(t.reshape(-1, 6 * 2 * 2))))


def with_batch_norm(index):
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False),
        nn.BatchNorm2d(4, momentum=0.3),
        nn.Tanh(),  # without a kink, at which rounding may turn a gradient on or off
        nn.Conv2d(4, 6, 3, groups=2, bias=False),
        nn.BatchNorm2d(6, affine=False),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 8, bias=False),
        nn.BatchNorm1d(8),
        nn.Linear(8, NUM_CLASSES),
    )


def with_dropout(index):
    rate = RATES[index % 4]
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.Dropout2d(rate),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(144, 10),
        nn.Dropout(rate),
        nn.ReLU(),
        nn.Linear(10, NUM_CLASSES),
    )


def with_group_norm(index):
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.GroupNorm(3, 6), nn.ReLU(), nn.Flatten(), nn.LayerNorm(216), nn.Linear(216, NUM_CLASSES)
    )


class SmallTransformer(nn.Module):
    """One encoder layer over embedded tokens, without dropout."""

    def __init__(self):
        super().__init__()
        self.tokens, self.places = nn.Embedding(11, 8), nn.Parameter(torch.randn(5, 8) / 10)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.out = nn.Linear(8, NUM_CLASSES)

    def forward(self, t):
        return self.out(self.encoder(self.tokens(t) + self.places).mean(1))


class Places(nn.Module):
    """Dropout of what lies in memory in another order than it is written."""

    def __init__(self, rate):
        super().__init__()
        self.first, self.drop, self.out = nn.Linear(4, 6), nn.Dropout(rate), nn.Linear(6, NUM_CLASSES)

    def forward(self, t):
        t = self.drop(torch.tanh(self.first(t)).transpose(1, 2))
        return self.out(t.mean(2))


class Embedded(nn.Module):
    """The mean of the embeddings of a sequence."""

    def __init__(self, **settings):
        super().__init__()
        self.tokens, self.out = nn.Embedding(11, 8, **settings), nn.Linear(8, NUM_CLASSES)

    def forward(self, t):
        return self.out(self.tokens(t).mean(1))


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.out = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, NUM_CLASSES)
        self.second.weight = self.first.weight

    def forward(self, t):
        return self.out(torch.tanh(self.second(torch.tanh(self.first(t)))))


class Recurrent(nn.Module):
    """A cell that is called for each step of a sequence."""

    def __init__(self):
        super().__init__()
        self.cell, self.out = nn.GRUCell(4, 6), nn.Linear(6, NUM_CLASSES)

    def forward(self, t):
        state = t.new_zeros(len(t), 6)
        for step in t.unbind(1):
            state = self.cell(step, state)
        return self.out(state)


class Remembering(nn.Module):
    """It changes a buffer in place, and has one that no state_dict has."""

    def __init__(self):
        super().__init__()
        self.first, self.out = nn.Linear(6, 6), nn.Linear(6, NUM_CLASSES)
        self.register_buffer("seen", torch.zeros(6))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64), persistent=False)

    def forward(self, t):
        t = torch.tanh(self.first(t))
        if self.training:
            with torch.no_grad():
                self.seen.mul_(0.9).add_(t.mean(0), alpha=0.1)
                self.count.add_(1)
        return self.out(t - self.seen)


class Lstm(nn.Module):
    """An LSTM over a sequence; it has no batched form."""

    def __init__(self):
        super().__init__()
        self.lstm, self.out = nn.LSTM(1, 6, batch_first=True), nn.Linear(6, NUM_CLASSES)

    def forward(self, t):
        return self.out(self.lstm(t.unsqueeze(2))[0][:, -1])


IMAGES = rows(1, 8, 8)
NETWORKS = {
    "mlp": (mlp, rows(1, 4, 4)),
    "activations": (with_activations, rows(1, 4, 4)),
    "classroom cnn": (lambda index: ClassroomCNN(), rows(1, 14, 14)),
    "batch norm": (with_batch_norm, IMAGES),
    "dropout": (with_dropout, IMAGES),
    "group norm, layer norm": (with_group_norm, IMAGES),
    "transformer": (lambda index: SmallTransformer(), tokens(11, 5)),
    "embedding": (lambda index: Embedded(), tokens(11, 5)),
    "dropout over places": (lambda index: Places(RATES[index % 4]), rows(5, 4)),
    "tied weights": (lambda index: Tied(), rows(6)),
    "recurrent cell": (lambda index: Recurrent(), rows(5, 4)),
    "buffers": (lambda index: Remembering(), rows(6)),
    "transposed convolution": (
        lambda index: nn.Sequential(nn.ConvTranspose2d(1, 4, 3), nn.PReLU(4), nn.Flatten(), nn.Linear(400, 3)),
        IMAGES,
    ),
    "circular convolution": (
        lambda index: nn.Sequential(
            nn.Conv1d(2, 4, 3, padding=1, padding_mode="circular"), nn.Tanh(), nn.Flatten(), nn.Linear(32, 3)
        ),
        rows(2, 8),
    ),
}
CONVOLVING = ("classroom cnn", "batch norm", "dropout", "group norm, layer norm", "circular convolution")
