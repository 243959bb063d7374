"""BigEarthNet-S2 v1 (Sumbul et al. 2019, arXiv 1902.06148): one folder of twelve single-band GeoTIFFs per patch.

Command line: `python -m src.data.bigearthnet ROOT STORE --split train.csv`.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import rasterio
from tqdm.auto import tqdm

from src.data.store import DataError, PatchStore, open_or_build

RGB = ("B04", "B03", "B02")
SIZE = 120  # pixels of the 10 m bands
EUROSAT_STRETCH = 2750.0  # reflectance DN shown as white: how EuroSAT's JPEGs were rendered
AS_PUBLISHED_STRETCH = 10000.0  # the published code: leaves most patches with 5–25 grey levels


def read_rgb(folder: Path, stretch: float = EUROSAT_STRETCH) -> np.ndarray:
    """Read B04, B03, B02 of one patch folder as (120, 120, 3) uint8: clip(DN / stretch × 255).

    Args:
        folder: `<patch>/`, holding `<patch>_B04.tif` …
        stretch: reflectance in digital numbers (10,000 = reflectance 1) that becomes 255.

    Raises:
        DataError: band missing or unreadable, wrong size or type, NaN, or pixels marked as nodata.
    """
    bands = np.stack([_read_band(folder / f"{folder.name}_{band}.tif") for band in RGB], axis=-1)
    return (bands / stretch * 255).clip(0, 255).astype(np.uint8)


def _read_band(path: Path) -> np.ndarray:
    try:
        with rasterio.open(path) as file:
            if (file.count, file.height, file.width) != (1, SIZE, SIZE):
                raise DataError(
                    f"{path}: expected 1 band of {SIZE}×{SIZE}, got {file.count} of {file.height}×{file.width}"
                )
            band, nodata = file.read(1), file.nodata
    except rasterio.errors.RasterioError as error:
        state = "cannot be read" if path.exists() else "is missing"
        raise DataError(f"{path} {state} ({error}): extract the patch again") from error
    if not np.isfinite(band).all():
        raise DataError(f"{path} holds NaN or infinite values")
    if nodata is not None and (band == nodata).any():
        raise DataError(f"{path} holds {int((band == nodata).sum())} pixels of nodata ({nodata:g})")
    if band.dtype != np.uint16:
        raise DataError(f"{path}: expected uint16 digital numbers, got {band.dtype}")
    return band


def bigearthnet_store(
    root: str | Path, path: str | Path, split: str | Path | None = None,
    stretch: float = EUROSAT_STRETCH, max_unreadable: float = 0.01,
) -> PatchStore:  # fmt: skip
    """Open the store at `path`, building it from the patch folders in `root` if it is not there yet.

    Unreadable patches are left out and listed with the reason in `<path>-unreadable.csv`: data is never made up.

    Args:
        root: `…/BigEarthNet-v1.0`.
        split: text file with one patch name per line, first column (the official lists); None takes every folder.
        stretch: see `read_rgb`.
        max_unreadable: share of unreadable patches, in [0, 1], above which the build stops with an error.

    Raises:
        DataError: folder or list missing, too many unreadable patches.
    """
    if not stretch > 0:
        raise ValueError(f"stretch must be positive, got {stretch}")
    root = Path(root)
    meta = {
        "kind": "bigearthnet-v1-rgb",
        "source": str(root.absolute()),
        "split": Path(split).name if split else None,
        "stretch": stretch,
    }
    return open_or_build(path, _patches(root, Path(path), split, stretch, max_unreadable), meta)


def _patches(root: Path, out: Path, split, stretch: float, max_unreadable: float) -> Iterator:
    names = _patch_names(root, split)
    report = out.with_name(f"{out.name}-unreadable.csv")
    report.unlink(missing_ok=True)  # of an earlier build: the data may have been mended since
    unreadable = []
    for name in tqdm(names, desc="reading BigEarthNet", unit="patch"):
        try:
            image = read_rgb(root / name, stretch)
        except DataError as error:
            unreadable.append((name, str(error)))
            continue
        yield name, None, image
    if not unreadable:
        return
    report.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(unreadable, columns=["name", "reason"]).to_csv(report, index=False)
    message = f"{len(unreadable)} of {len(names)} patches unreadable, listed in {report}; the first: {unreadable[0][1]}"
    if len(unreadable) > max_unreadable * len(names):
        raise DataError(f"{message}. More than {max_unreadable:.0%}: mend the data, or raise max_unreadable.")
    tqdm.write(f"Left out: {message}")


def _patch_names(root: Path, split: str | Path | None) -> list[str]:
    if not root.is_dir():
        raise DataError(
            f"BigEarthNet not found: no folder {root}. SETUP.md says where to download it; "
            "without a download, run with PROFILE = 'demo'."
        )
    if split is None:
        return sorted(p.name for p in root.iterdir() if p.is_dir())
    if not Path(split).is_file():
        raise DataError(f"split list {split} is missing: expected a text file with one patch name per line")
    lines = Path(split).read_text().splitlines()
    # the lists that come with both sensors name the Sentinel-1 patch in a second column
    return [line.split(",")[0].strip() for line in lines if line.strip()]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m src.data.bigearthnet", description="Build a PatchStore.")
    parser.add_argument("root", help="…/BigEarthNet-v1.0, one folder per patch")
    parser.add_argument("store", help="folder to write")
    parser.add_argument("--split", help="text file with one patch name per line; default: every folder")
    parser.add_argument("--stretch", type=float, default=EUROSAT_STRETCH, help="DN shown as white (published: 10000)")
    parser.add_argument("--max-unreadable", type=float, default=0.01, help="share of unreadable patches tolerated")
    args = parser.parse_args()
    try:
        store = bigearthnet_store(args.root, args.store, args.split, args.stretch, args.max_unreadable)
    except (DataError, ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    print(f"{store.path}: {len(store)} patches, {store.images.nbytes / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
