"""Command line: `python -m src.data.bigearthnet ROOT STORE --split train.csv`.

ROOT may be an address: nothing is kept but the store.
"""

import argparse
import dataclasses

from src.data.bands import BANDS, EUROSAT_STRETCH
from src.data.bigearthnet import Selection, bigearthnet_store
from src.data.bigearthnet.archives import Archive
from src.data.bigearthnet.sources import LAYOUTS
from src.errors import exit_with_message

SHOW_DEFAULT = "(default: %(default)s)"
READING = ("md5", "stop_when_complete")  # fields of Archive
STREAMING = """ROOT as an address (https://…) or "-" (curl … | … - STORE) is read as it comes:
the disk holds the store only (11.65 GB for v1's training split in RGB, 10.28 GB for v2's, less with
--fraction). It wants --split or --metadata. A connection that breaks or stalls goes on where it
was. Stopped or killed, run the same again: patches that are in are not decoded again, but the
stream is read from its start, however it is packed. A .zip cannot be read so."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m src.data.bigearthnet", description="Build a PatchStore.", epilog=STREAMING
    )
    add = parser.add_argument
    add("root", help="folder of patches (v1), of tiles (v2), the archive itself, its address, or -")
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
    add(
        "--md5", help="of the whole archive, compared at its end (default: of ROOT's file if known)"
    )
    add(
        "--stop-when-complete",
        action="store_true",
        help="end when all selected patches are in; no checksum of the whole is seen then",
    )

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
        root, reading = args.pop("root"), {key: args.pop(key) for key in READING}
        if any(reading.values()):
            root = Archive(root, **reading)
        store = bigearthnet_store(root, args.pop("store"), Selection(**chosen), **args)
    print(
        f"{store.path}: {len(store)} patches, {store.images.nbytes / 1e9:.2f} GB,"
        f" sha256 {store.meta['sha256']}"
    )
    if "checksum" in store.meta:
        print(f"checksum of the archive: {store.meta['checksum']}")


if __name__ == "__main__":
    main()
