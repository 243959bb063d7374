"""Two random views of a whole batch at once, on the device the batch is on (SimCLR, appendix A).

The functions here, in `src.resampling` and in `src.colours` do one operation each on a batch (N, C,
H, W) of float images in [0, 1], *every image by its own parameters*, as torchvision's do of one.
`SimCLRAugmentation` draws them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from src.augmentations.colours import (
    band_jitter,
    color_jitter,
    colour_mix,
    colours_mixed,
    grayscale,
)
from src.augmentations.resampling import constant, random_boxes, resampled, rot90, taps

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Mean and deviation of reflectance in BigEarthNet-S2 v1, bands as src.data.patch.ALL_BANDS:
# measured over the whole set by its authors (BAND_STATS_S2 of bigearthnet-common).
BANDS_MEAN = (
    0.0341,
    0.0430,
    0.0614,
    0.0590,
    0.0951,
    0.1792,
    0.2075,
    0.2219,
    0.2266,
    0.2246,
    0.1594,
    0.1009,
)
BANDS_STD = (
    0.0555,
    0.0572,
    0.0583,
    0.0676,
    0.0730,
    0.1096,
    0.1273,
    0.1365,
    0.1356,
    0.1302,
    0.1079,
    0.0819,
)
STATISTICS = {3: (IMAGENET_MEAN, IMAGENET_STD), 12: (BANDS_MEAN, BANDS_STD)}
# what SimCLRAugmentation needs for twelve bands: hue and grey are words about what an eye sees
SPECTRAL = {"gray_p": 0.0, "band_jitter": (0.2, 0.2), "band_drop_p": 0.1}
# images worked on at a time: forty passes over them stay in a core's caches (256: a third as fast)
CPU_CHUNK = 16


def _there(drawn: Tensor, device: torch.device) -> Tensor:
    if device.type == "cuda" and drawn.device.type == "cpu":
        return drawn.pin_memory().to(
            device, non_blocking=True
        )  # without waiting for what the GPU has still to do
    return drawn.to(device)


def normalize(
    images: Tensor,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    inplace: bool = False,
) -> Tensor:
    """(images − mean) / std per channel of (N, C, H, W); None: ImageNet's for RGB, BigEarthNet's
    for twelve bands.
    """
    usual = STATISTICS.get(images.shape[1], STATISTICS[3])
    mean, std = mean or usual[0], std or usual[1]
    if images.shape[1] != len(mean):
        raise ValueError(
            f"{images.shape[1]}-channel images, but mean and std have {len(mean)} values: pass"
            " your own"
        )
    offset, scale = (
        constant(values, images.device).view(1, -1, 1, 1)
        for values in (tuple(mean), tuple(1 / s for s in std))
    )
    return (images.sub_(offset) if inplace else images - offset).mul_(scale)


def gaussian_blur3(images: Tensor, sigma: Tensor) -> Tensor:
    """3 × 3 Gaussian blur with its own sigma (pixels) for each image, (N,); edges reflected."""
    return _blurred(images.contiguous(), _centre(sigma))


def _centre(sigma: Tensor) -> Tensor:
    """The middle weight of a kernel of three, (N, 1, 1, 1)."""
    return (1 / (1 + 2 * torch.exp(-0.5 / sigma**2))).view(-1, 1, 1, 1)


def _blurred(x: Tensor, centre: Tensor) -> Tensor:
    for axis in (2, 3):  # the kernel is the product of one down and one across
        line, step, sides = x.flatten(), x.stride(axis), torch.empty_like(x)
        # in one line through memory, over the edges, which are put right afterwards: twice as fast
        # as by rows
        torch.lerp(line[: -2 * step], line[2 * step :], 0.5, out=sides.flatten()[step:-step])
        sides.select(axis, 0).copy_(x.select(axis, 1))
        sides.select(axis, -1).copy_(x.select(axis, -2))
        x = sides.lerp_(x, centre)
    return x


def cutout(images: Tensor, row: Tensor, column: Tensor, length: int) -> Tensor:
    """Black out a length × length square whose centre is at (row, column) pixels, (N,) each
    (DeVries & Taylor 2017).
    """

    def inside(centre: Tensor, pixels: int) -> Tensor:
        offset = torch.arange(pixels, device=images.device) - centre.view(-1, 1) + length // 2
        return (offset >= 0) & (offset < length)

    square = inside(row, images.shape[2])[:, :, None] & inside(column, images.shape[3])[:, None, :]
    return images.masked_fill(square[:, None], 0.0)


@cache
def _compiled(function: Callable) -> Callable:
    return torch.compile(function)


@dataclass(frozen=True)
class SimCLRAugmentation:
    """One random view of every image of a batch; call it twice for a positive pair.

    Operations and order: random resized crop, flips, colour jitter, grayscale, blur, normalisation;
    the satellite extras are off until switched on. The crop chooses the scale from the native
    pixels: no resizing before it.
    """

    size: int = 64  # pixels of the view
    scale: tuple[float, float] = (0.2, 1.0)  # crop area as a share of the image
    ratio: tuple[float, float] = (3 / 4, 4 / 3)  # crop width / height
    hflip: float = 0.5  # probability
    jitter: tuple[float, float, float, float] = (
        0.4,
        0.4,
        0.4,
        0.1,
    )  # brightness, contrast, saturation, hue
    jitter_p: float = 0.8
    gray_p: float = 0.2
    blur_sigma: tuple[float, float] | None = (0.1, 2.0)  # pixels; None switches the blur off
    mean: tuple[float, ...] | None = None  # of the channels in [0, 1]; None: see `normalize`
    std: tuple[float, ...] | None = None
    band_jitter: tuple[float, float] | None = (
        None  # brightness and contrast, each band its own, in place of `jitter`
    )
    band_drop_p: float = 0.0  # probability of each band to be lost: set to its mean
    vflip: float = 0.0  # satellite extra: 0.5 where north is not up
    rotate: bool = False  # satellite extra: a random number of quarter turns
    solarize_p: float = (
        0.0  # satellite extra: published value 0.2; inverts pixels from 128 of 255 up
    )
    noise_p: float = 0.0  # satellite extra: published value 0.3; Gaussian, σ 0.05
    cutout_p: float = 0.0  # satellite extra: published value 0.2; one black 16-pixel square
    # what follows the crop by torch.compile: fewer passes over a GPU's memory; slower on a CPU
    compile: bool = False
    exact: bool = (
        False  # colours op by op, clamped after each as torchvision does; False: see `fused_jitter`
    )

    @torch.no_grad()
    def __call__(
        self, images: Tensor, generator: torch.Generator, part: tuple[int, int] = (0, 1)
    ) -> Tensor:
        """(N, C, H, W) uint8, uint16 or float in [0, 1] → (N, C, size, size) float32, normalised,
        on the same device.

        Every random number is drawn from `generator`, so the same state gives the same views.
        `part` (k, n): the images are the k-th of n equal parts of a batch, and get the views that
        they would get in the whole of it.

        Raises:
            ValueError: not a batch of images; colour operations asked for on other than three
                channels.
        """
        if images.dim() != 4:
            raise ValueError(f"expected a batch (N, C, H, W), got {tuple(images.shape)}")
        channels = images.shape[1]
        if channels != 3 and (self.gray_p or (self.jitter_p and not self.band_jitter)):
            raise ValueError(
                f"colour jitter and grayscale need RGB, got {channels} channels: set both p to 0,"
                " or use SPECTRAL"
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
        # inference mode: a tenth faster; `views` is made outside of it, so that a network may learn
        # from them
        with torch.autocast(device.type, enabled=False), torch.inference_mode():
            low, high = self.blur_sigma or (1.0, 1.0)
            drawn = (
                *self._taps(u, *images.shape[2:]),
                _centre(low + (high - low) * u[:, 36]),
                *self._colours(u),
            )
            for out, *some in zip(
                *(t.split(chunk) for t in (views, images, u, noise, *drawn)), strict=True
            ):
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
        weights, source = taps(*boxes, (height, width), self.size)
        return *weights, *source

    def _view(self, x: Tensor, u: Tensor, noise: Tensor, *drawn: Tensor) -> Tensor:
        x = resampled(x, *drawn[:4])
        if self.rotate:
            x = torch.where(
                ((4 * u[:, 24]).long() % 2 == 1).view(-1, 1, 1, 1), x.mT, x
            ).contiguous()
        paint = _compiled(SimCLRAugmentation._paint) if self.compile else SimCLRAugmentation._paint
        return paint(self, x, u, noise, *drawn[4:])

    def _paint(self, x: Tensor, u: Tensor, noise: Tensor, blur: Tensor, *colours: Tensor) -> Tensor:
        # the images lie on their side, which nothing here can tell
        if self.solarize_p:
            x = torch.where(
                (u[:, 25] < self.solarize_p).view(-1, 1, 1, 1) & (x >= 128 / 255), 1 - x, x
            )
        x = self._colour(x, *colours)
        if self.blur_sigma:
            x = _blurred(x, blur)
        if self.noise_p:
            x = (x + 0.05 * noise * (u[:, 37] < self.noise_p).view(-1, 1, 1, 1)).clamp(0, 1)
        if self.cutout_p:
            row, column = (self.size * u[:, 38:40]).long().unbind(1)
            x = torch.where(
                (u[:, 40] < self.cutout_p).view(-1, 1, 1, 1), cutout(x, row, column, 16), x
            )
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
            return (
                *(
                    1 + s * (2 * v - 1) * jittered
                    for s, v in zip(self.band_jitter, drawn, strict=False)
                ),
                gray,
            )
        strength = constant(self.jitter, u.device) * (2 * u[:, 27:31] - 1) * jittered
        jitter = (1 + strength[:, :3]).clamp(min=0), strength[:, 3], u[:, 31:35].argsort(1), gray
        return jitter if self.exact else colour_mix(*jitter)

    def _colour(self, x: Tensor, *drawn: Tensor) -> Tensor:
        if self.jitter_p and not self.band_jitter and not self.exact:
            return colours_mixed(x, *drawn)
        *jitter, gray = drawn
        if jitter:
            x = band_jitter(x, *jitter) if self.band_jitter else color_jitter(x, *jitter)
        return torch.where(gray.view(-1, 1, 1, 1), grayscale(x), x) if self.gray_p else x


def random_dihedral(images: Tensor, generator: torch.Generator) -> Tensor:
    """One of the eight flips and quarter turns for each square image: all a label on the ground can
    ask for.
    """
    u = _there(
        torch.rand(len(images), 2, generator=generator, device=generator.device), images.device
    )
    images = torch.where((u[:, 0] < 0.5).view(-1, 1, 1, 1), images.flip(3), images)
    return rot90(images, (4 * u[:, 1]).long())
