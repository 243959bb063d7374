"""Every operation against torchvision, one image at a time, and what the batched pipeline promises.

Inputs are float unless a test says otherwise: on uint8 torchvision rounds after every operation, we
never do.
"""

import functools
import itertools
import math

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from PIL import Image
from scipy import stats
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms import RandomResizedCrop

from benchmarks.exact_colours import ExactColours, color_jitter
from src import augmentations as A
from src.augmentations import SimCLRAugmentation, blocks, colours, filters, resampling
from src.augmentations.tones import draw_tones, path_reflectance, transmittance
from src.data.bands import ALL_BANDS
from src.data.bigearthnet.patch import read_patch
from src.runs.distributed import World
from src.runs.runtime import generator

# float32 rounding over a few dozen terms; one grey level of 255 is 4e-3
TIGHT = {"rtol": 0, "atol": 1e-5}
UNIT = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}  # a view before normalisation
OFF = {"hflip": 0.0, "jitter_p": 0.0, "gray_p": 0.0, "blur_sigma": None, **UNIT}
# the view is the image until something is switched on
WHOLE = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), **OFF}
EVERYTHING = {"vflip": 0.5, "rotate": True, "solarize_p": 0.5, "noise_p": 0.5, "cutout_p": 0.5}


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def photos(n=4, height=32, width=32, channels=3, seed=0):
    """Noise over a ramp, with pure black, white, grey and primary pixels: the corners of every
    colour operation.
    """
    x = torch.rand(n, channels, height, width, generator=rng(seed))
    x[:, :, :4] *= torch.linspace(0, 1, width)
    if channels == 3:
        corners = torch.tensor(
            [*itertools.product((0.0, 1.0), repeat=3), (0.5, 0.5, 0.5), (0.7, 0.7, 0.2)]
        )
        x[:, :, 5, : len(corners)] = corners.T[:, :width]
    return x


def each(function, images, *parameters):
    """`function` of one image and its own parameters, stacked."""
    return torch.stack([function(x, *row) for x, *row in zip(images, *parameters, strict=True)])


def whole(*values):
    return [torch.tensor(v) for v in values]


BOXES = [
    ((32, 32), (0, 0, 32, 32)),  # the whole image
    ((32, 32), (5, 7, 20, 13)),  # inside
    ((32, 32), (0, 19, 9, 13)),  # in the corner
    ((32, 32), (31, 31, 1, 1)),  # one pixel
    ((40, 90), (2, 3, 37, 80)),  # shrinking a non-square image
    ((150, 70), (0, 0, 150, 70)),  # shrinking sixfold: a wide antialiasing filter
    ((50, 9), (10, 0, 30, 9)),  # shrinking down, enlarging across
]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", [8, 24, 64])
@pytest.mark.parametrize(("shape", "box"), BOXES)
def test_resized_crop_equals_torchvision(shape, box, size, flip):
    x = photos(1, *shape)
    expected = TF.resized_crop(x, *box, [size, size], antialias=True)
    expected = TF.vflip(TF.hflip(expected)) if flip else expected
    flips = (torch.tensor([flip]), torch.tensor([flip]))
    ours = resampling.resized_crop(x, *(torch.tensor([v]) for v in box), size, flips)
    torch.testing.assert_close(ours, expected, **TIGHT)


def test_resized_crop_gives_each_image_its_own_box_and_flips():
    x = photos(4, 40, 50)
    boxes = whole([0, 3, 10, 20], [1, 0, 25, 9], [40, 10, 30, 15], [49, 12, 25, 41])
    hflip, vflip = whole([False, True, False, True], [False, False, True, True])

    def reference(image, top, left, height, width, h, v):
        crop = TF.resized_crop(image[None], top, left, height, width, [24, 24], antialias=True)[0]
        crop = TF.hflip(crop) if h else crop
        return TF.vflip(crop) if v else crop

    expected = each(reference, x, *boxes, hflip, vflip)
    ours = resampling.resized_crop(x, *boxes, 24, (vflip, hflip))
    torch.testing.assert_close(ours, expected, **TIGHT)


def test_resize_equals_torchvision_antialiased():
    x = photos(2, 256, 256)
    torch.testing.assert_close(
        resampling.resize(x, 64), TF.resize(x, [64, 64], antialias=True), **TIGHT
    )
    # and not the aliased one, which is what plain interpolation would give
    assert (resampling.resize(x, 64) - TF.resize(x, [64, 64], antialias=False)).abs().max() > 0.1


def test_resize_to_its_own_size_is_the_image_itself():
    x = photos(2, 64, 64)
    assert torch.equal(resampling.resize(x, 64), x)
    identity = whole([0, 0], [0, 0], [64, 64], [64, 64])
    torch.testing.assert_close(resampling.resized_crop(x, *identity, 64), x, rtol=0, atol=1e-6)


def test_rot90_equals_torch_rot90():
    x, turns = photos(4), torch.arange(4)
    assert torch.equal(
        resampling.rot90(x, turns),
        each(lambda image, k: torch.rot90(image, int(k), (1, 2)), x, turns),
    )


def test_grayscale_equals_torchvision():
    x = photos()
    torch.testing.assert_close(colours.grayscale(x), TF.rgb_to_grayscale(x), **TIGHT)


