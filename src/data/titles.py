"""The names of data sets in pictures, tables and messages."""

from typing import Any

# of known sets by `kind`, for people; any other is called as the folder it was made from
TITLES = {
    "bigearthnet-v1-rgb": "BigEarthNet",
    "bigearthnet-v1-all": "12-band BigEarthNet",
    "bigearthnet-v2-rgb": "reBEN",
    "bigearthnet-v2-all": "12-band reBEN",
    "eurosat-rgb": "EuroSAT",
    "eurosat-all": "12-band EuroSAT",
    "ucmerced": "UC Merced",
}


def title_of(data: dict[str, Any]) -> str:
    """The name of a data set, by what a checkpoint or a record remembers of it."""
    known = TITLES.get(data.get("kind", ""))
    return known or data.get("title") or data.get("kind") or "unnamed data"
