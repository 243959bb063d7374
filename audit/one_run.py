"""One run of the audit: pretrain, probe, fine-tune, score; and what it measured."""

import base64
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from audit.changes import AS_PUBLISHED, darkened
from audit.data import Study, draw, sample_patches
from audit.plan import HISTOGRAMS, Recipe, Run, recipe_of
from audit.sources import found_sets, ood_images
from audit.stages import BUDGET_DRAWS, BUDGETS
from audit.steps import CORRECT, finetuned, labelled, pretrained
from src import checkpoints, results
from src.data.bigearthnet import EUROSAT_STRETCH, bigearthnet_store
from src.data.splits import Split
from src.encoders import projection_head
from src.losses import nt_xent_floor
from src.ood import evaluate
from src.pretrain import PretrainConfig, untrained
from src.probes import embed, knn_accuracy, linear_accuracy

RENDERINGS = {"BigEarthNet": EUROSAT_STRETCH, "BigEarthNet, as published": AS_PUBLISHED}


def perform(study: Study, run: Run) -> dict[str, Any]:
    """Do a run: what it measured, as JSON values. A loss that is not finite is a result too.

    Raises:
        Busy: another process is making what this run needs.
        DataError: the data for out-of-distribution scores is missing.
    """
    if run.arm == HISTOGRAMS:
        return histograms(study, sample_patches(study.profile), run.seed)
    recipe, measured = recipe_of(study.size, run.letter, run.arm), {}
    study = study.adapted(recipe)
    try:
        checkpoint = pretrained(study, recipe, run.seed) if recipe.start else None
        if recipe.probe:
            measured |= probe(study, recipe, run.seed, checkpoint)
        if recipe.budgets:
            measured["budgets"] = budgets(study, recipe, run.seed, checkpoint)
        if recipe.finetune is None:
            return measured
        file = finetuned(study, recipe, run.seed)
    except FloatingPointError as error:
        return {"diverged": str(error)}
    metadata, classifier = json.loads(file.read_text()), file.with_suffix(".pth")
    measured |= {**metadata["metrics"], "phases": metadata["config"]["phases"]}
    if (file.parent / CORRECT).exists():  # runs before it was kept have none
        measured |= correctness(study, recipe, run.seed, np.load(file.parent / CORRECT))
    if recipe.ood and study.size_name == "full":
        measured["ood_classes"] = ood_by_class(study, recipe, run.seed, classifier)
    elif recipe.ood:
        measured["ood"] = ood_scores(study, recipe, run.seed, classifier)
    return measured


# --- of an encoder ---


def probe(study: Study, recipe: Recipe, seed: int, checkpoint: Path | None) -> dict[str, float]:
    """kNN and linear accuracy (in [0, 1], on test) of frozen features; of a pretrained encoder also
    its loss and its embeddings.

    checkpoint: of a pretraining; None: the encoder with its random weights.
    """
    split, labels = draw(study, seed, recipe.split, recipe.labels), study.store.labels
    train, test = frozen_features(study, split, seed, checkpoint)
    labelled = (train, labels[split.train], test, labels[split.test])
    return {
        **(pretraining_statistics(checkpoint, test) if checkpoint else {}),
        "knn": knn_accuracy(*labelled),
        "linear": linear_accuracy(*labelled),
    }


def frozen_features(
    study: Study, split: Split, seed: int, checkpoint: Path | None
) -> tuple[np.ndarray, np.ndarray]:
    """(n, D) features of the training and of the test images, of an encoder as it is."""
    size, images = study.size.image_size, study.store.images
    if checkpoint is None:
        encoder = untrained(PretrainConfig(study.encoder, image_size=size, seed=seed))
    else:
        encoder, _ = checkpoints.load_encoder(checkpoint)
    encoder.to(study.runtime.device)
    parts = (images[split.train], images[split.test])
    return tuple(embed(encoder, part, size, study.runtime) for part in parts)


def budgets(
    study: Study, recipe: Recipe, seed: int, checkpoint: Path | None
) -> dict[int, list[float]]:
    """Labels a class → linear accuracy on test of each draw of them; of the most there is one."""
    split = draw(study, seed, recipe.split)
    train, test = frozen_features(study, split, seed, checkpoint)
    known, truth = study.store.labels[split.train], study.store.labels[split.test]
    found = {}
    for count in BUDGETS:
        draws = 1 if count == max(BUDGETS) else BUDGET_DRAWS
        chosen = [_few(known, count, [seed, 6, number]) for number in range(draws)]
        found[count] = [linear_accuracy(train[rows], known[rows], test, truth) for rows in chosen]
    return found


