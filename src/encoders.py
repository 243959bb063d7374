"""Encoders (image → feature vector), the two heads put on them, and the stages that unfreezing opens."""

import itertools

import timm
import torch
from timm.models.resnet import Bottleneck, ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

# what `timm.create_model` calls the same network, with the same keys
TIMM_NAMES = {"resnet50": "resnet50", "vit_b_16": "vit_base_patch16_224"}
ENCODERS = ("custom_cnn", *TIMM_NAMES)


class CustomCNN(nn.Module):
    """Three stages of (3×3 convolution, batch norm, ReLU) × 2, max-pool 2, Dropout2d; widths 64-128-256.

    Global average pooling makes 256 features; 1.15 M parameters.
    """

    feature_dim = 256

    def __init__(self, in_channels: int = 3, image_size: int = 64, dropout: float = 0.1) -> None:
        super().__init__()
        self.image_size = image_size  # what evaluation resizes to; the network itself takes any size
        widths = [in_channels, 64, 128, 256]
        self.stages = nn.ModuleList(_cnn_stage(*pair, dropout) for pair in itertools.pairwise(widths))
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())

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
        nn.Conv2d(width_in, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
        nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
        nn.MaxPool2d(2), nn.Dropout2d(dropout),
    )  # fmt: skip


class ResNet50(ResNet):
    """ResNet-50 (He et al. 2016, arXiv 1512.03385) as timm has it, key for key: 2048 features, 23.5 M parameters.

    Dropout falls on the pooled features only, so MC Dropout runs the whole trunk once.
    """

    feature_dim = 2048

    def __init__(self, in_channels: int = 3, image_size: int = 64, dropout: float = 0.1) -> None:
        super().__init__(Bottleneck, (3, 4, 6, 3), num_classes=0, in_chans=in_channels)
        self.image_size = image_size  # what evaluation resizes to; the network itself takes any size
        self.dropout = nn.Dropout(dropout)  # timm's own drop_rate is a bare function, which MC Dropout can't see

    @property
    def stages(self) -> list[nn.Module]:
        stem = nn.Sequential(self.conv1, self.bn1, self.act1, self.maxpool)
        return [stem, self.layer1, self.layer2, self.layer3, self.layer4]

    def layers(self) -> list[nn.Module]:
        """Every layer in the order it is applied: what MC Dropout cuts at the first dropout."""
        return [*self.stages, self.global_pool, self.dropout]

    def forward(self, images: Tensor) -> Tensor:
        """(N, in_channels, H, W) normalised images → (N, 2048) features."""
        return self.dropout(super().forward(images))


class ViTB16(VisionTransformer):
    """ViT-B/16 (Dosovitskiy et al. 2021, arXiv 2010.11929) as timm has it, key for key: 768 features, 85.8 M weights.

    The feature is the class token. At 64 pixels there are 4 × 4 patches, at 224 there are 14 × 14: the position
    embeddings, and so the checkpoints, belong to one image size. Dropout falls on the feature only, as in `ResNet50`.
    """

    feature_dim = 768

    def __init__(self, in_channels: int = 3, image_size: int = 64, dropout: float = 0.1) -> None:
        if image_size % 16:
            raise ValueError(f"ViT-B/16 cuts images into patches of 16 pixels: image_size {image_size} is no multiple")
        super().__init__(img_size=image_size, in_chans=in_channels, num_classes=0, drop_rate=dropout)
        self.image_size = image_size

    @property
    def stages(self) -> list[nn.Module]:
        """Embedding, blocks 1 to 11, and the last block with the norm behind it: 13 stages.

        The final norm only rescales what the last block gives; a stage of its own would make "the last stage" of
        progressive unfreezing 1,536 parameters.
        """
        *blocks, last = self.blocks
        return [_Embedding(self), *blocks, nn.Sequential(last, self.norm)]

    def layers(self) -> list[nn.Module]:
        """Every layer in the order it is applied: what MC Dropout cuts at the first dropout."""
        return [*self.stages, _ClassToken(), self.head_drop]


