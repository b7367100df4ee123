"""The HParams page of a sweep, in a real browser."""

import os
import re
import shutil
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Subset

from runmanager import RunBuilder, RunManager
from runmanager.data.fashion_mnist import fashion_mnist_sample
from tests.classroom import train_epoch
from tests.tensorboard_server import TensorBoard, until

sync_api = pytest.importorskip("playwright.sync_api")

pytestmark = pytest.mark.browser

GRID = OrderedDict(lr=[0.01, 0.001], batch_size=[50, 100], shuffle=[True, False])
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
TEXT_WITH_SHADOWS = """() => {
    const text = (node) => node.nodeType === Node.TEXT_NODE ? node.textContent
        : [...(node.shadowRoot ? [node.shadowRoot] : []), ...node.childNodes]
            .filter((child) => !['SCRIPT', 'STYLE', 'TEMPLATE'].includes(child.nodeName)).map(text).join(' ');
    return text(document.body);
}"""


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    images = Subset(fashion_mnist_sample().train, range(200))
    m = RunManager("sweep", root=root, quiet=True)
    for run in RunBuilder.get_runs(GRID):
        network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))
        optimizer = torch.optim.Adam(network.parameters(), lr=run.lr)
        loader = DataLoader(images, batch_size=run.batch_size, shuffle=run.shuffle)
        m.begin_run(run, network, loader)
        m.begin_epoch()
        train_epoch(m, network, loader, optimizer)
        m.end_epoch()
        m.end_run()
    return root / "runs" / "sweep"


@pytest.fixture
def page() -> Iterator["sync_api.Page"]:
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
    if not Path(chromium).exists():
        pytest.skip("there is no chromium; apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        try:
            yield browser.new_page(viewport={"width": 1400, "height": 800})
        finally:
            browser.close()


def rows_of(text: str) -> list[tuple[float, float, bool]]:
    """The table's rows as the page writes them: batch_size, lr, shuffle."""
    cells = re.findall(r" (\d+\.\d+) (0\.0\d+) (true|false) ", text.partition("Show Metrics")[2])
    return sorted((float(batch_size), float(lr), shuffle == "true") for batch_size, lr, shuffle in cells)


def test_the_hparams_page_has_a_row_for_every_run_and_a_column_for_every_parameter(
    sweep: Path, page: "sync_api.Page", tmp_path: Path
) -> None:
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    with TensorBoard(sweep) as board:
        board.wait_for_ends(8)
        page.goto(f"{board.address}/#hparams")

        def shown() -> str | None:
            text = " ".join(page.evaluate(TEXT_WITH_SHADOWS).split())
            return text if len(rows_of(text)) >= 8 else None

        text = until(shown)
        page.screenshot(path=tmp_path / "hparams.png")
    header = text.partition("Show Metrics")[2].split()
    assert header[:7] == ["batch_size", "lr", "shuffle", "Accuracy", "Loss", "best/accuracy", "best/loss"]
    assert rows_of(text) == sorted((run.batch_size, run.lr, run.shuffle) for run in RunBuilder.get_runs(GRID))
    assert "Number of matching session groups: 8" in text
    assert (tmp_path / "hparams.png").stat().st_size > 20_000
    assert errors == []
