"""Where a notebook finds its data and how big it runs: `paper` (the study's) or `demo` (made)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from src.data.bands import EUROSAT_STRETCH
from src.data.demo import make_demo
from src.data.images import STUDY_CLASSES
from src.data.known import open_data
from src.data.splits import Split, read_split, stratified_split
from src.data.store import PatchStore
from src.encoders import ENCODERS
from src.runs.parameters import given, read_parameters

__all__ = ["Profile", "given", "open_profile", "read_parameters"]  # what a notebook wants

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

    def labelled(
        self,
        what: str = "eurosat",
        seed: int = 0,
        bands: str = "rgb",
        split: str | Sequence[str] | None = None,
    ) -> tuple[PatchStore, Split]:
        """A labelled set, and its split: 80/10/10 of every class drawn from the seed.

        Args:
            what: see `src.data.known.open_data`.
            bands: "rgb" or "all", of EuroSAT.
            split: another one, see `src.data.splits.read_split`.

        Raises:
            DataError: it isn't there, or has no labels.
        """
        store = open_data(what, self.data, bands=bands)
        return store, read_split(store, split) if split else stratified_split(store, seed)

    def out_of_distribution(
        self, what: str = "ucmerced", classes: Sequence[str] | None = None
    ) -> PatchStore:
        """The set that a classifier has never seen; None: all classes, of UC Merced the study's.

        Raises DataError if it isn't there, or has no such class.
        """
        usual = STUDY_CLASSES if what == "ucmerced" else ()
        return open_data(what, self.data, classes=given(classes, usual))

    def unlabelled(
        self,
        what: str = "bigearthnet",
        labelled: tuple[PatchStore, Split] | None = None,
        *,
        stretch: float = EUROSAT_STRETCH,
        bands: str = "rgb",
    ) -> PatchStore:
        """Images to pretrain on, (N, H, W, C) uint8 or uint16.

        Args:
            what: see `src.data.known.open_data`; or "train": the training images of `labelled` with
                their labels unused, which is in-domain pretraining and a different claim.
            stretch, bands: of BigEarthNet and EuroSAT, see `open_data`.
        """
        if what != "train":
            return open_data(what, self.data, bands=bands, stretch=stretch)
        if labelled is None:
            raise ValueError("'train' means the training images of a labelled set: give one")
        store, split = labelled
        subset = f"training split of {len(split.train):,} images, labels unused"
        images, names = store.images[split.train], store.names[split.train]
        meta = {**store.meta, "subset": subset}
        return replace(store, images=images, labels=None, names=names, meta=meta)


# the demo's epochs: (long, short) pretraining, and the phases of fine-tuning
_DEMO_EPOCHS = {
    "custom_cnn": ((20, 16), (1, 1, 6)),
    # of these no demo can afford enough to learn much: their notebooks are shown at work
    "resnet50": ((1, 1), (1, 0, 1)),
    "vit_b_16": ((1, 1), (1, 0, 1)),
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
