"""The audit: its changes against plain loops, its runs for real at a tiny size, killed and started
again.
"""

import base64
import dataclasses
import functools
import hashlib
import itertools
import json
import re
import shutil
import signal
import time
from functools import partial
from pathlib import Path

import killable
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import stats

from audit import __main__ as command
from audit import (
    changes,
    claims,
    one_run,
    pages,
    plan,
    sources,
    stages,
    steps,
    tables,
    unknown,
    verdicts,
)
from audit import figures as figures_audit
from audit.data import block_split, draw, open_study, place_table
from audit.forecast import lock_folder
from audit.records import read_records, record_file
from audit.steps import finetuning, pretrained, pretraining
from src import checkpoints
from src.augmentations import SimCLRAugmentation
from src.data.bands import to_uint8
from src.data.demo import make_demo
from src.encoders import build_encoder, projection_head
from src.errors import DataError
from src.losses import nt_xent
from src.pretrain import Hooks, PretrainConfig, pretrain, shuffled
from src.profiles import ROOT, open_profile
from src.runs.distributed import World
from src.runs.runtime import generator, pick

# --- the changes ---


def slow_dot_product_loss(z_i, z_j, temperature):
    """Two loops, exp and log by hand: −log(e^(partner) / Σ of all others) over all 2N, of plain dot
    products.
    """
    z, n, total = [*z_i.double(), *z_j.double()], len(z_i), 0.0
    for a in range(2 * n):
        terms = {b: torch.exp(sum(z[a] * z[b]) / temperature) for b in range(2 * n) if b != a}
        total += -torch.log(terms[(a + n) % (2 * n)] / sum(terms.values()))
    return total / (2 * n)


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_dot_product_loss_is_the_published_formula_and_cosine_on_unit_vectors(temperature):
    z_i, z_j = torch.randn(2, 5, 3, generator=generator(0))
    slow = slow_dot_product_loss(z_i, z_j, temperature).item()
    loss = changes.dot_product_loss(z_i, z_j, temperature).item()
    assert loss == pytest.approx(slow, rel=1e-5)
    assert nt_xent(z_i, z_j, temperature).item() != pytest.approx(slow, rel=0.01)
    unit = [torch.nn.functional.normalize(z) for z in (z_i, z_j)]
    on_unit_vectors = changes.dot_product_loss(*unit, temperature)
    torch.testing.assert_close(on_unit_vectors, nt_xent(*unit, temperature))


def test_noise_pairs_are_identical_where_broken_and_views_elsewhere():
    batch = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8, generator=generator(1))
    batch[[0, 2]] = 0
    first, second = changes.noise_pairs(batch, SimCLRAugmentation(8), generator(2), World())
    same = (first == second).flatten(1).all(1)
    assert same.tolist() == [True, False, True, False]
    assert first[0].std() == pytest.approx(1, abs=0.2) and not torch.equal(first[0], first[2])
    again, _ = changes.noise_pairs(batch, SimCLRAugmentation(8), generator(3), World())
    assert not torch.equal(first[0], again[0])


def test_noise_shares_are_as_named_and_nested():
    images, places, broken = np.full((40, 4, 4, 3), 9, np.uint8), np.zeros((40, 2)), []
    for share in (10, 50, 100):
        changed, hooks = changes.change(images, places, f"noise {share} %", seed=0)
        assert hooks == Hooks(pairs=changes.noise_pairs) and (images == 9).all()
        broken.append((changed == 0).all((1, 2, 3)))
        assert (changed[~broken[-1]] == 9).all()
    assert [int(part.sum()) for part in broken] == [4, 20, 40]
    assert (broken[0] <= broken[1]).all()


@pytest.mark.parametrize("percent", [10, 50])
def test_left_out_are_the_very_images_that_are_noise(percent):
    rows = np.random.default_rng(0).integers(1, 256, (40, 4, 4, 3), dtype=np.uint8)
    places = np.zeros((40, 2))
    noise, _ = changes.change(rows, places, f"noise {percent} %", seed=3)
    left, hooks = changes.change(rows, places, f"left out {percent} %", seed=3)
    assert len(left) == 40 - 40 * percent // 100 and hooks == Hooks()
    assert np.array_equal(left, noise[noise.any((1, 2, 3))])
    other, _ = changes.change(rows, places, f"left out {percent} %", seed=4)
    assert not np.array_equal(left, other)


def test_published_rendering_is_that_of_the_digital_numbers_and_pixels_become_coarser():
    numbers = np.arange(0, 2750, 50)
    bright = np.round(numbers / 2750 * 255).astype(np.uint8)[None, None, :, None].repeat(3, 3)
    dark, published = changes.darkened(bright), (numbers / 10_000 * 255).astype(int)
    assert np.abs(dark[0, 0, :, 0].astype(int) - published).max() <= 1
    image = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    coarse = changes.coarsened(image)
    assert coarse.shape == (2, 34, 34, 3) and coarse.dtype == np.uint8
    assert coarse.mean() == pytest.approx(image.mean(), rel=0.02)
    assert coarse.std() < 0.7 * image.std()


def test_every_arm_makes_its_own_change_and_the_control_none():
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    places = np.random.default_rng(1).random((6, 2))

    def change(arm):
        changed, hooks = changes.change(images, places, arm, seed=0)
        default = vars(Hooks())
        replaced = {name for name, hook in vars(hooks).items() if hook is not default[name]}
        return changed is images, replaced

    assert change("cosine 0.5") == change("cosine 0.07") == (True, set())
    assert change("cosine 0.5 published head") == (True, set())
    assert change("dot 0.5") == change("dot 0.5 published head") == (True, {"loss"})
    assert change("published rendering") == change("18.75 m") == (False, set())
    assert change("noise 50 %") == (False, {"pairs"})
    assert change("left out 50 %") == (False, set())
    assert change("fixed order") == change("neighbours") == (True, {"order"})


def test_neighbours_on_the_curve_are_neighbours_on_the_ground():
    places = np.random.default_rng(0).uniform((-10, 35), (30, 65), (500, 2))
    order = changes.by_place(places)
    assert sorted(order) == list(range(500))

    def mean_step(places):
        return np.linalg.norm(np.diff(places, axis=0), axis=1).mean()

    assert mean_step(places[order]) < 0.2 * mean_step(places)


def test_fixed_order_never_changes_and_is_random():
    images, places = np.zeros((50, 4, 4, 3), np.uint8), np.random.default_rng(0).random((50, 2))
    fixed = changes.change(images, places, "fixed order", 3)[1].order
    assert torch.equal(fixed(50, 3, 1), fixed(50, 3, 9))
    assert torch.equal(fixed(50, 3, 1), shuffled(50, 3, 1))
    neighbours = changes.change(images, places, "neighbours", 3)[1].order
    assert np.array_equal(neighbours(50, 3, 1), changes.by_place(places))


def test_pretraining_takes_another_loss_order_and_pairs(tmp_path):
    rows = np.arange(8, dtype=np.uint8)
    images = np.broadcast_to(rows[:, None, None, None], (8, 16, 16, 3)).copy()
    orders, seen = [], []

    def order(count, seed, epoch):
        orders.append((count, seed, epoch))
        return torch.arange(count).flip(0)

    def pairs(batch, augment, rng, world):
        seen.extend(batch[:, 0, 0, 0].tolist())
        return torch.zeros(4, 3, 8, 8), torch.zeros(4, 3, 8, 8)

    config = PretrainConfig(epochs=2, batch_size=4, image_size=8, seed=5)
    hooks = Hooks(lambda i, j, t: (i * j).sum() * 0 + 7 * t, order, pairs)
    done = pretrain(images, config, tmp_path, hooks=hooks)
    assert orders == [(8, 5, 1), (8, 5, 2)] and seen == 2 * [7, 6, 5, 4, 3, 2, 1, 0]
    assert done.history["loss"].iloc[1:].tolist() == [3.5, 3.5]


# --- the two heads ---


def squared_lengths(config, batch):
    """|z|² of the embeddings that an untrained network of this config gives, in train mode."""
    views = SimCLRAugmentation(config.image_size)(batch, generator(0))
    torch.manual_seed(0)
    encoder = build_encoder(config.encoder, image_size=config.image_size).train()
    head = projection_head(encoder.feature_dim, config.projection, config.plain_head).train()
    with torch.no_grad():
        return (head(encoder(views)) ** 2).sum(1)


def test_the_published_head_has_no_batch_norm_and_short_embeddings_where_ours_are_long(study):
    """Dot products of |z|² = 128 at τ = 0.5 are cosines at τ = 0.004: behind our head the published
    loss is another one.
    """
    batch = torch.as_tensor(study.store.images[::5]).permute(0, 3, 1, 2)
    published, ours = (
        pretraining(study, plan.recipe_of(study.size, "b", f"dot 0.5{head}"), 0).config
        for head in (plan.PUBLISHED_HEAD, "")
    )
    assert published.plain_head and published.projection == (256, 128)
    assert published == dataclasses.replace(ours, plain_head=True, projection=(256, 128))
    assert squared_lengths(published, batch).median() < 10  # some images are far longer
    assert squared_lengths(ours, batch).mean() == pytest.approx(128, rel=0.05)


def test_the_head_that_is_trained_is_the_one_that_is_named(study, workspace, records):
    work = dataclasses.replace(study, work=workspace / "runs/audit/paper/tiny/custom_cnn")
    shapes = {}
    for head in (plan.PUBLISHED_HEAD, ""):
        recipe = plan.recipe_of(study.size, "b", f"cosine 0.5{head}")
        state = checkpoints.load(pretrained(work, recipe, 0))[0]["projection"]
        shapes[head] = [tuple(each.shape) for each in state.values() if each.ndim == 2]
        assert any("running_mean" in key for key in state) == (head == "")
    assert shapes == {
        plan.PUBLISHED_HEAD: [(256, 256), (128, 256)],
        "": [(512, 256), (512, 512), (128, 512)],
    }


# --- intervals and verdicts ---


def accuracies(letter, arm, by_seed, encoder="custom_cnn"):
    """Rows of the table of runs: test accuracies of one arm. by_seed: seed → accuracy."""
    common = {"encoder": encoder, "letter": letter, "arm": arm, "linear": None}
    return [common | {"seed": seed, "test_accuracy": value} for seed, value in by_seed.items()]


