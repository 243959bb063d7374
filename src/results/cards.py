"""Cards for weights worth having: what they are, what made them, what they reach, how to load them.

Command line: `python -m src.cards models` writes `models/CARDS.md` from the `.json` beside each
small checkpoint.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from src.results.study import DATA_NAMES, ENCODER_NAMES

LIMIT = 10_000_000  # bytes: what is small enough to travel with the code
LICENCE = (
    "MIT, as the code. EuroSAT, which they were trained on, is under the MIT licence and contains"
    " modified Copernicus Sentinel data; cite Helber et al. 2019 (arXiv 1709.00029)."
)
RECIPE = (
    "epochs",
    "phases",
    "batch_size",
    "lr",
    "weight_decay",
    "temperature",
    "image_size",
    "seed",
)
LOADERS = {"simclr": ("encoder", "features"), "classifier": ("classifier", "logits")}


def card(checkpoint: Path, about: dict[str, Any]) -> str:
    """The Markdown card of one checkpoint. about: what its `.json` holds."""
    config, versions = about["config"], about["versions"]
    name, output = LOADERS[about["kind"]]
    head = (
        "encoder and projection head, SimCLR"
        if about["kind"] == "simclr"
        else f"classifier, {_start(about)}"
    )
    data = about["data"]
    source = DATA_NAMES[data["kind"]] if about["kind"] == "simclr" else "EuroSAT"
    subset = f" ({data['subset']})" if "subset" in data else ""
    day = versions.get("date", "the day is in the name of the file, not in its record")
    metrics = {
        key: value
        for key, value in about["metrics"].items()
        if key in ("loss", "knn") or "accuracy" in key
    }
    return f"""## `{checkpoint.name}`

- **What**: {ENCODER_NAMES[config["encoder"]]}, {head}; {checkpoint.stat().st_size / 1e6:.1f} MB.
- **Data**: {source}{subset}; {data["shape"][0]:,} images in the store.
- **Recipe**: {", ".join(f"{key} {config[key]}" for key in RECIPE if key in config)}; epoch {about["epoch"]} kept.
- **Reached**: {", ".join(f"{key.replace('_', ' ')} {value:.4f}" for key, value in metrics.items())}; one seed.
- **Made on** {versions["hardware"]}, {versions["precision"]}, torch {versions["torch"]}; {day}.
- **Licence**: {LICENCE}

```python
from src import checkpoints
from src import probes
{name}, about = checkpoints.load_{name}("models/{checkpoint.name}")
{output} = {name}(probes.prepare(images, {config["image_size"]}, "cpu"))  # images: (N, H, W, 3) uint8
```
"""


def _start(about: dict[str, Any]) -> str:
    return (
        f"fine-tuned from `{about['pretrained']}`"
        if about["pretrained"]
        else "trained from scratch"
    )


def cards(folder: str | Path) -> str:
    """Cards of the folder's checkpoints of at most `LIMIT` bytes; one card where a file lies under
    two names.
    """
    found = {}
    for checkpoint in sorted(Path(folder).glob("*.pth")):
        if checkpoint.stat().st_size <= LIMIT and not checkpoint.name.startswith("last_"):
            text = checkpoint.with_suffix(".json").read_text()
            found.setdefault(text, (checkpoint, json.loads(text)))
    title = (
        "# Model cards\n\nWritten by `python -m src.cards models`; all load with"
        " `weights_only=True`.\n"
    )
    return "\n".join([title, *(card(*one) for one in found.values())])


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m src.cards", description=__doc__.splitlines()[0]
    )
    parser.add_argument("folder", type=Path, nargs="?", default=Path("models"))
    folder = parser.parse_args().folder
    (folder / "CARDS.md").write_text(cards(folder))


if __name__ == "__main__":
    main()
