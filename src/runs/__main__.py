"""Command line: `python -m src.runs [FOLDER]` lists the runs below a folder."""

import argparse
import os
from pathlib import Path

from src.errors import exit_with_message
from src.runs.listing import table


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m src.runs", description="List the runs below a folder."
    )
    parser.add_argument("folder", nargs="?", default="runs", type=Path)
    with exit_with_message():
        folder = parser.parse_args().folder
        if not folder.is_dir():
            raise ValueError(f"no folder {folder}: runs are kept in runs/, or where RUNS said")
        runs = table(folder)
        none = f"no runs below {folder}{os.sep}"
        print(runs.round(4).to_string(index=False) if len(runs) else none)


if __name__ == "__main__":
    main()
