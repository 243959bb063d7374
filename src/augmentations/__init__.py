"""Random views of a whole batch at once, on the device the batch is on (SimCLR, appendix A).

The modules here do one operation each on a batch (N, C, H, W), *every image by its own parameters*,
as torchvision's transforms do of one image. `SimCLRAugmentation` draws these and strings them
together.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from src.augmentations.colours import (
    band_jitter,
    grayscale,
    jitter_shares,
    mix_colours,
    random_jitter,
)
from src.augmentations.filters import blur, blur_weights, cutout
from src.augmentations.normalisation import (
    BANDS_MEAN,
    BANDS_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    STATISTICS,
    check_statistics,
    normalize,
)
from src.augmentations.resampling import (
    crop_filters,
    filter_on_their_side,
    random_boxes,
    random_dihedral,
)
from src.augmentations.settings import check_settings
from src.augmentations.transfer import draw_normal, to_device
from src.checks import check_images

__all__ = [
    "BANDS_MEAN",
    "BANDS_STD",
    "CPU_CHUNK",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "SPECTRAL",
    "STATISTICS",
    "SimCLRAugmentation",
    "augmentation",
    "normalize",
    "random_dihedral",
]

# what SimCLRAugmentation needs for twelve bands: hue and grey are words about what an eye sees
SPECTRAL = {"gray_p": 0.0, "band_jitter": (0.2, 0.2), "band_drop_p": 0.1}
# images worked on at a time: forty passes over them stay in a core's caches (256: a third as fast)
CPU_CHUNK = 16
# The uniform numbers drawn for each image, in this order. They are always all drawn, so that one
# operation switched on or off leaves the parameters of the others as they were.
UNIFORM = {
    "box": 22,  # see `random_boxes`
    "hflip": 1,
    "vflip": 1,
    "turns": 1,
    "solarize": 1,
    "jitter": 9,  # see `random_jitter`
    "gray": 1,
    "blur": 1,
    "noise": 1,
    "cutout_centre": 2,
    "cutout": 1,
}
# one more of each for every band, drawn only where bands are jittered or dropped
UNIFORM_OF_BANDS = ("band_brightness", "band_contrast", "band_drop")


@dataclass(frozen=True)
class SimCLRAugmentation:
    """One random view of every image of a batch; call it twice for a positive pair.

    In this order: random resized crop with flips, quarter turn, solarisation, colour jitter,
    grayscale, blur, noise, cutout, normalisation, lost bands. Those called extra are for satellite
    images, and off until switched on. The crop chooses the scale from the native pixels: nothing
    is resized before it.
    """

    size: int = 64  # pixels of the view
    scale: tuple[float, float] = (0.2, 1.0)  # crop area as a share of the image
    ratio: tuple[float, float] = (3 / 4, 4 / 3)  # crop width / height
    hflip: float = 0.5  # probability
    # strengths of brightness, contrast, saturation, hue
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    jitter_p: float = 0.8
    gray_p: float = 0.2
    blur_sigma: tuple[float, float] | None = (0.1, 2.0)  # pixels; None switches the blur off
    mean: tuple[float, ...] | None = None  # of the channels in [0, 1]; None: see `normalize`
    std: tuple[float, ...] | None = None
    # brightness and contrast, each band by its own, in place of `jitter`
    band_jitter: tuple[float, float] | None = None
    band_drop_p: float = 0.0  # probability of each band to be lost: set to its mean
    vflip: float = 0.0  # extra: 0.5 where north is not up
    rotate: bool = False  # extra: a random number of quarter turns
    solarize_p: float = 0.0  # extra: published value 0.2; inverts pixels from 128 of 255 up
    noise_p: float = 0.0  # extra: published value 0.3; Gaussian, σ 0.05
    cutout_p: float = 0.0  # extra: published value 0.2; one black 16-pixel square
    # what follows the crop by torch.compile: fewer passes over a GPU's memory; slower on a CPU
    compile: bool = False

    def __post_init__(self) -> None:
        check_settings(self)

    @torch.no_grad()
    def __call__(
        self, images: Tensor, generator: torch.Generator, part: tuple[int, int] = (0, 1)
    ) -> Tensor:
        """Draw the parameters of every image and make its view.

        Args:
            images: (N, C, H, W) uint8, uint16 digital numbers, or float in [0, 1].
            generator: every random number is drawn from it: the same state gives the same views.
            part: (k, n) where the images are the k-th of n equal parts of a batch: they get the
                views that they would get in the whole of it.

        Returns:
            (N, C, size, size) float32, normalised, on the device of the images.

        Raises:
            ValueError: not a batch of images (see `check_images`, for which the host waits where
                they are other than uint8 and on a GPU: `draw` and `apply` do not look at them);
                colour operations asked for on other than three channels.
        """
        self.check(images)
        check_images(images)
        drawn = self.draw(images.shape[:2], generator, part, images.device)
        return self.apply(images, drawn)

    def check(self, images: Tensor) -> None:
        """Raise ValueError where (N, C, H, W) images are none, or have too few or many channels."""
        if images.dim() != 4:
            raise ValueError(f"expected a batch (N, C, H, W), got {tuple(images.shape)}")
        channels, jitter_of_rgb = images.shape[1], self.jitter_p and not self.band_jitter
        if channels != 3 and (self.gray_p or jitter_of_rgb):
            raise ValueError(
                f"colour jitter and grayscale need RGB, got {channels} channels: set both p to 0,"
                " or use SPECTRAL"
            )
        check_statistics(channels, self.mean, self.std)

    def draw(
        self,
        shape: tuple[int, int],
        generator: torch.Generator | list[torch.Generator],
        part: tuple[int, int],
        device: torch.device,
    ) -> dict[str, Tensor]:
        """The random numbers of (N, C) images; of several generators one after the other.

        They are those of `UNIFORM`, brought to the device in one copy, and the pixels of the noise,
        drawn there. Of a `part` (k, n) those of the whole batch are drawn, and its own returned.
        """
        (count, channels), (k, n) = shape, part
        widths = dict(UNIFORM)
        if self.band_jitter or self.band_drop_p:
            widths |= dict.fromkeys(UNIFORM_OF_BANDS, channels)
        uniform, noise = [], []
        for rng in generator if isinstance(generator, list) else [generator]:
            how = {"generator": rng, "device": rng.device}
            uniform.append(torch.rand(n * count, sum(widths.values()), **how).chunk(n)[k])
            if self.noise_p:
                pixels = (n * count, channels, self.size, self.size)
                noise.append(draw_normal(pixels, rng, device).chunk(n)[k])
        columns = to_device(torch.cat(uniform), device).split(list(widths.values()), dim=1)
        drawn = dict(zip(widths, columns, strict=True))
        return drawn | ({"noise_pixels": torch.cat(noise)} if noise else {})

    def apply(
        self, images: Tensor, drawn: dict[str, Tensor], dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """The views of images (N, C, H, W) with the numbers of `draw`: see `__call__`."""
        (count, channels), device = images.shape[:2], images.device
        shape = (count, channels, self.size, self.size)
        # made outside of inference mode, so that a network may learn from them
        views = torch.empty(shape, dtype=dtype, device=device, memory_format=torch.channels_last)
        chunk = CPU_CHUNK if device.type == "cpu" else max(1, count)
        # inference mode is a tenth faster
        with torch.autocast(device.type, enabled=False), torch.inference_mode():
            parameters = self._parameters(drawn, images.shape[2:])
            for start in range(0, count, chunk):
                rows = slice(start, start + chunk)
                params_of_chunk = {name: value[rows] for name, value in parameters.items()}
                made = self._view(images[rows], params_of_chunk).mT
                # on a CPU one channel at a time is twice as fast
                for channel in range(channels) if device.type == "cpu" else (slice(None),):
                    views[rows, channel].copy_(made[:, channel])
        return views

    def _parameters(self, drawn: dict[str, Tensor], shape: tuple[int, int]) -> dict[str, Tensor]:
        """What `_view` needs of each image, (N, …) each, made from the random numbers at once."""

        def happens(name: str, p: float) -> Tensor:
            return (drawn[name] < p)[..., None, None]

        made = self._crop(drawn, shape)
        if self.rotate:
            made["on_its_side"] = (4 * drawn["turns"]).long()[..., None, None] % 2 == 1
        if self.solarize_p:
            made["solarize"] = happens("solarize", self.solarize_p)
        made |= self.colour_parameters(drawn)
        if self.blur_sigma:
            low, high = self.blur_sigma
            made["blur"] = blur_weights(low + (high - low) * drawn["blur"])
        if self.noise_p:
            made["noisy"] = happens("noise", self.noise_p)
            made["noise_pixels"] = drawn["noise_pixels"]
        if self.cutout_p:
            made["cut_out"] = happens("cutout", self.cutout_p)
            made["cutout_centre"] = (self.size * drawn["cutout_centre"]).long()
        if self.band_drop_p:
            made["lost"] = happens("band_drop", self.band_drop_p)
        return made

    def _crop(self, drawn: dict[str, Tensor], shape: tuple[int, int]) -> dict[str, Tensor]:
        """The filters of `filter_on_their_side`, which crop, resize and flip at once."""
        top, left, height, width = random_boxes(drawn["box"], *shape, self.scale, self.ratio)
        vflip, hflip = drawn["vflip"][:, 0] < self.vflip, drawn["hflip"][:, 0] < self.hflip
        if self.rotate:  # a quarter turn is a transposition and flips, and these cost nothing here
            turns = (4 * drawn["turns"][:, 0]).long()
            hflip, vflip = hflip ^ ((turns == 1) | (turns == 2)), vflip ^ (turns >= 2)
        corner, extent = torch.stack([top, left]), torch.stack([height, width])
        flips = torch.stack([vflip, hflip])
        (down, across), (rows, columns) = crop_filters(corner, extent, flips, shape, self.size)
        return {"down": down, "across": across, "rows": rows, "columns": columns}

    def _view(self, images: Tensor, params: dict[str, Tensor]) -> Tensor:
        """The views of a few images by their parameters, transposed: x before y."""
        x = filter_on_their_side(
            images, params["down"], params["across"], params["rows"], params["columns"]
        )
        if self.rotate:
            x = torch.where(params["on_its_side"], x.mT, x).contiguous()
        finish = type(self)._after_the_crop
        finish = _compiled(finish) if self.compile else finish
        return finish(self, x, params)

    def _after_the_crop(self, x: Tensor, params: dict[str, Tensor]) -> Tensor:
        """All that follows the crop; nothing here can tell that the images lie on their side."""
        if self.solarize_p:
            x = torch.where(params["solarize"] & (x >= 128 / 255), 1 - x, x)
        x = self.colours(x, params)
        if self.blur_sigma:
            x = blur(x, params["blur"])
        if self.noise_p:
            x = (x + 0.05 * params["noise_pixels"] * params["noisy"]).clamp(0, 1)
        if self.cutout_p:
            row, column = params["cutout_centre"].unbind(1)
            x = torch.where(params["cut_out"], cutout(x, row, column, 16), x)
        x = normalize(x, self.mean, self.std, inplace=True)
        if self.band_drop_p:
            x = x.masked_fill(params["lost"], 0.0)
        return x

    def colour_parameters(self, drawn: dict[str, Tensor]) -> dict[str, Tensor]:
        """What `colours` needs of each image, made from the random numbers of `draw`."""
        gray = drawn["gray"][:, 0] < self.gray_p
        if self.jitter_p and not self.band_jitter:
            factors, hue, order = random_jitter(drawn["jitter"], self.jitter, self.jitter_p)
            return {"hue": hue, "shares": jitter_shares(factors, order, gray)}
        made = {"gray": gray.view(-1, 1, 1, 1)}
        if self.jitter_p:
            jittered = (drawn["jitter"][:, :1] < self.jitter_p).float()
            for name, strength in zip(("brightness", "contrast"), self.band_jitter, strict=True):
                change = strength * (2 * drawn[f"band_{name}"] - 1) * jittered
                made[name] = 1 + change
        return made

    def colours(self, x: Tensor, params: dict[str, Tensor]) -> Tensor:
        """Colour jitter and grayscale of (n, C, size, size) in [0, 1] by `colour_parameters`."""
        if self.jitter_p and not self.band_jitter:
            return mix_colours(x, params["hue"], params["shares"])
        if self.jitter_p:
            x = band_jitter(x, params["brightness"], params["contrast"])
        return torch.where(params["gray"], grayscale(x), x) if self.gray_p else x


def augmentation(size: int, changes: dict[str, Any]) -> SimCLRAugmentation:
    """The augmentation with some of its settings changed. ValueError: that changes none."""
    try:
        return SimCLRAugmentation(size, **changes)
    except TypeError as error:  # no dictionary, no such key, or the size once more
        raise ValueError(f"{changes!r} changes no SimCLRAugmentation ({error})") from error


@cache
def _compiled(function: Callable) -> Callable:
    return torch.compile(function)
