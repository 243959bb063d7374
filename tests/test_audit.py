"""The audit: its changes against plain loops, its runs for real at a tiny size, killed and started
again.
"""

import itertools
import json
import time

import killable
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from audit import __main__ as command
from audit import changes, claims, plan, tables, verdicts
from audit import figures as figures_audit
from audit.one_run import draw, open_study, place_table
from src.augmentations import SimCLRAugmentation
from src.data.demo import make_demo
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
    slow = slow_dot_product_loss(z_i, z_j, temperature)
    assert changes.dot_product_loss(z_i, z_j, temperature).item() == pytest.approx(
        slow.item(), rel=1e-5
    )
    assert nt_xent(z_i, z_j, temperature).item() != pytest.approx(slow.item(), rel=0.01)
    unit = [torch.nn.functional.normalize(z) for z in (z_i, z_j)]
    torch.testing.assert_close(
        changes.dot_product_loss(*unit, temperature), nt_xent(*unit, temperature)
    )


def test_noise_pairs_are_identical_where_broken_and_views_elsewhere():
    batch = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8, generator=generator(1))
    batch[[0, 2]] = 0
    first, second = changes.noise_pairs(batch, SimCLRAugmentation(8), generator(2), World())
    same = (first == second).flatten(1).all(1)
    assert same.tolist() == [True, False, True, False]
    assert first[0].std() == pytest.approx(1, abs=0.2) and not torch.equal(first[0], first[2])
    again = changes.noise_pairs(batch, SimCLRAugmentation(8), generator(3), World())[0]
    assert not torch.equal(first[0], again[0])


def test_noise_shares_are_as_asked_and_nested():
    images, places, broken = np.full((40, 4, 4, 3), 9, np.uint8), np.zeros((40, 2)), []
    for share in (10, 50, 100):
        changed, hooks = changes.change(images, places, f"noise {share} %", seed=0)
        assert hooks == {"pairs": changes.noise_pairs} and (images == 9).all()
        broken.append((changed == 0).all((1, 2, 3)))
        assert (changed[~broken[-1]] == 9).all()
    assert [int(part.sum()) for part in broken] == [4, 20, 40]
    assert (broken[0] <= broken[1]).all()


def test_published_rendering_is_that_of_the_digital_numbers_and_pixels_become_coarser():
    numbers = np.arange(0, 2750, 50)
    bright = np.round(numbers / 2750 * 255).astype(np.uint8)[None, None, :, None].repeat(3, 3)
    dark = changes.darkened(bright)
    assert np.abs(dark[0, 0, :, 0].astype(int) - (numbers / 10_000 * 255).astype(int)).max() <= 1
    image = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    coarse = changes.coarsened(image)
    assert coarse.shape == (2, 34, 34, 3) and coarse.dtype == np.uint8
    assert (
        coarse.mean() == pytest.approx(image.mean(), rel=0.02) and coarse.std() < 0.7 * image.std()
    )


def test_neighbours_on_the_curve_are_neighbours_on_the_ground():
    places = np.random.default_rng(0).uniform((-10, 35), (30, 65), (500, 2))
    order = changes.by_place(places)
    assert sorted(order) == list(range(500))
    step = np.linalg.norm(np.diff(places[order], axis=0), axis=1).mean()
    assert step < 0.2 * np.linalg.norm(np.diff(places, axis=0), axis=1).mean()


def test_pretraining_takes_another_loss_order_and_pairs(tmp_path):
    images = (
        np.arange(8, dtype=np.uint8)[:, None, None, None].repeat(16, 1).repeat(16, 2).repeat(3, 3)
    )
    asked, seen = [], []

    def order(count, seed, epoch):
        asked.append((count, seed, epoch))
        return torch.arange(count).flip(0)

    def pairs(batch, augment, rng, world):
        seen.extend(batch[:, 0, 0, 0].tolist())
        return torch.zeros(4, 3, 8, 8), torch.zeros(4, 3, 8, 8)

    config = PretrainConfig(epochs=2, batch_size=4, image_size=8, seed=5)
    hooks = Hooks(lambda i, j, t: (i * j).sum() * 0 + 7 * t, order, pairs)
    done = pretrain(images, config, tmp_path, hooks=hooks)
    assert asked == [(8, 5, 1), (8, 5, 2)] and seen == 2 * [7, 6, 5, 4, 3, 2, 1, 0]
    assert done.history["loss"].iloc[1:].tolist() == [3.5, 3.5]


# --- intervals and verdicts ---


