"""Command line: `python -m src.results [FOLDER]`."""

import argparse

from src.errors import exit_with_message
from src.results import ENCODER_NAMES, METRICS, answers, read_records, runs_table


def main() -> None:
    """Print one row for every fine-tuning run that left a record, and what they say in words."""
    parser = argparse.ArgumentParser(
        prog="python -m src.results",
        description="One row for every fine-tuning run that left a record.",
    )
    parser.add_argument(
        "folder", nargs="?", default="models/records", help="of records (default: %(default)s)"
    )
    with exit_with_message():
        records = read_records(parser.parse_args().folder)
        runs = runs_table(records)
        columns = ["encoder", "configuration", *METRICS, "test_accuracy", "hours"]
        print(runs[columns].round(3).to_string(index=False))
        for record in records:
            if told := answers(record):
                name = ENCODER_NAMES[record["config"]["encoder"]]
                print(f"\n{name}, {record['checkpoint']}", *told, sep="\n  ")


if __name__ == "__main__":
    main()
