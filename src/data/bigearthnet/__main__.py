"""Command line: `python -m src.data.bigearthnet ROOT STORE --split train.csv`."""

import argparse
import dataclasses

from src.data.bands import BANDS, EUROSAT_STRETCH
from src.data.bigearthnet import Selection, bigearthnet_store
from src.data.bigearthnet.sources import LAYOUTS
from src.errors import exit_with_message

SHOW_DEFAULT = "(default: %(default)s)"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m src.data.bigearthnet", description="Build a PatchStore."
    )
    add = parser.add_argument
    add("root", help="folder of patches (v1), of tiles (v2), or the archive itself")
    add("store", help="folder to write")
    add("--bands", choices=BANDS, default="rgb", help=f"all: twelve, uint16 {SHOW_DEFAULT}")
    add(
        "--stretch",
        type=lambda text: text if text == "percentile" else float(text),
        default=EUROSAT_STRETCH,
        help=f"of rgb: digital number shown as white, or percentile {SHOW_DEFAULT}",
    )
    add("--layout", choices=("auto", *LAYOUTS), default="auto", help=f"of root {SHOW_DEFAULT}")
    add("--workers", type=int, help="reading processes (default: at most one a core)")
    add("--max-unreadable", type=float, default=0.01, help=f"share left out {SHOW_DEFAULT}")

    # the fields of Selection, by their names
    add = parser.add_argument_group("which patches").add_argument
    add("--split", help="list of patch names, or a split of --metadata (default: every patch)")
    add("--metadata", help="v2's metadata.parquet, or a CSV with names and countries")
    add("--exclude", nargs="+", default=(), help="lists of patches to leave out (snow, clouds)")
    add("--countries", nargs="+", default=(), help="only these (default: all)")
    add("--months", nargs="+", type=int, default=(), help="only these, 1 to 12 (default: all)")
    add("--fraction", type=float, default=1.0, help=f"random share of what is left {SHOW_DEFAULT}")
    add("--seed", type=int, default=0, help=f"of that share {SHOW_DEFAULT}")
    return parser


def main() -> None:
    """Build a store, or open the one that is there, and say what is in it."""
    args = vars(_parser().parse_args())
    with exit_with_message():
        chosen = {field.name: args.pop(field.name) for field in dataclasses.fields(Selection)}
        store = bigearthnet_store(args.pop("root"), args.pop("store"), Selection(**chosen), **args)
    print(
        f"{store.path}: {len(store)} patches, {store.images.nbytes / 1e9:.2f} GB,"
        f" sha256 {store.meta['sha256']}"
    )


if __name__ == "__main__":
    main()
