"""Command line: `python -m src.runs [FOLDER]` lists the runs below a folder, or watches them."""

import argparse
import os
import time
from pathlib import Path

from src.errors import exit_with_message
from src.runs.listing import progress, table

CLEAR = "\x1b[2J\x1b[H"  # a terminal's screen


def main() -> None:
    """Print the table, once or again and again."""
    parser = argparse.ArgumentParser(
        prog="python -m src.runs", description="List the runs below a folder."
    )
    parser.add_argument("folder", nargs="?", default="runs", type=Path, help="(default: runs)")
    watch = "show those that go on, every so many seconds (default: 10), until none does"
    parser.add_argument("--watch", nargs="?", type=float, const=10, metavar="SECONDS", help=watch)
    with exit_with_message():
        arguments = parser.parse_args()
        folder = arguments.folder
        if not folder.is_dir():
            raise ValueError(f"no folder {folder}: runs are kept in runs/, or where RUNS said")
        if arguments.watch is not None:
            _watch(folder, arguments.watch)
        else:
            runs = table(folder)
            none = f"no runs below {folder}{os.sep}"
            print(runs.round(4).to_string(index=False) if len(runs) else none)


def _watch(folder: Path, seconds: float) -> None:
    clear = CLEAR if os.isatty(1) else ""
    while len(runs := progress(folder)):
        print(clear + time.strftime("%H:%M:%S"))
        print(runs.round(4).to_string(index=False), flush=True)
        time.sleep(seconds)
    print(f"no run goes on below {folder}{os.sep}")


if __name__ == "__main__":
    main()
