"""Command line: `python -m src.data.bigearthnet ROOT STORE --split train.csv`."""

import argparse

from src.data.bands import BANDS, EUROSAT_STRETCH
from src.data.bigearthnet import bigearthnet_store
from src.data.bigearthnet.sources import LAYOUTS
from src.errors import DataError


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m src.data.bigearthnet", description="Build a PatchStore."
    )
    parser.add_argument("root", help="folder of patches (v1), of tiles (v2), or the archive itself")
    parser.add_argument("store", help="folder to write")
    parser.add_argument(
        "--split", help="list with one patch name per line, or a split of --metadata; default: all"
    )
    parser.add_argument(
        "--bands", choices=BANDS, default="rgb", help="rgb: uint8; all: twelve, uint16"
    )
    parser.add_argument(
        "--stretch",
        default=EUROSAT_STRETCH,
        help="DN shown as white, or percentile",
        type=lambda text: text if text == "percentile" else float(text),
    )
    parser.add_argument(
        "--metadata", help="v2's metadata.parquet, or a CSV with names and countries"
    )
    parser.add_argument(
        "--exclude", nargs="+", default=(), help="lists of patches to leave out (snow, clouds)"
    )
    parser.add_argument("--countries", nargs="+", default=(), help="only these")
    parser.add_argument("--months", nargs="+", type=int, default=(), help="only these, 1 to 12")
    parser.add_argument("--fraction", type=float, default=1.0, help="random share of what is left")
    parser.add_argument("--seed", type=int, default=0, help="of that share")
    parser.add_argument(
        "--layout", choices=("auto", *LAYOUTS), default="auto", help="of root, where auto is wrong"
    )
    parser.add_argument("--workers", type=int, help="processes; default: one a core")
    parser.add_argument(
        "--max-unreadable", type=float, default=0.01, help="share of unreadable patches tolerated"
    )
    args = vars(parser.parse_args())
    try:
        store = bigearthnet_store(args.pop("root"), args.pop("store"), **args)
    except (DataError, ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    print(
        f"{store.path}: {len(store)} patches, {store.images.nbytes / 1e9:.2f} GB, sha256"
        f" {store.meta['sha256']}"
    )


if __name__ == "__main__":
    main()
