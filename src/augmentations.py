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
TAP_BLOCK = 8  # target pixels that share a window of source pixels: 4 and 8 are as fast here, 16 and 32 slower
CPU_CHUNK = 16  # images worked on at a time: some forty passes over them stay in a core's cache (5× faster here)
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


def normalize(images: Tensor, mean: tuple[float, ...] | None = None, std: tuple[float, ...] | None = None) -> Tensor:
    """(images − mean) / std per channel of (N, C, H, W); None: ImageNet's for RGB, BigEarthNet's for twelve bands."""
    usual = STATISTICS.get(images.shape[1], STATISTICS[3])
    mean, std = mean or usual[0], std or usual[1]
    if images.shape[1] != len(mean):
        raise ValueError(f"{images.shape[1]}-channel images, but mean and std have {len(mean)} values: pass your own")
    mean_t, std_t = (constant(tuple(v), images.device).view(1, -1, 1, 1) for v in (mean, std))
    return (images - mean_t) / std_t


def _taps(start: Tensor, length: Tensor, pixels: int, size: int, flip: Tensor | None) -> tuple[Tensor, Tensor]:
    """The antialiased bilinear filter of an axis of `pixels` that takes each image's own interval to `size` pixels.

    Target pixels go in blocks that share one window of source pixels: a matrix over the whole axis would be four fifths
    zeros.

    Returns:
        (N, blocks, size / blocks, window) weights, and (N, blocks, window) numbers of the source pixels they are for.
    """
    block = math.gcd(size, TAP_BLOCK)
    window = min(pixels, math.ceil(block * pixels / size + 2 * max(1, pixels / size)) + 1)
    start, length = start.float().view(-1, 1, 1, 1), length.float().view(-1, 1, 1, 1)
    place = torch.arange(size, device=start.device).view(1, -1, block, 1)
    place = place if flip is None else torch.where(flip.view(-1, 1, 1, 1), size - 1 - place, place)
    target = start + length / size * (place + 0.5)
    reach = (length / size).clamp(min=1)  # when shrinking, the triangle widens: that is the antialiasing
    first = (target.amin(2, keepdim=True) - reach).floor().clamp(0, pixels - window)
    source = first + torch.arange(window, device=start.device)
    weight = (1 - (source + 0.5 - target).abs() / reach).clamp(min=0)
    weight = weight * ((source + 0.5 > start) & (source + 0.5 < start + length))
    return weight / weight.sum(3, keepdim=True), source[:, :, 0].long()


def _resample(rows: Tensor, weights: Tensor, source: Tensor) -> Tensor:
    """(N, pixels, M) → (N, size, M): the rows `source` of `_taps`, times its weights."""
    n, pixels, _ = rows.shape
    source = source + pixels * torch.arange(n, device=rows.device).view(-1, 1, 1)
    windows = to_unit(rows.flatten(0, 1).index_select(0, source.flatten())).view(-1, source.shape[2], rows.shape[2])
    return torch.bmm(weights.flatten(0, 1), windows).view(n, -1, rows.shape[2])


