"""Encoders (image → feature vector), their heads, and the stages that unfreezing opens."""

import itertools

import torch
from torch import Tensor, nn

from src.augmentations.normalisation import Statistics, as_statistics

# what `timm.create_model` calls the same networks
TIMM_NAMES = {"resnet50": "resnet50", "vit_b_16": "vit_base_patch16_224"}
ENCODERS = ("custom_cnn", *TIMM_NAMES)


class CustomCNN(nn.Module):
    """Three stages of (3 × 3 convolution, batch norm, ReLU) twice, max-pool 2, Dropout2d.

    Their widths are 64, 128 and 256; global average pooling makes 256 features. 1.15 M parameters.
    """

    feature_dim = 256

    def __init__(self, in_channels: int = 3, image_size: int = 64, dropout: float = 0.1) -> None:
        super().__init__()
        self.image_size = image_size  # what evaluation resizes to; the network takes any size
        widths = itertools.pairwise((in_channels, 64, 128, 256))
        self.stages = nn.ModuleList(_cnn_stage(*pair, dropout) for pair in widths)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())

    @property
    def blocks(self) -> list[nn.Module]:
        """What `recompute_activations` keeps no more than the inputs of."""
        return list(self.stages)

    def layers(self) -> list[nn.Module]:
        """Every layer in the order it is applied: what MC Dropout cuts at the first dropout."""
        return [layer for block in (*self.stages, self.pool) for layer in block]

    def forward(self, images: Tensor) -> Tensor:
        """(N, in_channels, H, W) normalised images → (N, 256) features."""
        for stage in self.stages:
            images = stage(images)
        return self.pool(images)


def _cnn_stage(width_in: int, width: int, dropout: float) -> nn.Sequential:
    # no bias before batch norm: its shift would be subtracted again
    return nn.Sequential(
        nn.Conv2d(width_in, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Dropout2d(dropout),
    )


def build_encoder(
    name: str,
    in_channels: int = 3,
    image_size: int = 64,
    dropout: float = 0.1,
    imagenet: bool = False,
    statistics: Statistics | None = None,
) -> nn.Module:
    """Build an encoder by name, untrained unless `imagenet`.

    Args:
        name: one of `ENCODERS`.
        in_channels: bands of the input.
        image_size: height and width in pixels the encoder will see; a multiple of 16 for the ViT.
        dropout: probability, in [0, 1).
        imagenet: start from timm's ImageNet weights (a download on first use); timm adapts the
            first layer to the bands and the ViT's position embeddings to the image size.
        statistics: mean and deviation of each band in [0, 1], which its images are normalised by;
            None: the usual ones of RGB and of twelve bands.

    Returns:
        A module (N, in_channels, image_size, image_size) → (N, feature_dim), with `.feature_dim`,
        `.stages`, the ordered list that unfreezing opens from the back, and `.statistics`.

    Raises:
        ValueError: unknown name, an argument out of range, statistics of other bands, or ImageNet
            weights for the Custom CNN, which has none.
        ConnectionError: the ImageNet weights could not be fetched.
    """
    if name not in ENCODERS:
        raise ValueError(f"unknown encoder {name!r}; there is: {', '.join(ENCODERS)}")
    if in_channels < 1 or image_size < 8 or not 0 <= dropout < 1:
        raise ValueError(
            "expected in_channels >= 1, image_size >= 8 and 0 <= dropout < 1, "
            f"got {in_channels}, {image_size}, {dropout}"
        )
    if imagenet and name not in TIMM_NAMES:
        raise ValueError(
            f"there are no ImageNet weights for {name!r}; there are for {', '.join(TIMM_NAMES)}"
        )
    statistics = as_statistics(in_channels, statistics)
    if name == "custom_cnn":
        encoder = CustomCNN(in_channels, image_size, dropout)
    else:
        from src.encoders import timm_based  # importing timm takes as long as all the rest

        encoder = timm_based.ENCODERS[name](in_channels, image_size, dropout)
    if imagenet:
        weights = timm_based.timm_state(TIMM_NAMES[name], in_channels, image_size)
        encoder.load_state_dict(weights, strict=True)
    encoder.statistics = statistics
    return encoder


def statistics_of(model: nn.Module) -> Statistics | None:
    """What the encoder in a model was trained with: `prepare` normalises its images by them."""
    return next((part.statistics for part in model.modules() if hasattr(part, "statistics")), None)


class Head(nn.Sequential):
    """Layers on top of an encoder's features, always in float32.

    They cost nothing beside the encoder, and logits in bfloat16 would quantise every score made
    from them.
    """

    def forward(self, features: Tensor) -> Tensor:
        """(N, D) features of any float dtype → what the layers make of them in float32."""
        with torch.autocast(features.device.type, enabled=False):
            return super().forward(features.float())


def projection_head(
    feature_dim: int, widths: tuple[int, ...] = (512, 512, 128), plain: bool = False
) -> Head:
    """The head that the contrastive loss sees, thrown away after pretraining (SimCLR §4.2).

    Batch norm after every layer, as in the authors' code, or none in a `plain` one, as in the
    study's published code with widths (256, 128). No ReLU behind the last layer.
    """
    layers: list[nn.Module] = []
    for width_in, width in itertools.pairwise((feature_dim, *widths)):
        layers.append(nn.Linear(width_in, width, bias=plain))
        layers += [nn.ReLU()] if plain else [nn.BatchNorm1d(width), nn.ReLU()]
    return Head(*layers[:-1])


def classification_head(feature_dim: int, num_classes: int, dropout: float) -> Head:
    """The head of a classifier: features → 512 → 256 → classes, ReLU and dropout between."""
    layers: list[nn.Module] = []
    for width_in, width in itertools.pairwise((feature_dim, 512, 256)):
        layers += [nn.Linear(width_in, width), nn.ReLU(), nn.Dropout(dropout)]
    return Head(*layers, nn.Linear(256, num_classes))


class Classifier(nn.Module):
    """Encoder and classification head.

    `.stages` is the encoder's list with the head appended: unfreezing opens it from the back.
    """

    def __init__(self, encoder: nn.Module, num_classes: int = 10, dropout: float = 0.1) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = classification_head(encoder.feature_dim, num_classes, dropout)

    @property
    def stages(self) -> list[nn.Module]:
        """The encoder's stages, and the head as the last."""
        return [*self.encoder.stages, self.head]

    def layers(self) -> list[nn.Module]:
        """What `forward` applies, in order: what MC Dropout cuts at the first dropout."""
        return [*self.encoder.layers(), self.head]

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) normalised images → (N, num_classes) float32 logits."""
        return self.head(self.encoder(images))