def test_paired_interval_is_scipys():
    rng = np.random.default_rng(0)
    first, second = rng.normal(0.8, 0.05, (2, 5))
    table = pd.DataFrame(
        [
            {
                "encoder": "custom_cnn",
                "letter": "g",
                "arm": arm,
                "seed": seed,
                "test_accuracy": values[seed],
            }
            for arm, values in (("a", first), ("b", second))
            for seed in (3, 1, 0, 4, 2)
        ]
    )
    found = claims.paired(
        table[:-1], claims.Claim("", "test_accuracy", "g/a", "g/b")
    )  # b lacks seed 2
    kept = [0, 1, 3, 4]
    low, high = stats.ttest_rel(first[kept], second[kept]).confidence_interval(0.95)
    assert (found.low, found.high, found.n) == pytest.approx((low, high, 4))
    assert found.mean == pytest.approx((first - second)[kept].mean())


@pytest.mark.parametrize(
    ("values", "sign", "expected"),
    [
        ([-3, -4, -5], -1, "holds"),
        ([-3, -4, -5], 1, "does not hold"),
        ([3, 4, 5], 1, "holds"),
        ([3, 4, 5], -1, "does not hold"),
        ([-3, 4, 5], 1, "cannot be told here"),
        ([9], 1, "cannot be told here"),
        ([], 1, "missing"),
    ],
)
def test_a_verdict_depends_on_the_interval_alone(values, sign, expected):
    assert verdicts.verdict(tables.t_interval(np.array(values)), sign) == expected


def test_the_studys_own_table_turned_round_is_arithmetic():
    found = verdicts.verdict_table(tables.read("no such folder")[0])
    signs = found[found["letter"] == "a"]
    assert list(signs["verdict"]) == ["does not hold", "does not hold"]
    assert (
        "6 of 7" in signs["difference"].iloc[0]
        and "in 2 turned round" in signs["difference"].iloc[1]
    )
    assert set(found.loc[found["letter"] != "a", "verdict"]) == {"missing"}


def over_labels(*leads, encoder="custom_cnn"):
    """Runs of f whose pretrained arm leads by so much with 10, 100 and all labels."""
    return pd.DataFrame(
        [
            {
                "encoder": encoder,
                "letter": "f",
                "arm": f"{kind} {labels}",
                "seed": seed,
                "linear": None,
                "test_accuracy": 0.5 + (lead + 0.001 * seed) * (kind == "progressive"),
            }
            for labels, lead in zip((10, 100, "all"), leads, strict=True)
            for kind in ("scratch", "progressive")
            for seed in range(3)
        ]
    )


def test_crossing_is_told_only_where_both_intervals_exclude_0():
    assert "between 10 and all" in verdicts.crossing(over_labels(0.1, -0.001, -0.1))
    assert "between 100 and all" in verdicts.crossing(over_labels(0.1, 0.1, -0.1))
    assert "No crossing" in verdicts.crossing(over_labels(0.1, 0.1, -0.001))


def test_encoders_are_told_and_drawn_apart():
    both = pd.concat(
        [over_labels(0.1, 0.1, 0.1), over_labels(-0.1, -0.1, -0.1, encoder="resnet50")]
    )
    assert "Above 0" in verdicts.paragraph(both, "f") and "Below 0" not in verdicts.paragraph(
        both, "f"
    )
    assert "Below 0" in verdicts.paragraph(both, "f", "resnet50")
    assert "between" not in verdicts.crossing(both) + verdicts.crossing(both, "resnet50")
    cnn, resnet = figures_audit.over_labels(both, 200).axes
    assert [axis.get_title() for axis in (cnn, resnet)] == ["Custom CNN", "ResNet-50"]
    drawn = [
        dict(zip(*axis.lines[1].get_data(), strict=True)) for axis in (cnn, resnet)
    ]  # the pretrained arm
    for axis, lead in zip(drawn, (10, -10), strict=True):
        assert axis == pytest.approx({labels: 50 + lead + 0.1 for labels in (10, 100, 200)})


# --- the plan ---


@pytest.mark.parametrize("size", plan.SIZES.values(), ids=plan.SIZES)
def test_every_comparison_of_every_size_has_both_its_arms(size):
    runs = {f"{letter}/{arm}" for letter, arm, _ in plan.plan(size, plan.LETTERS, range(1))}
    derived = {f"g/{kind} best" for kind in ("scratch", "progressive", "full")} | {
        "h/random gap",
        "h/geographic gap",
    }
    for claim in [*claims.published(min(size.labels)), *claims.suspected()]:
        assert {claim.arm, claim.control} <= runs | derived | {None}, claim


def test_all_letters_of_a_seed_come_before_the_next_and_controls_come_along():
    runs = list(plan.plan(killable.TINY, "dg", range(2)))
    assert [seed for _, _, seed in runs] == sorted(seed for _, _, seed in runs)
    assert {letter for letter, _, _ in runs} == {"b", "d", "g"}
    assert {arm for letter, arm, _ in runs if letter == "b"} == {plan.CONTROL}


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
    make_demo(
        folder / "data", bigearthnet=4, eurosat_per_class=30, ucmerced_per_class=4, progress=False
    )
    open_profile("paper", folder).eurosat(), open_profile("paper", folder).ucmerced()
    return folder


