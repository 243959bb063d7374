"""The commands of training: `python -m src.pretrain DATA` and `python -m src.finetune DATA`."""

import argparse
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from src import finetune as finetuning
from src import pretrain as pretraining
from src.augmentations import SPECTRAL
from src.data.known import KNOWN, open_data
from src.data.splits import Split, read_split, stratified_split
from src.data.store import PatchStore
from src.encoders import ENCODERS
from src.encoders.foreign import is_foreign
from src.encoders.starting import IMAGENET
from src.errors import exit_with_message
from src.ood import evaluate
from src.probes import knn_probe
from src.results import detection, metrics_as_json, which_score_works, wilson, write_record
from src.runs import RunSettings
from src.runs.distributed import World, init_distributed
from src.runs.runtime import Runtime
from src.runs.settings import add_run_arguments

WHAT = f"{', '.join(KNOWN)}, a folder of images, or a store"


def pretrain_on_data() -> None:
    """Pretrain on a data set, as the command line says."""
    with exit_with_message():
        arguments = _pretraining_parser().parse_args()
        # before anything touches a GPU
        world = init_distributed(torch.device("cpu") if arguments.device == "cpu" else None)
        checkpoint = _pretrain(arguments, world)
        if world.first:
            print(f"best epoch: {checkpoint}")


def finetune_on_data() -> None:
    """Fine-tune on a labelled data set and ask about another, as the command line says."""
    with exit_with_message():
        _finetune(_finetuning_parser().parse_args())


def _pretraining_parser() -> argparse.ArgumentParser:
    parser = _parser("src.pretrain", "SimCLR pretraining on unlabelled images.", f"{WHAT}")
    config = pretraining.PretrainConfig
    _add_option(parser, config, "epochs", "passes over the images")
    _add_option(parser, config, "batch_size", "images; each makes two views")
    _add_option(parser, config, "lr", "the highest; falls to 0 along a cosine")
    _add_option(parser, config, "warmup_epochs", "in which the rate rises to that, straight")
    _add_option(parser, config, "weight_decay", "decoupled, as in AdamW")
    _add_option(parser, config, "temperature", "of NT-Xent")
    _add_option(parser, config, "image_size", "pixels of a view")
    _add_option(parser, config, "seed", "of everything random")
    growth = "lr is for batches of 64, and grows with the root of the batch"
    parser.add_argument("--scale-lr", action="store_true", help=growth)
    parser.add_argument("--probe", metavar="DATA", help="labelled data, for a kNN probe")
    every = "epochs from one probe to the next"
    parser.add_argument("--probe-every", type=int, default=5, help=every)
    add_run_arguments(parser)
    return parser


def _finetuning_parser() -> argparse.ArgumentParser:
    parser = _parser("src.finetune", "Progressive unfreezing on labelled images.", WHAT)
    config, add = finetuning.FinetuneConfig, parser.add_argument
    start = f"checkpoint, weights of other code, timm name, {IMAGENET}; without: from scratch"
    add("--pretrained", metavar="FILE", help=start)
    three = "epochs with the head open, the last stage too, everything; from scratch: their sum"
    add("--phases", type=int, nargs=3, default=config.phases, help=three)
    _add_option(parser, config, "batch_size", "images")
    _add_option(parser, config, "lr", "the highest; from scratch ten times as much")
    _add_option(parser, config, "weight_decay", "decoupled, as in AdamW")
    _add_option(parser, config, "image_size", "pixels, as in pretraining")
    _add_option(parser, config, "seed", "of the split and of everything random")
    add("--split", metavar="CSV", help="name and split; without: 80/10/10 of every class")
    add("--ood", metavar="DATA", help="images of other things, to ask about")
    add("--ood-classes", nargs="+", help="only these")
    add("--samples", type=int, default=50, help="passes of MC Dropout")
    add_run_arguments(parser)
    return parser