def resized_crop(
    images: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor, size: int,
    hflip: Tensor | None = None, vflip: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Crop each image to its own box (pixels, (N,) each), resize to size × size, flip, all in one pass over each axis.

    Bilinear with antialiasing, as torchvision's `resized_crop(..., antialias=True)`: weights stop at the box.
    """
    down = _taps(top, height, images.shape[2], size, vflip)
    return _resampled(images, size, *down, *_taps(left, width, images.shape[3], size, hflip))


def _resampled(images: Tensor, size: int, down: Tensor, rows: Tensor, across: Tensor, columns: Tensor) -> Tensor:
    n, c, h, w = images.shape
    # channels_last images are rows of whole pixels in memory, and nothing is copied to get at them
    x = _resample(images.permute(0, 2, 3, 1).reshape(n, h, w * c), down, rows).view(n, size, w, c)
    x = _resample(x.permute(0, 2, 3, 1).reshape(n, w, c * size), across, columns).view(n, size, c, size)
    return x.permute(0, 2, 3, 1).contiguous()


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
    return (images * constant(GRAY, images.device).view(1, 3, 1, 1)).sum(1, keepdim=True)


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
    chroma = images.amax(1).sub_(low)
    distance = (g + b).sub_(r).sub_(low).div_(chroma.clamp(min=1e-12)).add_(1)  # grey pixels: any finite number will do
    hue = torch.copysign(distance, g - b).add_(6 * shift.view(-1, 1, 1))
    hue.sub_((hue / 6).round_(), alpha=6)  # −3 … 3, red at 0
    from_red = constant((0.0, -2.0, 2.0), hue.device).view(1, 3, 1, 1)  # red itself, green, blue
    away = (hue[:, None] + from_red).abs_()  # 0 … 5, both ways round the circle
    return away.sub_(3).abs_().clamp_(1, 2).mul_(chroma[:, None]).add_((low - chroma)[:, None])


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
    """`color_jitter`, then `grayscale` where `gray` (N,) says so, at a third of the cost: clamped to [0, 1] before the
    turn of the hue and at the end, not after each operation.

    Without clamps brightness, contrast and saturation commute and are one matrix; only what comes before the hue must
    stay before it. Grayscale is a saturation of 0. The turn of the hue is HSV's, exactly: the linear one, about the
    grey axis of YIQ, would make all of it a single matrix, but is another operation. Measured on 1,000 EuroSAT images
    with the study's recipe, against the exact form: 0.04 grey levels of 255 on average, 42 at most, 1.1 % of the values
    by more than half a level; with a linear hue 3.4 on average, 70 at most, 64 % of the values.
    """
    return _colours_mapped(images, *_colour_maps(factors, hue, order, gray))


def _colour_maps(factors: Tensor, hue: Tensor, order: Tensor, gray: Tensor) -> tuple[Tensor, ...]:
    place = order.argsort(1)
    before = place[:, :3] < place[:, 3:]
    brightness, contrast, saturation = factors.where(~before, 1.0).unbind(1)
    after = torch.stack([brightness, contrast, saturation.where(~gray, 0.0)], 1)
    return *_colour_map(factors.where(before, 1.0)), hue, *_colour_map(after)


def _colour_map(factors: Tensor) -> tuple[Tensor, Tensor]:
    """(N, 3) factors → (N, 3, 3) what makes the new colours of the old, and (N, 1, 1) of the image's mean luma."""
    brightness, contrast, saturation = factors[..., None, None].unbind(1)
    mix = torch.eye(3, device=factors.device) * saturation + (1 - saturation) * constant(GRAY, factors.device)
    return brightness * contrast * mix, brightness * (1 - contrast)


def _colours_mapped(images: Tensor, *maps: Tensor) -> Tensor:
    def mapped(x: Tensor, matrix: Tensor, pull: Tensor) -> Tensor:
        luma = (x.mean((2, 3)) * constant(GRAY, x.device)).sum(1).view(-1, 1, 1)
        return torch.baddbmm((pull * luma).expand(-1, 3, 1), matrix, x.flatten(2)).view_as(x).clamp_(0, 1)

    return mapped(adjust_hue(mapped(images, *maps[:2]), maps[2]), *maps[3:])


def band_jitter(images: Tensor, brightness: Tensor, contrast: Tensor) -> Tensor:
    """Every band of every image by factors of its own, (N, C) each: brightness, then contrast about the band's mean."""
    images = images * brightness[..., None, None]
    mean = images.mean((2, 3), keepdim=True)
    return (mean + contrast[..., None, None] * (images - mean)).clamp(0, 1)


def gaussian_blur3(images: Tensor, sigma: Tensor) -> Tensor:
    """3 × 3 Gaussian blur with its own sigma (pixels) for each image, (N,); edges reflected."""
    side = torch.exp(-0.5 / sigma**2)
    side = (side / (1 + 2 * side)).view(-1, 1, 1, 1)
    x = F.pad(images, (1, 1, 1, 1), mode="reflect")
    for axis in (2, 3):  # the kernel is the product of one down and one across
        before, centre, after = (x.narrow(axis, start, x.shape[axis] - 2) for start in range(3))
        x = torch.addcmul(centre, side, (before + after).sub_(centre, alpha=2))
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
        drawn = (*self._taps(u, *images.shape[2:]), *self._colours(u))
        with torch.autocast(device.type, enabled=False):
            for out, *some in zip(*(t.split(chunk) for t in (views, images, u, noise, *drawn)), strict=True):
                out.copy_(self._view(*some))
        return views

    def _taps(self, u: Tensor, height: int, width: int) -> tuple[Tensor, ...]:
        top, left, h, w = random_boxes(u[:, :22], height, width, self.scale, self.ratio)
        hflip, vflip = u[:, 22] < self.hflip, u[:, 23] < self.vflip
        if self.rotate:  # a turn is a transposition, or none, and flips: these cost nothing here
            turns = (4 * u[:, 24]).long()
            hflip, vflip = hflip ^ ((turns == 1) | (turns == 2)), vflip ^ (turns >= 2)
        return *_taps(top, h, height, self.size, vflip), *_taps(left, w, width, self.size, hflip)

    def _view(self, x: Tensor, u: Tensor, noise: Tensor, *drawn: Tensor) -> Tensor:
        x = _resampled(x, self.size, *drawn[:4])
        if self.rotate:
            x = torch.where(((4 * u[:, 24]).long() % 2 == 1).view(-1, 1, 1, 1), x.mT, x)
        paint = _compiled(SimCLRAugmentation._paint) if self.compile else SimCLRAugmentation._paint
        return paint(self, x, u, noise, *drawn[4:])

    def _paint(self, x: Tensor, u: Tensor, noise: Tensor, *colours: Tensor) -> Tensor:
        if self.solarize_p:
            x = torch.where((u[:, 25] < self.solarize_p).view(-1, 1, 1, 1) & (x >= 128 / 255), 1 - x, x)
        x = self._colour(x, *colours)
        if self.blur_sigma:
            x = gaussian_blur3(x, self.blur_sigma[0] + (self.blur_sigma[1] - self.blur_sigma[0]) * u[:, 36])
        if self.noise_p:
            x = (x + 0.05 * noise * (u[:, 37] < self.noise_p).view(-1, 1, 1, 1)).clamp(0, 1)
        if self.cutout_p:
            row, column = (self.size * u[:, 38:40]).long().unbind(1)
            x = torch.where((u[:, 40] < self.cutout_p).view(-1, 1, 1, 1), cutout(x, row, column, 16), x)
        x = normalize(x, self.mean, self.std)
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
        return jitter if self.exact else _colour_maps(*jitter)

    def _colour(self, x: Tensor, *drawn: Tensor) -> Tensor:
        if self.jitter_p and not self.band_jitter and not self.exact:
            return _colours_mapped(x, *drawn)
        *jitter, gray = drawn
        if jitter:
            x = band_jitter(x, *jitter) if self.band_jitter else color_jitter(x, *jitter)
        return torch.where(gray.view(-1, 1, 1, 1), grayscale(x), x) if self.gray_p else x


def random_dihedral(images: Tensor, generator: torch.Generator) -> Tensor:
    """One of the eight flips and quarter turns for each square image: all a label on the ground can ask for."""
    u = _there(torch.rand(len(images), 2, generator=generator, device=generator.device), images.device)
    images = torch.where((u[:, 0] < 0.5).view(-1, 1, 1, 1), images.flip(3), images)
    return rot90(images, (4 * u[:, 1]).long())
