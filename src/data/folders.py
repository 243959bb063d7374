"""Images in class folders as people have them: which folder they are in, and what is there.

A set may lie in an outer folder, its files may be called `.JPG` or `.jpeg`, tables may lie beside
the class folders; hidden files and what operating systems leave behind are no part of it.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.data.building import checksum
from src.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")
# of images too: not read, but never passed over in silence
OTHER_SUFFIXES = (".bmp", ".gif", ".webp", ".jp2", ".jpe", ".jfif", ".heic", ".ppm", ".npy")
JUNK = ("__MACOSX", "Thumbs.db", "desktop.ini", "@eaDir", "$RECYCLE.BIN", "lost+found")
DEPTH = 3  # outer folders of several entries that are looked through; those of one don't count
MANY = 100  # folders in a folder: nobody's outer folder


def is_hidden(name: str) -> bool:
    """Whether this is no part of a set: `.DS_Store`, `._x`, `.ipynb_checkpoints`, `Thumbs.db` …"""
    return name.startswith(".") or name in JUNK


def is_folder(entry: os.DirEntry) -> bool:
    """Whether this is a folder: a link that leads round in a circle is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


@dataclass(frozen=True)
class Listing:
    """The images of a folder, one a row: by class in the order of `classes`, then by name."""

    root: Path  # of the class folders
    classes: tuple[str, ...]  # empty: there are none, and no labels
    files: list[Path]
    names: list[str]  # without suffix; with the class in front where they would not be unique
    labels: list[int] | None
    sizes: list[int]  # bytes

    def recorded(self) -> dict[str, Any]:
        """What a store remembers, to notice that the folder has changed."""
        sizes = checksum(map(str, self.sizes))
        return {"count": len(self.files), "names": checksum(self.names), "sizes": sizes}

    def counts(self) -> dict[str, int]:
        """Images by class."""
        labels = self.labels or []
        return {name: labels.count(label) for label, name in enumerate(self.classes)}


def list_images(
    root: Path, classes: Sequence[str] | None = None, suffixes: Sequence[str] = SUFFIXES
) -> Listing:
    """List the images in the class folders of `root`; without any, those in `root` itself.

    Args:
        classes: those to take, in this order; None: every folder that is not hidden, by name, of
            `root` or of the one folder in it that holds folders.
        suffixes: of the files to take, whatever their case.

    Raises:
        DataError: a class is missing or holds no images, an image is of another kind than
            `suffixes`, two have one name, or it is unclear which folders are the classes.
    """
    if classes is None:
        root = _without_outer_folders(root)
        classes, here = subfolders(root), _images(root, suffixes)
        if classes and here:
            raise DataError(
                f"{root} holds images ({here[0].name} …) beside folders ({classes[0]} …): class"
                " folders or images, not both"
            )
        if not classes:
            if not here:
                raise DataError(f"{root} holds no images ({', '.join(suffixes)}): {holds(root)}")
            return _listing(root, (), [here])
    return _listing(root, tuple(classes), [_class(root, name, suffixes) for name in classes])


def _without_outer_folders(root: Path) -> Path:
    """The folder of the class folders, where there is nothing but one folder of folders around."""
    while len(inner := subfolders(root)) == 1 and subfolders(root / inner[0]):
        root = root / inner[0]
    return root


def _listing(root: Path, classes: tuple[str, ...], groups: list[list[Path]]) -> Listing:
    files = [file for group in groups for file in group]
    names = [file.stem for file in files]
    if len(set(names)) < len(names):
        names = [file.relative_to(root).with_suffix("").as_posix() for file in files]
    _check_names(names, files)
    labels = [label for label, group in enumerate(groups) for _ in group] if classes else None
    sizes = [_size(file) for file in files]
    return Listing(root, classes, files, names, labels, sizes)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:  # a link to nothing: told when it is read
        return -1


def _check_names(names: list[str], files: list[Path]) -> None:
    seen: dict[str, Path] = {}
    for name, file in zip(names, files, strict=True):
        if name in seen:
            raise DataError(f"{file} and {seen[name].name} have one name, {name}: leave one")
        if not name.isprintable():
            raise DataError(f"{str(file)!r}: its name holds characters that no text has: rename it")
        seen[name] = file