def _parser(module: str, description: str, what: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("data", help=what)
    parser.add_argument(
        "--folder", default="data", help="of known sets, and of stores made of them"
    )
    parser.add_argument("--out", default="models", help="folder for checkpoints")
    parser.add_argument("--encoder", default="custom_cnn", choices=ENCODERS, help="network")
    return parser


def _add_option(parser: argparse.ArgumentParser, config: type, name: str, unit: str) -> None:
    """An option for a field of a config, with the field's default."""
    default = getattr(config, name)
    option = f"--{name.replace('_', '-')}"
    parser.add_argument(option, type=type(default), default=default, help=unit)


def _of_config(arguments: argparse.Namespace, config: type) -> dict:
    names = {field.name for field in fields(config)} & vars(arguments).keys()
    return {name: getattr(arguments, name) for name in names}


def _pretrain(arguments: argparse.Namespace, world: World) -> Path:
    store = open_data(arguments.data, arguments.folder)
    settings = RunSettings.from_arguments(arguments, store.provenance)
    channels = store.images.shape[-1]
    config = pretraining.PretrainConfig(
        **_of_config(arguments, pretraining.PretrainConfig),
        in_channels=channels,
        augmentation={} if channels == 3 else SPECTRAL,
        statistics=store.statistics,
    )
    if world.first:
        print(f"{len(store):,} images of {store.title} on {settings.runtime}", flush=True)
    return pretraining.pretrain(
        store.images,
        config,
        arguments.out,
        settings=settings,
        probe=_probe(arguments, settings.runtime) if arguments.probe else None,
        probe_every=arguments.probe_every,
    ).checkpoint


def _probe(arguments: argparse.Namespace, runtime: Runtime) -> Callable[[nn.Module], float]:
    """A kNN probe on the training and validation rows of a labelled set."""
    store = open_data(arguments.probe, arguments.folder)
    split = stratified_split(store, arguments.seed)
    rows = (split.train, split.val)
    return knn_probe(store.images, store.labels, *rows, arguments.image_size, runtime)


def _finetune(arguments: argparse.Namespace) -> None:
    store = open_data(arguments.data, arguments.folder)
    file, pretrained = arguments.split, arguments.pretrained
    split = read_split(store, file) if file else stratified_split(store, arguments.seed)
    unknown = None
    if arguments.ood:  # what is missing is told before any training
        unknown = open_data(arguments.ood, arguments.folder, classes=arguments.ood_classes or ())
    provenance = store.provenance | ({"split": file} if file else {})
    settings = RunSettings.from_arguments(arguments, provenance)
    config = finetuning.FinetuneConfig(
        **_of_config(arguments, finetuning.FinetuneConfig) | {"phases": tuple(arguments.phases)},
        in_channels=store.images.shape[-1],
        statistics=store.statistics,
    )
    config = config if pretrained else config.from_scratch()
    if pretrained and pretrained != IMAGENET and not is_foreign(pretrained):
        pretrained = Path(pretrained)
    print(f"{len(store):,} images of {store.title} on {settings.runtime}", flush=True)
    done = finetuning.finetune(
        store.images,
        store.labels,
        split,
        store.meta["classes"],
        config,
        arguments.out,
        pretrained=pretrained,
        settings=settings,
    )
    print(f"best epoch: {done.checkpoint}")
    correct = done.test_logits.argmax(1) == store.labels[split.test]
    low, high = interval = wilson(int(correct.sum()), len(correct))
    print(f"{done.test_accuracy:.1%} of {len(correct):,} test images [{low:.1%}, {high:.1%}]")
    measured = {"test_accuracy_interval": interval}
    if unknown:
        options = {"samples": arguments.samples, "seed": config.seed, "runtime": settings.runtime}
        measured |= _ask(done.model, store, split, unknown, options)
    record = write_record(Path(arguments.out) / "records", done.checkpoint, pretrained, **measured)
    print(f"record for `python -m src.results {record.parent}`: {record.name}")


def _ask(
    model: nn.Module, store: PatchStore, split: Split, unknown: PatchStore, options: dict[str, Any]
) -> dict[str, Any]:
    """Show a classifier what it has never seen, say what it made of it, and give its record."""
    known = store.images[split.train], store.images[split.test]
    asked = evaluate(model, *known, unknown.images, **options)
    print(asked.table.round(3).to_string())
    told = detection(asked, store.title, unknown.title)
    print(which_score_works(told))
    scores = {"samples": options["samples"], "scores": metrics_as_json(asked.table)}
    return {"ood": {"data": unknown.provenance, **scores}, "detection": told}
