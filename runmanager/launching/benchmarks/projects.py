"""The projects that a bench trains in: fresh ones, each with one sweep file."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from runmanager.launching.template import lay_out

NAME = "bench"
"""Every sweep's, so that sweeps/bench.py is its file."""

FAMILIES = {
    "the classroom CNN": "FashionCNN",
    "another CNN": "families.SecondCNN",
    "an MLP": "families.mlp",
    "with BatchNorm": "families.with_batch_norm",
    "with dropout": "families.with_dropout",
    "a small transformer": "families.SmallTransformer",
}
"""A network of each family, as a sweep's file names it."""

_FILE = """\
from collections import OrderedDict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.data import Subset

from networks.fashion_cnn import FashionCNN
from runmanager import Sweep, Trainer
from runmanager.data.sources import splits_of
from runmanager.launching.benchmarks import families


def pictures():
    return splits_of({data!r}, {data_root}, Path()).train


def some():
    return Subset(pictures(), range({samples}))


def one_batch(dtype=torch.float32):
    samples = [pictures()[index] for index in range({samples})]
    return torch.stack([image for image, _ in samples]).to(dtype), torch.tensor([label for _, label in samples])


sweep = Sweep(
    params=OrderedDict({params}),
    trainer=Trainer(
        data={given},
        network={network},
        optimizer=lambda run, network: {optimizer},
        loss=F.cross_entropy,
        epochs={epochs},
        data_root={data_root},
        {settings}
    ),
)
"""


@dataclass(frozen=True)
class SweepFile:
    """What a sweep's file says, as source text where it is code."""

    params: str
    epochs: int
    given: str = "some"  # or `repr` of a known data set's name, or a call of what stands in the file
    samples: int = 0
    network: str = "FashionCNN"
    optimizer: str = "torch.optim.Adam(network.parameters(), lr=run.lr)"
    settings: str = ""

    def text(self, data: str, data_root: Path) -> str:
        """The file; `data` is the known data set that pictures come from."""
        given = repr(data) if self.given == "pictures" else self.given
        return _FILE.format(**{**vars(self), "given": given}, data=data, data_root=f"Path({str(data_root)!r})")


@dataclass(frozen=True)
class Workplace:
    """Where the projects are made, and where their pictures come from."""

    folder: Path
    data: str
    data_root: Path

    @contextmanager
    def project(self, sweep: SweepFile) -> Iterator[Path]:
        """A new project with this sweep, gone at the end."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        try:
            lay_out(folder)
            (folder / "sweeps" / f"{NAME}.py").write_text(sweep.text(self.data, self.data_root), encoding="utf-8")
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