def test_paired_interval_is_scipys():
    first, second = np.random.default_rng(0).normal(0.8, 0.05, (2, 5))
    rows = accuracies("g", "a", {seed: first[seed] for seed in (3, 1, 0, 4, 2)})
    rows += accuracies("g", "b", {seed: second[seed] for seed in (3, 1, 0, 4)})  # 2 is missing
    table, claim = pd.DataFrame(rows), claims.Claim("", "test_accuracy", "g/a", "g/b")
    difference = claims.paired(table, claim)
    kept = [0, 1, 3, 4]
    low, high = stats.ttest_rel(first[kept], second[kept]).confidence_interval(0.95)
    assert (difference.low, difference.high) == pytest.approx((low, high))
    assert difference.n == 4
    assert difference.mean == pytest.approx((first - second)[kept].mean())


@pytest.mark.parametrize(
    ("values", "sign", "expected"),
    [
        ([-3, -4, -5], -1, "points that way"),
        ([-3, -4, -5], 1, "points the other way"),
        ([3, 4, 5], 1, "points that way"),
        ([3, 4, 5], -1, "points the other way"),
        ([-3, 4, 5], 1, "cannot be told here"),
        ([9], 1, "cannot be told here"),
        ([], 1, "missing"),
        ([0.3, 0.3, 0.3], 1, "points that way"),
        ([0, 0, 0], 1, "cannot be told here"),
    ],
)
def test_an_exploratory_verdict_depends_on_the_interval_alone(values, sign, expected, recwarn):
    assert verdicts.verdict(tables.t_interval(np.array(values)), sign) == expected
    assert not recwarn.list


@pytest.mark.parametrize(
    ("values", "sign", "adjusted_p", "expected"),
    [
        ([-3, -4, -5], -1, 0.049, "holds"),
        ([-3, -4, -5], 1, 0.049, "does not hold"),
        ([3, 4, 5], -1, 0.049, "does not hold"),
        ([-3, -4, -5], -1, 0.05, "cannot be told here"),  # whatever its interval
        ([-3, -4, -5], 1, 0.05, "cannot be told here"),
        ([-3], -1, np.nan, "cannot be told here"),
        ([], -1, np.nan, "missing"),
    ],
)
def test_a_primary_verdict_takes_the_adjusted_p(values, sign, adjusted_p, expected):
    difference = tables.t_interval(np.array(values))
    assert verdicts.primary_verdict(difference, sign, adjusted_p) == expected


def slow_holm(p_values):
    """Of each p the largest, over those no larger, of p times how many are no smaller."""
    count = len(p_values)

    def factor(p):
        return count - sum(other < p for other in p_values.values())

    return {
        name: max(min(1, factor(q) * q) for q in p_values.values() if q <= p)
        for name, p in p_values.items()
    }


def test_holm_is_as_by_hand_and_as_in_plain_loops():
    by_hand = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}
    expected = {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02}
    assert tables.holm(by_hand) == pytest.approx(expected)
    rng = np.random.default_rng(0)
    for count in (1, 2, 5, 9):
        p_values = dict(enumerate(rng.random(count) ** 3))
        adjusted = tables.holm(p_values)
        assert adjusted == pytest.approx(slow_holm(p_values))
        assert all(p <= adjusted[name] <= 1 for name, p in p_values.items())
        ranked = [adjusted[name] for name in sorted(p_values, key=p_values.get)]
        assert ranked == sorted(ranked)


def test_holm_counts_a_comparison_that_was_not_made():
    adjusted = tables.holm({"a": 0.02, "b": np.nan, "c": 0.001, "d": np.nan})
    assert adjusted == pytest.approx({"a": 0.06, "b": np.nan, "c": 0.004, "d": np.nan}, nan_ok=True)


def test_the_primary_comparisons_are_these():
    """They were named before any run of the size `full`: a change of one is another question."""
    accuracy, cnn = "test_accuracy", "custom_cnn"
    named = [
        (
            *("Pretraining lowers the Custom CNN's accuracy, each arm at its best rate", accuracy),
            *("2/pretrained best", "2/scratch best", -1, cnn),
        ),
        (
            *("Pretraining lowers the Custom CNN's accuracy, by the study's recipe", accuracy),
            *("2/pretrained 0.0001", "2/scratch 0.001", -1, cnn),
        ),
        (
            *("Pretraining lowers the Custom CNN's accuracy with 10 labels a class", accuracy),
            *("3/pretrained 10", "3/scratch 10", -1, cnn),
        ),
        (
            "Pretraining lowers the AUROC of MI, over out-of-distribution sets",
            "auroc_mutual_information",
            *("6/pretrained best of 2", "6/scratch best of 2", -1, cnn),
        ),
        (
            *("Pretraining lowers ResNet-50's accuracy, each arm at its best rate", accuracy),
            *("4/pretrained best", "4/scratch best", -1, "resnet50"),
        ),
    ]
    assert [dataclasses.astuple(claim) for claim in claims.PRIMARY] == named
    assert (claims.LEVEL, claims.HALF_WIDTH) == (0.05, 0.01)


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.name)
def test_the_tables_of_the_pages_are_those_of_the_records(page):
    table, _ = tables.read(pages.RECORDS)
    assert page.read_text() == pages.written_anew(page, table), "run python -m audit.pages"


def test_readmes_answers_have_the_records_differences():
    readme, (table, _) = (ROOT / "README.md").read_text(), tables.read(pages.RECORDS)
    over_sets = [claim for claim in claims.published(10) if "sets" in claim.text]
    gains = [claim for claim in over_sets if claim.metric == claims.MI_GAIN]
    assert len(gains) == 2
    resnet = [
        claims.Claim(arm, claims.MI_GAIN, arm, None, encoder="resnet50")
        for arm in unknown.RESNET_ARMS.values()
    ]
    for claim in (*claims.PRIMARY[:3], claims.PRIMARY[4], *gains, *resnet):
        assert tables.as_text(claims.paired(table, claim), claim.metric) in readme, claim.text
    for arm in unknown.RESNET_ARMS.values():
        by_network = unknown.by_class(table, arm).groupby(["seed", "set"]).mean()
        by_network = by_network.groupby("seed").mean()
        for score in ("vim", "knn", "relative_mahalanobis"):
            assert (by_network[score] > by_network[unknown.MI]).all(), (arm, score)
    probes = table[table["letter"] == "3"].groupby("arm")
    learnt, drawn = (probes.get_group(f"linear {kind}") for kind in ("pretrained", "untrained"))
    assert drawn["linear_200"].mean() < learnt["linear_10"].mean() < drawn["linear_500"].mean()
    for arm in unknown.ARMS.values():
        areas = unknown.by_class(table, arm)
        better = areas[unknown.MI] > areas[unknown.MSP]
        assert better.all() and set(better.groupby("seed").size()) == {18}
        means = areas.groupby(["seed", "set"]).mean()
        by_network = means.groupby("seed").mean()
        for score in ("vim", "knn", "relative_mahalanobis"):
            assert (by_network[score] > by_network[unknown.MI]).all()
        assert by_network["energy"].between(by_network[unknown.MSP], by_network[unknown.MI]).all()
        between = means.groupby("set").mean()
        assert (between[unknown.MI] > between["predictive_entropy"]).all()
        assert (between["predictive_entropy"] > between[unknown.MSP]).all()
        aerial = between.loc[["ucmerced", "resisc45"]]
        assert (aerial[unknown.PIXELS] > aerial[unknown.MI]).all()


def test_the_pages_say_what_networks_make_of_classes_left_out():
    table, _ = tables.read(pages.RECORDS)
    readme, ood, audit = (ROOT / page for page in ("README.md", "docs/ood.md", "docs/audit.md"))
    said = ood.read_text().split("**Classes it never saw**")[1].split("\n\n")[0]
    found, gains = {}, {}
    for name, arm in unknown.NEAR_ARMS.items():
        areas = unknown.by_class(table, arm)
        assert len(areas) == 30
        found[name] = areas.groupby("class").mean()
        gains[name] = gain = found[name][unknown.MI] - found[name][unknown.MSP]
        told = tables.as_text(tables.t_interval(gain), claims.MI_GAIN).split(", n")[0]
        ahead = f"{(gain > 0).sum()} of {len(gain)}"
        for page in (readme, audit):
            assert f" in {ahead}" in page.read_text() and told in page.read_text(), page
        assert f" in {ahead}" in said
        means = found[name].mean()
        for score in ("vim", "class_mahalanobis"):
            assert f"({means[score]:.2f})" in said, score
        assert f"both ({means[unknown.MI]:.2f} and {means[unknown.MSP]:.2f})" in said
    scratch, learnt = unknown.NEAR_ARMS
    areas = unknown.by_class(table, unknown.NEAR_ARMS[scratch])
    gain, by_class = gains[scratch], found[scratch]
    ahead = (areas[unknown.MI] > areas[unknown.MSP]).groupby("class").mean()
    mixed = ahead[ahead.between(0, 1, inclusive="neither")].index.tolist()
    assert mixed == ["AnnualCrop", "Pasture", "Residential"] and (ahead == 0).sum() == 4
    hardest = found[learnt].loc["SeaLake", [unknown.MI, unknown.MSP]]
    assert "{:.2f} and {:.2f}.".format(*hardest) in said
    assert (hardest == found[learnt][[unknown.MI, unknown.MSP]].min()).all()
    sea = by_class.loc["SeaLake"]
    for name, score in (
        ("energy ", "energy"),
        ("logit ", "max_logit"),
        ("bis ", "class_mahalanobis"),
    ):
        assert f"{name}{sea[score]:.2f}" in said
    assert f"ahead by {gain['SeaLake']:.2f}" in said and gain["SeaLake"] == gain.max()
    assert f"SeaLake giving {gain['SeaLake']:+.2f}" in audit.read_text()
    pixels = by_class[unknown.PIXELS]
    for name in ("AnnualCrop", "Industrial", "SeaLake", "Residential"):
        assert f"{name} ({pixels.pop(name):.2f})" in said
    assert len(pixels) == 6 and f"({pixels.min():.2f} to {pixels.max():.2f})" in said
    near = table[table["arm"].str.match(r"near \d")]
    known = 100 * near.groupby(near["arm"].str.split().str[-1])["test_accuracy"].agg(["min", "max"])
    assert "test accuracy {:.0f} to {:.0f} %".format(*known.loc["scratch"]) in said
    assert "test accuracy is {:.0f} to {:.0f} %".format(*known.loc["pretrained"]) in said
    raised = [
        claims.Claim("raised", metric, "6/near pretrained", "6/near scratch")
        for metric in (claims.MI, claims.MSP)
    ]
    for claim in raised:
        assert tables.as_text(claims.paired(table, claim), claim.metric) in audit.read_text()


