"""Pictures in folders, one for each class, as torchvision's ImageFolder has them.

The folder holds train/, and may hold val/ (or valid/, validation/) and test/, each with a folder for each class; or it holds the
folders of the classes itself. Pictures are read as RGB, [3, H, W] from 0 to 1, whatever their own colours.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS, pil_loader
from torchvision.transforms import ToTensor

from runmanager.data.known import KnownSet
from runmanager.data.splits import DataError, Splits

_VALIDATION, _TEST = ("val", "valid", "validation"), ("test",)
_TRANSFORMED = (
    "data=lambda run: torchvision.datasets.ImageFolder(folder, transform=v2.Compose([v2.Resize((64, 64)), v2.ToImage(), "
    "v2.ToDtype(torch.float32, scale=True)]))"
)


class _Part(ImageFolder):  # type: ignore[misc]  # torchvision ships no types
    """Pictures for validation or test: their classes have the numbers that they have in training, though some may be missing."""

    def __init__(self, folder: Path, classes: list[str]) -> None:
        self._classes = classes
        super().__init__(folder, transform=ToTensor(), loader=_picture, allow_empty=True)

    def find_classes(self, directory: Any) -> tuple[list[str], dict[str, int]]:
        found, _ = super().find_classes(directory)
        others = [name for name in found if name not in self._classes]
        if others:
            raise DataError(
                f"{directory} has the class {others[0]!r}, which the training pictures do not have ({', '.join(self._classes)}); "
                "give it pictures in train/, or take it away"
            )
        return self._classes, {name: place for place, name in enumerate(self._classes)}


def read(folder: Path) -> Splits | None:
    """The pictures in a folder, or in its folder image_folder; None where there are none.

    Raises:
        DataError: they cannot be trained on as they are.
    """
    for place in (folder / "image_folder", folder):
        if (place / "train").is_dir():
            return _in_parts(place)
        if any(_has_pictures(entry) for entry in _folders(place)):
            return Splits(_train(place), source=str(place))
    return None


def _in_parts(place: Path) -> Splits:
    train = _train(place / "train")
    size = _size(train)
    validation, test = (_part(place, names, train.classes, size) for names in (_VALIDATION, _TEST))
    return Splits(train, validation, test, str(place))


def _part(place: Path, names: tuple[str, ...], classes: list[str], size: tuple[int, int] | None) -> _Part | None:
    """The pictures in the first of these folders that is there."""
    folder = next((place / name for name in names if (place / name).is_dir()), None)
    if folder is None:
        return None
    with _no_loop(folder):
        part = _Part(folder, classes)
    if not len(part):
        raise DataError(f"{folder} has no pictures; give it some, or take it away")
    _refuse_links(part)
    _size(part, size)
    return part


def _train(folder: Path) -> ImageFolder:
    try:
        with _no_loop(folder):
            found = ImageFolder(folder, transform=ToTensor(), loader=_picture)
    except FileNotFoundError as error:
        raise DataError(
            f"the pictures in {folder} cannot be trained on ({error}); give each class a folder with at least one picture"
        ) from error
    hidden = next((name for name in found.classes if name.startswith(".")), None)
    if hidden is not None:
        raise DataError(f"{folder / hidden} is hidden, and its pictures would be a class; take it away, or rename it")
    _refuse_links(found)
    _size(found)
    return found


@contextmanager
def _no_loop(folder: Path) -> Iterator[None]:
    """Tells which link leads to itself."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise DataError(f"{error.filename or folder} is a link to itself; take it away") from error


def _refuse_links(pictures: ImageFolder) -> None:
    """Raises DataError where links lead to the same folder twice: its pictures would come twice, perhaps as two classes."""
    seen: dict[Path, Path] = {}
    for folder in dict.fromkeys(Path(path).parent for path, _ in pictures.samples):
        first = seen.setdefault(folder.resolve(), folder)
        if first != folder:
            raise DataError(
                f"{folder} is {first} once more, by a link, so its pictures would come twice; take the link away"
            )


def _picture(path: str) -> Image.Image:
    """A picture as RGB; one that is broken is told by its name."""
    try:
        picture: Image.Image = pil_loader(path)
        return picture
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as a picture ({error}); mend it or take it away") from error


def _size(pictures: ImageFolder, size: tuple[int, int] | None = None) -> tuple[int, int] | None:
    """Width and height of all pictures; only their headers are read.

    Raises:
        DataError: one is of another size, has numbers that RGB would cut off, or is no picture.
    """
    first = None
    for path, _ in pictures.samples:
        found = _size_of(path)
        if size is None:
            size, first = found, path
        if found != size:
            raise DataError(
                f"the pictures are of several sizes: {path} is {found[0]}×{found[1]}, and {first or 'the training pictures'} "
                f"{size[0]}×{size[1]}; make them one size, or give a function with transforms: {_TRANSFORMED}"
            )
    return size


def _size_of(path: str) -> tuple[int, int]:
    try:
        with Image.open(path) as picture:
            size, mode = picture.size, picture.mode
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{path} cannot be read as a picture ({type(error).__name__}); mend it or take it away"
        ) from error
    if mode.startswith(("I", "F")):
        raise DataError(
            f"{path} has numbers of more than 8 bits (mode {mode}), which RGB would cut off at 255; save it with 8 bits, or give "
            "a Dataset that reads it"
        )
    return size


def _folders(place: Path) -> Iterator[Path]:
    try:
        yield from (path for path in place.iterdir() if path.is_dir())
    except OSError:
        return


def _has_pictures(folder: Path) -> bool:
    """Whether a picture lies in a folder itself; folders inside are only looked into when it is a class."""
    return any(name.lower().endswith(IMG_EXTENSIONS) for name in os.listdir(folder))


def _remedies(folder: Path) -> list[str]:
    return [
        f"put the pictures into {folder / 'train'}, a folder for each class, and those to validate on into {folder / 'val'}",
        "say where they are: Trainer(data='image_folder', data_root='path/to/the/folder', ...)",
    ]


IMAGE_FOLDER = KnownSet("image_folder", read, None, "image_folder", _remedies)
