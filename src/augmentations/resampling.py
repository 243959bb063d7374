"""Crops, resizes and turns of a whole batch, each image by its own box: one pass down and one
across.

On (N, C, H, W) images; each function equals torchvision's functional transform of one image,
antialiased.
"""

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

REFLECTANCE = 10_000  # digital numbers of reflectance 1: the scale of uint16 images


@cache
def constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """These numbers on the device, brought there once: every copy from plain memory makes the host
    wait for a GPU.
    """
    with torch.inference_mode(
        False
    ):  # it may be first asked for in inference, and later in training
        return torch.tensor(values, device=device)


def to_unit(images: Tensor) -> Tensor:
    """To float32 in [0, 1]: uint8 / 255; uint16 digital numbers / 10,000, that is reflectance, what
    is brighter than a white surface cut off; float images are taken to be there already."""
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


def taps(
    corner: Tensor, extent: Tensor, flip: Tensor, shape: tuple[int, int], size: int
) -> tuple[Tensor, Tensor]:
    """The antialiased bilinear filters, down and across, that take each image's own box to size ×
    size pixels.

    Args:
        corner, extent, flip: (2, N): top and left, height and width (pixels), upside down and left
            to right.
        shape: height and width of the images.

    Returns:
        (2, N, size, taps) weights, and the numbers of the source pixels they are for: few, as the
        filter is narrow.
    """
    corner, extent = corner.float()[..., None, None], extent.float()[..., None, None]
    place = torch.arange(size, device=corner.device)[:, None]
    place = torch.where(flip[..., None, None], size - 1 - place, place)
    target = corner + extent / size * (place + 0.5)
    reach = (extent / size).clamp(
        min=1
    )  # when shrinking, the triangle widens: that is the antialiasing
    count = math.ceil(2 * max(1, *(pixels / size for pixels in shape)))
    source = (target - reach - 0.5).ceil_() + torch.arange(count, device=corner.device)
    centre = source + 0.5
    weight = (reach - (centre - target).abs_()).clamp_(min=0)
    weight *= (centre > corner) & (
        centre < corner + extent
    )  # so that pixels outside the image weigh nothing
    last = constant(tuple(pixels - 1.0 for pixels in shape), corner.device).view(2, 1, 1, 1)
    return weight / weight.sum(3, keepdim=True), source.clamp_(min=0).minimum(last).int()


def _resample(rows: Tensor, weights: Tensor, source: Tensor) -> Tensor:
    """(N, pixels, M) → (N, size, M): each new row is the sum of the rows `source` of `taps`, times
    its weights.
    """
    n, pixels, _ = rows.shape
    source = source + torch.arange(
        0, n * pixels, pixels, device=rows.device, dtype=source.dtype
    ).view(-1, 1, 1)
    bags, weights = (
        source.flatten(0, 1),
        weights.flatten(0, 1),
    )  # an embedding bag is just that sum, and a fast one
    return F.embedding_bag(
        bags, rows.flatten(0, 1), per_sample_weights=weights, mode="sum"
    ).unflatten(0, (n, -1))


def resized_crop(
    images: Tensor,
    top: Tensor,
    left: Tensor,
    height: Tensor,
    width: Tensor,
    size: int,
    hflip: Tensor | None = None,
    vflip: Tensor | None = None,
) -> Tensor:
    """Crop each image to its own box (pixels, (N,) each), resize to size × size, flip, all in one
    pass over each axis.

    Bilinear with antialiasing, as torchvision's `resized_crop(..., antialias=True)`: weights stop
    at the box.
    """
    flips = [
        torch.zeros_like(top, dtype=torch.bool) if flip is None else flip for flip in (vflip, hflip)
    ]
    boxes = (torch.stack(each) for each in ([top, left], [height, width], flips))
    weights, source = taps(*boxes, images.shape[2:], size)
    return resampled(images, *weights, *source).mT.contiguous()