def test_the_audit_tells_no_source_of_pretraining_from_random_weights():
    table, _ = tables.read(pages.RECORDS)
    named = [claims.paired(table, claim) for claim in claims.suspected() if claim.letter == "5"]
    assert [found.n for found in named] == [3] * 4 and not any(found.side for found in named)
    assert all(found.low > -0.0305 and found.high < 0.0305 for found in named)  # "within 3 points"
    for source in stages.SOURCES:
        gain = claims.paired(
            table, claims.Claim("learnt", claims.FROZEN, f"5/{source}", "5/untrained")
        )
        assert gain.n == 3 and gain.side == 0, source
        assert tables.values(table, "loss", f"5/{source}", "custom_cnn").between(3.55, 3.8).all()
    page = (ROOT / "docs/audit.md").read_text()
    for other in ("satlab", "ucmerced"):
        ahead = claims.paired(table, claims.Claim("kNN", "knn", "5/eurosat", f"5/{other}"))
        assert ahead.side == 1 and tables.as_text(ahead, "knn") in page, other
    whole = claims.Claim("learnt", "linear_2160", "3/linear pretrained", "3/linear untrained")
    assert round(100 * claims.paired(table, whole).mean, 1) == 9.6


def test_the_audit_says_what_blocks_of_ground_cost():
    table, _ = tables.read(pages.RECORDS)
    page, readme = (ROOT / "docs/audit.md").read_text(), (ROOT / "README.md").read_text()
    said = page[page.index("- **A random split flatters") :].split("\n\n")[0]
    long = [f"7/{split} scratch {stages.LONG_GROUND}" for split in plan.SPLITS]
    for arm in (*long, *(f"7/{split} scratch" for split in plan.SPLITS)):
        accuracy = 100 * tables.values(table, "balanced_accuracy", arm).mean()
        assert f"{accuracy:.1f} %" in said, arm
        assert arm not in long or f"{accuracy:.1f} %" in readme
    for split in plan.SPLITS:
        accuracy = 100 * tables.values(table, "balanced_accuracy", f"h/{split} scratch").mean()
        assert f"{accuracy:.0f} %" in said, split
    for runs in ("h/{} scratch", "7/{} scratch", f"7/{{}} scratch {stages.LONG_GROUND}"):
        random, blocks = (
            tables.values(table, "balanced_accuracy", runs.format(split))
            for split in ("random", "blocks")
        )  # "at random is ahead in every deal of all three"
        assert len(random) == 3 and (random > blocks).all()
    steps = [claim for claim in claims.suspected() if claim.control in long]
    differences = [tables.as_text(claims.paired(table, claim), claim.metric) for claim in steps]
    assert len(steps) == 2
    assert all(told in said and told in readme for told in differences)
    for claim in claims.suspected():  # "there what blocks cost cannot be told from 0"
        if claim.arm in ("h/random scratch", "7/random scratch"):
            assert claims.paired(table, claim).side == 0, claim.text


def test_the_audit_says_what_pretraining_does_to_resnet50():
    table, _ = tables.read(pages.RECORDS)
    page = (ROOT / "docs/audit.md").read_text()
    for arm, control in (
        ("4/pretrained 0.0001", "4/pretrained 0.001"),
        ("4/pretrained 0.0001", "4/scratch 0.001"),
        ("4/pretrained 0.001", "4/scratch 0.001"),
        ("6/pretrained best of 4", "6/scratch best of 4"),
    ):
        for metric in (claims.MI, claims.MSP) if arm[0] == "6" else (claims.ACCURACY,):
            claim = claims.Claim("told", metric, arm, control, encoder="resnet50")
            assert tables.as_text(claims.paired(table, claim), metric) in page, (arm, control)
    best, scratch, study = (
        100 * tables.values(table, claims.ACCURACY, f"4/{arm}", "resnet50").mean()
        for arm in ("pretrained best", "scratch best", "pretrained 0.0001")
    )
    assert f"{best:.1f} % against {scratch:.1f} %, and falls to {study:.1f} %" in page
    leads = [
        tables.values(table, claims.ACCURACY, arm, "resnet50")
        for arm in ("4/pretrained best", "4/scratch best")
    ]
    assert "({:.1f}, {:.1f} and {:.1f} points)".format(*100 * (leads[0] - leads[1])) in page
    areas = unknown.by_class(table, unknown.RESNET_ARMS["ResNet-50, pretrained"])
    ahead = (areas[unknown.MI] > areas[unknown.MSP]).groupby("seed").sum()
    told = "ahead in {}, {} and {} of 18 classes".format(*ahead)
    assert told in (ROOT / "docs/ood.md").read_text()
    resnet = table[table["encoder"] == "resnet50"]
    chosen = resnet.loc[resnet["arm"] == "scratch best", "val_accuracy"]
    rate = resnet.loc[(resnet["arm"] == "scratch 0.0003") & (resnet["letter"] == "4")]
    assert sorted(chosen) == sorted(rate["val_accuracy"])  # "3e-4 from scratch", of every seed


def test_what_was_run_again_is_told_as_it_came_out():
    said = (ROOT / "docs/audit.md").read_text().split("## Run again")[1].split("\n## ")[0]
    first, again = (
        {(r["letter"], r["arm"], r["seed"]): r["result"] for r in read_records(folder)}
        for folder in (pages.RECORDS, pages.RECORDS / "again")
    )
    assert len(again) == 3
    whole = ("2", "pretrained 0.001", 0)
    for metric in ("val_accuracy", "test_accuracy"):
        before, after = (100 * found[whole][metric] for found in (first, again))
        assert f"{before:.1f} and then {after:.1f} %" in said
    for score in (unknown.MI, unknown.MSP):
        moved = [
            areas[score] - first[run]["ood_classes"][name][score]
            for run, result in again.items()
            for name, areas in result.get("ood_classes", {}).items()
        ]
        text = f"{min(moved):.3f} to {max(moved):.3f}".replace("-", "−")
        assert len(moved) == 4 and text in said


def test_the_results_have_every_network_on_all_images():
    table, _ = tables.read(pages.RECORDS)
    page = (ROOT / "docs/results.md").read_text()
    for encoder, letter in (("custom_cnn", "2"), ("resnet50", "4")):
        for arm in stages.NETWORK_ARMS:
            accuracy = 100 * tables.values(table, claims.ACCURACY, f"{letter}/{arm}", encoder)
            assert f"{tables.mean_as_text(accuracy, '.1f').split(' (')[0]} |" in page, (letter, arm)


def test_the_central_table_has_every_network_that_was_run(write):
    for seed, accuracy in enumerate((0.9, 0.92)):
        write("2", "scratch 0.001", seed, test_accuracy=accuracy)
    classes = {
        name: {"mutual_information": area, "one_minus_msp": 0.25, "pixel_mahalanobis": 0.5}
        for name, area in {"ucmerced/a": 0.6, "ucmerced/b": 0.8, "satlab/Argentina": 0.1}.items()
    }
    folder = write("6", "scratch 0.001 of 2", ood_classes=classes)
    shown = pages.networks(tables.read(folder, "full")[0])
    row = ["Custom CNN", "from scratch, 1e-3", "91.0 ± 1.4 (2)", "0.700 (1)", "0.250 (1)"]
    assert f"| {' | '.join(row)} | 98.1, 0.9255, 0.9006 |" in shown
    assert "| 10 labels a class, from scratch | missing | – | – | – |" in shown
    assert "| ViT-B/16 | from scratch, 1e-3, 3 epochs | missing | – | – | 50.3, " in shown


