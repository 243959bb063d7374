"""Crops, resizes and turns of a whole batch, each image by its own box.

All take (N, C, H, W) images, and equal torchvision's functional transform of one image with
antialiasing. A crop, its resizing and its flips are one pass down and one pass across.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from src.augmentations.transfer import constant, to_device

REFLECTANCE = 10_000  # digital numbers of reflectance 1: the scale of uint16 images


def to_unit(images: Tensor) -> Tensor:
    """To float32 in [0, 1].

    uint8 is divided by 255. uint16 are digital numbers: divided by 10,000 they are reflectance, and
    what is brighter than a white surface is cut off. Float images are taken to be there already.

    Raises:
        ValueError: any other type.
    """
    if images.dtype == torch.uint8:
        return images.float().div_(255)
    if images.dtype == torch.uint16:
        return (images.float() / REFLECTANCE).clamp(max=1)
    if not images.is_floating_point():
        raise ValueError(
            f"expected uint8, uint16 or float images, got {images.dtype}: stretch reflectances to"
            " uint8 first"
        )
    return images.float()


def crop_filters(
    corner: Tensor, extent: Tensor, flip: Tensor, shape: tuple[int, int], size: int
) -> tuple[Tensor, Tensor]:
    """The antialiased bilinear filters that take each image's own box to size × size pixels.

    Args:
        corner: (2, N) top and left of the boxes, pixels.
        extent: (2, N) height and width of the boxes, pixels.
        flip: (2, N) upside down, left to right.
        shape: height and width of the images.

    Returns:
        Two (2, N, size, taps) tensors, [0] down and [1] across: the weights that each new pixel
        gives to a few source pixels, and the numbers of these pixels.
    """
    device = corner.device
    corner, extent = (pixels.float()[..., None, None] for pixels in (corner, extent))
    new = torch.arange(size, device=device)[:, None]
    new = torch.where(flip[..., None, None], size - 1 - new, new)
    scale = extent / size  # source pixels for each new one
    target = corner + scale * (new + 0.5)  # the new pixel's centre among the source pixels
    # The filter is a triangle two source pixels wide; when shrinking it widens: the antialiasing.
    reach = scale.clamp(min=1)
    taps = math.ceil(2 * max(1, *(pixels / size for pixels in shape)))
    source = (target - reach - 0.5).ceil_() + torch.arange(taps, device=device)
    centre = source + 0.5
    weight = (reach - (centre - target).abs_()).clamp_(min=0)
    weight *= (centre > corner) & (centre < corner + extent)  # the filter stops at the box
    last = constant(tuple(pixels - 1.0 for pixels in shape), device).view(2, 1, 1, 1)
    return weight / weight.sum(3, keepdim=True), source.clamp_(min=0).minimum(last).int()


def filter_on_their_side(
    images: Tensor, down: Tensor, across: Tensor, rows: Tensor, columns: Tensor
) -> Tensor:
    """Apply `crop_filters`: (N, C, H, W) → float32 (N, C, size, size) in [0, 1], transposed.

    The results lie on their side, x before y, as the second of the two passes leaves them. What
    follows may not care; `.mT` sets them upright.

    Args:
        images: uint8, uint16 or float in [0, 1]; fastest with channels last in memory.
        down, across: (N, size, taps) weights.
        rows, columns: (N, size, taps) numbers of the source pixels.
    """
    n, c, h, w = images.shape
    if images.dtype == torch.uint8:  # 255 is divided out of the weights, which are fewer
        x, down = images.float(), down / 255
    else:
        x = to_unit(images)
    # in memory, channels_last images are rows of whole pixels: nothing is copied to get at them
    x = x.permute(0, 2, 3, 1).reshape(n, h, w * c)
    x = _transposed(_weighted_rows(x, down, rows)).view(n, w * c, -1)
    # from here on channels come before x, so that each is a plane by itself
    channels = torch.arange(c, device=x.device, dtype=columns.dtype).view(-1, 1, 1)
    columns = (c * columns[:, None] + channels).flatten(1, 2)
    across = across[:, None].expand(-1, c, -1, -1).flatten(1, 2)
    return _weighted_rows(x, across, columns).unflatten(1, (c, -1))


def _weighted_rows(x: Tensor, weights: Tensor, rows: Tensor) -> Tensor:
    """(N, R, M) → (N, size, M): each new row is the sum of the old `rows` times their `weights`."""
    n, count, _ = x.shape
    first = torch.arange(0, n * count, count, device=x.device, dtype=rows.dtype).view(-1, 1, 1)
    # an embedding bag is just that sum, and a fast one
    return F.embedding_bag(
        (rows + first).flatten(0, 1),
        x.flatten(0, 1),
        per_sample_weights=weights.flatten(0, 1),
        mode="sum",
    ).unflatten(0, (n, -1))


def _transposed(x: Tensor) -> Tensor:
    """(N, rows, columns) → (N, columns, rows), contiguous.

    A channel shuffle is a transposition too, and on a CPU more than twice as fast.
    """
    if x.device.type != "cpu":
        return x.mT.contiguous()
    n, rows, columns = x.shape
    shuffled = F.channel_shuffle(x.view(1, n, 1, rows * columns).permute(0, 3, 1, 2), rows)
    return shuffled.permute(0, 2, 3, 1).view(n, columns, rows)


def resized_crop(
    images: Tensor,
    top: Tensor,
    left: Tensor,
    height: Tensor,
    width: Tensor,
    size: int,
    flips: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Crop each image to its own box, resize it to size × size, flip it.

    Args:
        top, left, height, width: (N,) pixels.
        flips: (N,) upside down and (N,) left to right; None flips nothing.

    Returns:
        (N, C, size, size) float32 in [0, 1], as torchvision's `resized_crop(..., antialias=True)`.
    """
    never = torch.zeros_like(top, dtype=torch.bool)
    corner, extent = torch.stack([top, left]), torch.stack([height, width])
    flip = torch.stack(flips or (never, never))
    weights, source = crop_filters(corner, extent, flip, images.shape[2:], size)
    return filter_on_their_side(images, *weights, *source).mT.contiguous()


