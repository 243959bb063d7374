"""Where the data sets are: pinned addresses and checksums."""

from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from src.data.image_sets import ImageSet
from src.data.images import ALLBANDS, EUROSAT, EUROSAT_ALLBANDS, UCMERCED


@dataclass(frozen=True)
class Remote:
    """A file to download, and what to do with it."""

    url: str
    md5: str
    file: str  # under the data folder
    # the folder that is wanted of a zip archive, unpacked beside it; "": it stays as it is
    inside: str = ""
    images: ImageSet | None = None  # what it must hold, wherever in the archive


_HF = "https://huggingface.co/datasets/torchgeo"
_UCMERCED = "7c5ef3454d9b1cccfa7ccde0c01fc8f00a45909a"  # the revision that torchgeo pins
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
            EUROSAT,
        )
    ],
    "eurosat-allbands": [
        Remote(
            f"{_HF}/eurosat/resolve/1ce6f1bfb56db63fd91b6ecc466ea67f2509774c/EuroSATallBands.zip",
            "5ac12b3b2557aa56e1826e981e8e200e",
            "eurosat/EuroSATallBands.zip",
            ALLBANDS,
            EUROSAT_ALLBANDS,
        )
    ],
    "ucmerced": [
        Remote(
            f"{_HF}/ucmerced/resolve/{_UCMERCED}/UCMerced_LandUse.zip",
            "5b7ec56793786b6dc8a908e8854ac0e4",
            "UCMerced_LandUse.zip",
            "UCMerced_LandUse/Images",
            UCMERCED,
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
# what it takes to read an archive as it comes: which patches there are
SETS |= {f"{name}-lists": SETS[name][:-1] for name in ("bigearthnet-v1", "bigearthnet-v2")}


def known_md5(url: str) -> str | None:
    """MD5 of the file at an address, if it is one of ours or has the name of one; else None."""
    parts = PurePosixPath(urlsplit(url).path).parts  # zenodo.org/api/records/…/NAME/content
    remotes = [remote for remotes in SETS.values() for remote in remotes]
    known = {PurePosixPath(remote.file).name: remote.md5 for remote in remotes}
    return next((known[part] for part in reversed(parts) if part in known), None)