def test_a_page_that_lost_its_markers_is_named(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("<!-- records: of the runs -->\n| a |\n")
    monkeypatch.setitem(pages.PAGES, page, lambda table: "| b |")
    with pytest.raises(ValueError, match=r"page\.md: expected one table between the markers"):
        pages.written_anew(page, None)
    page.write_text("before\n<!-- records: x -->\n| a |\n<!-- end of records -->\nafter\n")
    assert pages.written_anew(page, None) == page.read_text().replace("| a |", "| b |")


def test_more_seeds_are_run_for_the_width_alone():
    narrow, wide = np.array([0.5, 0.504, 0.508]), np.array([0.5, 0.51, 0.52])
    for shift in (0, -0.5):
        assert claims.is_settled(tables.t_interval(narrow + shift))
        assert not claims.is_settled(tables.t_interval(wide + shift))
    assert not claims.is_settled(tables.t_interval(np.array([0.5, 0.5])))
    assert not claims.is_settled(tables.t_interval(np.array([])))


def primary_runs(*leads):
    """Runs of the five primary comparisons whose arm leads by these, three seeds each."""
    rows = []
    for claim, lead in zip(claims.PRIMARY, leads, strict=True):
        for arm, values in ((claim.arm, lead), (claim.control, (0, 0, 0))):
            letter, name = arm.split("/")
            by_seed = {seed: 0.5 + value for seed, value in enumerate(values)}
            of_arm = accuracies(letter, name, by_seed, claim.encoder)
            rows += [row | {claim.metric: row["test_accuracy"]} for row in of_arm]
    return pd.DataFrame(rows)


def test_a_primary_claim_needs_more_than_its_own_interval():
    """Three seeds each, at so many standard errors below 0: p is 0.0003, 0.004, 0.02, 0.04, 0.7."""
    clear, likely, weak, weaker, none = (
        tuple(-0.3 * (1 + step * np.sqrt(3) / errors) for step in (-1, 0, 1))
        for errors in (60, 15, 7.5, 5, 0.5)
    )
    alone = [tables.t_interval(np.array(lead)) for lead in (clear, likely, weak, weaker, none)]
    assert [difference.side for difference in alone] == [-1, -1, -1, -1, 0]

    def told(*leads):
        rows = verdicts.verdict_table(primary_runs(*leads))
        rows = rows[rows["group"] == verdicts.NAMED]
        assert list(rows["claim"]) == [claim.text for claim in claims.PRIMARY]
        p_values = {n: stats.ttest_1samp(lead, 0).pvalue for n, lead in enumerate(leads)}
        assert list(rows["p, Holm"]) == pytest.approx(list(slow_holm(p_values).values()))
        return list(rows["verdict"])

    held = told(weaker, clear, none, likely, weak)
    assert held == [verdicts.OPEN, verdicts.HOLDS, verdicts.OPEN, verdicts.HOLDS, verdicts.OPEN]
    assert told(*5 * [weak]) == 5 * [verdicts.OPEN]
    raised = tuple(-value for value in clear)
    assert told(*4 * [clear], raised) == [*4 * [verdicts.HOLDS], verdicts.FAILS]


def test_only_primary_claims_ever_hold():
    """Every arm is put at a level of its own, so that each comparison is as clear as can be."""
    exploratory, rng = [*claims.published(4), *claims.suspected()], np.random.default_rng(0)
    arms = {(claim.encoder, arm) for claim in exploratory for arm in (claim.arm, claim.control)}
    levels = {key: rng.normal() for key in sorted(arms, key=str) if key[1]}
    rows = []
    for ((encoder, arm), level), seed in itertools.product(levels.items(), range(3)):
        letter, name = arm.split("/")
        row = {"encoder": encoder, "letter": letter, "arm": name, "seed": seed}
        rows.append(row | dict.fromkeys(claims.METRIC_NAMES, level + 1e-6 * seed))
    told = verdicts.verdict_table(pd.DataFrame(rows)).set_index("claim")
    for claim in exploratory:
        lead = levels[claim.encoder, claim.arm] - levels.get((claim.encoder, claim.control), 0)
        expected = verdicts.TOWARDS if lead * claim.sign > 0 else verdicts.AGAINST
        assert told.loc[claim.text, "verdict"] == expected, claim
        assert np.isnan(told.loc[claim.text, "p, Holm"])
    assert len(told) == len(exploratory) + len(claims.PRIMARY) + 2  # these are arithmetic


def test_the_studys_own_table_turned_round_is_arithmetic():
    table = verdicts.verdict_table(tables.read("no such folder")[0])
    signs = table[table["letter"] == "a"]
    assert list(signs["verdict"]) == ["does not hold", "does not hold"]
    above_half, wins = signs["difference"]
    assert "6 of 7" in above_half and "in 2 turned round" in wins
    assert set(table.loc[table["letter"] != "a", "verdict"]) == {"missing"}


def over_labels(*leads, encoder="custom_cnn"):
    """Runs of f whose pretrained arm leads by so much with 10, 100 and all labels."""
    rows = []
    for labels, lead in zip((10, 100, "all"), leads, strict=True):
        pretrained = {seed: 0.5 + lead + 0.001 * seed for seed in range(3)}
        rows += accuracies("f", f"scratch {labels}", dict.fromkeys(range(3), 0.5), encoder)
        rows += accuracies("f", f"progressive {labels}", pretrained, encoder)
    return pd.DataFrame(rows)


def test_crossing_is_told_only_where_both_intervals_exclude_0():
    assert "between 10 and all" in verdicts.crossing(over_labels(0.1, -0.001, -0.1))
    assert "between 100 and all" in verdicts.crossing(over_labels(0.1, 0.1, -0.1))
    assert "No crossing" in verdicts.crossing(over_labels(0.1, 0.1, -0.001))


def test_encoders_are_told_and_drawn_apart():
    ahead = over_labels(0.1, 0.1, 0.1)
    table = pd.concat([ahead, over_labels(-0.1, -0.1, -0.1, encoder="resnet50")])
    assert "Above 0" in verdicts.paragraph(table, "f")
    assert "Below 0" not in verdicts.paragraph(table, "f")
    assert "Below 0" in verdicts.paragraph(table, "f", "resnet50")
    assert "between" not in verdicts.crossing(table) + verdicts.crossing(table, "resnet50")
    panels = figures_audit.over_labels(table, 200).axes
    assert [axis.get_title() for axis in panels] == ["Custom CNN", "ResNet-50"]
    for axis, lead in zip(panels, (10, -10), strict=True):
        _, pretrained, *_ = axis.lines
        drawn = dict(zip(*pretrained.get_data(), strict=True))
        assert drawn == pytest.approx({labels: 50 + lead + 0.1 for labels in (10, 100, 200)})


def test_every_verdict_stands_beside_its_row_with_a_mark_of_its_own():
    words = [
        *(verdicts.HOLDS, verdicts.FAILS, verdicts.TOWARDS, verdicts.AGAINST),
        *(verdicts.OPEN, verdicts.MISSING),
    ]
    numbers = {"letter": "b", "mean": 0.1, "low": 0.0, "high": 0.2, "points": True}
    told = pd.DataFrame([numbers | {"verdict": word, "claim": f"if {word}"} for word in words])
    told["group"] = [verdicts.NAMED] * 2 + [verdicts.FINDINGS] * 4
    told.loc[told["verdict"] == verdicts.MISSING, "mean"] = np.nan  # which is not drawn
    (axis,) = figures_audit.forest(told).axes  # no AUROC: no panel of them
    marks = {line for line in axis.lines if line.get_marker() != "None"}
    shapes = {(line.get_marker(), line.get_markerfacecolor() == "w") for line in marks}
    assert len(shapes) == len(marks) == 5
    beside = {text.xy[1]: text.get_text() for text in axis.texts if text.xy[0] > 1}
    claims = {
        row: text.get_text()
        for row, text in zip(axis.get_yticks(), axis.get_yticklabels(), strict=True)
    }
    assert claims == {row: f"if {word}\N{NO-BREAK SPACE}(b)" for row, word in beside.items()}
    headings = [text.get_text() for text in axis.texts if text.xy[0] < 1]
    assert headings == [verdicts.NAMED, verdicts.FINDINGS]
    empty = figures_audit.forest(told.assign(mean=np.nan)), figures_audit.grey_levels({})
    assert {figure.axes[0].texts[0].get_text() for figure in empty} == {"not run"}


def test_both_heads_and_no_sets_of_other_letters_are_drawn():
    common = {"encoder": "custom_cnn", "seed": 0, "loss": 4.0, "floor": 3.0, "own_temperature": 1.0}
    rows = [
        common | {"letter": "b", "arm": f"{loss} {temperature}{head}", "linear": 0.01 * number}
        for number, (loss, temperature, head) in enumerate(
            itertools.product(("cosine", "dot"), (0.1, 0.5), ("", plan.PUBLISHED_HEAD))
        )
    ]
    *_, probe = figures_audit.temperatures(pd.DataFrame(rows)).axes
    drawn = {line.get_label(): list(line.get_ydata()) for line in probe.lines}
    expected = {"cosine": [0, 2], "cosine published head": [1, 3]}
    expected |= {"dot": [4, 6], "dot published head": [5, 7]}
    assert drawn == {label: pytest.approx(values) for label, values in expected.items()}
    scored = {"auroc_energy": 0.7, "auroc_satlab_energy": np.nan}
    runs = pd.DataFrame([common | {"letter": "i", "arm": "scratch"} | scored])
    (axis,) = figures_audit.detectors(runs).axes
    assert [tick.get_text() for tick in axis.get_yticklabels()] == ["energy"]


# --- the plan ---


def letters_of(size_name):
    """What the command runs of a size."""
    return {"full": plan.STAGES, "repair": plan.REPAIRED}.get(size_name, plan.LETTERS)


def made_result(rng):
    """As a run has it that does all there is to do."""
    scores = ("mutual_information", "one_minus_msp", "pixel_mahalanobis")
    metrics = ("test_accuracy", "val_accuracy", "balanced_accuracy", "linear", "loss")
    return {
        **{metric: rng.random() for metric in metrics},
        "ood": {score: {"auroc": [rng.random(), 0, 1]} for score in scores},
        "ood_classes": {"ucmerced/airplane": {score: rng.random() for score in scores}},
    }


def write_results(folder, size_name, results, first=0):
    """Records of a size. results: (encoder, letter, arm, seed) → what was measured."""
    size = json.loads(json.dumps(dataclasses.asdict(plan.SIZES[size_name])))
    for number, ((encoder, letter, arm, seed), result) in enumerate(results.items(), first):
        run = {"encoder": encoder, "letter": letter, "arm": arm, "seed": seed}
        record = run | {"size": size_name, "result": result, "settings": size, "seconds": 1.0}
        (folder / f"{size_name}{number:04}.json").write_text(json.dumps(record))


@pytest.mark.parametrize("size_name", plan.SIZES)
def test_every_comparison_of_every_size_has_both_its_arms(size_name, tmp_path):
    size, letters, rng = plan.SIZES[size_name], letters_of(size_name), np.random.default_rng(0)
    results = {}
    for letter, arm, seed in plan.planned_runs(size, letters, range(1)):
        if arm != plan.HISTOGRAMS:
            own = plan.recipe_of(size, letter, arm).encoder
            for encoder in (own,) if own else ("custom_cnn", "resnet50"):  # as by --encoder
                results[encoder, letter, arm, seed] = made_result(rng)
    write_results(tmp_path, size_name, results)
    table = tables.read(tmp_path, size_name)[0]
    every = [*claims.PRIMARY, *claims.published(min(size.labels, default=10)), *claims.suspected()]
    asked = [claim for claim in every if claim.letter in letters]
    expected = {"full": "1234567", "repair": "bcdeh"}.get(size_name, "bcdefghi")
    assert {claim.letter for claim in asked} == set(expected)
    for claim in asked:
        assert claims.paired(table, claim).n == 1, claim


def test_every_arm_of_every_stage_has_a_recipe():
    size = plan.SIZES["full"]
    assert set(stages.TITLES) == set(plan.STAGES)
    for stage in plan.STAGES:
        recipes = {arm: plan.recipe_of(size, stage, arm) for arm in stages.arms(stage)}
        assert len(recipes) == len(stages.arms(stage))
        assert len(set(recipes.values())) == len(recipes), stage  # no two arms are one
        for arm, recipe in recipes.items():
            does = recipe.probe, recipe.budgets, recipe.ood, recipe.finetune is not None
            assert any(does), arm
            assert (recipe.start is None) == ("scratch" in arm or "untrained" in arm), arm
            if stage != "7":  # so that the test images are the stages' own
                assert recipe.split == "random", arm
    grounds = [plan.recipe_of(size, "7", arm) for arm in stages.arms("7")]
    for epochs in (5, 20):
        alike = [recipe for recipe in grounds if recipe.epochs == epochs]
        assert [recipe.split for recipe in alike] == ["even random", "blocks", "geographic"]
        assert len({dataclasses.replace(recipe, split="") for recipe in alike}) == 1  # one change
    trained = {arm: plan.recipe_of(size, "2", arm) for arm in stages.arms("2")}
    scored = {arm: plan.recipe_of(size, "6", f"{arm} of 2") for arm in trained}
    for arm, recipe in trained.items():  # it is the very network of stage 2 that is scored
        assert scored[arm] == dataclasses.replace(recipe, ood=True) and recipe.keep


def test_stages_come_one_after_the_other_and_within_one_the_seeds():
    runs = list(plan.planned_runs(plan.SIZES["full"], "3214", range(3)))
    assert [run.letter for run in runs] == sorted(run.letter for run in runs)
    for stage in "1234":
        seeds = [run.seed for run in runs if run.letter == stage]
        assert seeds == sorted(seeds) and set(seeds) == {0, 1, 2}
    arms = [run.arm for run in runs if run.letter == "2"]
    assert arms == 3 * stages.arms("2")
    once = [run.arm for run in runs if run.letter == "1" and run.arm.startswith("pretrain")]
    assert len(once) == len(set(once)) == 6  # one seed of what takes longest


def test_records_of_all_sizes_have_names_of_their_own(study):
    names = []
    for size_name, size in plan.SIZES.items():
        of_size = dataclasses.replace(study, size_name=size_name, size=size)
        runs = list(plan.planned_runs(size, letters_of(size_name), range(3)))
        assert len(set(runs)) == len(runs)
        names += [record_file(of_size, run).name for run in runs]
    assert len(set(names)) == len(names) > 800
    assert "resnet50_full_6_pretrained-0.0001-of-4_s2.json" in names


def test_all_letters_of_a_seed_come_before_the_next_and_controls_come_along():
    runs = list(plan.planned_runs(killable.TINY, "dg", range(2)))
    assert [run.seed for run in runs] == sorted(run.seed for run in runs)
    assert {run.letter for run in runs} == {"b", "d", "g"}
    assert {run.arm for run in runs if run.letter == "b"} == {plan.CONTROL}


@pytest.mark.parametrize(
    ("epochs", "expected"), [(100, (10, 10, 80)), (6, (1, 1, 4)), (3, (1, 1, 1))]
)
def test_phases_keep_the_studys_proportion(epochs, expected):
    assert plan.phases("progressive", epochs) == expected
    assert sum(plan.phases("full", epochs)) == sum(plan.phases("frozen", epochs)) == epochs


# --- the runs, for real ---


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audit")
    counts = {"bigearthnet": 4, "eurosat_per_class": 30, "ucmerced_per_class": 4}
    make_demo(folder / "data", **counts, progress=False)
    profile = open_profile("paper", folder)
    profile.labelled(), profile.out_of_distribution()
    return folder


@pytest.fixture
def tiny(monkeypatch):
    """The audit's command in this process, at the tiny size."""
    monkeypatch.setattr("sys.argv", [])
    monkeypatch.setitem(plan.SIZES, "tiny", killable.TINY)
    return killable.audit


@pytest.fixture(scope="module")
def records(workspace):
    """The audit killed after its second record, then started again and told to do all letters; and
    what was there before that: file → when it was written.
    """
    folder = workspace / "models/records/audit"
    options = ("--workspace", workspace, "--device", "cpu")
    child = killable.start(killable.audit, *options, "--only", "f", "--seeds", 2)
    while len(list(folder.glob("*.json"))) < 2 and child.is_alive():
        time.sleep(0.02)
    child.kill()
    child.join()
    before = {file: file.stat().st_mtime_ns for file in folder.glob("*.json")}
    assert len(before) >= 2 and child.exitcode == -9
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", [])
        patch.setitem(plan.SIZES, "tiny", killable.TINY)
        killable.audit(*options, "--only", "f", "--seeds", 2)
        killable.audit(*options, "--seeds", 1)
    return before


def read_json(workspace, *names):
    """Records by the ends of their names, or all."""
    folder = workspace / "models/records/audit"
    files = [folder / f"custom_cnn_tiny_{name}.json" for name in names] or folder.glob("*.json")
    return [json.loads(file.read_text()) for file in files]


def test_a_killed_audit_goes_on_where_it_was(workspace, records):
    assert all(file.stat().st_mtime_ns == when for file, when in records.items())
    planned = {*plan.planned_runs(killable.TINY, "f", range(2))}
    planned |= {*plan.planned_runs(killable.TINY, plan.LETTERS, range(1))}
    done = [(r["letter"], r["arm"], r["seed"]) for r in read_json(workspace)]
    assert sorted(done) == sorted(planned)
    assert {file.suffix for file in (workspace / "models/records/audit").iterdir()} == {".json"}


def test_runs_that_agree_in_a_step_share_it(workspace, records):
    work = workspace / "runs/audit/paper/tiny/custom_cnn"
    kinds = [folder.name.split("_")[0] for folder in work.iterdir()]
    # long and short are equally long here, and so are both random splits: the control at two seeds;
    # dot products, both losses with the published head, published rendering, coarse pixels, four of
    # e, the geographic split and the blocks at one
    assert kinds.count("pretrain") == 2 + 1 + 2 + 1 + 1 + 4 + 2
    # f: two kinds, two numbers of labels, two seeds; dot products and published rendering; g: four
    # kinds at two rates, of which f has two; the geographic split and the blocks: two each. The
    # control of b, all of i and the random split of h are f's or g's.
    assert kinds.count("tune") == 8 + 2 + 6 + 4


def test_folders_have_the_names_that_older_versions_gave_them(study):
    """Or what they left would be made again. A name hashes the config as it was written then."""
    config = (
        "PretrainConfig(encoder='custom_cnn', epochs=1, batch_size=16, lr=0.001, temperature=0.5, "
        "projection=(512, 512, 128), image_size=8, in_channels=3, dropout=0.1, seed=1, "
        "augmentation={})"
    )
    recipe, split = plan.recipe_of(study.size, "f", "progressive 4"), draw(study, 1, "random")
    decided = f"({config}, 'cosine 0.5', {split.train.tobytes()!r})"
    start = f"pretrain_s1_{hashlib.sha256(decided.encode()).hexdigest()[:12]}"
    assert pretraining(study, recipe, 1).folder == study.work / start
    config = (
        "FinetuneConfig(encoder='custom_cnn', phases=(1, 1, 2), batch_size=16, lr=0.001, "
        "weight_decay=0.0001, image_size=8, in_channels=3, dropout=0.1, seed=1)"
    )
    few = draw(study, 1, "random", 4)
    decided = f"({config}, {start!r}, {few.train.tobytes()!r}, {few.test.tobytes()!r})"
    name = f"tune_s1_{hashlib.sha256(decided.encode()).hexdigest()[:12]}"
    assert finetuning(study, recipe, 1).folder == study.work / name


def test_committed_records_are_of_the_sizes_there_are():
    for file in (ROOT / "models/records/audit").glob("*.json"):
        record = json.loads(file.read_text())
        size = plan.SIZES[record["size"]]
        # what is younger than a record was off
        newer = {f.name: f.default for f in dataclasses.fields(size)} | record["settings"]
        as_json = json.loads(json.dumps(dataclasses.asdict(size)))
        assert {key: newer[key] for key in as_json} == as_json, file.name
        of_letter = stages.arms if record["letter"] in plan.STAGES else partial(plan.arms, size)
        assert record["arm"] in of_letter(record["letter"]), file.name


def test_records_hold_what_was_measured_and_how(workspace, records):
    dot, scratch, histograms = read_json(
        workspace, "b_dot-0.5_s0", "i_scratch_s0", "c_histograms_s0"
    )
    assert dot["result"]["floor"] == pytest.approx(np.log1p(30 * np.exp(-2 * (1 + 1 / 15))))
    assert 0 <= dot["result"]["linear"] <= 1 and dot["result"]["embedding_length"] > 0
    assert dot["settings"]["data"]["sha256"] and dot["versions"]["hardware"] and dot["seconds"] > 0
    assert dot["command"].startswith("python -m audit ")
    auroc = [metrics["auroc"] for metrics in scratch["result"]["ood"].values()]
    assert len(auroc) == 15 and all(0 <= low <= high <= 1 + 1e-9 for _, low, high in auroc)
    levels = histograms["result"]
    assert len(levels) == 4
    assert all(sum(each["share"]) == pytest.approx(1) for each in levels.values())
    dark = np.array(levels["EuroSAT"]["mean"]) * 0.275
    assert levels["EuroSAT, as published"]["mean"] == pytest.approx(dark, abs=1)


def test_which_images_are_right_gives_back_the_accuracies(study, workspace, records):
    measured = [record for record in read_json(workspace) if "test_accuracy" in record["result"]]
    assert len(measured) > 20
    for record in measured:
        result = record["result"]
        recipe = plan.recipe_of(study.size, record["letter"], record["arm"])
        rows = draw(study, record["seed"], recipe.split, recipe.labels).test
        packed = np.frombuffer(base64.b64decode(result["correct"]), np.uint8)
        assert len(packed) == -(-len(rows) // 8)
        right = pd.Series(np.unpackbits(packed, count=len(rows)))
        assert right.mean() == pytest.approx(result["test_accuracy"])
        by_class = right.groupby(study.store.labels[rows]).mean()
        assert by_class.mean() == pytest.approx(result["balanced_accuracy"])


def test_classes_weigh_the_same_in_balanced_accuracy(study):
    """Of a network that says one class of every image, however many of it a split tests."""
    uneven = dataclasses.replace(study.size, test_all=True, per_class=None, held_out=None)
    study, sizes = dataclasses.replace(study, size=uneven), set()
    for split in ("even random", "geographic", "blocks"):
        rows = draw(study, 0, split).test
        packed = np.packbits(study.store.labels[rows] == 3)
        measured = one_run.correctness(study, plan.Recipe(None, split), 0, packed)
        assert measured["balanced_accuracy"] == pytest.approx(0.1)
        assert base64.b64decode(measured["correct"]) == packed.tobytes()
        sizes.add(len(rows))
    assert len(sizes) > 1


def test_one_seed_of_every_letter_concludes_nothing(workspace, records):
    table = tables.read(workspace / "models/records/audit", "tiny")[0]
    told = verdicts.verdict_table(table[table["seed"] == 0])
    told = told[(told["letter"] != "a") & (told["verdict"] != verdicts.MISSING)]
    assert set(told["letter"]) == set("bcdefghi") and set(told["verdict"]) == {verdicts.OPEN}


def test_other_settings_do_not_mix_with_the_records_that_are_there(
    workspace, records, tiny, monkeypatch
):
    monkeypatch.setattr(killable, "TINY", dataclasses.replace(killable.TINY, epochs=4))
    with pytest.raises(SystemExit, match=r"error: .*other settings .*'epochs': \(3, 4\)"):
        tiny("--workspace", workspace, "--only", "f")


def test_a_store_that_was_given_a_title_since_is_the_same_data(elsewhere, tiny, capsys):
    for file in (elsewhere / "models/records/audit").glob("*.json"):
        record = json.loads(file.read_text())
        del record["settings"]["data"]["title"]
        file.write_text(json.dumps(record))
    tiny("--workspace", elsewhere, "--only", "f", "--seeds", 2, "--status")
    assert " 0 running, 0 left" in capsys.readouterr().out


def test_a_budget_stops_new_runs_and_says_how_many_are_left(workspace, records, tiny, capsys):
    tiny("--workspace", workspace, "--only", "f", "--seeds", 3, "--minutes", 0)
    out = capsys.readouterr().out
    assert "8 of 24 runs to do" in out and "f: about" in out and "8 runs are left" in out


@pytest.fixture
def elsewhere(workspace, records, tmp_path):
    """A workspace with the same data and records, and none of the work on them."""
    (tmp_path / "data").mkdir()
    for name in ("eurosat", "UCMerced_LandUse"):
        (tmp_path / "data" / name).symlink_to(workspace / "data" / name)
    shutil.copytree(workspace / "models", tmp_path / "models")
    return tmp_path


def test_status_tells_done_running_and_left_and_does_nothing(elsewhere, tiny, capsys):
    known = read_json(elsewhere)
    status = ("--workspace", elsewhere, "--only", "df", "--seeds", 3, "--status")
    open_profile("paper", elsewhere).labelled()  # which tells once how many images there are
    capsys.readouterr()
    tiny(*status)
    # seeds 0 and 1 of f are done, seed 0 of d and of its control
    lines = capsys.readouterr().out.splitlines()
    assert [re.sub(", about.*", "", line) for line in lines] == [
        "  f: 16 done, 0 running, 8 left",
        "  b: 1 done, 0 running, 2 left",
        "  d: 1 done, 0 running, 2 left",
    ]
    work, profile = elsewhere / "runs/audit/paper/tiny/custom_cnn", open_profile("paper", elsewhere)
    study = open_study(profile, "tiny", work, runtime=pick("cpu"))
    lock = lock_folder(study, plan.Run("f", "linear 4", 2))
    child = killable.start(killable.hold, lock)
    while not (lock / "held").exists():
        assert child.is_alive()
        time.sleep(0.02)
    tiny(*status)
    child.kill()
    child.join()
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"  f: 16 done, 1 running, 7 left, about .* h of one process", lines[0])
    assert lines[3:] == ["  running: seed 2, f: linear 4"]
    assert not list(work.glob("pretrain*")) and read_json(elsewhere) == known


def test_a_signal_saves_a_pretraining_and_the_same_command_goes_on_from_there(
    elsewhere, tiny, monkeypatch
):
    """Its record is that of a run that was never stopped; all of it are three steps."""
    (file,) = (elsewhere / "models/records/audit").glob("*_b_dot-0.5_s0.json")
    uninterrupted = json.loads(file.read_text())["result"]
    file.unlink()
    loss, taken = changes.dot_product_loss, []

    @functools.wraps(loss)  # it is that loss, whatever this counts
    def stopped_at_the_second(*args):
        taken.append(args)
        if len(taken) == 2:
            signal.raise_signal(signal.SIGTERM)
        return loss(*args)

    monkeypatch.setattr(changes, "dot_product_loss", stopped_at_the_second)
    command = ("--workspace", elsewhere, "--only", "b", "--seeds", 1, "--device", "cpu")
    with pytest.raises(SystemExit) as stop:  # which Python prints
        tiny(*command)
    assert re.fullmatch(
        r"stopped by SIGTERM; saved in \S+\.pth\. Run .* to go on\.", stop.value.code
    )
    assert len(taken) == 2 and not file.exists()
    tiny(*command)
    assert len(taken) == 3
    assert json.loads(file.read_text())["result"] == uninterrupted


def test_the_notebook_tells_these_records_and_what_is_missing(workspace, records, tiny):
    """Its cells, in this process: a kernel would take longer than all of them."""
    cells = (
        pytest.importorskip("nbformat")
        .read(ROOT / "notebooks/09_why_pretraining_hurt.ipynb", 4)
        .cells
    )
    code, space = [cell.source for cell in cells if cell.cell_type == "code"], {}
    code[0] += f"\nWORKSPACE = {str(workspace)!r}"
    for source in code:
        exec(source, space)
    drawn = {path.stem for path in (workspace / "umap_visualizations").glob("audit_*.png")}
    named = {name for source in code for name in re.findall(r"(audit_\w+)\.png", source)}
    assert drawn == named  # and each of the letters that were run has a figure of its own
    letters = {record["letter"] for record in read_json(workspace)}
    assert {"forest", "a", *letters} <= {name.split("_")[1] for name in drawn}
    told = space["claims"].set_index("claim")
    # one seed, two seeds, none
    assert told.loc["Near-black rendering costs accuracy", "verdict"] == verdicts.OPEN
    assert told.loc["… and with 4 labels a class", "difference"].endswith("n = 2")
    assert told.loc["Pretraining lowers ResNet-50's accuracy", "verdict"] == verdicts.MISSING


def test_records_of_two_sizes_are_summed_up_each_by_its_own():
    data = {"kind": "eurosat-rgb"}
    settings = {"per_class": 4, "image_size": 16, "long": 2, "short": 1, "epochs": 1}
    settings |= {"data": data, "places": "longitude"}
    versions = {"hardware": "a card", "date": "2026-01-02"}
    record = {"seed": 0, "seconds": 60.0, "versions": versions}
    records = [
        {**record, "size": size, "settings": {**settings, "image_size": pixels}}
        for size, pixels in (("cpu", 16), ("full", 32), ("cpu", 16))
    ]
    small, full = tables.summary(records).split("\n\n")
    assert "2 runs, size `cpu`" in small and "16 pixels" in small and "2 minutes" in small
    assert "1 runs, size `full`" in full and "32 pixels" in full


def test_the_notebook_says_so_where_nothing_was_run(tmp_path):
    table, nothing = tables.read(tmp_path)
    assert "Missing" in tables.summary(nothing)
    assert all("Missing" in verdicts.paragraph(table, letter) for letter in "bcdefghi")


@pytest.mark.parametrize("content", ["{", "[1]", "7", '{"size": "cpu"}'])
def test_other_files_among_the_records_are_named(tmp_path, content):
    (tmp_path / "notes.json").write_text(content)
    with pytest.raises(ValueError, match=r"notes.json is not a record of the audit"):
        tables.read(tmp_path)


# --- who trains on what ---


@pytest.fixture
def study(workspace, tiny):
    profile = open_profile("paper", workspace)
    return open_study(profile, "tiny", Path("work"), runtime=pick("cpu"))


def parts(split):
    return [split.train, split.val, split.test]


def test_splits_are_balanced_nested_and_apart(study):
    labels = study.store.labels
    kinds = ("random", "even random", "geographic", "blocks")
    for seed, kind in itertools.product((0, 1), kinds):
        split = draw(study, seed, kind)
        counts = [np.bincount(labels[rows]).tolist() for rows in parts(split)]
        assert counts[0] == 10 * [6] and max(counts[1]) == 2
        # blocks are dealt whole: some classes have a single one for val, more or fewer for test
        assert kind == "blocks" or counts[1:] == [10 * [2], 10 * [3]]
        assert len(np.unique(np.concatenate(parts(split)))) == sum(map(len, parts(split)))
        few = draw(study, seed, kind, 4)
        assert set(few.train) < set(split.train) and np.array_equal(few.test, split.test)
    west, middle, east = (study.places[rows, 0] for rows in parts(draw(study, 0, "geographic")))
    assert west.max() < middle.min() and middle.max() < east.min()
    even, random = draw(study, 0, "even random"), draw(study, 0, "random")
    assert all(map(np.array_equal, parts(even), parts(random)))


def test_even_splits_are_as_large_as_the_smaller(study):
    everything = dataclasses.replace(study.size, per_class=None, held_out=None)
    uneven = dataclasses.replace(study, size=everything)
    random, even, geographic = (
        [len(rows) for rows in parts(draw(uneven, 0, kind))]
        for kind in ("random", "even random", "geographic")
    )
    assert even == geographic and random[0] > geographic[0]


@pytest.mark.parametrize("per_class", [6, None])
def test_all_that_is_not_used_is_tested(study, per_class):
    """And what is trained on and chosen by has as many of each class, however it is split."""
    whole = dataclasses.replace(study.size, test_all=True, per_class=per_class, held_out=None)
    study = dataclasses.replace(study, size=whole)
    labels, kinds = study.store.labels, ("even random", "geographic", "blocks")
    for seed in (0, 1):
        splits = {kind: draw(study, seed, kind) for kind in ("random", *kinds)}
        for kind in ("random", "even random"):
            together = np.concatenate(parts(splits[kind]))
            assert sorted(together) == list(range(len(labels)))
        cut = np.quantile(study.places[:, 0], 0.8)
        assert np.array_equal(splits["geographic"].test, np.flatnonzero(study.places[:, 0] > cut))
        of_blocks = block_split(study.places, seed)
        assert np.array_equal(splits["blocks"].test, of_blocks.test)
        assert set(splits["blocks"].train) <= set(of_blocks.train)
        for part in ("train", "val"):
            counts = {tuple(np.bincount(labels[getattr(splits[kind], part)])) for kind in kinds}
            assert len(counts) == 1, part
            assert per_class is None or part == "val" or counts == {10 * (6,)}
    few = draw(study, 0, "random", 4, number=1)
    assert len(few.train) == 40 and not np.array_equal(few.train, draw(study, 0, "random", 4).train)
    # an encoder is pretrained on all of the training part: none of it is tested on
    pretrained_on = draw(study, 0, "random").train
    unseen = set(range(len(labels))) - {*pretrained_on} - {*few.train} - {*few.val}
    assert set(few.test) == unseen and len(few.test)


def test_blocks_share_no_cell_and_have_60_20_and_20_percent():
    rng = np.random.default_rng(0)
    centres = rng.uniform((-10, 35), (30, 65), (300, 2))  # as real ones: in clusters
    places = centres[rng.integers(300, size=6000)] + rng.normal(0, 0.3, (6000, 2))
    seen = set()
    for seed in range(5):
        split = parts(block_split(places, seed))
        assert sorted(np.concatenate(split)) == list(range(6000))
        assert [len(rows) / 6000 for rows in split] == pytest.approx([0.6, 0.2, 0.2], abs=0.03)
        cells = [set(map(tuple, np.floor(2 * places[rows]))) for rows in split]
        assert all(map(set.isdisjoint, cells, [cells[1], cells[2], cells[0]]))
        # the same regions: nobody's test images lie to one side
        assert all(np.ptp(places[rows], axis=0).min() > 25 for rows in split)
        seen.add(split[2].tobytes())
        assert np.array_equal(split[2], block_split(places, seed).test)
    assert len(seen) == 5


def test_coordinates_are_read_by_name_and_missing_ones_named(tmp_path):
    file = tmp_path / "places.csv"
    file.write_text("name,latitude,longitude\nForest_2,50,9\nForest_1,40,-3\n")
    places, kind = place_table(np.array(["Forest_1", "Forest_2"]), file)
    assert places.tolist() == [[-3, 40], [9, 50]] and kind == "longitude and latitude"
    with pytest.raises(DataError, match=r"places.csv has no place for \['River_1'\]"):
        place_table(np.array(["Forest_1", "River_1"]), file)
    file.write_text("id,lat\n1,2\n")
    with pytest.raises(DataError, match="columns name, latitude, longitude"):
        place_table(np.array(["Forest_1"]), file)


def test_unknown_letters_are_refused(monkeypatch):
    monkeypatch.setattr("sys.argv", ["audit", "--only", "b,x"])
    with pytest.raises(SystemExit, match=r"no letter \['x'\]"):
        command.main()


def test_one_arm_is_chosen_by_its_name_and_an_unknown_one_refused(elsewhere, tiny, capsys):
    chosen = ("--workspace", elsewhere, "--only", "f", "--seeds", 3, "--status", "--arm")
    tiny(*chosen, "scratch 4", "--arm", "progressive all")
    assert "  f: 4 done, 0 running, 2 left" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r'--arm "scratch 3": .*choose from scratch all, .*4'):
        tiny(*chosen, "scratch 3")


