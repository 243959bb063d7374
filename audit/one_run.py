"""One run of the audit: pretrain, measure, fine-tune, score. Runs that agree in a step share it
through a folder.
"""

import fcntl
import hashlib
import importlib.util
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from audit.changes import AS_PUBLISHED, change, darkened
from audit.plan import Recipe, Size, phases
from src import checkpoints, results
from src.data.bigearthnet import EUROSAT_STRETCH, bigearthnet_store
from src.data.splits import Split
from src.data.store import PatchStore
from src.encoders import projection_head
from src.errors import DataError
from src.finetune import FinetuneConfig, finetune
from src.losses import nt_xent_floor
from src.ood import evaluate
from src.pretrain import PretrainConfig, pretrain, untrained
from src.probes import embed, knn_accuracy, linear_accuracy
from src.profiles import Profile
from src.runs.runtime import Runtime, pick


@dataclass(frozen=True)
class Study:
    """What every run shares."""

    size: Size
    encoder: str
    runtime: Runtime
    profile: Profile
    store: PatchStore
    places: np.ndarray  # (N, 2) longitude and latitude in degrees, or stand-ins: see `place_table`
    place_names: str  # which of the two, for the records
    work: Path  # checkpoints that runs share
    splits: dict = field(default_factory=dict)  # those drawn so far


def open_study(
    profile: Profile,
    size: Size,
    work: Path,
    encoder: str = "custom_cnn",
    coordinates: Path | None = None,
    runtime: Runtime | None = None,
) -> Study:
    """Open the data. Raises DataError if it isn't there."""
    store, _ = profile.eurosat()
    places, names = place_table(store.names, coordinates)
    return Study(size, encoder, runtime or pick(), profile, store, places, names, work)


def place_table(names: np.ndarray, coordinates: Path | None) -> tuple[np.ndarray, str]:
    """Where each image lies: (N, 2) longitude and latitude from a CSV of name, latitude, longitude;
    without one, the rank of its number within its class (0…1) and its class, so that neighbours are
    neighbours in the store.

    Raises:
        DataError: the CSV is missing, has other columns, or lacks an image.
    """
    if coordinates is None:
        files = pd.Series(names).str.rsplit("_", n=1, expand=True)
        within = files[1].astype(int).groupby(files[0]).rank(pct=True)
        return np.stack([within, pd.factorize(files[0])[0]], axis=1), "class and number"
    try:
        table = pd.read_csv(coordinates).set_index("name").reindex(names)[["longitude", "latitude"]]
    except (OSError, KeyError, ValueError) as error:
        raise DataError(
            f"{coordinates}: expected a CSV with columns name, latitude, longitude ({error})"
        ) from error
    if table.isna().any(axis=None):
        missing = list(table.index[table.isna().any(axis=1)][:3])
        raise DataError(
            f"{coordinates} has no place for {missing} …: give a row for every image of the store"
        )
    return table.to_numpy(), "longitude and latitude"


def draw(study: Study, seed: int, kind: str, labels: int | None = None) -> Split:
    """The images of a run: of each class the first so many of one shuffle, so that few labels are
    among more.

    "random" is the profile's 80/10/10 split of this seed; "geographic" has the westernmost 60 % for
    training, the next 20 % for val and the rest for test. "geographic" and "even random" have the
    same number of images of each class.
    """
    key = (seed, kind, labels)
    if key not in study.splits:
        parts = {
            "random": study.profile.eurosat(seed)[1],
            "geographic": geographic_split(study.places[:, 0]),
        }
        own, sizes = parts["geographic" if kind == "geographic" else "random"], study.size
        others = list(parts.values()) if kind != "random" else [own]
        limits = (labels or sizes.per_class, sizes.held_out, sizes.held_out and 3 * sizes.held_out)
        study.splits[key] = Split(
            *(
                _first(
                    study.store.labels,
                    getattr(own, part),
                    [getattr(other, part) for other in others],
                    limit,
                    seed,
                )
                for part, limit in zip(("train", "val", "test"), limits, strict=True)
            )
        )
    return study.splits[key]


def geographic_split(longitude: np.ndarray) -> Split:
    """60/20/20 from west to east."""
    west, east = np.quantile(longitude, [0.6, 0.8])
    part = (longitude > west).astype(int) + (longitude > east)
    return Split(*(np.flatnonzero(part == number) for number in range(3)))


