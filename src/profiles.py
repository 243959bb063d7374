"""Where a notebook finds its data and how big it runs: `paper` (the study's) or `demo` (made).

And whether its parameters are such as can be: before anything is read, let alone trained.
"""

import ast
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.augmentations import augmentation
from src.checks import RANGES, check_number, check_phases
from src.data.bigearthnet import EUROSAT_STRETCH, Selection, bigearthnet_store
from src.data.demo import make_demo
from src.data.images import STUDY_CLASSES, eurosat_allbands_store, eurosat_store, ucmerced_store
from src.data.splits import Split, read_split, stratified_split
from src.data.store import PatchStore
from src.encoders import ENCODERS
from src.runs import RESUME

ROOT = Path(__file__).resolve().parents[1]  # of the checkout: notebooks may be run from any folder


@dataclass(frozen=True)
class Profile:
    """Folders and sizes. Made and real data have one layout under `data` (see SETUP.md)."""

    data: Path
    models: Path  # of this encoder: the checkpoints' names don't tell encoders apart
    records: Path  # of every encoder
    runs: Path  # a folder for every run: what it takes to go on (see src.runs)
    figures: Path
    scene: Path  # a Sentinel-2 scene to map
    epochs: dict[str, int]  # of pretraining: "long" (notebooks 01, 03, 04) and "short" (02)
    batch_size: int  # images, in pretraining and in fine-tuning
    image_size: int  # pixels
    phases: tuple[int, int, int]  # fine-tuning epochs: head, last stage, everything
    lr_finetune: float
    mc_samples: int
    probe_every: int  # epochs

    def bigearthnet(self, stretch: float = EUROSAT_STRETCH, bands: str = "rgb") -> PatchStore:
        """Unlabelled patches of the official training split, of v1's folders or of its archive.

        Args:
            bands: "rgb" (uint8) or "all" (twelve, uint16).

        Raises:
            DataError: they aren't there.
        """
        rendering = f"_{stretch:g}" if bands == "rgb" else ""
        store = self.data / f"stores/bigearthnet_train_{bands}{rendering}"
        archive = self.data / "BigEarthNet-S2-v1.0.tar.gz"
        root = archive if archive.exists() else self.data / "BigEarthNet-v1.0"
        selection = Selection(self.data / "splits/train.csv")
        return bigearthnet_store(root, store, selection, bands=bands, stretch=stretch)

    def eurosat(
        self, seed: int = 0, bands: str = "rgb", split: str | Sequence[str] = ""
    ) -> tuple[PatchStore, Split]:
        """EuroSAT in RGB or twelve bands, and its split: 80/10/10 drawn from the seed.

        `split` gives another, see `src.data.splits.read_split`. Raises DataError without the data.
        """
        folder, stores = self.data / "eurosat", self.data / "stores"
        if bands == "all":
            store = eurosat_allbands_store(folder, stores / "eurosat_all")
        else:
            store = eurosat_store(folder, stores / "eurosat")
        return store, read_split(store, split) if split else stratified_split(store, seed)

    def ucmerced(self, classes: tuple[str, ...] = STUDY_CLASSES) -> PatchStore:
        """UC Merced, the study's three classes unless told. Raises DataError if it isn't there."""
        store = self.data / "stores" / "-".join(("ucmerced", *classes))
        return ucmerced_store(self.data / "UCMerced_LandUse", store, classes)

    def unlabelled(
        self, source: str, stretch: float = EUROSAT_STRETCH, seed: int = 0, bands: str = "rgb"
    ) -> tuple[np.ndarray, dict]:
        """Images to pretrain on, and their provenance: (N, H, W, 3) uint8 or twelve bands, uint16.

        Args:
            source: "bigearthnet", or "eurosat-train": EuroSAT's training images with their labels
                unused, which is in-domain pretraining and a different claim.
        """
        if source == "bigearthnet":
            store = self.bigearthnet(stretch, bands)
            return store.images, store.provenance
        if source == "eurosat-train":
            store, split = self.eurosat(seed, bands)
            subset = f"training split, seed {seed}, labels unused"
            return store.images[split.train], {**store.provenance, "subset": subset}
        raise ValueError(f"pretrain on 'bigearthnet' or 'eurosat-train', not {source!r}")


# the demo's epochs: (long, short) pretraining, and the phases of fine-tuning
_DEMO_EPOCHS = {
    "custom_cnn": ((24, 16), (1, 1, 6)),
    "resnet50": ((4, 2), (1, 1, 3)),
    "vit_b_16": ((3, 1), (1, 1, 2)),
}


def open_profile(
    name: str, workspace: str | Path | None = None, encoder: str = "custom_cnn"
) -> Profile:
    """The profile of this name; `demo` makes its data on first use (seconds, no download).

    Args:
        workspace: folder that holds (or gets) `data/`, `models/` and `umap_visualizations/`; None:
            the checkout.
        encoder: one of `src.encoders.ENCODERS`. The Custom CNN's checkpoints lie in `models/`
            itself, under the study's names; those of the others in a folder of their own.
    """
    if encoder not in ENCODERS:
        raise ValueError(f"ENCODER must be one of {', '.join(ENCODERS)}, not {encoder!r}")
    if name not in ("paper", "demo"):
        raise ValueError(f"PROFILE must be 'paper' or 'demo', not {name!r}")
    opened = _paper if name == "paper" else _demo
    return opened(Path(workspace or ROOT), encoder)