def test_hue_equals_torchvision():
    shifts = [-0.5, -0.1, -0.01, 0.0, 0.1, 0.25, 0.5]
    x = photos(len(shifts))
    # torchvision takes hue through floor(6h) and a table: other arithmetic, same number
    torch.testing.assert_close(
        colours.adjust_hue(x, torch.tensor(shifts)), each(TF.adjust_hue, x, shifts), **TIGHT
    )


def test_hue_leaves_grey_pixels_grey():
    x = torch.linspace(0, 1, 64).view(1, 1, 8, 8).expand(2, 3, 8, 8)
    assert torch.equal(colours.adjust_hue(x, torch.tensor([0.3, -0.5])), x)


def test_color_jitter_equals_torchvision_in_all_24_orders():
    orders = torch.tensor(list(itertools.permutations(range(4))))
    x = photos(len(orders))
    factors = 2.5 * torch.rand(len(orders), 3, generator=rng(1))
    factors[0] = 0
    hue = 0.2 * torch.rand(len(orders), generator=rng(2)) - 0.1

    def reference(image, factors, hue, order):
        operations = [TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue]
        for n in order.tolist():
            image = operations[n](image, [*factors.tolist(), hue.item()][n])
        return image

    expected = each(reference, x, factors, hue, orders)
    torch.testing.assert_close(color_jitter(x, factors, hue, orders), expected, **TIGHT)
    # the orders do differ, or the agreement would show nothing about them
    of_one = (value[1:2].expand_as(value) for value in (x, factors, hue))
    same = color_jitter(*of_one, orders)
    assert (same[1:] - same[:-1]).abs().amax((1, 2, 3)).max() > 0.02


def test_blur_equals_torchvision():
    sigmas = [0.1, 0.3, 0.5, 1.0, 1.5, 2.0]
    x = photos(len(sigmas), 16, 24)
    expected = each(lambda image, sigma: TF.gaussian_blur(image, [3, 3], [sigma, sigma]), x, sigmas)
    ours = filters.blur(x, filters.blur_weights(torch.tensor(sigmas)))
    torch.testing.assert_close(ours, expected, **TIGHT)


def test_solarize_equals_torchvision():
    # no resizing before it, else a pixel at the threshold could round to either side
    x = (255 * photos(2, 16, 16)).byte()
    views = SimCLRAugmentation(size=16, solarize_p=1.0, **WHOLE)(x, rng())
    torch.testing.assert_close(views, TF.solarize(x, 128) / 255, rtol=0, atol=1e-6)
    assert not torch.allclose(views, x / 255)


def test_normalize_equals_torchvision():
    x = photos()
    expected = TF.normalize(x, A.IMAGENET_MEAN, A.IMAGENET_STD)
    torch.testing.assert_close(A.normalize(x), expected, **TIGHT)


def test_crop_and_brightness_are_within_two_grey_levels_of_pil():
    # Pillow rounds to whole grey levels after the crop (and between its two passes) and truncates
    # after the brightness: at most half a level each for the passes, carried through the factor
    # 1.4, and one for the truncation
    x = (255 * photos(3, 48, 60)).byte()
    boxes, factors = (
        whole([0, 5, 20], [3, 0, 31], [48, 30, 20], [50, 60, 28]),
        torch.tensor([0.6, 1.1, 1.4]),
    )

    def reference(image, top, left, height, width, factor):
        crop = TF.resized_crop(
            Image.fromarray(image.permute(1, 2, 0).numpy()), top, left, height, width, [32, 32]
        )
        return TF.pil_to_tensor(TF.adjust_brightness(crop, float(factor)))

    expected = each(reference, x, *(b.tolist() for b in boxes), factors).float()
    ours = 255 * (factors.view(-1, 1, 1, 1) * resampling.resized_crop(x, *boxes, 32)).clamp(0, 1)
    assert (ours - expected).abs().max() <= 2.0
    assert (ours - expected).abs().mean() < 0.7  # and no offset beyond the truncation


def torchvision_boxes(n, height, width, scale, ratio):
    image = torch.empty(1, height, width)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.tensor(
            [RandomResizedCrop.get_params(image, list(scale), list(ratio)) for _ in range(n)]
        ).T


@pytest.mark.parametrize(("height", "width"), [(64, 64), (60, 110)])
@pytest.mark.parametrize("scale", [(0.2, 1.0), (0.08, 0.5)])
def test_boxes_are_distributed_as_torchvisions(height, width, scale):
    ratio = (3 / 4, 4 / 3)
    uniform = torch.rand(3000, 22, generator=rng(1))
    ours = resampling.random_boxes(uniform, height, width, scale, ratio)
    theirs = torchvision_boxes(3000, height, width, scale, ratio)

    def described(top, left, h, w):
        # position as a share of the room there is: the box's size is compared by itself
        return [h * w, w / h, top / (height - h).clamp(min=1), left / (width - w).clamp(min=1)]

    for mine, reference in zip(described(*ours), described(*theirs.float()), strict=True):
        assert stats.ks_2samp(mine.numpy(), reference.numpy()).pvalue > 1e-3