def _first(
    labels: np.ndarray, rows: np.ndarray, pools: list[np.ndarray], limit: int | None, seed: int
) -> np.ndarray:
    rows = rows[np.random.default_rng([seed, 3]).permutation(len(rows))]
    counts = np.min(
        [np.bincount(labels[pool], minlength=labels.max() + 1) for pool in pools], axis=0
    )
    chosen = [
        rows[labels[rows] == c][: count if limit is None else min(count, limit)]
        for c, count in enumerate(counts)
    ]
    return np.sort(np.concatenate(chosen))


class Busy(Exception):
    """Another process is making what this run needs: do another one first."""


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Raises Busy where another process is in here."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Busy(str(folder)) from error
        yield


def _name(kind: str, seed: int, *what: Any) -> str:
    return f"{kind}_s{seed}_{hashlib.sha256(repr(what).encode()).hexdigest()[:12]}"


def pretraining(study: Study, job: Recipe, seed: int) -> tuple[PretrainConfig, np.ndarray, str]:
    """Config, rows and folder of a pretraining; runs that agree in all of it share it."""
    size, rows = study.size, draw(study, seed, job.split).train
    kind, _, value = job.start.partition(" ")
    config = PretrainConfig(
        study.encoder,
        size.long if job.long else size.short,
        min(size.batch_size, len(rows)),
        image_size=size.image_size,
        temperature=float(value) if kind in ("cosine", "dot") else 0.5,
        seed=seed,
    )
    return config, rows, _name("pretrain", seed, config, job.start, rows.tobytes())


def pretrained(study: Study, job: Recipe, seed: int) -> Path:
    """The checkpoint of a run's pretraining, made on first use.

    Raises:
        FloatingPointError: the loss is not finite.
        Busy: another process is making it.
    """
    config, rows, name = pretraining(study, job, seed)
    alias = study.work / name / checkpoints.contrastive_alias(config.epochs)
    with alone(alias.parent):
        if (alias.parent / "done").exists():
            return alias
        images, hooks = change(study.store.images[rows], study.places[rows], job.start, seed)
        data = {
            **study.store.about,
            "subset": f"{len(rows)} images of the {job.split} training split, labels unused",
            "audit": job.start,
        }
        pretrain(images, config, alias.parent, runtime=study.runtime, data=data, **hooks)
        (alias.parent / "done").touch()
        shutil.rmtree(alias.parent / "runs")
        for file in alias.parent.glob("*BS_Loss*"):
            file.unlink()
    return alias