def resize(images: Tensor, size: int) -> Tensor:
    """Resize whole (N, C, H, W) images to size × size, bilinear with antialiasing."""
    n, _, h, w = images.shape
    if (h, w) == (size, size):
        return images
    zero, height, width = (torch.full((n,), pixels, device=images.device) for pixels in (0, h, w))
    return resized_crop(images, zero, zero, height, width, size)


def rot90(images: Tensor, quarter_turns: Tensor) -> Tensor:
    """Turn each square image counter-clockwise by its own number of quarter turns, (N,) in 0…3."""
    k = quarter_turns.view(-1, 1, 1, 1)
    images = torch.where(k >= 2, images.flip(2, 3), images)
    return torch.where(k % 2 == 1, images.mT.flip(2), images)


def random_dihedral(images: Tensor, generator: torch.Generator) -> Tensor:
    """One of the eight flips and quarter turns for each square image of a batch (N, C, H, H).

    The ground has no up and no left, so a label must not depend on them.
    """
    drawn = torch.rand(len(images), 2, generator=generator, device=generator.device)
    flip, turns = to_device(drawn, images.device).unbind(1)
    images = torch.where((flip < 0.5).view(-1, 1, 1, 1), images.flip(3), images)
    return rot90(images, (4 * turns).long())


def random_boxes(
    uniform: Tensor, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Crop boxes as torchvision's RandomResizedCrop draws them.

    Ten attempts are drawn for each image and the first that fits is taken; where none does, it is
    the largest central crop within the aspect ratios.

    Args:
        uniform: (N, 22) numbers in [0, 1): ten areas, ten aspect ratios, one row and one column.
        height, width: of the images, pixels.
        scale: range of the crop's share of the area.
        ratio: range of width / height, drawn on a log scale.

    Returns:
        top, left, height, width in whole pixels, (N,) each.
    """
    area = height * width * (scale[0] + (scale[1] - scale[0]) * uniform[:, :10])
    low, high = (math.log(r) for r in ratio)
    aspect = torch.exp(low + (high - low) * uniform[:, 10:20])
    w, h = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first, any_fits = fits.int().argmax(1, keepdim=True), fits.any(1)
    nearest = min(max(width / height, ratio[0]), ratio[1])
    central_w, central_h = min(width, round(height * nearest)), min(height, round(width / nearest))
    w = w.gather(1, first)[:, 0].where(any_fits, central_w)
    h = h.gather(1, first)[:, 0].where(any_fits, central_h)
    top = (uniform[:, 20] * (height - h + 1)).floor().where(any_fits, (height - central_h) // 2)
    left = (uniform[:, 21] * (width - w + 1)).floor().where(any_fits, (width - central_w) // 2)
    return top, left, h, w
