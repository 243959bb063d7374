"""Two random views of a whole batch at once, on the device the batch is on (SimCLR, appendix A).

The functions below each do one operation on (N, C, H, W) float images in [0, 1] with *its own parameter for every
image*; each equals torchvision's functional transform of one image. `SimCLRAugmentation` draws the parameters.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
REFLECTANCE = 10_000  # digital numbers of reflectance 1: the scale of uint16 images
# Mean and deviation of reflectance in BigEarthNet-S2 v1, bands as src.data.patch.ALL_BANDS: measured over the whole set
# by its authors (BAND_STATS_S2 of bigearthnet-common).
BANDS_MEAN = (0.0341, 0.0430, 0.0614, 0.0590, 0.0951, 0.1792, 0.2075, 0.2219, 0.2266, 0.2246, 0.1594, 0.1009)
BANDS_STD = (0.0555, 0.0572, 0.0583, 0.0676, 0.0730, 0.1096, 0.1273, 0.1365, 0.1356, 0.1302, 0.1079, 0.0819)
STATISTICS = {3: (IMAGENET_MEAN, IMAGENET_STD), 12: (BANDS_MEAN, BANDS_STD)}
# what SimCLRAugmentation needs for twelve bands: hue and grey are words about what an eye sees
SPECTRAL = {"gray_p": 0.0, "band_jitter": (0.2, 0.2), "band_drop_p": 0.1}
CPU_CHUNK = 16  # images worked on at a time: some forty passes over them stay in a core's caches (256 at once: a third)
GRAY = (0.2989, 0.587, 0.114)  # ITU-R 601 luma, torchvision's weights


@cache
def constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """These numbers on the device, brought there once: every copy from plain memory makes the host wait for a GPU."""
    with torch.inference_mode(False):  # it may be first asked for in inference, and later in training
        return torch.tensor(values, device=device)


def _there(drawn: Tensor, device: torch.device) -> Tensor:
    if device.type == "cuda" and drawn.device.type == "cpu":
        return drawn.pin_memory().to(device, non_blocking=True)  # without waiting for what the GPU has still to do
    return drawn.to(device)


def to_unit(images: Tensor) -> Tensor:
    """To float32 in [0, 1]: uint8 / 255; uint16 digital numbers / 10,000, that is reflectance, what is brighter than a
    white surface cut off; float images are taken to be there already."""
    if images.dtype == torch.uint8:
        return images.float().div_(255)
    if images.dtype == torch.uint16:
        return (images.float() / REFLECTANCE).clamp(max=1)
    if not images.is_floating_point():
        raise ValueError(
            f"expected uint8, uint16 or float images, got {images.dtype}: stretch reflectances to uint8 first"
        )
    return images.float()


def normalize(
    images: Tensor, mean: tuple[float, ...] | None = None, std: tuple[float, ...] | None = None, inplace: bool = False
) -> Tensor:
    """(images − mean) / std per channel of (N, C, H, W); None: ImageNet's for RGB, BigEarthNet's for twelve bands."""
    usual = STATISTICS.get(images.shape[1], STATISTICS[3])
    mean, std = mean or usual[0], std or usual[1]
    if images.shape[1] != len(mean):
        raise ValueError(f"{images.shape[1]}-channel images, but mean and std have {len(mean)} values: pass your own")
    offset, scale = (
        constant(values, images.device).view(1, -1, 1, 1) for values in (tuple(mean), tuple(1 / s for s in std))
    )
    return (images.sub_(offset) if inplace else images - offset).mul_(scale)


def _taps(corner: Tensor, extent: Tensor, flip: Tensor, shape: tuple[int, int], size: int) -> tuple[Tensor, Tensor]:
    """The antialiased bilinear filters, down and across, that take each image's own box to size × size pixels.

    Args:
        corner, extent, flip: (2, N): top and left, height and width (pixels), upside down and left to right.
        shape: height and width of the images.

    Returns:
        (2, N, size, taps) weights, and the numbers of the source pixels they are for: few, as the filter is narrow.
    """
    corner, extent = corner.float()[..., None, None], extent.float()[..., None, None]
    place = torch.arange(size, device=corner.device)[:, None]
    place = torch.where(flip[..., None, None], size - 1 - place, place)
    target = corner + extent / size * (place + 0.5)
    reach = (extent / size).clamp(min=1)  # when shrinking, the triangle widens: that is the antialiasing
    taps = math.ceil(2 * max(1, *(pixels / size for pixels in shape)))
    source = (target - reach - 0.5).ceil_() + torch.arange(taps, device=corner.device)
    centre = source + 0.5
    weight = (reach - (centre - target).abs_()).clamp_(min=0)
    weight *= (centre > corner) & (centre < corner + extent)  # so that pixels outside the image weigh nothing
    last = constant(tuple(pixels - 1.0 for pixels in shape), corner.device).view(2, 1, 1, 1)
    return weight / weight.sum(3, keepdim=True), source.clamp_(min=0).minimum(last).long()


def _resample(rows: Tensor, weights: Tensor, source: Tensor) -> Tensor:
    """(N, pixels, M) → (N, size, M): each new row is the sum of the rows `source` of `_taps`, times its weights."""
    n, pixels, _ = rows.shape
    source = source + pixels * torch.arange(n, device=rows.device).view(-1, 1, 1)
    bags, weights = source.flatten(0, 1), weights.flatten(0, 1)  # an embedding bag is just that sum, and a fast one
    return F.embedding_bag(bags, rows.flatten(0, 1), per_sample_weights=weights, mode="sum").unflatten(0, (n, -1))


def resized_crop(
    images: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor, size: int,
    hflip: Tensor | None = None, vflip: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Crop each image to its own box (pixels, (N,) each), resize to size × size, flip, all in one pass over each axis.

    Bilinear with antialiasing, as torchvision's `resized_crop(..., antialias=True)`: weights stop at the box.
    """
    flips = [torch.zeros_like(top, dtype=torch.bool) if flip is None else flip for flip in (vflip, hflip)]
    boxes = (torch.stack(each) for each in ([top, left], [height, width], flips))
    weights, source = _taps(*boxes, images.shape[2:], size)
    return _resampled(images, *weights, *source).mT.contiguous()