# --- images beside EuroSAT ---

QUARTERS = ((0, 0), (0, 1), (1, 0), (1, 1))  # upper or lower, left or right
FLAT = range(10, 234, 7)  # grey levels of the quarters of all aerial pictures


def in_quarters(size, values):
    """(size, size, 3) uint8 of four flat quarters."""
    image = np.zeros((size, size, 3), np.uint8)
    for (down, right), value in zip(QUARTERS, values, strict=True):
        half = size // 2
        image[down * half :, right * half :] = value
    return image


@pytest.fixture
def other_data(tmp_path, write_band):
    """Two classes of two aerial pictures of flat quarters each, and three SatLab patches of which
    two are the same: band n of patch m is 100 m + 500 n.
    """
    values = iter(FLAT)
    for folder, suffix in (("UCMerced_LandUse/Images", "tif"), ("NWPU-RESISC45", "jpg")):
        for name, number in itertools.product(("a", "b"), range(2)):
            file = tmp_path / folder / name / f"{name}{number}.{suffix}"
            file.parent.mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(in_quarters(256, itertools.islice(values, 4)))
            picture.save(file, **({"quality": 95} if suffix == "jpg" else {}))
    (tmp_path / "SatLab").mkdir()
    for number, patch in enumerate((0, 1, 1)):
        bands = [np.full((32, 32), 100 * patch + 500 * band, np.uint16) for band in range(4)]
        write_band(tmp_path / f"SatLab/{number}.tif", np.stack(bands))
    return tmp_path


