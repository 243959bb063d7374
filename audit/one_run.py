"""One run of the audit: pretrain, probe, fine-tune, score; and what it measured."""

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
from audit.steps import finetuned, pretrained
from src import checkpoints, results
from src.data.bigearthnet import EUROSAT_STRETCH, bigearthnet_store
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
    try:
        checkpoint = pretrained(study, recipe, run.seed) if recipe.start else None
        if recipe.probe:
            measured |= probe(study, recipe, run.seed, checkpoint)
        if recipe.finetune is None:
            return measured
        file = finetuned(study, recipe, run.seed)
    except FloatingPointError as error:
        return {"diverged": str(error)}
    metadata = json.loads(file.read_text())
    measured |= {**metadata["metrics"], "phases": metadata["config"]["phases"]}
    if recipe.ood:
        measured["ood"] = ood_scores(study, recipe, run.seed, file.with_suffix(".pth"))
    return measured


# --- of an encoder ---


def probe(study: Study, recipe: Recipe, seed: int, checkpoint: Path | None) -> dict[str, float]:
    """kNN and linear accuracy (in [0, 1], on test) of frozen features; of a pretrained encoder also
    its loss and its embeddings.

    checkpoint: of a pretraining; None: the encoder with its random weights.
    """
    size, images, labels = study.size.image_size, study.store.images, study.store.labels
    split = draw(study, seed, recipe.split, recipe.labels)
    if checkpoint is None:
        encoder = untrained(PretrainConfig(study.encoder, image_size=size, seed=seed))
    else:
        encoder, _ = checkpoints.load_encoder(checkpoint)
    encoder.to(study.runtime.device)
    train = embed(encoder, images[split.train], size, study.runtime)
    test = embed(encoder, images[split.test], size, study.runtime)
    labelled = (train, labels[split.train], test, labels[split.test])
    return {
        **(pretraining_statistics(checkpoint, test) if checkpoint else {}),
        "knn": knn_accuracy(*labelled),
        "linear": linear_accuracy(*labelled),
    }


def pretraining_statistics(checkpoint: Path, features: np.ndarray) -> dict[str, float]:
    """Loss of the last epoch and its floor, and statistics of the embeddings of (n, D) features."""
    state, metadata = checkpoints.load(checkpoint)
    config, history = metadata["config"], metadata["history"]
    head = projection_head(features.shape[1], tuple(config["projection"]))
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
        study.profile.ucmerced().images,
        study.size.mc_samples,
        study.runtime,
        seed,
        study.store.labels[split.train],
    )
    return results.metrics_as_json(evaluation.table)


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
