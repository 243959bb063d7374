"""Where fine-tuning starts: from a pretraining checkpoint, ImageNet, or random weights."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from src import checkpoints
from src.encoders import Classifier, build_encoder
from src.encoders.recomputation import recompute_activations
from src.errors import CheckpointError
from src.runs.runtime import Runtime, seed_of

if TYPE_CHECKING:
    from src.finetune import FinetuneConfig

IMAGENET = "imagenet"  # in place of a pretraining checkpoint: timm's weights


def starting_points(
    names: list[str], models: Path, schedules: dict[str, int], encoder: str
) -> dict[str, Path | str]:
    """Name of an arm → what `finetune` takes as `pretrained`.

    Args:
        names: of schedules ("long", "short": their pretraining epochs' alias), of checkpoints, or
            `IMAGENET`.
        models: folder of the checkpoints.
        schedules: pretraining epochs of each schedule.
        encoder: what the checkpoints must hold.

    Raises:
        CheckpointError: one of them is missing, damaged or of another encoder.
    """
    arms: dict[str, Path | str] = {}
    for name in names:
        if name == IMAGENET:
            arms["ImageNet"] = IMAGENET
            continue
        known = name in schedules
        file = models / (checkpoints.contrastive_alias(schedules[name]) if known else name)
        _, metadata = checkpoints.load_encoder(file, expect=encoder)
        arm = f"pretrained {metadata['config'].get('epochs', 'elsewhere')}"
        arms[arm if arm not in arms else f"{arm} ({file.stem})"] = file
    return arms


def starting_encoder(config: "FinetuneConfig", pretrained: str | Path | None) -> nn.Module:
    """The encoder as `finetune` starts it: random from the seed, or of `pretrained`."""
    torch.manual_seed(seed_of(config.seed))
    shape = (config.encoder, config.in_channels, config.image_size, config.dropout)
    encoder = build_encoder(*shape, imagenet=pretrained == IMAGENET)
    if pretrained and pretrained != IMAGENET:
        source, metadata = checkpoints.load_encoder(pretrained, expect=config.encoder)
        checkpoints.check_fits(metadata, vars(config), pretrained)
        checkpoints.restore(encoder, source.state_dict(), pretrained)
    return encoder


def starting_classifier(
    config: "FinetuneConfig", classes: list[str], pretrained: str | Path | None, runtime: Runtime
) -> Classifier:
    """The classifier as `finetune` starts it: that encoder, and a head for so many classes."""
    whole = pretrained not in (None, IMAGENET) and "classifier" in checkpoints.load(pretrained)[0]
    # of this config's size and dropout, whatever a classifier to go on with had
    encoder = starting_encoder(config, None if whole else pretrained)
    if runtime.recompute:
        recompute_activations(encoder)
    torch.manual_seed(seed_of(config.seed, 1))  # the same head for every arm of one seed
    model = Classifier(encoder, len(classes), config.dropout)
    if whole:  # head and all
        source, known = checkpoints.load_classifier(pretrained, expect=config.encoder)
        checkpoints.check_fits(known, vars(config), pretrained)
        if known["classes"] != list(classes):
            raise CheckpointError(
                f"{pretrained} is of other classes: {', '.join(known['classes'])}"
            )
        checkpoints.restore(model, source.state_dict(), pretrained)
    return model.to(runtime.device, memory_format=torch.channels_last)