def _paper(root: Path, encoder: str) -> Profile:
    return Profile(
        data=root / "data",
        models=root / "models" / _subfolder(encoder),
        records=root / "models/records",
        runs=root / "runs",
        figures=root / "umap_visualizations",
        scene=root / "data/scenes/real_cell",
        epochs={"long": 300, "short": 50},
        batch_size=64,
        image_size=64,
        phases=(10, 10, 80),
        lr_finetune=1e-4,
        mc_samples=50,
        probe_every=5,
    )


def _demo(root: Path, encoder: str) -> Profile:
    (long, short), phases = _DEMO_EPOCHS[encoder]
    return Profile(
        data=make_demo(root / "data/demo"),
        models=root / "models/demo" / _subfolder(encoder),
        records=root / "models/demo/records",
        runs=root / "runs/demo",
        figures=root / "umap_visualizations/demo",
        scene=root / "data/demo/scenes/made_scene",
        epochs={"long": long, "short": short},
        batch_size=32,
        image_size=32,
        phases=phases,
        lr_finetune=3e-4,
        mc_samples=10,
        probe_every=4,
    )


def _subfolder(encoder: str) -> str:
    return "" if encoder == "custom_cnn" else encoder


# --- a notebook's parameters ---

CHOICES = {
    "PROFILE": ("paper", "demo"),
    "ENCODER": ENCODERS,
    "SCHEDULE": ("long", "short"),
    "PRETRAIN_ON": ("bigearthnet", "eurosat-train"),
    "BANDS": ("rgb", "all"),
    "RESUME": (*RESUME, True),
    "SCRATCH": (True, False),
    "SCALE_LR": (True, False),
}
# None in a parameters cell takes the profile's
OPTIONAL = (
    *("EPOCHS", "BATCH_SIZE", "IMAGE_SIZE", "LR", "PROBE_EVERY", "MC_SAMPLES", "PHASES"),
    *("WORKSPACE",),
)
NAMES = ("PRETRAINED", "OOD_CLASSES", "HELD_OUT")  # lists of names
AS_TEXT = (*NAMES, "PHASES", "EXTRA_AUGMENTATION")  # what papermill's -p gives as text


def given(value: Any, usual: Any) -> Any:
    """A parameter's value; the usual one for None, and for nothing else: 0 is a value."""
    return usual if value is None else value


def read_parameters(names: dict[str, Any]) -> None:
    """Check the parameters of a notebook, which calls it with `globals()` before anything else.

    Lists that papermill's `-p` gave as text become lists.

    Raises:
        ValueError: one that cannot be, or that the notebook does not know: it would run on, with
            what was not meant.
    """
    _refuse_unknown(names)
    for name in [name for name in names if name.isupper()]:
        value = names[name]
        if name in OPTIONAL and value is None:
            continue
        if name in AS_TEXT and isinstance(value, str):
            names[name] = value = _from_text(value, name)
        names[name] = _check_parameter(value, name)
    if names.get("SCRATCH") is False and not names["PRETRAINED"]:
        raise ValueError("SCRATCH = False and PRETRAINED = []: there is nothing to train")


def _check_parameter(value: Any, name: str) -> Any:
    """The value, a number as a plain one."""
    choices = CHOICES.get(name)
    if choices and not any(value is c or (isinstance(c, str) and value == c) for c in choices):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
    if name.lower() in RANGES:
        value = check_number(value, name, RANGES[name.lower()])
    if name == "BATCH_SIZE":
        check_number(value, name, RANGES["epochs"])
    if name == "WORKSPACE" and not (isinstance(value, str | Path) and str(value)):
        raise ValueError(f"{name} must be a folder, got {value!r}")
    if name == "PHASES":
        value = check_phases(value, name)
    if name in NAMES and not _is_list_of_text(value):
        raise ValueError(f"{name} must be a list of names, got {value!r}")
    if name == "EXTRA_AUGMENTATION":
        _check_augmentation(value, name)
    return value


def _is_list_of_text(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)


def _check_augmentation(value: Any, name: str) -> None:
    try:
        augmentation(64, value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _from_text(text: str, name: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError) as error:
        examples = {"PHASES": "[1, 0, 1]", "EXTRA_AUGMENTATION": '{"vflip": 0.5}'}
        example = examples.get(name, '["River"]')
        raise ValueError(f"{name} must look like {example}, got {text!r}") from error


def _refuse_unknown(names: dict[str, Any]) -> None:
    """Compare what papermill injected with the parameters cell: it says of strangers but a warning.

    IPython keeps the cells that have run in `In`.
    """
    cells = [cell for cell in names.get("In", []) if isinstance(cell, str)]
    places = [number for number, cell in enumerate(cells) if cell.startswith("# Parameters")]
    if not places:
        return
    injected, before = _assigned(cells[places[-1]]), map(_assigned, cells[: places[-1]][::-1])
    known = next((assigned for assigned in before if "PROFILE" in assigned), injected)
    if unknown := sorted(injected - known):
        near = difflib.get_close_matches(unknown[0].upper(), known, 1)
        hint = f"; did you mean {near[0]}?" if near else f": there are {', '.join(sorted(known))}"
        raise ValueError(f"unknown parameter {', '.join(unknown)}{hint}")


def _assigned(cell: str) -> set[str]:
    """Names that a cell of plain assignments assigns to; of any other cell none."""
    try:
        body = ast.parse(cell).body
    except SyntaxError:
        return set()
    targets = (target for line in body if isinstance(line, ast.Assign) for target in line.targets)
    return {target.id for target in targets if isinstance(target, ast.Name)}