def test_boxes_are_whole_pixels_inside_the_image_and_reach_its_edges():
    top, left, h, w = resampling.random_boxes(
        torch.rand(5000, 22, generator=rng()), 40, 56, (0.2, 1.0), (0.75, 4 / 3)
    )
    assert all(torch.equal(v, v.round()) for v in (top, left, h, w))
    assert (min(top.min(), left.min()), (top + h).max(), (left + w).max()) == (0, 40, 56)
    assert h.min() > 0 and w.min() > 0


@pytest.mark.parametrize(("height", "width"), [(10, 200), (200, 10), (7, 100), (300, 11)])
def test_extreme_images_fall_back_to_torchvisions_central_crop(height, width):
    # a crop of 80 % of the area cannot have an aspect near 1 here: all ten attempts fail
    boxes = resampling.random_boxes(
        torch.rand(5, 22, generator=rng()), height, width, (0.8, 1.0), (3 / 4, 4 / 3)
    )
    expected = torchvision_boxes(1, height, width, (0.8, 1.0), (3 / 4, 4 / 3))
    assert torch.equal(torch.stack(boxes), expected.float().expand(4, 5))


def test_fallback_between_the_ratios_is_the_whole_image():
    # areas above the image's own never fit
    boxes = resampling.random_boxes(
        torch.rand(3, 22, generator=rng()), 30, 33, (1.5, 2.0), (3 / 4, 4 / 3)
    )
    assert torch.equal(torch.stack(boxes), torch.tensor([0.0, 0, 30, 33])[:, None].expand(4, 3))


def unlikely(count, n, p):
    return stats.binomtest(count, n, p).pvalue <= 1e-3


@pytest.mark.parametrize("p", [0.2, 0.5, 0.8])
@pytest.mark.parametrize(
    "option", ["hflip", "vflip", "gray_p", "jitter_p", "solarize_p", "noise_p", "cutout_p"]
)
def test_operations_happen_at_their_rate(option, p):
    n = 600
    x = photos(1, 16, 16, seed=5).expand(n, -1, -1, -1)
    views = SimCLRAugmentation(size=16, **{**WHOLE, option: p})(x, rng(3))
    changed = ((views - x).abs().amax((1, 2, 3)) > 1e-4).sum().item()
    assert not unlikely(changed, n, p)


def test_flips_happen_independently_of_each_other():
    n = 800
    x = torch.tensor([[0.0, 1.0], [2.0, 3.0]]).div(3).expand(n, 3, 2, 2)
    views = SimCLRAugmentation(size=2, vflip=0.5, **{**WHOLE, "hflip": 0.5})(x, rng())
    first = (3 * views[:, 0, 0, 0]).round().long()
    assert stats.chisquare(first.bincount(minlength=4).numpy()).pvalue > 1e-3


def test_jitter_strengths_fill_their_range():
    # of a grey image only brightness acts, and shows its factor
    x = torch.full((3000, 3, 2, 2), 0.4)
    options = {**WHOLE, "jitter": (0.4, 0.0, 0.0, 0.0), "jitter_p": 1.0}
    factors = SimCLRAugmentation(size=2, **options)(x, rng())[:, 0, 0, 0] / 0.4
    assert stats.kstest(factors.numpy(), "uniform", (0.6, 0.8)).pvalue > 1e-3


def test_all_24_orders_of_the_jitter_occur():
    *_, order = colours.random_jitter(torch.rand(2400, 9, generator=rng()), (0.4,) * 4, 1.0)
    orders, counts = order.unique(dim=0, return_counts=True)
    assert len(orders) == 24
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_order_of_the_jitter_is_independent_of_its_strength():
    uniform = torch.rand(2000, 9, generator=rng())
    factors, hue, order = colours.random_jitter(uniform, (0.4, 0.4, 0.4, 0.1), 1.0)
    strengths, places = torch.cat([factors, hue[:, None]], 1), order.argsort(1).float()
    between = torch.corrcoef(torch.cat([strengths, places], 1).T)[:4, 4:]
    assert between.abs().max() < 4 / 2000**0.5  # four standard errors of no correlation


def test_the_parameters_of_the_jitter_are_those_of_the_views():
    # of a grey image brightness shows its factor, of red the hue its turn, whatever the order
    x = torch.full((200, 3, 2, 2), 0.4)
    x[100:, 1:] = 0.0
    options = {**WHOLE, "jitter": (0.4, 0.0, 0.0, 0.3), "jitter_p": 0.5}
    augment = SimCLRAugmentation(size=2, **options)
    drawn = augment.draw(x.shape[:2], rng(), (0, 1), x.device)
    factors, hue, _ = colours.random_jitter(drawn["jitter"], augment.jitter, augment.jitter_p)
    views = augment(x, rng())[..., 0, 0]
    torch.testing.assert_close(views[:100], (0.4 * factors[:100, :1]).expand(-1, 3), **TIGHT)
    turned = colours.adjust_hue(x[100:] * factors[100:, 0].view(-1, 1, 1, 1), hue[100:])
    torch.testing.assert_close(views[100:], turned[..., 0, 0], **TIGHT)
    assert 60 < (factors[:, 0] != 1).sum() < 140 and (hue[100:].abs() > 0.2).any()


