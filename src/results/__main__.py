"""Command line: `python -m src.results [FOLDER]` prints one row for every fine-tuning run that left
a record there.
"""

import argparse

from src.errors import exit_with_message
from src.results import METRICS, read_records, runs_table


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m src.results", description=__doc__.split(": ", 1)[1]
    )
    parser.add_argument(
        "folder",
        nargs="?",
        default="models/records",
        help="folder of records (default: %(default)s)",
    )
    with exit_with_message():
        runs = runs_table(read_records(parser.parse_args().folder))
    shown = runs[["encoder", "configuration", *METRICS, "test_accuracy", "hours"]].round(3)
    print(shown.to_string(index=False))


if __name__ == "__main__":
    main()