@pytest.fixture(scope="module")
def records(workspace):
    """The audit killed after its second record, then started again; and what was there before
    that.
    """
    folder, arguments = (
        workspace / "models/records/audit",
        ("--workspace", workspace, "--device", "cpu"),
    )
    child = killable.start(killable.audit, *arguments, "--only", "f", "--seeds", 2)
    while len(list(folder.glob("*.json"))) < 2 and child.is_alive():
        time.sleep(0.02)
    child.kill()
    child.join()
    before = {file: file.stat().st_mtime_ns for file in folder.glob("*.json")}
    assert len(before) >= 2 and child.exitcode == -9
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", [])
        patch.setitem(plan.SIZES, "tiny", killable.TINY)
        killable.audit(*arguments, "--only", "f", "--seeds", 2)
        killable.audit(*arguments, "--only", "bci", "--seeds", 1)
    return before


def test_a_killed_audit_goes_on_where_it_was(workspace, records):
    folder = workspace / "models/records/audit"
    assert all(file.stat().st_mtime_ns == when for file, when in records.items())
    done = [
        (r["letter"], r["arm"], r["seed"])
        for r in (json.loads(f.read_text()) for f in folder.glob("*.json"))
    ]
    assert sorted(done) == sorted(
        {*plan.plan(killable.TINY, "f", range(2)), *plan.plan(killable.TINY, "bci", range(1))}
    )
    assert not [file for file in folder.iterdir() if file.suffix != ".json"]


def test_runs_that_agree_in_a_step_share_it(workspace, records):
    names = [
        folder.name.split("_")[0]
        for folder in (workspace / "runs/audit/paper/tiny/custom_cnn").iterdir()
    ]
    # long and short are equally long here: the control at two seeds, dot products and published
    # rendering at one
    assert names.count("pretrain") == 2 + 1 + 1
    # f: two kinds, two numbers of labels, two seeds; one each of dot, published rendering and the
    # study's rate; the control of b and the two other arms of i are f's
    assert names.count("tune") == 8 + 3


def test_records_hold_what_was_measured_and_how(workspace, records):
    folder = workspace / "models/records/audit"
    dot = json.loads((folder / "custom_cnn_tiny_b_dot-0.5_s0.json").read_text())
    assert dot["result"]["floor"] == pytest.approx(np.log1p(30 * np.exp(-2 * (1 + 1 / 15))))
    assert 0 <= dot["result"]["linear"] <= 1 and dot["result"]["embedding_length"] > 0
    assert dot["settings"]["data"]["sha256"] and dot["versions"]["hardware"] and dot["seconds"] > 0
    ood = json.loads((folder / "custom_cnn_tiny_i_scratch_s0.json").read_text())["result"]["ood"]
    assert len(ood) == 15 and all(
        0 <= low <= high <= 1 + 1e-9 for _, low, high in (m["auroc"] for m in ood.values())
    )
    levels = json.loads((folder / "custom_cnn_tiny_c_histograms_s0.json").read_text())["result"]
    assert len(levels) == 4 and all(sum(of["share"]) == pytest.approx(1) for of in levels.values())
    assert levels["EuroSAT, as published"]["mean"] == pytest.approx(
        np.array(levels["EuroSAT"]["mean"]) * 0.275, abs=1
    )


def test_other_settings_do_not_mix_with_the_records_that_are_there(
    workspace, records, monkeypatch, capsys
):
    larger = plan.Size(**{**vars(killable.TINY), "epochs": 4})
    monkeypatch.setattr(killable, "TINY", larger)
    monkeypatch.setattr("sys.argv", [])
    monkeypatch.setitem(plan.SIZES, "tiny", larger)
    with pytest.raises(SystemExit, match=r"error: .*other settings .*'epochs': \(3, 4\)"):
        killable.audit("--workspace", workspace, "--only", "f")


def test_a_budget_stops_new_runs_and_says_how_many_are_left(
    workspace, records, monkeypatch, capsys
):
    monkeypatch.setattr("sys.argv", [])
    monkeypatch.setitem(plan.SIZES, "tiny", killable.TINY)
    killable.audit("--workspace", workspace, "--only", "d,f", "--seeds", 1, "--minutes", 0)
    out = capsys.readouterr().out
    assert "1 of 10 runs to do" in out and "d: about" in out and "1 runs are left" in out