def test_blur_strengths_fill_their_range():
    # the middle of one bright pixel's blur is the square of the kernel's middle weight
    x = torch.zeros(2000, 3, 5, 5)
    x[..., 2, 2] = 1.0
    views = SimCLRAugmentation(size=5, **{**WHOLE, "blur_sigma": (0.5, 2.0)})(x, rng())
    middle = views[:, 0, 2, 2].double().sqrt()
    sigma = (-0.5 / ((1 / middle - 1) / 2).log()).sqrt()
    assert stats.kstest(sigma.numpy(), "uniform", (0.5, 1.5)).pvalue > 1e-3


def test_every_image_of_a_batch_gets_its_own_view():
    x = photos(1).expand(64, -1, -1, -1)
    views = SimCLRAugmentation(size=32)(x, rng()).flatten(1)
    distances = torch.cdist(views, views) + torch.eye(64) * 1e3
    assert distances.min() > 0.1


def test_same_generator_state_same_views_other_state_other_views():
    x, augment = photos(8), SimCLRAugmentation(size=24, **EVERYTHING)
    first = augment(x, rng(1))
    assert torch.equal(augment(x, rng(1)), first)
    assert not torch.equal(augment(x, rng(2)), first)


def test_second_call_on_one_generator_gives_the_other_view_of_the_pair():
    x, generator = photos(8), rng()
    one, two = (SimCLRAugmentation(size=24)(x, generator) for _ in range(2))
    assert ((one - two).abs().amax((1, 2, 3)) > 0.1).all()


def test_global_random_numbers_are_neither_used_nor_moved():
    x, augment = photos(4), SimCLRAugmentation(size=24, **EVERYTHING)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 — global state is the point
    before, before_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = augment(x, rng())
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], before_numpy)  # noqa: NPY002
    torch.manual_seed(2)
    assert torch.equal(augment(x, rng()), first)


@pytest.mark.parametrize("extras", [{}, EVERYTHING], ids=["default", "everything"])
def test_chunking_does_not_change_the_views(monkeypatch, extras):
    x, augment = photos(10, 40, 40), SimCLRAugmentation(size=32, **extras)
    monkeypatch.setattr(A, "CPU_CHUNK", 1000)
    at_once = augment(x, rng())
    monkeypatch.setattr(A, "CPU_CHUNK", 3)
    assert torch.equal(augment(x, rng()), at_once)


@pytest.mark.parametrize("extras", [{}, EVERYTHING], ids=["default", "everything"])
def test_the_parts_of_a_batch_get_the_views_they_have_in_the_whole(extras):
    x, augment = photos(8), SimCLRAugmentation(size=24, **extras)
    whole, parts = rng(), [rng(), rng()]
    for _ in range(2):  # the pair of views: the second draws on from where the first stopped
        halves = [augment(x.chunk(2)[k], parts[k], part=(k, 2)) for k in range(2)]
        assert torch.equal(torch.cat(halves), augment(x, whole))


def test_a_views_parameters_do_not_depend_on_the_images():
    # one image of the batch changed: the views of the others stay
    x, augment = photos(5), SimCLRAugmentation(size=24, **EVERYTHING)
    other = x.clone()
    other[2] = 1 - other[2]
    same = (augment(x, rng()) == augment(other, rng())).flatten(1).all(1)
    assert same.tolist() == [True, True, False, True, True]


def test_uint8_images_are_the_float_images_of_255():
    x = (255 * photos(6)).byte()
    augment = SimCLRAugmentation(size=24, **EVERYTHING)
    # divided by 255 in the filter's weights, or before: one rounding apart, over a deviation of
    # 0.22 at the least
    torch.testing.assert_close(
        augment(x, rng()), augment(x.float() / 255, rng()), rtol=0, atol=5e-6
    )


def test_autocast_does_not_round_the_images():
    x, augment = photos(4), SimCLRAugmentation(size=24)
    plain = augment(x, rng())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(augment(x, rng()), plain)


def test_a_network_can_learn_from_views():
    # they are made in inference mode, whose tensors autograd refuses to keep
    views = SimCLRAugmentation(size=24)(photos(4), rng())
    convolution = torch.nn.Conv2d(3, 2, 3)
    convolution(views).sum().backward()
    assert convolution.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("extras", [{}, EVERYTHING], ids=["default", "everything"])
def test_views_are_float32_channels_last_and_in_range_before_normalisation(extras):
    views = SimCLRAugmentation(size=24, **extras)((255 * photos(20, 30, 50)).byte(), rng())
    assert (views.shape, views.dtype) == ((20, 3, 24, 24), torch.float32)
    assert views.is_contiguous(memory_format=torch.channels_last)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (A.IMAGENET_MEAN, A.IMAGENET_STD))
    raw = views * std + mean
    assert raw.min() > -1e-6 and raw.max() < 1 + 1e-6
    assert raw.max() - raw.min() > 0.8


@pytest.mark.parametrize("channels", [1, 12])
def test_other_band_counts_run_without_colour_operations(channels):
    mean, std = tuple(0.01 * n for n in range(channels)), (0.5,) * channels
    augment = SimCLRAugmentation(
        size=24, jitter_p=0.0, gray_p=0.0, mean=mean, std=std, noise_p=1.0, rotate=True
    )
    assert augment(photos(3, channels=channels), rng()).shape == (3, channels, 24, 24)