def test_eurosats_patches_are_one_quarter_of_each_image():
    images = np.stack([in_quarters(64, range(4 * n, 4 * n + 4)) for n in range(60)])
    patches = sources.pretraining_patches(Path("none"), "eurosat", images, seed=0)
    assert patches.shape == (60, 32, 32, 3) and not np.ptp(patches, axis=(1, 2, 3)).any()
    image, quarter = np.divmod(patches[:, 0, 0, 0], 4)
    assert sorted(image) == list(range(60)) and list(image) != sorted(image)
    assert set(quarter) == set(range(4))
    again, other = (
        sources.pretraining_patches(Path("none"), "eurosat", images, seed) for seed in (0, 1)
    )
    assert np.array_equal(patches, again) and not np.array_equal(patches, other)


@pytest.mark.parametrize(("name", "levels"), [("ucmerced", FLAT[:16]), ("resisc45", FLAT[16:])])
def test_aerial_pictures_are_reduced_and_all_their_quarters_taken(other_data, name, levels):
    patches = sources.pretraining_patches(other_data, name, np.empty((0, 64, 64, 3)), seed=0)
    assert patches.shape == (16, 32, 32, 3) and patches.dtype == np.uint8
    middles = patches[:, 8:24, 8:24].mean((1, 2, 3))  # the seams are blurred
    assert sorted(middles) == pytest.approx(list(levels), abs=1)
    found = sources.ood_images(other_data, name)
    shapes = {label: images.shape for label, images in found.items()}
    assert shapes == dict.fromkeys("ab", (2, 64, 64, 3))
    assert [len(images) for images in sources.ood_images(other_data, name, 1).values()] == [1, 1]