def resampled(
    images: Tensor, down: Tensor, across: Tensor, rows: Tensor, columns: Tensor
) -> Tensor:
    """(N, C, H, W) → (N, C, size, size) *on their side*: x before y, as the second of the two
    passes leaves them.
    """
    n, c, h, w = images.shape
    full = (
        255 if images.dtype == torch.uint8 else 1
    )  # divided out in the weights: one pass over the pixels less
    # channels_last images are rows of whole pixels in memory, and nothing is copied to get at them
    x = (images.float() if full > 1 else to_unit(images)).permute(0, 2, 3, 1).reshape(n, h, w * c)
    x = _transposed(_resample(x, down / full, rows)).view(n, w * c, -1)
    # channels before x from here on, so that each is a plane by itself
    channels = torch.arange(c, device=x.device, dtype=columns.dtype).view(-1, 1, 1)
    columns, across = c * columns[:, None] + channels, across[:, None].expand(-1, c, -1, -1)
    return _resample(x, across.flatten(1, 2), columns.flatten(1, 2)).unflatten(1, (c, -1))


def _transposed(x: Tensor) -> Tensor:
    """(N, rows, columns) → (N, columns, rows). A channel shuffle is one too, and on a CPU more than
    twice as fast.
    """
    if x.device.type != "cpu":
        return x.mT.contiguous()
    n, rows, columns = x.shape
    shuffled = F.channel_shuffle(x.view(1, n, 1, rows * columns).permute(0, 3, 1, 2), rows)
    return shuffled.permute(0, 2, 3, 1).view(n, columns, rows)


def resize(images: Tensor, size: int) -> Tensor:
    """Resize whole (N, C, H, W) images to size × size, bilinear with antialiasing."""
    n, _, h, w = images.shape
    if (h, w) == (size, size):
        return images
    zero, height, width = (torch.full((n,), v, device=images.device) for v in (0, h, w))
    return resized_crop(images, zero, zero, height, width, size)


def rot90(images: Tensor, quarter_turns: Tensor) -> Tensor:
    """Rotate each square image counter-clockwise by its own number of quarter turns, (N,) in
    0…3.
    """
    k = quarter_turns.view(-1, 1, 1, 1)
    images = torch.where(k >= 2, images.flip(2, 3), images)
    return torch.where(k % 2 == 1, images.mT.flip(2), images)


def random_boxes(
    uniform: Tensor, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Crop boxes as torchvision's RandomResizedCrop draws them: ten attempts, then the largest
    central crop.

    Args:
        uniform: (N, 22) numbers in [0, 1): ten areas, ten aspect ratios, one row and one column.
        height, width: of the images, pixels.
        scale: range of the crop's share of the area.
        ratio: range of width / height, drawn on a log scale.

    Returns:
        top, left, height, width in whole pixels, (N,) each.
    """
    area = height * width * (scale[0] + (scale[1] - scale[0]) * uniform[:, :10])
    log_ratio = [math.log(r) for r in ratio]
    aspect = torch.exp(log_ratio[0] + (log_ratio[1] - log_ratio[0]) * uniform[:, 10:20])
    w, h = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = fits.int().argmax(1, keepdim=True)  # the first attempt that fits
    aspect_all = min(max(width / height, ratio[0]), ratio[1])
    fallback_w, fallback_h = (
        min(width, round(height * aspect_all)),
        min(height, round(width / aspect_all)),
    )
    any_fits = fits.any(1)
    w = w.gather(1, first)[:, 0].where(any_fits, fallback_w)
    h = h.gather(1, first)[:, 0].where(any_fits, fallback_h)
    top = (uniform[:, 20] * (height - h + 1)).floor().where(any_fits, (height - fallback_h) // 2)
    left = (uniform[:, 21] * (width - w + 1)).floor().where(any_fits, (width - fallback_w) // 2)
    return top, left, h, w