def test_default_view_of_no_randomness_is_the_resized_normalised_image():
    x = photos(2, 40, 40)
    views = SimCLRAugmentation(
        size=24, **{**WHOLE, "mean": A.IMAGENET_MEAN, "std": A.IMAGENET_STD}
    )(x, rng())
    expected = TF.normalize(TF.resize(x, [24, 24], antialias=True), A.IMAGENET_MEAN, A.IMAGENET_STD)
    torch.testing.assert_close(views, expected, rtol=0, atol=5e-5)


def test_a_single_image_is_refused():
    with pytest.raises(ValueError, match=r"expected a batch \(N, C, H, W\)"):
        SimCLRAugmentation()(torch.rand(3, 32, 32), rng())


def test_integer_reflectances_are_refused():
    with pytest.raises(ValueError, match="stretch reflectances to uint8"):
        SimCLRAugmentation()(torch.zeros(2, 3, 32, 32, dtype=torch.int32), rng())


@pytest.mark.parametrize("option", ["jitter_p", "gray_p"])
def test_colour_operations_on_five_bands_are_refused(option):
    options = {**WHOLE, "mean": (0.0,) * 5, "std": (1.0,) * 5, option: 0.5}
    with pytest.raises(ValueError, match="need RGB, got 5 channels"):
        SimCLRAugmentation(**options)(photos(channels=5), rng())


def test_mean_and_std_of_other_bands_are_refused():
    with pytest.raises(ValueError, match="5-channel images, but mean and std have 3 values"):
        SimCLRAugmentation(jitter_p=0.0, gray_p=0.0)(photos(channels=5), rng())


def test_satellite_extras_are_off_by_default():
    off = {"vflip": 0.0, "rotate": False, "solarize_p": 0.0, "noise_p": 0.0, "cutout_p": 0.0}
    assert SimCLRAugmentation() == SimCLRAugmentation(**off)


def test_an_extra_changes_nothing_but_itself():
    # the parameters of all other operations come from the same columns of the same draw
    x = photos(6)
    plain, extra = (SimCLRAugmentation(size=32, vflip=v)(x, rng()) for v in (0.0, 1.0))
    torch.testing.assert_close(extra, plain.flip(2), rtol=0, atol=1e-4)


def test_vflip_turns_the_image_upside_down():
    x = photos(4)
    torch.testing.assert_close(
        SimCLRAugmentation(size=32, vflip=1.0, **WHOLE)(x, rng()), x.flip(2), **TIGHT
    )


def test_rotate_gives_all_four_quarter_turns_equally_often():
    x = photos(1, 8, 8).expand(400, -1, -1, -1)
    views = SimCLRAugmentation(size=8, rotate=True, **WHOLE)(x, rng())
    turned = [(views - torch.rot90(x, k, (2, 3))).abs().amax((1, 2, 3)) < 1e-5 for k in range(4)]
    counts = [int(t.sum()) for t in turned]
    assert sum(counts) == 400
    assert stats.chisquare(counts).pvalue > 1e-3


def test_grayscale_views_have_three_equal_channels():
    views = SimCLRAugmentation(size=32, **{**WHOLE, "gray_p": 1.0})(photos(), rng())
    assert torch.equal(views[:, 0], views[:, 1]) and torch.equal(views[:, 0], views[:, 2])


def test_noise_is_gaussian_of_five_percent():
    noise = (
        SimCLRAugmentation(size=32, noise_p=1.0, **WHOLE)(torch.full((20, 3, 32, 32), 0.5), rng())
        - 0.5
    )
    assert noise.std().item() == pytest.approx(0.05, rel=0.02)
    assert stats.kstest(noise.flatten().numpy() / 0.05, "norm").pvalue > 1e-3
    assert len(noise.unique()) > noise[0].numel()  # every pixel of every image has its own


def test_cutout_blacks_out_sixteen_by_sixteen_around_its_centre():
    ones = torch.ones(1, 3, 40, 40)
    black = A.cutout(ones, torch.tensor([20]), torch.tensor([11]), 16) == 0
    rows, columns = (black[0, 0].any(axis).nonzero()[:, 0] for axis in (1, 0))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (12, 27, 3, 18)
    assert black[0].sum() == 3 * 16 * 16  # a full square, in all channels


def test_cutout_is_cut_off_at_the_border():
    # DeVries & Taylor: the centre is anywhere in the image, the square may stick out
    black = (
        A.cutout(torch.ones(2, 1, 40, 40), torch.tensor([0, 39]), torch.tensor([0, 39]), 16) == 0
    )
    assert [int(b.sum()) for b in black] == [8 * 8, 9 * 9]
    assert black[0, 0, 0, 0] and black[1, 0, 39, 39]