def test_satlabs_patches_are_distinct_and_in_colour(other_data):
    eurosat = np.empty((0, 64, 64, 3))
    bright = sources.pretraining_patches(other_data, "satlab", eurosat, seed=0)
    dark = sources.pretraining_patches(other_data, "satlab dark", eurosat, seed=0)
    assert bright.shape == dark.shape == (2, 32, 32, 3)
    numbers = np.array([[1000, 500, 0], [1100, 600, 100]], np.uint16)  # red, green, blue
    for patches, stretch in ((bright, 2750), (dark, 10_000)):
        assert not np.ptp(patches, axis=(1, 2)).any()
        colours = sorted(map(tuple, patches[:, 0, 0]))
        assert colours == [tuple(to_uint8(number, stretch)) for number in numbers]
    (patches,) = sources.ood_images(other_data, "satlab").values()
    assert sorted(patches[:, 0, 0, 0]) == sorted(bright[:, 0, 0, 0])


def test_what_is_not_there_is_told(other_data):
    assert sources.found_sets(other_data) == ["ucmerced", "resisc45", "satlab"]
    for name, folder in sources.FOLDERS.items():
        shutil.rmtree(other_data / folder)
        assert name not in sources.found_sets(other_data)
        with pytest.raises(DataError, match=rf"{name} not found: expected .*{folder}"):
            sources.pretraining_patches(other_data, name, np.empty((0, 64, 64, 3)), seed=0)
        with pytest.raises(DataError, match=f"{name} not found"):
            sources.ood_images(other_data, name)


# --- stages, for real ---


@pytest.fixture
def full(workspace, other_data, monkeypatch):
    """The size `full`, made so small that its runs take seconds, on UC Merced and SatLab."""
    size = dataclasses.replace(
        killable.TINY, per_class=None, held_out=None, labels=(), test_all=True, tuned=""
    )
    monkeypatch.setitem(plan.SIZES, "full", size)
    monkeypatch.setitem(stages.EPOCHS, "2", (1, 3))
    for name, value in {"NEAR_LABELS": 8, "NEAR_EPOCHS": 3, "FEW_EPOCHS": 3, "FEW": 4}.items():
        monkeypatch.setattr(stages, name, value)
    monkeypatch.setattr(one_run, "BUDGETS", (2, 5))
    monkeypatch.setattr(one_run, "BUDGET_DRAWS", 3)
    monkeypatch.setattr(steps, "SOURCE_COUNT", 16)
    (other_data / "eurosat").symlink_to(workspace / "data/eurosat")
    profile = open_profile("paper", workspace)
    folders = {"data": other_data, "records": other_data / "records"}
    profile = dataclasses.replace(profile, **folders)
    monkeypatch.setattr("sys.argv", [])
    return open_study(profile, "full", other_data / "work", runtime=pick("cpu"))


def perform(study, *runs):
    """The results of runs, by letter and arm."""
    command.perform_all(study, list(runs), np.inf)
    files = [json.loads(record_file(study, run).read_text()) for run in runs]
    return [file["result"] for file in files]


def test_a_network_is_scored_on_every_class_of_every_set(full):
    shutil.rmtree(full.profile.data / "NWPU-RESISC45")
    trained, scored = perform(
        full, plan.Run("2", "scratch 0.001", 0), plan.Run("6", "scratch 0.001 of 2", 0)
    )
    assert set(scored["ood_classes"]) == {"ucmerced/a", "ucmerced/b", "satlab/Argentina"}
    assert "ood_classes" not in trained
    for areas in scored["ood_classes"].values():
        assert len(areas) == 15 and all(0 <= area <= 1 for area in areas.values())
    # it is the same network, and was trained once
    assert trained["correct"] == scored["correct"]
    assert len(list(full.work.glob("tune*"))) == 1


