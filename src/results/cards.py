"""Cards of the weights that travel with the code: data, recipe, metrics, and how to load them.

Command line: `python -m src.results.cards models` writes `models/CARDS.md` from what each small
checkpoint holds beside its weights.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from src.checkpoints import load, replacing
from src.data.titles import title_of
from src.errors import exit_with_message
from src.results.study import ENCODER_NAMES

LIMIT = 10_000_000  # bytes: what is small enough to travel with the code
TITLE = """# Model cards

Written by `python -m src.results.cards models`; all load with `weights_only=True`.
"""
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
    "tones",
)
# by kind of checkpoint: what is loaded, and what it gives
LOADED = {"simclr": ("encoder", "features"), "classifier": ("classifier", "logits")}
# where the loaded network has the mean and deviation of its bands
STATISTICS = {"encoder": "statistics", "classifier": "encoder.statistics"}


def cards(folder: str | Path) -> str:
    """Cards of the folder's checkpoints of at most `LIMIT` bytes, as Markdown.

    A checkpoint that lies there under two names gets one card; an unfinished one gets none.
    """
    checkpoints = {}
    for checkpoint in sorted(Path(folder).glob("*.pth")):
        if checkpoint.stat().st_size <= LIMIT and not checkpoint.name.startswith("last_"):
            checkpoints.setdefault(json.dumps(load(checkpoint)[1]), checkpoint)
    written = [card(checkpoint, json.loads(text)) for text, checkpoint in checkpoints.items()]
    return "\n".join([TITLE, *written])


def card(checkpoint: Path, metadata: dict[str, Any]) -> str:
    """The card of one checkpoint, as Markdown; `metadata` is what it holds beside weights."""
    config, versions = metadata["config"], metadata["versions"]
    name, output = LOADED[metadata["kind"]]
    megabytes = checkpoint.stat().st_size / 1e6
    recipe = ", ".join(f"{key} {config[key]}" for key in RECIPE if key in config)
    own = f", {name}.{STATISTICS[name]}" if config.get("statistics") else ""
    prepared = f'prepare(images, {config["image_size"]}, "cpu"{own})'
    shape = f"(N, H, W, {config['in_channels']})"
    day = versions.get("date", "the day is in the name of the file, not in its record")
    return f"""## `{checkpoint.name}`

- **What**: {ENCODER_NAMES[config["encoder"]]}, {_what(metadata)}; {megabytes:.1f} MB.
- **Data**: {_data(metadata)}; {metadata["data"]["shape"][0]:,} images in the store.
- **Recipe**: {recipe}; epoch {metadata["epoch"]} kept.
- **Reached**: {_reached(metadata["metrics"])}; one seed.
- **Made on** {versions["hardware"]}, {versions["precision"]}, torch {versions["torch"]}; {day}.
- **Licence**: {LICENCE}

```python
from src.augmentations.evaluation_transform import prepare
from src.checkpoints import load_{name}
{name}, metadata = load_{name}("models/{checkpoint.name}")
{output} = {name}({prepared})  # images: {shape} uint8
```
"""


def _what(metadata: dict[str, Any]) -> str:
    if metadata["kind"] == "simclr":
        return "encoder and projection head, SimCLR"
    if metadata["pretrained"]:
        sha256 = metadata.get("pretrained_sha256")  # of a file of other code
        file = f" (SHA-256 {sha256})" if sha256 else ""
        return f"classifier, fine-tuned from `{metadata['pretrained']}`{file}"
    return "classifier, trained from scratch"


def _data(metadata: dict[str, Any]) -> str:
    data = metadata["data"]
    return f"{title_of(data)} ({data['subset']})" if "subset" in data else title_of(data)


def _reached(metrics: dict[str, float]) -> str:
    shown = [key for key in metrics if key in ("loss", "knn") or "accuracy" in key]
    return ", ".join(f"{key.replace('_', ' ')} {metrics[key]:.4f}" for key in shown)


def main() -> None:
    """Write the cards of a folder into it."""
    parser = argparse.ArgumentParser(
        prog="python -m src.results.cards", description="Write CARDS.md into a folder of weights."
    )
    parser.add_argument(
        "folder", type=Path, nargs="?", default=Path("models"), help="(default: %(default)s)"
    )
    with exit_with_message():
        folder = parser.parse_args().folder
        text = cards(folder)
        with replacing(folder / "CARDS.md") as partial:
            partial.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