def test_cutout_centres_are_anywhere_in_the_view():
    views = SimCLRAugmentation(size=20, cutout_p=1.0, **WHOLE)(torch.ones(2000, 3, 20, 20), rng())
    black = views[:, 0] == 0
    for axis in (1, 2):
        covered = black.any(axis)  # 8 pixels before the centre and 7 behind it, cut off at the ends
        first, last = covered.int().argmax(1), 19 - covered.flip(1).int().argmax(1)
        centre = torch.where(first > 0, first + 8, last - 7)
        counts = centre.bincount()
        assert len(counts) == 20
        assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def dihedral_group(image):
    """All eight variants of one (C, H, H) image, by definition: four turns of it and four of its
    mirror image.
    """
    return [torch.rot90(start, k, (1, 2)) for start in (image, image.flip(2)) for k in range(4)]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_random_dihedral_gives_all_eight_variants_and_nothing_else(dtype):
    image = torch.arange(3 * 5 * 5).reshape(3, 5, 5).to(dtype)
    out = A.random_dihedral(image.expand(800, -1, -1, -1), rng())
    assert (out.dtype, out.shape) == (dtype, (800, 3, 5, 5))
    # equality of integers: pixels are moved, none is interpolated, and channels stay in place
    counts = [int((out == variant).flatten(1).all(1).sum()) for variant in dihedral_group(image)]
    assert sum(counts) == 800
    assert stats.chisquare(counts).pvalue > 1e-3


def test_random_dihedral_keeps_every_image_in_its_row():
    # labels stay where they are: row n must come from image n
    x = photos(50, 6, 6)
    out = A.random_dihedral(x, rng())
    assert all(
        any(torch.equal(o, v) for v in dihedral_group(image))
        for o, image in zip(out, x, strict=True)
    )


