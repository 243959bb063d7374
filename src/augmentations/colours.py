"""Colour operations on a whole batch of (N, C, H, W) float images in [0, 1], each image by its own
parameters.

Each function equals torchvision's functional transform of one image, but for `fused_jitter`, which
says how it differs.
"""

import torch
from torch import Tensor

from src.augmentations.resampling import constant

GRAY = (0.2989, 0.587, 0.114)  # ITU-R 601 luma, torchvision's weights


def grayscale(images: Tensor) -> Tensor:
    """Luma of (N, 3, H, W) images as (N, 1, H, W)."""
    r, g, b = images.unbind(1)
    return (r * GRAY[0]).add_(g, alpha=GRAY[1]).add_(b, alpha=GRAY[2])[:, None]


def adjust_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue of HSV by `shift` (N,) of a full circle, in [−0.5, 0.5].

    With colours scaled so that the largest channel is 1 and the smallest 0, the distance of a hue
    from red is 1 + g + b − r sixths of a circle, on green's side where g > b; and a channel is full
    within one sixth of its own hue, empty beyond two. No case by case: selections cost five times
    what sums do.
    """
    r, g, b = images.unbind(1)
    low = images.amin(1)
    sixfold = images.amax(1).sub_(low).mul_(6)  # the chroma, for hues in circles
    distance = (
        (g + b).sub_(r).sub_(low).div_(sixfold.clamp(min=1e-12)).add_(1 / 6)
    )  # grey pixels: any finite number
    hue = distance.copysign_(g - b).add_(shift.view(-1, 1, 1))
    hue.sub_(hue.round())  # −½ … ½, red at 0
    # A channel is empty at a share of 1/6, full at 2/6. Green's is the distance from −1/6: full
    # from 1/6 to ½, empty from 0 back to −1/3, and rising beyond; blue's is its mirror image; red's
    # is how far the hue is from ½.
    share = hue[:, None] + constant((0.0, 1 / 6, -1 / 6), hue.device).view(1, 3, 1, 1)
    share.abs_()[:, 0].sub_(0.5).abs_()
    return (
        share.clamp_(1 / 6, 2 / 6)
        .mul_(sixfold[:, None])
        .add_(low.sub_(sixfold, alpha=1 / 6)[:, None])
    )


def color_jitter(images: Tensor, factors: Tensor, hue: Tensor, order: Tensor) -> Tensor:
    """Brightness, contrast, saturation and hue, each image in its own order.

    Args:
        factors: (N, 3) of brightness, contrast, saturation.
        hue: (N,) shift.
        order: (N, 4) permutation of 0 brightness, 1 contrast, 2 saturation, 3 hue.
    """
    hue_at = (order == 3).int().argmax(1, keepdim=True)
    # Every image has its hue turned exactly once, so it is done once for all of them, between the
    # operations that come before it and those that come after; a factor of 1 makes an operation the
    # identity.
    for turn_hue, positions in ((False, range(3)), (True, range(1, 4))):
        if turn_hue:
            images = adjust_hue(images, hue)
        for position in positions:
            operation = order[:, position]
            active = (position > hue_at if turn_hue else position < hue_at)[:, 0]
            factor = (
                factors.gather(1, operation.clamp(max=2)[:, None])[:, 0]
                .where(active, 1.0)
                .view(-1, 1, 1, 1)
            )
            gray = grayscale(images)
            target = gray.where(operation.view(-1, 1, 1, 1) == 2, gray.mean((2, 3), keepdim=True))
            target = target.where(operation.view(-1, 1, 1, 1) > 0, 0.0)
            images = (factor * images + (1 - factor) * target).clamp(0, 1)
    return images


def fused_jitter(
    images: Tensor, factors: Tensor, hue: Tensor, order: Tensor, gray: Tensor
) -> Tensor:
    """`color_jitter`, then `grayscale` where `gray` (N,) says so, at a third of the cost: clamped
    to [0, 1] once, at the end, not after each operation.

    Without clamps brightness, contrast and saturation scale all channels alike and add a grey, and
    a turn of the hue commutes with both. So it comes first, whatever the order, and the rest is a
    sum: of the turned colours, of luma before and after the turn, and of the means of these.
    Grayscale is a saturation of 0. The turn is HSV's, exactly: the linear one, about the grey axis
    of YIQ, would make a single matrix of it all, but is another operation.

    Measured on 1,000 EuroSAT images with the study's recipe, against the exact form: 0.10 grey
    levels of 255 on average, 41 at most, 2.2 % of the values by more than half a level; with a
    linear hue 3.4 on average, 70 at most, 64 % of the values.
    """
    return colours_mixed(images, *colour_mix(factors, hue, order, gray))


def colour_mix(factors: Tensor, hue: Tensor, order: Tensor, gray: Tensor) -> tuple[Tensor, Tensor]:
    """The (N,) turn, and the (N, 5, 1, 1) shares of what `colours_mixed` adds up."""
    place = order.argsort(1)
    before = place[:, :3] < place[:, 3:]
    brightness, contrast, saturation = factors.where(~before, 1.0).unbind(1)
    own, luma, mean = _shares(torch.stack([brightness, contrast, saturation.where(~gray, 0.0)], 1))
    own_0, luma_0, mean_0 = _shares(factors.where(before, 1.0))
    both = own + luma  # what becomes of a grey image, but for its mean
    shares = [
        own * own_0,
        both * luma_0,
        luma * own_0,
        both * mean_0 + mean * (luma_0 + mean_0),
        mean * own_0,
    ]
    return hue, torch.stack(shares, 1)[..., None, None]


def _shares(factors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(N, 3) factors → the shares (N,) of an image, of its luma and of its mean luma in what they
    make of it.
    """
    brightness, contrast, saturation = factors.unbind(1)
    scale = brightness * contrast
    return scale * saturation, scale * (1 - saturation), brightness * (1 - contrast)


def colours_mixed(images: Tensor, hue: Tensor, shares: Tensor) -> Tensor:
    turned = adjust_hue(images, hue)
    greys = [grayscale(images), grayscale(turned)]
    means = [grey.mean((2, 3), keepdim=True) for grey in greys]
    own, *others = shares.split(1, 1)
    grey, turned_grey, mean, turned_mean = (
        x.mul_(share) for x, share in zip(greys + means, others, strict=True)
    )
    return turned.mul_(own).add_(grey.add_(turned_grey).add_(mean.add_(turned_mean))).clamp_(0, 1)


def band_jitter(images: Tensor, brightness: Tensor, contrast: Tensor) -> Tensor:
    """Every band of every image by factors of its own, (N, C) each: brightness, then contrast about
    the band's mean.
    """
    images = images * brightness[..., None, None]
    mean = images.mean((2, 3), keepdim=True)
    return (mean + contrast[..., None, None] * (images - mean)).clamp(0, 1)
