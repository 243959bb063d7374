"""The command line of training: what `python -m src.pretrain` does with a store."""

import argparse
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import torch
from torch import nn

from src.augmentations import SPECTRAL
from src.data.splits import stratified_split
from src.data.store import PatchStore
from src.encoders import ENCODERS
from src.errors import exit_with_message
from src.pretrain import PretrainConfig, pretrain
from src.probes import knn_probe
from src.runs import RunSettings
from src.runs.distributed import World, init_distributed
from src.runs.runtime import Runtime
from src.runs.settings import add_run_arguments


def pretrain_on_store() -> None:
    """Pretrain on a store, as the command line says."""
    with exit_with_message():
        arguments = _parser().parse_args()
        # before anything touches a GPU
        world = init_distributed(torch.device("cpu") if arguments.device == "cpu" else None)
        checkpoint = _pretrain_on_store(arguments, world)
        if world.first:
            print(f"best epoch: {checkpoint}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m src.pretrain",
        description="SimCLR pretraining on a PatchStore.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("store", help="folder written by python -m src.data.bigearthnet")
    parser.add_argument("--out", default="models", help="folder for checkpoints")
    parser.add_argument("--encoder", default="custom_cnn", choices=ENCODERS, help="network")
    for name, unit in (
        ("epochs", "passes over the images"),
        ("batch_size", "images; each makes two views"),
        ("lr", "the highest; falls to 0 along a cosine"),
        ("warmup_epochs", "in which the rate rises to that, in a straight line"),
        ("weight_decay", "decoupled, as in AdamW"),
        ("temperature", "of NT-Xent"),
        ("image_size", "pixels of a view"),
        ("seed", "of everything random"),
    ):
        default = getattr(PretrainConfig, name)
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=type(default), default=default, help=unit)
    growth = "lr is for batches of 64, and grows with the root of the batch"
    parser.add_argument("--scale-lr", action="store_true", help=growth)
    parser.add_argument("--probe", metavar="STORE", help="labelled store, for a kNN probe")
    every = "epochs from one probe to the next"
    parser.add_argument("--probe-every", type=int, default=5, help=every)
    add_run_arguments(parser)
    return parser


def _pretrain_on_store(arguments: argparse.Namespace, world: World) -> Path:
    store = PatchStore.open(arguments.store)
    settings = RunSettings.from_arguments(arguments, store.provenance)
    channels = store.images.shape[-1]
    names = {field.name for field in fields(PretrainConfig)} & vars(arguments).keys()
    config = PretrainConfig(
        **{name: getattr(arguments, name) for name in names},
        in_channels=channels,
        augmentation={} if channels == 3 else SPECTRAL,
        statistics=store.statistics,
    )
    if world.first:
        print(f"{len(store)} patches of {store.path} on {settings.runtime}", flush=True)
    return pretrain(
        store.images,
        config,
        arguments.out,
        settings=settings,
        probe=_probe(arguments, settings.runtime) if arguments.probe else None,
        probe_every=arguments.probe_every,
    ).checkpoint


def _probe(arguments: argparse.Namespace, runtime: Runtime) -> Callable[[nn.Module], float]:
    """A kNN probe on the training and validation rows of a labelled store."""
    store = PatchStore.open(arguments.probe)
    if store.labels is None:
        raise ValueError(f"{arguments.probe} has no labels: a probe needs some")
    split = stratified_split(store, arguments.seed)
    rows = (split.train, split.val)
    return knn_probe(store.images, store.labels, *rows, arguments.image_size, runtime)