def test_random_dihedral_depends_on_its_generator_alone():
    x = photos(20, 6, 6)
    torch.manual_seed(1)
    before, first = torch.get_rng_state(), A.random_dihedral(x, rng(1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(A.random_dihedral(x, rng(1)), first)
    assert not torch.equal(A.random_dihedral(x, rng(2)), first)


def test_luma_weights_are_torchvisions():
    assert math.isclose(
        sum(colours.GRAY), 1.0, abs_tol=2e-4
    )  # torchvision's own do not quite sum to one
    red = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)
    assert colours.grayscale(red).item() == TF.rgb_to_grayscale(red).item()


# Fused colours


def jitters(n):
    orders = torch.tensor(list(itertools.permutations(range(4))))[torch.arange(n) % 24]
    factors = 0.6 + 0.8 * torch.rand(n, 3, generator=rng(1))
    return factors, 0.2 * torch.rand(n, generator=rng(2)) - 0.1, orders


def fused(x, factors, hue, order, gray=None):
    gray = torch.zeros(len(x), dtype=torch.bool) if gray is None else gray
    return colours.mix_colours(x, hue, colours.jitter_shares(factors, order, gray))


def test_fused_colours_equal_the_exact_ones_where_nothing_is_cut_off():
    # greys of 0.3 to 0.5, at most 0.5 × 1.4 × … = 0.98: no clamp acts, in whichever of the 24
    # orders
    x, jitter = 0.3 + 0.2 * photos(48), jitters(48)
    ours, exact = fused(x, *jitter), color_jitter(x, *jitter)
    assert exact.min() > 0 and exact.max() < 1
    torch.testing.assert_close(ours, exact, rtol=0, atol=2e-4)  # the weights of luma sum to 0.9999
    assert (exact - x).abs().mean() > 0.03  # and something was done


def test_fused_grayscale_is_the_luma_after_the_jitter():
    x, jitter = 0.3 + 0.2 * photos(48), jitters(48)
    gray = torch.arange(48) % 3 == 0
    ours, exact = fused(x, *jitter, gray), color_jitter(x, *jitter)
    expected = torch.where(gray.view(-1, 1, 1, 1), colours.grayscale(exact), exact)
    torch.testing.assert_close(ours, expected, rtol=0, atol=2e-4)


def test_fused_colours_differ_from_the_exact_ones_only_where_these_clamp():
    x, jitter = photos(96), jitters(96)
    ours, exact = fused(x, *jitter), color_jitter(x, *jitter)
    assert ours.min() >= 0 and ours.max() <= 1
    gap = 255 * (ours - exact).abs()
    assert gap.mean() < 2.0  # on noise with pure colours, the worst there is; on EuroSAT it is 0.10


def test_views_are_those_of_exact_colours_with_the_same_parameters():
    # an image without colour to cut off: both ways, same crop, same flips, same jitter
    x = 0.35 + 0.1 * photos(30)
    ours, exact = (kind(size=24, **UNIT)(x, rng()) for kind in (SimCLRAugmentation, ExactColours))
    torch.testing.assert_close(ours, exact, rtol=0, atol=2e-4)
    assert not torch.equal(ours, exact)


def test_turns_and_flips_in_the_resampling_are_those_of_whole_images():
    x, options = photos(40, 40, 50), {**OFF, "hflip": 0.5, "vflip": 0.5}
    plain = SimCLRAugmentation(size=24, **options)(x, rng())
    turned = SimCLRAugmentation(size=24, rotate=True, **options)(x, rng())
    turns = (4 * torch.rand(40, 41, generator=rng())[:, 24]).long()
    assert set(turns.tolist()) == {0, 1, 2, 3}
    torch.testing.assert_close(turned, resampling.rot90(plain, turns), rtol=0, atol=1e-6)


class Operations(TorchDispatchMode):
    """The names of all operations that run inside."""

    def __enter__(self):
        self.seen = set()
        return super().__enter__()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.add(function.overloadpacket.__name__)
        return function(*args, **kwargs or {})


# what makes a GPU's queue run empty: a number read back, or a result whose size only the device
# knows
WAITING = {
    "_local_scalar_dense",
    "item",
    "nonzero",
    "masked_select",
    "unique",
    "index",
    "index_put_",
    "is_nonzero",
}


@pytest.mark.parametrize("extras", [{}, EVERYTHING], ids=["default", "everything"])
def test_nothing_waits_for_the_device(extras):
    with Operations() as operations:
        SimCLRAugmentation(size=24, **extras)((255 * photos(4)).byte(), rng())
    assert any("embedding_bag" in name for name in operations.seen)  # else nothing was seen
    assert not operations.seen & WAITING


def test_nothing_waits_for_the_device_with_twelve_bands_either():
    with Operations() as operations:
        SimCLRAugmentation(size=24, **A.SPECTRAL, **EVERYTHING)(reflectances(), rng())
    assert (
        any("embedding_bag" in name for name in operations.seen) and not operations.seen & WAITING
    )


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
@pytest.mark.parametrize("extras", [{}, EVERYTHING], ids=["default", "everything"])
def test_compiled_views_equal_the_eager_ones(monkeypatch, extras):
    # Without a GPU, where nobody would compile, only the graph is made and run as it is: writing
    # and compiling C++ for it takes half a minute, and is torch's own.
    backend = "inductor" if torch.cuda.is_available() else "aot_eager"
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    x = photos(4)
    eager, compiled = (
        SimCLRAugmentation(size=8, compile=c, **extras)(x, rng()) for c in (False, True)
    )
    # other order of the sums, divided by 0.22
    torch.testing.assert_close(compiled, eager, rtol=0, atol=2e-5)


# Twelve bands


def reflectances(n=4, size=40):
    return torch.randint(0, 12000, (n, 12, size, size), generator=rng(3), dtype=torch.int32).to(
        torch.uint16
    )


def test_uint16_is_reflectance_and_white_is_white():
    x = torch.tensor([0, 1, 5000, 10000, 65535], dtype=torch.int32).to(torch.uint16)
    torch.testing.assert_close(resampling.to_unit(x), torch.tensor([0, 1e-4, 0.5, 1, 1]))


def test_views_of_twelve_bands_are_normalised_by_their_own_statistics():
    x = reflectances()
    views = SimCLRAugmentation(size=40, **{**WHOLE, "mean": None, "std": None})(x, rng())
    mean, std = (torch.tensor(v).view(1, 12, 1, 1) for v in (A.BANDS_MEAN, A.BANDS_STD))
    torch.testing.assert_close(views * std + mean, resampling.to_unit(x), rtol=0, atol=1e-4)


def test_band_jitter_is_brightness_then_contrast_of_every_band_by_itself():
    x = torch.rand(2, 12, 8, 8, generator=rng()) * 0.5
    brightness, contrast = torch.rand(2, 2, 12, generator=rng(1)) + 0.5
    ours = colours.band_jitter(x, brightness, contrast)
    for image in range(2):
        for band in range(12):
            one = TF.adjust_brightness(x[image, band][None], brightness[image, band])
            expected = (one.mean() + contrast[image, band] * (one - one.mean())).clamp(0, 1)
            torch.testing.assert_close(ours[image, band][None], expected)


def test_spectral_views_differ_by_image_and_band_and_lose_the_share_of_bands_asked_for():
    x = torch.full((400, 12, 8, 8), 2000, dtype=torch.int32).to(torch.uint16)
    options = {"blur_sigma": None, "mean": (0.1,) * 12, "std": (1.0,) * 12}
    views = SimCLRAugmentation(size=8, **{**A.SPECTRAL, **options})(x, rng())[..., 0, 0]
    lost = views == 0
    assert 0.08 < lost.float().mean() < 0.12 and not lost.all(1).any()
    kept = views[~lost] + 0.1
    assert (
        kept.min() > 0.2 * 0.8 - 1e-6
        and kept.max() < 0.2 * 1.2 + 1e-6
        and kept.unique().numel() > 1000
    )
    assert (
        0.1 < torch.isclose(kept, torch.tensor(0.2)).float().mean() < 0.3
    )  # one image in five is not jittered


def test_spectral_augmentation_leaves_rgb_streams_as_they_were():
    x = photos(4)
    assert torch.equal(
        SimCLRAugmentation()(x, rng()), SimCLRAugmentation(band_drop_p=0.0)(x, rng())
    )


def test_colour_operations_on_twelve_bands_name_the_spectral_ones():
    with pytest.raises(ValueError, match="got 12 channels: set both p to 0, or use SPECTRAL"):
        SimCLRAugmentation()(reflectances(), rng())


def test_the_statistics_of_bigearthnet_are_those_of_real_patches(real_patches):
    images = np.stack(
        [read_patch(folder, None, ALL_BANDS, None) for folder in sorted(real_patches.iterdir())]
    )
    mean = (images / resampling.REFLECTANCE).clip(max=1).mean((0, 1, 2))
    assert (
        np.corrcoef(mean, A.BANDS_MEAN)[0, 1] > 0.9
    )  # six patches only, but in the right order and scale
    assert 0.3 < np.mean(mean) / np.mean(A.BANDS_MEAN) < 3


# Views of several steps at once


def step_by_step(batches, augment, key, pairs=blocks.views):
    seed, epoch, first = key
    made = (pairs(b, augment, generator(seed, epoch, first + n)) for n, b in enumerate(batches))
    return [torch.cat(pair) for pair in made]


BLOCKS = {
    "default": {},
    "everything": EVERYTHING,
    "twelve bands": A.SPECTRAL | EVERYTHING,
    "one of two processes": {},
}


@pytest.mark.parametrize("first", [0, 5, 31])  # where a run that goes on begins
@pytest.mark.parametrize("case", BLOCKS)
def test_views_made_in_blocks_are_those_made_step_by_step(monkeypatch, case, first):
    x = reflectances(40, 24) if case == "twelve bands" else (255 * photos(40, 24, 20)).byte()
    batches, augment = x.split(2), SimCLRAugmentation(size=16, **BLOCKS[case])
    world = World(1, 2) if case == "one of two processes" else World()
    expected = step_by_step(batches, augment, (3, 1, first), functools.partial(in_world, world))
    monkeypatch.setattr(blocks, "IN_BLOCKS", {"cpu"})
    made = list(blocks.two_views(batches, (3, 1, first), augment, world))
    assert len(made) == 20
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(made, expected, strict=True))