def tuning(study: Study, job: Recipe, seed: int) -> tuple[FinetuneConfig, Split, str]:
    """Config, images and folder of a fine-tuning; with few labels more epochs, so that the steps
    are about as many.
    """
    size, split = study.size, draw(study, seed, job.split, job.labels)
    everything = len(draw(study, seed, job.split).train)
    epochs = min(
        max(size.max_epochs, size.epochs), round(size.epochs * everything / len(split.train))
    )
    config = FinetuneConfig(
        study.encoder,
        phases(job.kind, epochs),
        min(size.batch_size, len(split.train) // 2),
        job.rate,
        image_size=size.image_size,
        seed=seed,
    )
    start = job.start and pretraining(study, job, seed)[2]
    return (
        config,
        split,
        _name("tune", seed, config, start, split.train.tobytes(), split.test.tobytes()),
    )


def tuned(study: Study, job: Recipe, seed: int) -> Path:
    """The JSON beside the checkpoint of a run's classifier, made on first use.

    The weights stay where they are small, or still needed for out-of-distribution scores.

    Raises:
        Busy: another process is making it.
    """
    config, split, name = tuning(study, job, seed)
    with alone(study.work / name):
        found = list((study.work / name).glob("*.json"))
        if not found or (job.ood and not found[0].with_suffix(".pth").exists()):
            start = job.start and pretrained(study, job, seed)
            done = finetune(
                study.store.images,
                study.store.labels,
                split,
                study.store.meta["classes"],
                config,
                study.work / name,
                pretrained=start,
                runtime=study.runtime,
                data=study.store.about,
            )
            shutil.rmtree(study.work / name / "runs")
            found = [done.checkpoint.with_suffix(".json")]
        if study.encoder != "custom_cnn" and not job.ood:
            found[0].with_suffix(".pth").unlink(missing_ok=True)
    return found[0]


# --- what is measured ---


def probe(study: Study, job: Recipe, seed: int, checkpoint: Path | None) -> dict[str, float]:
    """kNN and linear accuracy of frozen features on test; of a pretrained encoder also its loss and
    its embeddings.
    """
    store, split, found = study.store, draw(study, seed, job.split, job.labels), {}
    if checkpoint is None:
        encoder = untrained(
            PretrainConfig(study.encoder, image_size=study.size.image_size, seed=seed)
        )
    else:
        encoder, about = checkpoints.load_encoder(checkpoint)
        config, history = about["config"], about["history"]
        found = {
            "loss": history[-1]["loss"],
            "floor": nt_xent_floor(config["batch_size"], config["temperature"]),
        }
    encoder.to(study.runtime.device)
    parts = [store.images[rows] for rows in (split.train, split.test)]
    train, test = (embed(encoder, images, study.size.image_size, study.runtime) for images in parts)
    if checkpoint is not None:
        head = projection_head(encoder.feature_dim, tuple(config["projection"]))
        checkpoints.restore(head, checkpoints.load(checkpoint)[0]["projection"], checkpoint)
        found |= embedding_statistics(head.eval(), test, config["temperature"])
    known = store.labels[split.train], store.labels[split.test]
    return {
        **found,
        "knn": knn_accuracy(train, known[0], test, known[1]),
        "linear": linear_accuracy(train, known[0], test, known[1]),
    }


@torch.inference_mode()
def embedding_statistics(
    head: nn.Module, features: np.ndarray, temperature: float
) -> dict[str, float]:
    """Lengths of features and of embeddings, mean cosine of two images, and the temperature dot
    products amount to.

    A dot product of embeddings of length r at temperature τ is a cosine at temperature τ / r².
    """
    embeddings = head(torch.as_tensor(features))
    length = embeddings.norm(dim=1)
    mean = F.normalize(embeddings, dim=1).mean(0)
    n = len(embeddings)
    return {
        "feature_length": float(np.linalg.norm(features, axis=1).mean()),
        "embedding_length": length.mean().item(),
        "embedding_length_sd": length.std().item(),
        "cosine": ((n * mean @ mean - 1) / (n - 1)).item(),
        "own_temperature": temperature / (length**2).mean().item(),
    }


def histograms(study: Study, patches: Path | None, seed: int) -> dict[str, Any]:
    """Share of the pixels at each of 64 grey levels and mean level (0…255), of each rendering of
    each data set.
    """
    images = study.store.images[draw(study, seed, "random").train]
    sets = {"EuroSAT": images, "EuroSAT, as published": darkened(images)}
    if patches:
        with tempfile.TemporaryDirectory() as folder:
            for name, stretch in (
                ("BigEarthNet", EUROSAT_STRETCH),
                ("BigEarthNet, as published", AS_PUBLISHED),
            ):
                store = bigearthnet_store(patches, Path(folder) / name, stretch=stretch, workers=1)
                sets[name] = np.array(store.images)
    return {
        name: {
            "images": len(pixels),
            "mean": pixels.mean((0, 1, 2)).tolist(),
            "share": (np.histogram(pixels, 64, (0, 256))[0] / pixels.size).tolist(),
        }
        for name, pixels in sets.items()
    }


def measure(study: Study, job: Recipe, seed: int) -> dict[str, Any]:
    """Do what the recipe says; a loss that is not finite is a result too."""
    try:
        checkpoint = job.start and pretrained(study, job, seed)
        found = probe(study, job, seed, checkpoint) if job.probe else {}
        if job.kind is None:
            return found
        file = tuned(study, job, seed)
    except FloatingPointError as error:
        return {"diverged": str(error)}
    about = json.loads(file.read_text())
    found |= {**about["metrics"], "phases": about["config"]["phases"]}
    return found | (
        {"ood": ood_scores(study, job, seed, file.with_suffix(".pth"))} if job.ood else {}
    )


def ood_scores(
    study: Study, job: Recipe, seed: int, checkpoint: Path
) -> dict[str, dict[str, list[float]]]:
    """Score → metric → [value, low, high] of every detector on UC Merced against the run's test
    images.
    """
    split, images = draw(study, seed, job.split), study.store.images
    model = checkpoints.load_classifier(checkpoint)[0].to(study.runtime.device)
    evaluation = evaluate(
        model,
        images[split.train],
        images[split.test],
        study.profile.ucmerced().images,
        study.size.mc_samples,
        study.runtime,
        seed,
        study.store.labels[split.train],
    )
    return results.metrics_as_json(evaluation.table)


def sample_patches(profile: Profile) -> Path | None:
    """BigEarthNet patches to look at: the profile's own, or the six that come with the package
    bigearthnet-common.
    """
    own = profile.data / "BigEarthNet-v1.0"
    package = importlib.util.find_spec(
        "bigearthnet_common"
    )  # never imported: it makes folders in the user's home
    archive = Path(package.origin).with_name("BigEarthNet-S2-Example.tar.bz2") if package else None
    return own if own.is_dir() else archive