def _resampled(images: Tensor, down: Tensor, across: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(N, C, H, W) → (N, C, size, size) *on their side*: x before y, as the second of the two passes leaves them."""
    n, c, h, w = images.shape
    full = 255 if images.dtype == torch.uint8 else 1  # divided out in the weights: one pass over the pixels less
    # channels_last images are rows of whole pixels in memory, and nothing is copied to get at them
    x = (images.float() if full > 1 else to_unit(images)).permute(0, 2, 3, 1).reshape(n, h, w * c)
    x = _transposed(_resample(x, down / full, rows)).view(n, w * c, -1)
    channels = torch.arange(c, device=x.device).view(-1, 1, 1)  # before x from here on: each is a plane by itself
    columns, across = c * columns[:, None] + channels, across[:, None].expand(-1, c, -1, -1)
    return _resample(x, across.flatten(1, 2), columns.flatten(1, 2)).unflatten(1, (c, -1))


def _transposed(x: Tensor) -> Tensor:
    """(N, rows, columns) → (N, columns, rows). A channel shuffle is one too, and on a CPU more than twice as fast."""
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
    """Rotate each square image counter-clockwise by its own number of quarter turns, (N,) in 0…3."""
    k = quarter_turns.view(-1, 1, 1, 1)
    images = torch.where(k >= 2, images.flip(2, 3), images)
    return torch.where(k % 2 == 1, images.mT.flip(2), images)


def grayscale(images: Tensor) -> Tensor:
    """Luma of (N, 3, H, W) images as (N, 1, H, W)."""
    r, g, b = images.unbind(1)
    return (r * GRAY[0]).add_(g, alpha=GRAY[1]).add_(b, alpha=GRAY[2])[:, None]


def _blend(images: Tensor, other: Tensor | float, factor: Tensor) -> Tensor:
    factor = factor.view(-1, 1, 1, 1)
    return (factor * images + (1 - factor) * other).clamp(0, 1)


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with black; factor (N,), 1 leaves the image as it is, 0 is black."""
    return _blend(images, 0.0, factor)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the mean luma of the image; factor (N,)."""
    return _blend(images, grayscale(images).mean((2, 3), keepdim=True), factor)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the image's own grey version; factor (N,)."""
    return _blend(images, grayscale(images), factor)


def adjust_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue of HSV by `shift` (N,) of a full circle, in [−0.5, 0.5].

    With colours scaled so that the largest channel is 1 and the smallest 0, the distance of a hue from red is
    1 + g + b − r sixths of a circle, on green's side where g > b; and a channel is full within one sixth of its own
    hue, empty beyond two. No case by case: selections cost five times what sums do.
    """
    r, g, b = images.unbind(1)
    low = images.amin(1)
    sixfold = images.amax(1).sub_(low).mul_(6)  # the chroma, for hues in circles
    distance = (g + b).sub_(r).sub_(low).div_(sixfold.clamp(min=1e-12)).add_(1 / 6)  # grey pixels: any finite number
    hue = distance.copysign_(g - b).add_(shift.view(-1, 1, 1))
    hue.sub_(hue.round())  # −½ … ½, red at 0
    # A channel is empty at a share of 1/6, full at 2/6. Green's is the distance from −1/6: full from 1/6 to ½, empty
    # from 0 back to −1/3, and rising beyond; blue's is its mirror image; red's is how far the hue is from ½.
    share = hue[:, None] + constant((0.0, 1 / 6, -1 / 6), hue.device).view(1, 3, 1, 1)
    share.abs_()[:, 0].sub_(0.5).abs_()
    return share.clamp_(1 / 6, 2 / 6).mul_(sixfold[:, None]).add_(low.sub_(sixfold, alpha=1 / 6)[:, None])


def color_jitter(images: Tensor, factors: Tensor, hue: Tensor, order: Tensor) -> Tensor:
    """Brightness, contrast, saturation and hue, each image in its own order.

    Args:
        factors: (N, 3) of brightness, contrast, saturation.
        hue: (N,) shift.
        order: (N, 4) permutation of 0 brightness, 1 contrast, 2 saturation, 3 hue.
    """
    hue_at = (order == 3).int().argmax(1, keepdim=True)
    # Every image has its hue turned exactly once, so it is done once for all of them, between the operations that
    # come before it and those that come after; a factor of 1 makes an operation the identity.
    for turn_hue, positions in ((False, range(3)), (True, range(1, 4))):
        if turn_hue:
            images = adjust_hue(images, hue)
        for position in positions:
            operation = order[:, position]
            active = (position > hue_at if turn_hue else position < hue_at)[:, 0]
            factor = factors.gather(1, operation.clamp(max=2)[:, None])[:, 0].where(active, 1.0)
            gray = grayscale(images)
            target = gray.where(operation.view(-1, 1, 1, 1) == 2, gray.mean((2, 3), keepdim=True))
            target = target.where(operation.view(-1, 1, 1, 1) > 0, 0.0)
            images = _blend(images, target, factor)
    return images


def fused_jitter(images: Tensor, factors: Tensor, hue: Tensor, order: Tensor, gray: Tensor) -> Tensor:
    """`color_jitter`, then `grayscale` where `gray` (N,) says so, at a third of the cost: clamped to [0, 1] once, at the
    end, not after each operation.

    Without clamps brightness, contrast and saturation scale all channels alike and add a grey, and a turn of the hue
    commutes with both. So it comes first, whatever the order, and the rest is a sum: of the turned colours, of luma
    before and after the turn, and of the means of these. Grayscale is a saturation of 0. The turn is HSV's, exactly:
    the linear one, about the grey axis of YIQ, would make a single matrix of it all, but is another operation.

    Measured on 1,000 EuroSAT images with the study's recipe, against the exact form: 0.10 grey levels of 255 on average,
    41 at most, 2.2 % of the values by more than half a level; with a linear hue 3.4 on average, 70 at most, 64 % of the
    values.
    """
    return _colours_mixed(images, *_colour_mix(factors, hue, order, gray))


def _colour_mix(factors: Tensor, hue: Tensor, order: Tensor, gray: Tensor) -> tuple[Tensor, Tensor]:
    """The (N,) turn, and the (N, 5, 1, 1) shares of what `_colours_mixed` adds up."""
    place = order.argsort(1)
    before = place[:, :3] < place[:, 3:]
    brightness, contrast, saturation = factors.where(~before, 1.0).unbind(1)
    own, luma, mean = _shares(torch.stack([brightness, contrast, saturation.where(~gray, 0.0)], 1))
    own_0, luma_0, mean_0 = _shares(factors.where(before, 1.0))
    both = own + luma  # what becomes of a grey image, but for its mean
    shares = [own * own_0, both * luma_0, luma * own_0, both * mean_0 + mean * (luma_0 + mean_0), mean * own_0]
    return hue, torch.stack(shares, 1)[..., None, None]


def _shares(factors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(N, 3) factors → the shares (N,) of an image, of its luma and of its mean luma in what they make of it."""
    brightness, contrast, saturation = factors.unbind(1)
    scale = brightness * contrast
    return scale * saturation, scale * (1 - saturation), brightness * (1 - contrast)


def _colours_mixed(images: Tensor, hue: Tensor, shares: Tensor) -> Tensor:
    turned = adjust_hue(images, hue)
    greys = [grayscale(images), grayscale(turned)]
    means = [grey.mean((2, 3), keepdim=True) for grey in greys]
    own, *others = shares.split(1, 1)
    grey, turned_grey, mean, turned_mean = (x.mul_(share) for x, share in zip(greys + means, others, strict=True))
    return turned.mul_(own).add_(grey.add_(turned_grey).add_(mean.add_(turned_mean))).clamp_(0, 1)


def band_jitter(images: Tensor, brightness: Tensor, contrast: Tensor) -> Tensor:
    """Every band of every image by factors of its own, (N, C) each: brightness, then contrast about the band's mean."""
    images = images * brightness[..., None, None]
    mean = images.mean((2, 3), keepdim=True)
    return (mean + contrast[..., None, None] * (images - mean)).clamp(0, 1)


def gaussian_blur3(images: Tensor, sigma: Tensor) -> Tensor:
    """3 × 3 Gaussian blur with its own sigma (pixels) for each image, (N,); edges reflected."""
    return _blurred(images.contiguous(), _centre(sigma))


def _centre(sigma: Tensor) -> Tensor:
    """The middle weight of a kernel of three, (N, 1, 1, 1)."""
    return (1 / (1 + 2 * torch.exp(-0.5 / sigma**2))).view(-1, 1, 1, 1)


def _blurred(x: Tensor, centre: Tensor) -> Tensor:
    for axis in (2, 3):  # the kernel is the product of one down and one across
        line, step, sides = x.flatten(), x.stride(axis), torch.empty_like(x)
        # in one line through memory, over the edges, which are put right afterwards: twice as fast as by rows
        torch.lerp(line[: -2 * step], line[2 * step :], 0.5, out=sides.flatten()[step:-step])
        sides.select(axis, 0).copy_(x.select(axis, 1))
        sides.select(axis, -1).copy_(x.select(axis, -2))
        x = sides.lerp_(x, centre)
    return x


def cutout(images: Tensor, row: Tensor, column: Tensor, length: int) -> Tensor:
    """Black out a length × length square whose centre is at (row, column) pixels, (N,) each (DeVries & Taylor 2017)."""

    def inside(centre: Tensor, pixels: int) -> Tensor:
        offset = torch.arange(pixels, device=images.device) - centre.view(-1, 1) + length // 2
        return (offset >= 0) & (offset < length)

    square = inside(row, images.shape[2])[:, :, None] & inside(column, images.shape[3])[:, None, :]
    return images.masked_fill(square[:, None], 0.0)


def random_boxes(
    uniform: Tensor, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Crop boxes as torchvision's RandomResizedCrop draws them: ten attempts, then the largest central crop.

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
    fallback_w, fallback_h = min(width, round(height * aspect_all)), min(height, round(width / aspect_all))
    any_fits = fits.any(1)
    w = w.gather(1, first)[:, 0].where(any_fits, fallback_w)
    h = h.gather(1, first)[:, 0].where(any_fits, fallback_h)
    top = (uniform[:, 20] * (height - h + 1)).floor().where(any_fits, (height - fallback_h) // 2)
    left = (uniform[:, 21] * (width - w + 1)).floor().where(any_fits, (width - fallback_w) // 2)
    return top, left, h, w


@cache
def _compiled(function: Callable) -> Callable:
    return torch.compile(function)


@dataclass(frozen=True)
class SimCLRAugmentation:
    """One random view of every image of a batch; call it twice for a positive pair.

    Operations and order: random resized crop, flips, colour jitter, grayscale, blur, normalisation; the satellite
    extras are off until switched on. The crop chooses the scale from the native pixels: no resizing before it.
    """

    size: int = 64  # pixels of the view
    scale: tuple[float, float] = (0.2, 1.0)  # crop area as a share of the image
    ratio: tuple[float, float] = (3 / 4, 4 / 3)  # crop width / height
    hflip: float = 0.5  # probability
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)  # brightness, contrast, saturation, hue
    jitter_p: float = 0.8
    gray_p: float = 0.2
    blur_sigma: tuple[float, float] | None = (0.1, 2.0)  # pixels; None switches the blur off
    mean: tuple[float, ...] | None = None  # of the channels in [0, 1]; None: see `normalize`
    std: tuple[float, ...] | None = None
    band_jitter: tuple[float, float] | None = None  # brightness and contrast, each band its own, in place of `jitter`
    band_drop_p: float = 0.0  # probability of each band to be lost: set to its mean
    vflip: float = 0.0  # satellite extra: 0.5 where north is not up
    rotate: bool = False  # satellite extra: a random number of quarter turns
    solarize_p: float = 0.0  # satellite extra: published value 0.2; inverts pixels from 128 of 255 up
    noise_p: float = 0.0  # satellite extra: published value 0.3; Gaussian, σ 0.05
    cutout_p: float = 0.0  # satellite extra: published value 0.2; one black 16-pixel square
    compile: bool = False  # what follows the crop by torch.compile: fewer passes over a GPU's memory; slower on a CPU
    exact: bool = False  # colours op by op, clamped after each as torchvision does; False: see `fused_jitter`

    @torch.no_grad()
    def __call__(self, images: Tensor, generator: torch.Generator, part: tuple[int, int] = (0, 1)) -> Tensor:
        """(N, C, H, W) uint8, uint16 or float in [0, 1] → (N, C, size, size) float32, normalised, on the same device.

        Every random number is drawn from `generator`, so the same state gives the same views. `part` (k, n): the images
        are the k-th of n equal parts of a batch, and get the views that they would get in the whole of it.

        Raises:
            ValueError: not a batch of images; colour operations asked for on other than three channels.
        """
        if images.dim() != 4:
            raise ValueError(f"expected a batch (N, C, H, W), got {tuple(images.shape)}")
        channels = images.shape[1]
        if channels != 3 and (self.gray_p or (self.jitter_p and not self.band_jitter)):
            raise ValueError(
                f"colour jitter and grayscale need RGB, got {channels} channels: set both p to 0, or use SPECTRAL"
            )
        # one draw and one copy to the device for all parameters of the batch
        count = 41 + (3 * channels if self.band_jitter or self.band_drop_p else 0)
        (k, n), device, shape = part, images.device, (len(images), channels, self.size, self.size)

        def own(draw: Callable[..., Tensor], *each: int) -> Tensor:
            """The numbers of this part, from those of the whole batch."""
            everyone = draw(n * len(images), *each, generator=generator, device=generator.device)
            return _there(everyone.chunk(n)[k], device)

        u = own(torch.rand, count)
        noise = own(torch.randn, *shape[1:]) if self.noise_p else u
        views = torch.empty(shape, device=device, memory_format=torch.channels_last)
        chunk = CPU_CHUNK if device.type == "cpu" else max(1, len(images))
        # inference mode: a tenth faster; `views` is made outside of it, so that a network may learn from them
        with torch.autocast(device.type, enabled=False), torch.inference_mode():
            low, high = self.blur_sigma or (1.0, 1.0)
            drawn = (*self._taps(u, *images.shape[2:]), _centre(low + (high - low) * u[:, 36]), *self._colours(u))
            for out, *some in zip(*(t.split(chunk) for t in (views, images, u, noise, *drawn)), strict=True):
                for there, made in zip(out.unbind(1), self._view(*some).mT.unbind(1), strict=True):
                    there.copy_(made)  # one channel at a time is twice as fast
        return views

    def _taps(self, u: Tensor, height: int, width: int) -> tuple[Tensor, ...]:
        top, left, h, w = random_boxes(u[:, :22], height, width, self.scale, self.ratio)
        vflip, hflip = u[:, 23] < self.vflip, u[:, 22] < self.hflip
        if self.rotate:  # a turn is a transposition, or none, and flips: these cost nothing here
            turns = (4 * u[:, 24]).long()
            hflip, vflip = hflip ^ ((turns == 1) | (turns == 2)), vflip ^ (turns >= 2)
        boxes = (torch.stack(each) for each in ([top, left], [h, w], [vflip, hflip]))
        weights, source = _taps(*boxes, (height, width), self.size)
        return *weights, *source

    def _view(self, x: Tensor, u: Tensor, noise: Tensor, *drawn: Tensor) -> Tensor:
        x = _resampled(x, *drawn[:4])
        if self.rotate:
            x = torch.where(((4 * u[:, 24]).long() % 2 == 1).view(-1, 1, 1, 1), x.mT, x).contiguous()
        paint = _compiled(SimCLRAugmentation._paint) if self.compile else SimCLRAugmentation._paint
        return paint(self, x, u, noise, *drawn[4:])

    def _paint(self, x: Tensor, u: Tensor, noise: Tensor, blur: Tensor, *colours: Tensor) -> Tensor:
        # the images lie on their side, which nothing here can tell
        if self.solarize_p:
            x = torch.where((u[:, 25] < self.solarize_p).view(-1, 1, 1, 1) & (x >= 128 / 255), 1 - x, x)
        x = self._colour(x, *colours)
        if self.blur_sigma:
            x = _blurred(x, blur)
        if self.noise_p:
            x = (x + 0.05 * noise * (u[:, 37] < self.noise_p).view(-1, 1, 1, 1)).clamp(0, 1)
        if self.cutout_p:
            row, column = (self.size * u[:, 38:40]).long().unbind(1)
            x = torch.where((u[:, 40] < self.cutout_p).view(-1, 1, 1, 1), cutout(x, row, column, 16), x)
        x = normalize(x, self.mean, self.std, inplace=True)
        if self.band_drop_p:
            x = x.masked_fill((u[:, 41:].chunk(3, 1)[2] < self.band_drop_p)[..., None, None], 0.0)
        return x

    def _colours(self, u: Tensor) -> tuple[Tensor, ...]:
        """The parameters of `_colour`, drawn for the whole batch at once."""
        jittered, gray = (u[:, 26] < self.jitter_p).float()[:, None], u[:, 35] < self.gray_p
        if not self.jitter_p:
            return (gray,)
        if self.band_jitter:
            drawn = u[:, 41:].chunk(3, 1)
            return *(1 + s * (2 * v - 1) * jittered for s, v in zip(self.band_jitter, drawn, strict=False)), gray
        strength = constant(self.jitter, u.device) * (2 * u[:, 27:31] - 1) * jittered
        jitter = (1 + strength[:, :3]).clamp(min=0), strength[:, 3], u[:, 31:35].argsort(1), gray
        return jitter if self.exact else _colour_mix(*jitter)

    def _colour(self, x: Tensor, *drawn: Tensor) -> Tensor:
        if self.jitter_p and not self.band_jitter and not self.exact:
            return _colours_mixed(x, *drawn)
        *jitter, gray = drawn
        if jitter:
            x = band_jitter(x, *jitter) if self.band_jitter else color_jitter(x, *jitter)
        return torch.where(gray.view(-1, 1, 1, 1), grayscale(x), x) if self.gray_p else x


def random_dihedral(images: Tensor, generator: torch.Generator) -> Tensor:
    """One of the eight flips and quarter turns for each square image: all a label on the ground can ask for."""
    u = _there(torch.rand(len(images), 2, generator=generator, device=generator.device), images.device)
    images = torch.where((u[:, 0] < 0.5).view(-1, 1, 1, 1), images.flip(3), images)
    return rot90(images, (4 * u[:, 1]).long())
