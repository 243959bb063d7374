"""Fetch the data sets: pinned addresses, checksums, broken downloads taken up where they broke.

Command line: `python -m src.data.download SET`, one of `SETS`.
"""

import argparse
import hashlib
import shutil
import urllib.error
import zipfile
import zlib
from pathlib import Path

from src.data.bars import bar
from src.data.connections import (
    BUSY,
    FAILURES,
    Answer,
    ask,
    is_of_this_machine,
    is_web_page,
    refusal,
    total_of,
)
from src.data.folders import find_class_folders, list_images
from src.data.image_sets import account
from src.data.locks import WAIT, locked
from src.data.remotes import SETS, Remote
from src.errors import DataError, exit_with_message

MAX_RATIO = 100  # unpacked bytes to packed ones: images hardly shrink when they are packed


def fetch(remote: Remote, data: str | Path) -> Path:
    """Download, verify and unpack; what is there and verified already is not fetched again.

    One process does it at a time: another waits, and finds it done.

    Returns:
        The file, or the folder it was unpacked into.

    Raises:
        DataError: no connection (what has arrived is kept), the server is busy, wrong checksum,
            damaged archive.
    """
    file = Path(data, remote.file)
    folder = file.parent / remote.inside
    if not _is_there(folder, remote):
        with locked(file.with_name(f".{file.name}.lock"), f"downloading {file.name}", WAIT):
            if not file.exists():  # once it has its name it is right, and never written again
                partial = file.with_name(f"{file.name}.part")
                complete = _download(remote.url, partial)
                _verify(partial, remote, complete)
                partial.rename(file)
            if remote.inside and not _is_there(folder, remote):
                _unpack(file, remote, folder)
    if not remote.inside:
        return file
    _check_counts(folder, remote)
    return folder


def _is_there(folder: Path, remote: Remote) -> bool:
    """Whether the archive has been unpacked: an empty folder is none."""
    return bool(remote.inside) and folder.is_dir() and any(folder.iterdir())


def _check_counts(folder: Path, remote: Remote) -> None:
    """DataError for a folder that has not all the images of the set, as from another's unzip."""
    if remote.images is None:
        return
    remedy = f"Delete {folder} and run again to unpack it anew"
    try:
        listing = list_images(folder, tuple(remote.images.official), remote.images.suffixes)
    except DataError as error:
        raise DataError(f"{folder} is not whole: {error} {remedy}") from error
    counted, whole = account(remote.images, listing)
    if not whole:
        raise DataError(f"{folder} is not whole. {counted}. {remedy}.")
    print(counted)


def _download(url: str, partial: Path) -> bool:
    """Fetch what is still missing of `partial`; whether the server says that this is all."""
    have = _size(partial)
    try:
        answer = ask(url, have)
        with answer.response:
            return _receive(answer, partial)
    except urllib.error.HTTPError as error:
        with error:  # it holds the connection
            if error.code != 416 or not have:
                kept = f"; the {have:,} bytes in {partial} are kept" if error.code in BUSY else ""
                raise DataError(f"{refusal(error, url)}{kept}") from error
            _check_complete(error, partial)
            return True
    except FAILURES as error:
        if is_of_this_machine(error):
            raise
        raise DataError(
            f"no connection to {url} ({error or type(error).__name__}). Run again to go on from the"
            f" {_size(partial):,} bytes in {partial}; on a machine without internet, download it"
            f" elsewhere and put it at {partial.with_suffix('')}."
        ) from error


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _check_complete(error: urllib.error.HTTPError, partial: Path) -> None:
    """After "416 Range Not Satisfiable": there is nothing beyond what we have, so that is all.

    Unless it is too much: then it is no beginning of this file, and the next try starts anew.
    """
    total = total_of(error)
    if total is not None and _size(partial) > total:
        had = _size(partial)
        partial.unlink()
        raise DataError(
            f"{partial} had {had:,} bytes, {error.url} has {total:,}: it was a part of another"
            " file and is deleted. Run again to download it anew."
        )


def _receive(answer: Answer, partial: Path) -> bool:
    """Append what comes to the part there is; whether the server says that this is all."""
    begins = answer.begins
    with (
        open(partial, "ab" if begins else "wb") as file,
        bar(
            total=answer.total, initial=begins, desc=partial.stem, unit="B", unit_scale=True
        ) as progress,
    ):
        for block in answer.blocks():
            file.write(block)
            progress.update(len(block))
    return answer.says_its_end


def _verify(file: Path, remote: Remote, complete: bool) -> None:
    with open(file, "rb") as content:
        digest = hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False))
        content.seek(0)
        page = is_web_page(content.read(200))
    if digest.hexdigest() != remote.md5:
        if not complete:
            raise DataError(
                f"{remote.url} ended after {_size(file):,} bytes, and these are not the whole file:"
                " the server does not say how long it is. Run again to go on from there."
            )
        wrong = file.with_suffix(".wrong")
        file.replace(wrong)  # or it would be taken for a beginning, and never become right
        what = "it is a web page, not the file" if page else "it was damaged on the way"
        raise DataError(
            f"{wrong} has MD5 {digest.hexdigest()}, expected {remote.md5}: {what}, or {remote.url}"
            " has changed. Run again to download it anew."
        )


def _unpack(file: Path, remote: Remote, folder: Path) -> None:
    """Put what is wanted of an archive at `folder`, which appears only when it is whole."""
    staging = file.with_name(f"{file.name}.unpacking")
    shutil.rmtree(staging, ignore_errors=True)  # of a try that was stopped
    try:
        with zipfile.ZipFile(file) as archive:
            _check_room(archive, file)
            archive.extractall(staging)  # wherever members say they belong, they land in there
    except (zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError, RuntimeError) as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise DataError(f"{file} cannot be unpacked ({error}): delete it and run again") from error
    wanted = staging / remote.inside
    if not wanted.is_dir():
        if remote.images is None:
            raise DataError(f"{file} holds no {remote.inside}: {remote.url} has changed")
        images = remote.images
        wanted = find_class_folders(staging, tuple(images.official), images.suffixes, images.title)
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.is_dir():
        folder.rmdir()  # it is empty
    wanted.rename(folder)
    shutil.rmtree(staging, ignore_errors=True)  # gone with it, if it had no folders around


def _check_room(archive: zipfile.ZipFile, file: Path) -> None:
    """DataError, before anything is written, for an archive that claims more than there can be."""
    needed = sum(info.file_size for info in archive.infolist())
    if needed > MAX_RATIO * file.stat().st_size:
        raise DataError(f"{file} claims {needed:,} bytes, {MAX_RATIO} times its own: not unpacked")
    free = shutil.disk_usage(file.parent).free
    if needed > free:
        raise DataError(
            f"{file} needs {needed / 1e9:.2f} GB to be unpacked, {free / 1e9:.2f} GB are free: make"
            " room on that disk and run again"
        )


def main() -> None:
    """Fetch every file of a set."""
    parser = argparse.ArgumentParser(
        prog="python -m src.data.download", description="Download a data set."
    )
    parser.add_argument("set", choices=SETS)
    parser.add_argument(
        "--data", default="data", help="folder of all data sets (default: %(default)s)"
    )
    args = parser.parse_args()
    with exit_with_message():
        for remote in SETS[args.set]:
            print(f"ready: {fetch(remote, args.data)}")


if __name__ == "__main__":
    main()
