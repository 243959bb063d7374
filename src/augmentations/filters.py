"""Blur and cutout of a whole batch of (N, C, H, W) images, each by its own parameters."""

import torch
from torch import Tensor


def blur_weights(sigma: Tensor) -> Tensor:
    """The middle weights (N, 1, 1, 1) of Gaussian kernels of three, from their (N,) σ in pixels."""
    return (1 / (1 + 2 * torch.exp(-0.5 / sigma**2))).view(-1, 1, 1, 1)


def blur(images: Tensor, middle: Tensor) -> Tensor:
    """3 × 3 Gaussian blur of contiguous images, by `blur_weights`; edges are reflected.

    The kernel is the product of one down and one across. Each runs in one line through memory, over
    the edges, which are put right afterwards: that is twice as fast as row by row.
    """
    for axis in (2, 3):
        line, step, sides = images.flatten(), images.stride(axis), torch.empty_like(images)
        torch.lerp(line[: -2 * step], line[2 * step :], 0.5, out=sides.flatten()[step:-step])
        sides.select(axis, 0).copy_(images.select(axis, 1))
        sides.select(axis, -1).copy_(images.select(axis, -2))
        images = sides.lerp_(images, middle)
    return images


def cutout(images: Tensor, row: Tensor, column: Tensor, length: int) -> Tensor:
    """Black out one length × length square of each image (DeVries & Taylor 2017).

    Args:
        row, column: (N,) pixel of the square's centre; what sticks out of the image is cut off.
        length: pixels.
    """

    def covered(centre: Tensor, pixels: int) -> Tensor:
        offset = torch.arange(pixels, device=images.device) - centre.view(-1, 1) + length // 2
        return (offset >= 0) & (offset < length)

    rows, columns = covered(row, images.shape[2]), covered(column, images.shape[3])
    square = rows[:, None, :, None] & columns[:, None, None, :]
    return images.masked_fill(square, 0.0)