def in_world(world, batch, augment, rng):
    return blocks.views(batch, augment, rng, world)


def test_blocks_begin_where_those_of_an_uninterrupted_run_do(monkeypatch):
    monkeypatch.setattr(blocks, "IN_BLOCKS", {"cpu"})
    asked = []
    x = photos(40, 12, 12)
    batches = (asked.append(n) or batch for n, batch in enumerate(x.split(1)))
    views = blocks.two_views(batches, (0, 1, 21), SimCLRAugmentation(size=8))
    needed = [(next(views), len(asked))[1] for _ in range(30)]
    assert needed == [11] * 11 + [27] * 16 + [40] * 3  # 21 to 31, 32 to 47, and the rest


def test_a_stand_in_for_views_is_asked_step_by_step(monkeypatch):
    monkeypatch.setattr(blocks, "IN_BLOCKS", {"cpu"})
    batches, augment = photos(6, 12, 12).split(2), SimCLRAugmentation(size=8)
    pairs = lambda batch, augment, rng, world: (batch[:1], batch[1:])  # noqa: E731
    made = list(blocks.two_views(batches, (0, 1, 0), augment, pairs=pairs))
    assert all(torch.equal(both, batch) for both, batch in zip(made, batches, strict=True))


def test_both_views_are_written_in_the_networks_precision(monkeypatch):
    monkeypatch.setattr(blocks, "IN_BLOCKS", {"cpu"})
    batches, augment = photos(6, 12, 12).split(2), SimCLRAugmentation(size=8)
    full, half = (
        list(blocks.two_views(batches, (0, 1, 0), augment, dtype=dtype))
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert all(torch.equal(a.bfloat16(), b) for a, b in zip(full, half, strict=True))


# Tones between level 1C and 2A


def test_the_air_is_rayleighs():
    """Hansen & Travis 1974: depths 0.0451, 0.0906, 0.154 at 665, 560 and 492 nm; sun at 40°."""
    np.testing.assert_allclose(path_reflectance(3), (0.0175, 0.0351, 0.0596), atol=1e-4)
    np.testing.assert_allclose(transmittance(3), (0.949, 0.901, 0.838), atol=1e-3)
    assert path_reflectance(12)[3] == path_reflectance(3)[0]  # B04
    assert path_reflectance(12)[-1] < 2e-4
    with pytest.raises(ValueError, match="the air of 5 bands is not known"):
        transmittance(5)


@pytest.mark.parametrize(("dtype", "bands", "white"), [("uint8", 3, 255), ("uint16", 12, 10_000)])
def test_tones_are_air_taken_away_and_gains_each_image_its_own(dtype, bands, white):
    values = np.random.default_rng(0).integers(0, white, (40, bands, 8, 8))
    images = torch.from_numpy(values.astype(dtype))
    plain = resampling.to_unit(images)
    toned = draw_tones(images, rng(), 0.5)
    assert torch.equal(toned, draw_tones(images, rng(), 0.5))
    assert toned.dtype == torch.float32 and toned.min() >= 0 and toned.max() <= 1
    same = (toned == plain).flatten(1).all(1)
    assert 10 <= same.sum() <= 30
    gains = []
    for before, after in zip(plain[~same], toned[~same], strict=True):
        inside = (after > 0) & (after < 1)
        lines = [
            np.polyfit(b[i].numpy(), a[i].numpy(), 1)
            for b, a, i in zip(before, after, inside, strict=True)
        ]
        gain, shift = np.array(lines).T
        assert (gain >= 0.8 * 0.92 - 1e-3).all() and (gain <= 1.3 * 1.08 + 1e-3).all()
        air = -shift / gain / np.array(path_reflectance(bands))  # the same air in every band
        scale = 2750 / 10_000 if dtype == "uint8" else 1
        assert np.ptp(air[:3]) < 0.1 / scale and (-0.35 <= air[0] * scale <= 1.45)
        gains.append(gain[0])
    assert np.ptp(gains) > 0.1


def test_no_tones_are_the_images_themselves():
    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    assert draw_tones(images, rng(), 0.0) is images