class _Embedding(nn.Module):
    """The part of a ViT before its blocks, as one stage: timm keeps its parameters on the network itself."""

    def __init__(self, vit: VisionTransformer) -> None:
        super().__init__()
        self.patch_embed, self.cls_token, self.pos_embed = vit.patch_embed, vit.cls_token, vit.pos_embed

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) → (N, 1 + patches, 768) tokens with their positions."""
        patches = self.patch_embed(images)
        return torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1) + self.pos_embed


class _ClassToken(nn.Module):
    def forward(self, tokens: Tensor) -> Tensor:
        return tokens[:, 0]


def build_encoder(
    name: str, in_channels: int = 3, image_size: int = 64, dropout: float = 0.1, imagenet: bool = False
) -> nn.Module:
    """Build an encoder by name, untrained unless `imagenet`.

    Args:
        name: one of `ENCODERS`.
        in_channels: bands of the input.
        image_size: height and width in pixels the encoder will see; a multiple of 16 for the ViT.
        dropout: probability, in [0, 1).
        imagenet: start from timm's ImageNet weights (a download on first use); timm adapts the first layer to the
            bands and the ViT's position embeddings to the image size.

    Returns:
        A module (N, in_channels, image_size, image_size) → (N, feature_dim), with `.feature_dim`, and `.stages`,
        the ordered list that unfreezing opens from the back.

    Raises:
        ValueError: unknown name, an argument out of range, or ImageNet weights for the Custom CNN, which has none.
        ConnectionError: the ImageNet weights could not be fetched.
    """
    if name not in ENCODERS:
        raise ValueError(f"unknown encoder {name!r}; there is: {', '.join(ENCODERS)}")
    if in_channels < 1 or image_size < 8 or not 0 <= dropout < 1:
        raise ValueError(
            f"expected in_channels >= 1, image_size >= 8 and 0 <= dropout < 1, "
            f"got {in_channels}, {image_size}, {dropout}"
        )
    encoder = {"custom_cnn": CustomCNN, "resnet50": ResNet50, "vit_b_16": ViTB16}[name](
        in_channels, image_size, dropout
    )
    if imagenet:
        encoder.load_state_dict(_imagenet_state(name, in_channels, image_size), strict=True)
    return encoder


def _imagenet_state(name: str, in_channels: int, image_size: int) -> dict[str, Tensor]:
    if name not in TIMM_NAMES:
        raise ValueError(f"there are no ImageNet weights for {name!r}; there are for {', '.join(TIMM_NAMES)}")
    size = {"img_size": image_size} if name == "vit_b_16" else {}
    try:
        model = timm.create_model(TIMM_NAMES[name], pretrained=True, num_classes=0, in_chans=in_channels, **size)
    except OSError as error:  # huggingface_hub's "not in the cache and not to be had" is one
        raise ConnectionError(
            f"the ImageNet weights of {TIMM_NAMES[name]} could not be fetched ({str(error).splitlines()[0]}): run once "
            "with a network to fill timm's cache (HF_HOME), or start from random weights"
        ) from error
    return model.state_dict()


class Head(nn.Sequential):
    """Layers on top of an encoder's features, always in float32.

    They cost nothing beside the encoder, and logits in bfloat16 would quantise every score made from them.
    """

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            return super().forward(features.float())


def projection_head(feature_dim: int, widths: tuple[int, ...] = (512, 512, 128)) -> Head:
    """The head that the contrastive loss sees and that is thrown away after pretraining (SimCLR §4.2).

    Batch norm after every layer, as in the authors' code: without it the first hundreds of steps learn little.
    """
    layers: list[nn.Module] = []
    for width_in, width in itertools.pairwise((feature_dim, *widths)):
        layers += [nn.Linear(width_in, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
    return Head(*layers[:-1])


def classification_head(feature_dim: int, num_classes: int, dropout: float) -> Head:
    """features → 512 → 256 → classes, with ReLU and dropout between."""
    layers: list[nn.Module] = []
    for width_in, width in itertools.pairwise((feature_dim, 512, 256)):
        layers += [nn.Linear(width_in, width), nn.ReLU(), nn.Dropout(dropout)]
    return Head(*layers, nn.Linear(256, num_classes))


class Classifier(nn.Module):
    """Encoder and classification head: features → 512 → 256 → classes, ReLU, dropout.

    `.stages` is the encoder's list with the head appended: unfreezing opens it from the back.
    """

    def __init__(self, encoder: nn.Module, num_classes: int = 10, dropout: float = 0.1) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = classification_head(encoder.feature_dim, num_classes, dropout)

    @property
    def stages(self) -> list[nn.Module]:
        return [*self.encoder.stages, self.head]

    def layers(self) -> list[nn.Module]:
        """What `forward` applies, in order: MC Dropout runs everything before the first dropout only once."""
        return [*self.encoder.layers(), self.head]

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) normalised images → (N, num_classes) float32 logits."""
        return self.head(self.encoder(images))