def test_a_network_is_scored_on_classes_it_never_saw(full):
    (result,) = perform(full, plan.Run("6", "near 1 scratch", 0))
    assert set(result["ood_classes"]) == {"near/AnnualCrop", "near/Highway"}
    (file,) = full.work.glob("tune*/*.json")
    classes = json.loads(file.read_text())["classes"]
    assert len(classes) == 8 and not {"AnnualCrop", "Highway"} & set(classes)
    rows = draw(full, 0, "random", 8).test
    names = np.array(full.store.meta["classes"])[full.store.labels[rows]]
    kept = (~np.isin(names, ["AnnualCrop", "Highway"])).sum()
    packed = np.frombuffer(base64.b64decode(result["correct"]), np.uint8)
    assert len(packed) == -(-kept // 8)
    assert np.unpackbits(packed).sum() / kept == pytest.approx(result["test_accuracy"])


def test_few_labels_are_drawn_many_times(full):
    budgets, first, second = perform(
        full,
        plan.Run("3", "linear pretrained", 0),
        plan.Run("3", "pretrained 10 draw 0", 0),
        plan.Run("3", "pretrained 10 draw 1", 0),
    )
    drawn = budgets["budgets"]
    assert {labels: len(values) for labels, values in drawn.items()} == {"2": 3, "5": 1}
    assert len(set(drawn["2"])) > 1
    assert all(0 <= value <= 1 for values in drawn.values() for value in values)
    assert len(list(full.work.glob("pretrain*"))) == 1
    assert first["phases"] == [1, 1, 1] and first["correct"] != second["correct"]


def test_sources_are_pretrained_on_equally_long(full, monkeypatch):
    """Only the images differ: the batches of each are as many."""
    counts = []

    def counted(images, *args, **kwargs):
        counts.append(len(images))
        return pretrain(images, *args, **kwargs)

    monkeypatch.setattr(steps, "pretrain", counted)
    results = perform(full, *(plan.Run("5", name, 0) for name in ("eurosat", "ucmerced")))
    assert counts == [16, 16]
    assert all(0 <= result["linear"] <= 1 for result in results)
    assert results[0]["loss"] != results[1]["loss"]


# --- derived rows of the table ---


@pytest.fixture
def write(tmp_path):
    """(letter, arm, seed, **result) → a record of the size `full` in the folder."""
    numbers = itertools.count()

    def write(letter, arm, seed=0, encoder="custom_cnn", **result):
        write_results(tmp_path, "full", {(encoder, letter, arm, seed): result}, next(numbers))
        return tmp_path

    return write


def test_the_best_rate_is_best_on_val_and_waits_for_all_rates(write):
    write("2", "scratch 0.001", val_accuracy=0.9, test_accuracy=0.5)
    folder = write("2", "scratch 0.0003", 1, val_accuracy=0.99, test_accuracy=0.1)
    assert "scratch best" not in set(tables.read(folder, "full")[0]["arm"])
    write("2", "scratch 0.0003", val_accuracy=0.8, test_accuracy=0.7)
    write("2", "scratch 0.001", 1, diverged="the loss is nan")
    write("4", "scratch 0.001", encoder="resnet50", val_accuracy=0.2, test_accuracy=0.2)
    write("4", "scratch 0.0003", encoder="resnet50", val_accuracy=0.3, test_accuracy=0.3)
    for arm, area in (("scratch 0.001 of 2", 0.6), ("scratch 0.0003 of 2", 0.9)):
        scores = dict.fromkeys(("mutual_information", "one_minus_msp", "pixel_mahalanobis"), area)
        write("6", arm, ood_classes={"ucmerced/a": scores})
    table = tables.read(folder, "full")[0]
    best = tables.values(table, "test_accuracy", "2/scratch best")
    assert best.to_dict() == {0: 0.5, 1: 0.1}
    assert tables.values(table, "test_accuracy", "4/scratch best", "resnet50").to_dict() == {0: 0.3}
    assert tables.values(table, claims.MI, "6/scratch best of 2").to_dict() == {0: 0.6}


def test_few_labels_are_the_mean_over_all_their_draws(write):
    for number in range(4):
        folder = write("3", f"pretrained 10 draw {number}", test_accuracy=0.1 * number)
    assert tables.values(tables.read(folder, "full")[0], "test_accuracy", "3/pretrained 10").empty
    write("3", "pretrained 10 draw 4", test_accuracy=0.9)
    write("3", "linear pretrained", budgets={"10": [0.1, 0.3], "2160": [0.8]})
    table = tables.read(folder, "full")[0]
    mean = tables.values(table, "test_accuracy", "3/pretrained 10")
    assert mean.to_dict() == pytest.approx({0: 0.3})
    assert tables.values(table, "linear_10", "3/linear pretrained").to_dict() == {0: 0.2}
    assert tables.values(table, "linear_2160", "3/linear pretrained").to_dict() == {0: 0.8}


def test_sets_weigh_the_same_whatever_their_classes(write):
    mi = {"ucmerced/a": 0.5, "ucmerced/b": 0.7, "ucmerced/c": 0.6, "satlab/Argentina": 0.9}
    classes = {
        name: {"mutual_information": area, "one_minus_msp": 0.5, "pixel_mahalanobis": area + 0.1}
        for name, area in mi.items()
    }
    table = tables.read(write("6", "scratch 0.001 of 2", ood_classes=classes), "full")[0]
    row = table.iloc[0]
    assert row["auroc_ucmerced_mutual_information"] == pytest.approx(0.6)
    assert row["auroc_mutual_information"] == pytest.approx(0.75)
    assert row["mi_minus_msp"] == pytest.approx(0.25)
    assert row["mi_minus_pixels"] == pytest.approx(-0.1)


def test_classes_left_out_are_one_arm_when_every_pair_was_scored(write):
    for number, pair in enumerate(stages.PAIRS):
        areas = {"mutual_information": 0.1 * number, "one_minus_msp": 0.2, "pixel_mahalanobis": 0.5}
        classes = {f"near/{name}": areas for name in pair}
        folder = write("6", f"near {number} scratch", ood_classes=classes)
        table = tables.read(folder, "full")[0]
        found = unknown.by_class(table, "6/near scratch")
        assert len(found) == 2 * (number + 1)
        assert tables.values(table, claims.MI, "6/near scratch").empty == (number < 4)
    assert len(found) == 10 and found.loc[(0, "near", "Forest"), "mutual_information"] == 0.2
    # a second network that was scored on one pair: it counts for these classes alone
    high = areas | {"mutual_information": 0.9}
    write("6", "near 0 scratch", 1, ood_classes={f"near/{name}": high for name in stages.PAIRS[0]})
    table = tables.read(folder, "full")[0]
    shown = unknown.mi_against_msp(table)
    row = shown.loc["from scratch, two classes left out", "EuroSAT"]
    assert row["over networks"] == "+0.000, n = 1" and row["above 0 in"] == "6 of 10"
    assert list(unknown.by_set(unknown.by_class(table, "6/near scratch"))) == ["EuroSAT, n = 1"]
    assert tables.values(table, claims.MI, "6/near scratch").to_dict() == pytest.approx({0: 0.2})
    assert tables.values(table, claims.MI_GAIN, "6/near scratch")[0] == pytest.approx(0, abs=1e-9)


@pytest.fixture
def scored(write):
    """Three networks of one arm on three classes of two sets; and their AUROCs of MI."""
    rng, mi = np.random.default_rng(0), {}
    for seed in range(3):
        classes = {}
        for name in ("ucmerced/a", "ucmerced/b", "satlab/Argentina"):
            mi[seed, name] = rng.uniform(0.6, 0.9)
            fixed = {"one_minus_msp": 0.7, "pixel_mahalanobis": 0.3 + 0.1 * seed}
            classes[name] = {"mutual_information": mi[seed, name], **fixed}
        for rate in ("0.001", "0.0003"):
            best = rate == "0.001"
            write("2", f"scratch {rate}", seed, val_accuracy=0.9 if best else 0.8)
            found = (
                classes if best else {name: dict.fromkeys(of, 0) for name, of in classes.items()}
            )
            folder = write("6", f"scratch {rate} of 2", seed, ood_classes=found)
    return tables.read(folder, "full")[0], mi


def test_the_gain_of_mi_has_an_interval_over_networks_and_one_over_classes(scored):
    table, mi = scored
    shown = unknown.mi_against_msp(table)
    assert len(shown) == 2 + 5  # two sets of one arm, and five arms that were not run
    row = shown.loc["from scratch", "UC Merced"]
    gain = np.array([[mi[s, f"ucmerced/{c}"] - 0.7 for c in "ab"] for s in range(3)])
    for sample, text in ((gain.mean(1), row["over networks"]), (gain.mean(0), row["over classes"])):
        low, high = stats.ttest_1samp(sample, 0).confidence_interval(0.95)
        numbers = [float(n.replace("−", "-")) for n in re.findall(r"[+−][\d.]+", text)]
        assert numbers == pytest.approx([gain.mean(), low, high], abs=5e-4)
        assert text.endswith(f"n = {len(sample)}")
    assert row["above 0 in"] == f"{(gain.mean(0) > 0).sum()} of 2"
    assert set(shown.loc["pretrained"].iloc[0]) == {"missing"}


def test_a_score_that_is_the_wrong_way_round_is_named(scored):
    areas = unknown.by_class(scored[0], unknown.ARMS["from scratch"])
    found = unknown.blind_spots(areas)
    assert len(found) == 3 and set(found["score"]) == {"pixel statistics (no network)"}
    assert found["AUROC"][0].startswith("0.400 [")
    assert unknown.blind_spots(areas * 0 + 0.6).empty
    empty = unknown.by_class(scored[0], unknown.ARMS["pretrained"])
    assert unknown.blind_spots(empty).empty and unknown.by_set(empty).empty
    cell = unknown.by_set(areas).loc["pixel statistics (no network)", "UC Merced, n = 3"]
    assert cell == found["AUROC"][0]


def test_every_class_is_drawn_where_it_was_measured(scored):
    table, mi = scored
    areas = {name: unknown.by_class(table, arm) for name, arm in unknown.ARMS.items()}
    (axis,) = unknown.on_classes(areas).axes
    names = [tick.get_text() for tick in axis.get_yticklabels()]
    assert names == ["UC Merced: a", "UC Merced: b", "SatLab: Argentina"]
    networks, mean = axis.collections[:2]  # of mutual information
    assert len(networks.get_offsets()) == 9
    for (x, y), name in zip(mean.get_offsets(), ("ucmerced/a", "ucmerced/b"), strict=False):
        assert x == pytest.approx(np.mean([mi[seed, name] for seed in range(3)]))
        assert y == axis.get_yticks()[names.index(f"UC Merced: {name[-1]}")]
    parts = {"first": areas["from scratch"].iloc[:2], "second": areas["from scratch"].iloc[2:]}
    both, _ = unknown.on_classes(parts).axes  # of which neither has all classes
    assert [tick.get_text() for tick in both.get_yticklabels()] == names
    (nothing,) = unknown.on_classes({}).axes
    assert nothing.texts[0].get_text() == "not run"


def test_of_each_letter_the_largest_size_is_read(tmp_path):
    for size, accuracy in (("cpu", 0.5), ("repair", 0.6)):
        result = {"linear": accuracy, "test_accuracy": accuracy}
        runs = {
            ("custom_cnn", letter, "x", 0): result for letter in ("bf" if size == "cpu" else "b")
        }
        write_results(tmp_path, size, runs)
    both, of_cpu = tables.read(tmp_path)[0], tables.read(tmp_path, "cpu")[0]
    assert sorted(zip(both["letter"], both["linear"], strict=True)) == [("b", 0.6), ("f", 0.5)]
    assert set(of_cpu["linear"]) == {0.5}
