"""`runmanager init`: a new project that runs."""

from pathlib import Path

_FILES = (
    "sweeps/quickstart.py",
    "sweeps/by_hand.py",
    "networks/fashion_cnn.py",
    "runs/README.md",
    "results/README.md",
)
_IGNORE = """\
__pycache__/
/data/
/runs/*
!/runs/README.md
/results/*
!/results/README.md
/.runmanager-bench-*/
"""


class TemplateError(ValueError):
    """A project cannot be laid out there."""


def lay_out(folder: Path) -> list[Path]:
    """Lays out a project in `folder`, which may be there already; returns the files that were made.

    Raises:
        TemplateError: a file of that name is there; nothing is made then.
        OSError: a file cannot be written.
    """
    texts = {folder / name: (_source() / name).read_text(encoding="utf-8") for name in _FILES}
    texts[folder / ".gitignore"] = _IGNORE
    there = [str(path) for path in texts if path.exists()]
    if there:
        raise TemplateError(f"{', '.join(there)} is there already; name a new folder, or move it away")
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return list(texts)


def _source() -> Path:
    """Where the files stand: inside the package that was installed, or in their own rooms in a checkout."""
    packed = Path(__file__).with_name("template")
    return packed if packed.is_dir() else Path(__file__).parents[2]
