"""Where fine-tuning starts: from a checkpoint, weights of elsewhere, or random weights."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from src import checkpoints
from src.augmentations.normalisation import check_statistics
from src.encoders import Classifier, build_encoder
from src.encoders.foreign import foreign_state, is_foreign, is_timm_name, short_name
from src.encoders.recomputation import recompute_activations
from src.errors import CheckpointError
from src.runs.runtime import Runtime, seed_of

if TYPE_CHECKING:
    from src.finetune import FinetuneConfig

IMAGENET = "imagenet"  # in place of a pretraining checkpoint: timm's weights


def starting_points(
    names: list[str], models: Path, schedules: dict[str, int], encoder: str
) -> dict[str, Path | str]:
    """Name of an arm → what `finetune` takes as `pretrained`: of our checkpoints the path, of other
    weights a text.

    Args:
        names: of schedules ("long", "short": their pretraining epochs' alias), of files in `models`
            or anywhere, of timm's models, or `IMAGENET`.
        models: folder of the checkpoints.
        schedules: pretraining epochs of each schedule.
        encoder: what the checkpoints must hold; weights of elsewhere are compared with it, and with
            the bands, by `starting_encoder`.

    Raises:
        CheckpointError: one of them is missing, damaged or of another encoder.
    """
    arms: dict[str, Path | str] = {}
    for name in names:
        if name == IMAGENET:
            arms["ImageNet"] = IMAGENET
            continue
        if name in schedules:
            name = checkpoints.contrastive_alias(schedules[name])
        file = models / name
        if not file.is_file() and (Path(name).is_file() or is_timm_name(name)):
            file = Path(name)
        if is_foreign(file):
            arms[_new(short_name(file), str(file), arms)] = str(file)
            continue
        _, metadata = checkpoints.load_encoder(file, expect=encoder)
        arm = f"pretrained {metadata['config'].get('epochs', 'elsewhere')}"
        arms[_new(arm, file.stem, arms)] = file
    return arms


def _new(arm: str, file: str, arms: dict[str, Path | str]) -> str:
    return arm if arm not in arms else f"{arm} ({file})"


def starting_encoder(config: "FinetuneConfig", pretrained: str | Path | None) -> nn.Module:
    """The encoder as `finetune` starts it: random from the seed, or of `pretrained`.

    Its statistics are the config's, else those that the checkpoint was trained with, else the usual
    ones of so many bands.

    Raises:
        ValueError: bands of which no statistics are known.
        CheckpointError: an unusable checkpoint, of another encoder or for other images.
        ConnectionError: timm's weights could not be fetched.
    """
    torch.manual_seed(seed_of(config.seed))
    shape = (config.encoder, config.in_channels, config.image_size, config.dropout)
    encoder = build_encoder(*shape, imagenet=pretrained == IMAGENET, statistics=config.statistics)
    if pretrained not in (None, IMAGENET) and is_foreign(pretrained):
        checkpoints.restore(encoder, foreign_state(pretrained, encoder), pretrained)
    elif pretrained not in (None, IMAGENET):
        source, metadata = checkpoints.load_encoder(pretrained, expect=config.encoder)
        check_fits(metadata, vars(config), pretrained)
        checkpoints.restore(encoder, source.state_dict(), pretrained)
        encoder.statistics = encoder.statistics or source.statistics
    check_statistics(config.in_channels, *(encoder.statistics or ()))
    return encoder


def check_fits(metadata: dict[str, Any], config: dict[str, Any], path: str | Path) -> None:
    """Raise CheckpointError where an encoder takes other images than a config has.

    Bands count for all encoders, the size for the ViT alone: it has a position for each patch.
    """
    sized = ("image_size",) if config["encoder"].startswith("vit") else ()
    for key in ("in_channels", *sized):
        was, now = metadata["config"][key], config[key]
        if was != now:
            raise CheckpointError(
                f"{path} is of {key} {was}, fine-tuning asks for {now} (size mismatch): set"
                f" {key.upper()} = {was}, or pretrain anew"
            )


def starting_classifier(
    config: "FinetuneConfig", classes: list[str], pretrained: str | Path | None, runtime: Runtime
) -> Classifier:
    """The classifier as `finetune` starts it: that encoder, and a head for so many classes."""
    ours = pretrained not in (None, IMAGENET) and not is_foreign(pretrained)
    whole = ours and "classifier" in checkpoints.load(pretrained)[0]
    if whole:  # of this config's size and dropout, whatever a classifier to go on with had
        source = _classifier(config, classes, pretrained)
        own = config.statistics or source.encoder.statistics
        encoder = starting_encoder(replace(config, statistics=own), None)
    else:
        encoder = starting_encoder(config, pretrained)
    if runtime.recompute:
        recompute_activations(encoder)
    torch.manual_seed(seed_of(config.seed, 1))  # the same head for every arm of one seed
    model = Classifier(encoder, len(classes), config.dropout)
    if whole:  # head and all
        checkpoints.restore(model, source.state_dict(), pretrained)
    return model.to(runtime.device, memory_format=torch.channels_last)


def _classifier(config: "FinetuneConfig", classes: list[str], file: str | Path) -> Classifier:
    """A classifier to go on with. CheckpointError: it is of other images or classes."""
    source, known = checkpoints.load_classifier(file, expect=config.encoder)
    check_fits(known, vars(config), file)
    if known["classes"] != list(classes):
        raise CheckpointError(f"{file} is of other classes: {', '.join(known['classes'])}")
    return source
