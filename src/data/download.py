"""Fetch the data sets: pinned addresses, checksums, broken downloads taken up where they broke.

Command line: `python -m src.data.download SET`, one of `SETS`.
"""

import argparse
import hashlib
import http.client
import shutil
import urllib.error
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path

from tqdm.auto import tqdm

from src.data.images import ALLBANDS
from src.errors import DataError, exit_with_message

TIMEOUT = 60  # seconds without a byte


@dataclass(frozen=True)
class Remote:
    """A file to download, and what to do with it."""

    url: str
    md5: str
    file: str  # under the data folder
    # the folder that is wanted of a zip archive, unpacked beside it; "": it stays as it is
    inside: str = ""


_HF = "https://huggingface.co/datasets/torchgeo"
_V1 = (  # its splits; the archive itself is on Zenodo
    "https://git.tu-berlin.de/rsim/BigEarthNet-MM_19-classes_models/-/raw"
    "/9a5be07346ab0884b2d9517475c27ef9db9b5104/splits"
)
_V2 = "https://zenodo.org/records/10891137/files"
# Checksums as torchvision and torchgeo pin them, those of Zenodo's files as Zenodo lists them.
SETS = {
    "eurosat": [
        Remote(
            f"{_HF}/eurosat/resolve/c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip",
            "c8fa014336c82ac7804f0398fcb19387",
            "eurosat/EuroSAT.zip",
            "2750",
        )
    ],
    "eurosat-allbands": [
        Remote(
            f"{_HF}/eurosat/resolve/1ce6f1bfb56db63fd91b6ecc466ea67f2509774c/EuroSATallBands.zip",
            "5ac12b3b2557aa56e1826e981e8e200e",
            "eurosat/EuroSATallBands.zip",
            ALLBANDS,
        )
    ],
    "ucmerced": [
        Remote(
            f"{_HF}/ucmerced/resolve/main/UCMerced_LandUse.zip",
            "5b7ec56793786b6dc8a908e8854ac0e4",
            "UCMerced_LandUse.zip",
            "UCMerced_LandUse/Images",
        )
    ],
    # The archives of BigEarthNet stay packed: the store is built from them directly.
    "bigearthnet-v1": [
        Remote(
            f"{_V1}/train.csv?inline=false", "623e501b38ab7b12fe44f0083c00986d", "splits/train.csv"
        ),
        Remote(f"{_V1}/val.csv?inline=false", "22efe8ed9cbd71fa10742ff7df2b7978", "splits/val.csv"),
        Remote(
            f"{_V1}/test.csv?inline=false", "697fb90677e30571b9ac7699b7e5b432", "splits/test.csv"
        ),
        Remote(
            "https://zenodo.org/records/12687186/files/BigEarthNet-S2-v1.0.tar.gz",
            "5a64e9ce38deb036a435a7b59494924c",
            "BigEarthNet-S2-v1.0.tar.gz",
        ),
    ],
    "bigearthnet-v2": [
        Remote(f"{_V2}/metadata.parquet", "55687065e77b6d0b0f1ff604a6e7b49c", "metadata.parquet"),
        Remote(
            f"{_V2}/BigEarthNet-S2.tar.zst",
            "2245ed2d1a93f6ce637d839bc856396e",
            "BigEarthNet-S2.tar.zst",
        ),
    ],
}


def fetch(remote: Remote, data: str | Path) -> Path:
    """Download, verify and unpack; what is there and verified already is not fetched again.

    Returns:
        The file, or the folder it was unpacked into.

    Raises:
        DataError: no connection (what has arrived is kept), wrong checksum, damaged archive.
    """
    file = Path(data, remote.file)
    folder = file.parent / remote.inside
    if remote.inside and folder.exists():
        return folder
    if not file.exists():
        partial = file.with_name(f"{file.name}.part")
        partial.parent.mkdir(parents=True, exist_ok=True)
        _download(remote.url, partial)
        _verify(partial, remote)
        partial.rename(file)  # it has its name only when it is whole and right
    if not remote.inside:
        return file
    _unpack(file, remote, folder)
    return folder


def _download(url: str, partial: Path) -> None:
    """Fetch what is still missing of `partial`."""
    have = _size(partial)
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            _receive(response, partial, have)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing beyond what we have: it was all there
            return
        raise DataError(
            f"{url} answers {error.code} {error.reason}: the address may have moved, see SETUP.md"
        ) from error
    except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
        raise DataError(
            f"no connection to {url} ({error}). Run again to go on from the {_size(partial):,}"
            f" bytes in {partial}; on a machine without internet, download it elsewhere and put it"
            f" at {partial.with_suffix('')}."
        ) from error


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _receive(response: http.client.HTTPResponse, partial: Path, have: int) -> None:
    """Append the response to the `have` bytes there are; ConnectionError if it ends too early."""
    if have and response.status != 206:
        have = 0  # a server that cannot continue sends everything again
    length = response.headers.get("Content-Length")
    total = have + int(length) if length else None
    with (
        open(partial, "ab" if have else "wb") as file,
        tqdm(total=total, initial=have, desc=partial.stem, unit="B", unit_scale=True) as bar,
    ):
        while block := response.read(1 << 20):
            file.write(block)
            bar.update(len(block))
        if total is not None and file.tell() < total:
            raise ConnectionError(f"{file.tell():,} of {total:,} bytes")


def _verify(file: Path, remote: Remote) -> None:
    with open(file, "rb") as content:
        digest = hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False))
    if digest.hexdigest() != remote.md5:
        wrong = file.with_suffix(".wrong")
        file.rename(wrong)  # or it would be taken for a beginning, and never become right
        raise DataError(
            f"{wrong} has MD5 {digest.hexdigest()}, expected {remote.md5}: it was damaged on the"
            f" way, or {remote.url} has changed. Run again to download it anew."
        )


def _unpack(file: Path, remote: Remote, folder: Path) -> None:
    """Put what is wanted of an archive at `folder`, which appears only when it is whole."""
    staging = file.with_name(f"{file.name}.unpacking")
    shutil.rmtree(staging, ignore_errors=True)  # of a try that was stopped
    try:
        with zipfile.ZipFile(file) as archive:
            archive.extractall(staging)  # wherever members say they belong, they land in there
    except (zipfile.BadZipFile, EOFError) as error:
        raise DataError(f"{file} cannot be unpacked ({error}): delete it and run again") from error
    if not (staging / remote.inside).is_dir():
        raise DataError(f"{file} holds no {remote.inside}: {remote.url} has changed")
    folder.parent.mkdir(parents=True, exist_ok=True)
    (staging / remote.inside).rename(folder)
    shutil.rmtree(staging)


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