def test_the_notebook_tells_these_records_and_what_is_missing(workspace, records, monkeypatch):
    """Its cells, in this process: a kernel would take longer than all of them."""
    monkeypatch.setitem(plan.SIZES, "tiny", killable.TINY)
    cells = nbformat.read(ROOT / "notebooks/09_why_pretraining_hurt.ipynb", 4).cells
    code, space = [cell for cell in cells if cell.cell_type == "code"], {}
    for number, cell in enumerate(code):
        exec(cell.source + (f"\nWORKSPACE = {str(workspace)!r}" if number == 0 else ""), space)
    assert {path.name for path in (workspace / "umap_visualizations").glob("audit_*.png")} == {
        f"audit_{name}.png"
        for name in (
            "forest",
            "a_sign",
            "b_temperatures",
            "c_grey_levels",
            "c_radiometry",
            "d_sampling",
            "e_noise",
            "f_labels",
            "g_rates",
            "h_split",
            "i_detectors",
        )
    }
    told = space["claims"].set_index("claim")
    assert (
        told.loc["Near-black rendering costs accuracy", "verdict"] == "cannot be told here"
    )  # one seed
    assert told.loc["… and on a geographic split", "verdict"] == "missing"
    assert told.loc["… and with 4 labels a class", "difference"].endswith("n = 2")


def test_the_notebook_says_so_where_nothing_was_run(tmp_path):
    found, nothing = tables.read(tmp_path)
    assert "Missing" in tables.about(nothing) and all(
        "Missing" in verdicts.paragraph(found, x) for x in "bcdefghi"
    )


# --- who trains on what ---


@pytest.fixture(scope="module")
def study(workspace):
    return open_study(
        open_profile("paper", workspace), killable.TINY, workspace / "runs", runtime=pick("cpu")
    )


def test_splits_are_balanced_nested_and_apart(study):
    labels = study.store.labels
    for seed, kind in itertools.product((0, 1), ("random", "even random", "geographic")):
        split = draw(study, seed, kind)
        parts = [split.train, split.val, split.test]
        assert [np.bincount(labels[rows]).tolist() for rows in parts] == [
            10 * [8],
            10 * [2],
            10 * [3],
        ]
        assert len(np.unique(np.concatenate(parts))) == sum(map(len, parts))
        few = draw(study, seed, kind, 4)
        assert set(few.train) < set(split.train) and np.array_equal(few.test, split.test)
    west, middle, east = (
        study.places[rows, 0] for rows in vars(draw(study, 0, "geographic")).values()
    )
    assert west.max() < middle.min() and middle.max() < east.min()
    even, random = draw(study, 0, "even random"), draw(study, 0, "random")
    assert all(
        np.array_equal(vars(even)[part], vars(random)[part]) for part in ("train", "val", "test")
    )


def test_even_splits_are_as_large_as_the_smaller(study):
    uneven = open_study(
        study.profile,
        plan.Size(**{**vars(killable.TINY), "per_class": None, "held_out": None}),
        study.work,
        runtime=study.runtime,
    )
    counts = {
        kind: [len(rows) for rows in vars(draw(uneven, 0, kind)).values()]
        for kind in ("random", "even random", "geographic")
    }
    assert (
        counts["even random"] == counts["geographic"]
        and counts["random"][0] > counts["geographic"][0]
    )


def test_coordinates_are_read_by_name_and_missing_ones_named(tmp_path):
    file = tmp_path / "places.csv"
    file.write_text("name,latitude,longitude\nForest_2,50,9\nForest_1,40,-3\n")
    places, kind = place_table(np.array(["Forest_1", "Forest_2"]), file)
    assert places.tolist() == [[-3, 40], [9, 50]] and kind == "longitude and latitude"
    with pytest.raises(DataError, match=r"places.csv has no place for \['River_1'\]"):
        place_table(np.array(["Forest_1", "River_1"]), file)
    with pytest.raises(DataError, match="columns name, latitude, longitude"):
        file.write_text("id,lat\n1,2\n")
        place_table(np.array(["Forest_1"]), file)


def test_fixed_order_never_changes_and_is_random():
    images, places = np.zeros((50, 4, 4, 3), np.uint8), np.random.default_rng(0).random((50, 2))
    fixed = changes.change(images, places, "fixed order", 3)[1]["order"]
    assert torch.equal(fixed(50, 3, 1), fixed(50, 3, 9)) and torch.equal(
        fixed(50, 3, 1), shuffled(50, 3, 1)
    )
    assert np.array_equal(
        changes.change(images, places, "neighbours", 3)[1]["order"](50, 3, 1),
        changes.by_place(places),
    )


def test_unknown_letters_are_refused(monkeypatch):
    monkeypatch.setattr("sys.argv", ["audit", "--only", "b,x"])
    with pytest.raises(SystemExit, match=r"no letter \['x'\]"):
        command.main()
