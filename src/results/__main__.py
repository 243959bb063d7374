"""Command line: `python -m src.results [FOLDER]`."""

import argparse

from src.errors import exit_with_message
from src.results import METRICS, read_records, runs_table


def main() -> None:
    """Print one row for every fine-tuning run that left a record in the folder."""
    parser = argparse.ArgumentParser(
        prog="python -m src.results",
        description="One row for every fine-tuning run that left a record.",
    )
    parser.add_argument(
        "folder", nargs="?", default="models/records", help="of records (default: %(default)s)"
    )
    with exit_with_message():
        runs = runs_table(read_records(parser.parse_args().folder))
        columns = ["encoder", "configuration", *METRICS, "test_accuracy", "hours"]
        print(runs[columns].round(3).to_string(index=False))


if __name__ == "__main__":
    main()