def _few(labels: np.ndarray, count: int, key: list[int]) -> np.ndarray:
    """Rows of at most so many images of each class, drawn at random."""
    order = np.random.default_rng(key).permutation(len(labels))
    classes = [order[labels[order] == label][:count] for label in np.unique(labels)]
    return np.concatenate(classes)


def pretraining_statistics(checkpoint: Path, features: np.ndarray) -> dict[str, float]:
    """Loss of the last epoch and its floor, and statistics of the embeddings of (n, D) features."""
    state, metadata = checkpoints.load(checkpoint)
    config, history = metadata["config"], metadata["history"]
    shape = tuple(config["projection"]), config.get("plain_head", False)
    head = projection_head(features.shape[1], *shape)
    checkpoints.restore(head, state["projection"], checkpoint)
    return {
        "loss": history[-1]["loss"],
        "floor": nt_xent_floor(config["batch_size"], config["temperature"]),
        **embedding_statistics(head.eval(), features, config["temperature"]),
    }


@torch.inference_mode()
def embedding_statistics(
    head: nn.Module, features: np.ndarray, temperature: float
) -> dict[str, float]:
    """Lengths of features and of embeddings, mean cosine of two images, and the temperature that
    dot products amount to.

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


# --- of a classifier ---


def correctness(
    study: Study, recipe: Recipe, seed: int, packed: np.ndarray
) -> dict[str, str | float]:
    """Which test images are right, eight in a byte, in base64, in the order of their rows; and the
    mean over classes of the share that is, which splits with other shares of classes agree on.
    """
    split = draw(study, seed, recipe.split, recipe.labels, recipe.draw)
    _, labels, kept, _ = labelled(study, split, recipe.held_out)
    truth = labels[kept.test]
    correct = np.unpackbits(packed, count=len(truth)).astype(bool)
    by_class = [correct[truth == label].mean() for label in np.unique(truth)]
    text = base64.b64encode(packed.tobytes()).decode()
    return {"correct": text, "balanced_accuracy": float(np.mean(by_class))}


def ood_scores(
    study: Study, recipe: Recipe, seed: int, checkpoint: Path
) -> dict[str, dict[str, list[float]]]:
    """Score → metric → [value, low, high] of every detector on UC Merced against the run's test
    images.
    """
    split, images = draw(study, seed, recipe.split), study.store.images
    classifier, _ = checkpoints.load_classifier(checkpoint)
    evaluation = evaluate(
        classifier.to(study.runtime.device),
        images[split.train],
        images[split.test],
        study.profile.out_of_distribution().images,
        study.size.mc_samples,
        study.runtime,
        seed,
        study.store.labels[split.train],
    )
    return results.metrics_as_json(evaluation.table)


def ood_by_class(
    study: Study, recipe: Recipe, seed: int, checkpoint: Path
) -> dict[str, dict[str, float]]:
    """ "set/class" → score → AUROC against the run's test images, of the sets that are there; of a
    run with classes held out, of these.
    """
    split = draw(study, seed, recipe.split, recipe.labels)
    images, labels, kept, _ = labelled(study, split, recipe.held_out)
    if recipe.held_out:
        sets = {f"near/{name}": _of_class(study, split.test, name) for name in recipe.held_out}
    else:
        data = study.profile.data
        sets = {
            f"{name}/{label}": pictures
            for name in found_sets(data)
            for label, pictures in ood_images(data, name).items()
        }
    classifier, _ = checkpoints.load_classifier(checkpoint)
    evaluation = evaluate(
        classifier.to(study.runtime.device),
        images[kept.train],
        images[kept.test],
        sets,
        study.size.mc_samples,
        study.runtime,
        seed,
        labels[kept.train],
    )
    return evaluation.auroc.to_dict()


def _of_class(study: Study, rows: np.ndarray, name: str) -> np.ndarray:
    label = study.store.meta["classes"].index(name)
    return study.store.images[rows[study.store.labels[rows] == label]]


# --- of the images ---


def histograms(study: Study, patches: Path | None, seed: int) -> dict[str, Any]:
    """Share of the pixels at each of 64 grey levels and mean level (0…255), of each rendering of
    each data set.

    patches: of BigEarthNet, which is left out without them.
    """
    images = study.store.images[draw(study, seed, "random").train]
    sets = {"EuroSAT": images, "EuroSAT, as published": darkened(images)}
    if patches:
        with tempfile.TemporaryDirectory() as folder:
            for name, stretch in RENDERINGS.items():
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
