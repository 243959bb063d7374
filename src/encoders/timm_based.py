"""ResNet-50 and ViT-B/16 as timm has them, with stages to unfreeze and layers for MC Dropout."""

import timm
import torch
from timm.models.resnet import Bottleneck, ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn


class ResNet50(ResNet):
    """ResNet-50 (He et al. 2016, arXiv 1512.03385) as timm has it, key for key.

    2048 features, 23.5 M parameters. Dropout falls on the pooled features only, so MC Dropout runs
    the whole trunk once.
    """

    feature_dim = 2048

    def __init__(self, in_channels: int = 3, image_size: int = 64, dropout: float = 0.1) -> None:
        super().__init__(Bottleneck, (3, 4, 6, 3), num_classes=0, in_chans=in_channels)
        self.image_size = image_size  # what evaluation resizes to; the network takes any size
        # timm's own drop_rate is a bare function, which MC Dropout can't see
        self.dropout = nn.Dropout(dropout)

    @property
    def stages(self) -> list[nn.Module]:
        """The stem and the four residual stages."""
        stem = nn.Sequential(self.conv1, self.bn1, self.act1, self.maxpool)
        return [stem, self.layer1, self.layer2, self.layer3, self.layer4]

    @property
    def blocks(self) -> list[nn.Module]:
        """What `recompute_activations` keeps no more than the inputs of; a ViT has it from timm."""
        return [*self.layer1, *self.layer2, *self.layer3, *self.layer4]

    def layers(self) -> list[nn.Module]:
        """Every layer in the order it is applied: what MC Dropout cuts at the first dropout."""
        return [*self.stages, self.global_pool, self.dropout]

    def forward(self, images: Tensor) -> Tensor:
        """(N, in_channels, H, W) normalised images → (N, 2048) features."""
        return self.dropout(super().forward(images))


class ViTB16(VisionTransformer):
    """ViT-B/16 (Dosovitskiy et al. 2021, arXiv 2010.11929) as timm has it, key for key.

    768 features, those of the class token; 85.8 M parameters. At 64 pixels there are 4 × 4 patches,
    at 224 there are 14 × 14: the position embeddings, and so the checkpoints, belong to one image
    size. Dropout falls on the feature only, as in `ResNet50`.
    """

    feature_dim = 768

    def __init__(self, in_channels: int = 3, image_size: int = 64, dropout: float = 0.1) -> None:
        if image_size % 16:
            raise ValueError(
                f"ViT-B/16 cuts images into patches of 16 pixels: image_size {image_size} is no"
                " multiple"
            )
        super().__init__(
            img_size=image_size, in_chans=in_channels, num_classes=0, drop_rate=dropout
        )
        self.image_size = image_size

    @property
    def stages(self) -> list[nn.Module]:
        """Embedding, blocks 1 to 11, and the last block with the norm behind it: 13 stages.

        The final norm only rescales what the last block gives; a stage of its own would make "the
        last stage" of progressive unfreezing 1,536 parameters.
        """
        *blocks, last = self.blocks
        return [_Embedding(self), *blocks, nn.Sequential(last, self.norm)]

    def layers(self) -> list[nn.Module]:
        """Every layer in the order it is applied: what MC Dropout cuts at the first dropout."""
        return [*self.stages, _ClassToken(), self.head_drop]


class _Embedding(nn.Module):
    """The part of a ViT before its blocks as one stage; timm keeps its weights on the network."""

    def __init__(self, vit: VisionTransformer) -> None:
        super().__init__()
        self.patch_embed = vit.patch_embed
        self.cls_token = vit.cls_token
        self.pos_embed = vit.pos_embed

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) → (N, 1 + patches, 768) tokens with their positions."""
        patches = self.patch_embed(images)
        class_token = self.cls_token.expand(len(patches), -1, -1)
        return torch.cat([class_token, patches], dim=1) + self.pos_embed


class _ClassToken(nn.Module):
    """(N, tokens, 768) → (N, 768)."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens[:, 0]


ENCODERS = {"resnet50": ResNet50, "vit_b_16": ViTB16}


def timm_state(
    timm_name: str, in_channels: int, image_size: int, fetch: bool = True
) -> dict[str, Tensor]:
    """timm's weights, without the classifier, for these bands and this image size.

    fetch: False gives random ones of the same names and shapes.

    Raises:
        ConnectionError: they could not be fetched.
    """
    size = {"img_size": image_size} if timm_name.startswith("vit") else {}
    try:
        model = timm.create_model(
            timm_name, pretrained=fetch, num_classes=0, in_chans=in_channels, **size
        )
    except OSError as error:  # huggingface_hub's "not in the cache and not to be had" is one
        raise ConnectionError(
            f"the weights of {timm_name} could not be fetched"
            f" ({str(error).splitlines()[0]}): run once with a network to fill timm's cache"
            " (HF_HOME), or start from random weights"
        ) from error
    return model.state_dict()