def _class(root: Path, name: str, suffixes: Sequence[str]) -> list[Path]:
    folder = root / name
    if not folder.is_dir():
        raise DataError(
            f"{folder} is missing: of the classes wanted there is no {name!r} among those there"
            f" are, {subfolders(root)}. See SETUP.md for the download."
        )
    if inner := subfolders(folder):
        raise DataError(
            f"{folder} holds folders ({inner[0]} …): the images must lie in it directly. Give the"
            " folder whose folders are the classes."
        )
    files = _images(folder, suffixes)
    if not files:
        raise DataError(
            f"{folder} is empty: expected images ({', '.join(suffixes)}) there; {holds(folder)}."
            " See SETUP.md for the download."
        )
    return files


def _images(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Image files in natural order (name_2 before name_10). DataError: one of another kind."""
    images, strangers = [], []
    for entry in _visible(folder):
        stem, suffix = os.path.splitext(entry.name)
        if suffix.lower() in suffixes and not is_folder(entry):
            images.append((len(stem), stem, entry.name))
        elif suffix.lower() in (*SUFFIXES, *OTHER_SUFFIXES) and not is_folder(entry):
            strangers.append(entry.name)
    if images and strangers:
        raise DataError(
            f"{folder} holds images of another kind than {', '.join(suffixes)}: {min(strangers)}"
            f" ({len(strangers)} in all). Convert or remove them."
        )
    return [folder / name for _, _, name in sorted(images)]


def _visible(folder: Path) -> list[os.DirEntry]:
    with os.scandir(folder) as entries:
        return [entry for entry in entries if not is_hidden(entry.name)]


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted; hidden ones are none."""
    return sorted(entry.name for entry in _visible(folder) if is_folder(entry))


def holds(folder: Path) -> str:
    """Say what is in a folder, in a few words."""
    entries = sorted(entry.name for entry in _visible(folder))
    if not entries:
        return "it is empty"
    return f"it holds {', '.join(entries[:4])}{' …' if len(entries) > 4 else ''}"


def find_class_folders(
    root: Path, classes: Sequence[str], suffixes: Sequence[str], title: str
) -> Path:
    """Find the folder, `root` or one in it, in which folders of these classes hold such files.

    Raises:
        DataError: there is none, or there are two.
    """
    require_folder(root, title)
    others: list[Path] = []  # with the classes, but with other files
    for level in _levels(root):
        named = [f for f in level if any((f / name).is_dir() for name in classes)]
        found = [f for f in named if _hold(f, classes, suffixes)]
        if len(found) > 1:
            raise DataError(f"{root} holds {title} twice, {found[0]} and {found[1]}: give one")
        if found:
            return found[0]
        others += named
    expected = f"expected images ({', '.join(suffixes)}) in folders {', '.join(classes[:3])} …"
    if others:
        folder = next(others[0] / name for name in classes if (others[0] / name).is_dir())
        raise DataError(f"{folder} is empty of what {title} needs: {expected}; {holds(folder)}")
    packed = [e.name for e in _visible(root) if e.name.lower().endswith((".zip", ".gz"))]
    if packed:
        raise DataError(f"{root} holds {packed[0]}, not unpacked: unpack it there")
    raise DataError(
        f"{root} holds no {title}: {expected}; {holds(root)}. Any other folder of class folders"
        " becomes a store by `python -m src.data.images FOLDER STORE`."
    )


def require_folder(root: Path, title: str) -> None:
    """Raise DataError if there is no such folder; that of a file says what to do with it."""
    if root.is_file():
        raise DataError(
            f"{root} is a file, where the folder of {title} is expected: unpack it"
            f" (`python -m zipfile -e {root} FOLDER`) and give the folder"
        )
    if not root.is_dir():
        raise DataError(
            f"{title} not found: no folder {root}. SETUP.md says where to download it;"
            " without a download, run with PROFILE = 'demo'."
        )


def _hold(folder: Path, classes: Sequence[str], suffixes: Sequence[str]) -> bool:
    """Whether one of the class folders of `folder` holds a file of these suffixes."""
    return any(
        entry.name.lower().endswith(tuple(suffixes))
        for name in classes
        if (folder / name).is_dir()
        for entry in _visible(folder / name)
    )


def _levels(root: Path) -> Iterator[list[Path]]:
    """`root`, the folders in it, the folders in those …"""
    level, depth = [root], 0
    while level and depth <= DEPTH:
        yield level
        inner = [(folder, subfolders(folder)) for folder in level]
        level = [f / name for f, names in inner if len(names) <= MANY for name in names]
        depth += any(len(names) > 1 for _, names in inner)
