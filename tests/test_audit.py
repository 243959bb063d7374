"""The audit: its changes against plain loops, its runs for real at a tiny size, killed and started
again.
"""

import dataclasses
import hashlib
import itertools
import json
import time
from pathlib import Path

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
from audit.data import draw, open_study, place_table
from audit.steps import finetuning, pretraining
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
    assert change("dot 0.5") == (True, {"loss"})
    assert change("published rendering") == change("18.75 m") == (False, set())
    assert change("noise 50 %") == (False, {"pairs"})
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
        ([-3, -4, -5], -1, "holds"),
        ([-3, -4, -5], 1, "does not hold"),
        ([3, 4, 5], 1, "holds"),
        ([3, 4, 5], -1, "does not hold"),
        ([-3, 4, 5], 1, "cannot be told here"),
        ([9], 1, "cannot be told here"),
        ([], 1, "missing"),
        ([0.3, 0.3, 0.3], 1, "holds"),
        ([0, 0, 0], 1, "cannot be told here"),
    ],
)
def test_a_verdict_depends_on_the_interval_alone(values, sign, expected, recwarn):
    assert verdicts.verdict(tables.t_interval(np.array(values)), sign) == expected
    assert not recwarn.list


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


# --- the plan ---


@pytest.mark.parametrize("size", plan.SIZES.values(), ids=plan.SIZES)
def test_every_comparison_of_every_size_has_both_its_arms(size):
    runs = plan.planned_runs(size, plan.LETTERS, range(1))
    known = {f"{run.letter}/{run.arm}" for run in runs} | {None}
    known |= {f"g/{kind} best" for kind in ("scratch", "progressive", "full")}
    known |= {"h/random gap", "h/geographic gap"}
    for claim in [*claims.published(min(size.labels)), *claims.suspected()]:
        assert {claim.arm, claim.control} <= known, claim


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
    profile.eurosat(), profile.ucmerced()
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
    # dot products, published rendering, coarse pixels, three of e and the geographic split at one
    assert kinds.count("pretrain") == 2 + 1 + 1 + 1 + 3 + 1
    # f: two kinds, two numbers of labels, two seeds; dot products and published rendering; g: four
    # kinds at two rates, of which f has two; the geographic split: two. The control of b, all of i
    # and the random split of h are f's or g's.
    assert kinds.count("tune") == 8 + 2 + 6 + 2


def test_folders_have_the_names_that_older_versions_gave_them(study):
    """Or what they left would be made again. A name hashes the config as it was written then."""
    config = (
        "PretrainConfig(encoder='custom_cnn', epochs=2, batch_size=16, lr=0.001, temperature=0.5, "
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
    for record in tables.read(ROOT / "models/records/audit")[1]:
        size = json.loads(json.dumps(dataclasses.asdict(plan.SIZES[record["size"]])))
        assert record["settings"] == record["settings"] | size, record["arm"]
        assert record["arm"] in plan.arms(plan.SIZES[record["size"]], record["letter"])


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


def test_a_budget_stops_new_runs_and_says_how_many_are_left(workspace, records, tiny, capsys):
    tiny("--workspace", workspace, "--only", "f", "--seeds", 3, "--minutes", 0)
    out = capsys.readouterr().out
    assert "8 of 24 runs to do" in out and "f: about" in out and "8 runs are left" in out


def test_the_notebook_tells_these_records_and_what_is_missing(workspace, records, tiny):
    """Its cells, in this process: a kernel would take longer than all of them."""
    cells = nbformat.read(ROOT / "notebooks/09_why_pretraining_hurt.ipynb", 4).cells
    code, space = [cell.source for cell in cells if cell.cell_type == "code"], {}
    code[0] += f"\nWORKSPACE = {str(workspace)!r}"
    for source in code:
        exec(source, space)
    drawn = {path.stem for path in (workspace / "umap_visualizations").glob("audit_*.png")}
    assert drawn == {
        "audit_forest",
        "audit_a_sign",
        "audit_b_temperatures",
        "audit_c_grey_levels",
        "audit_c_radiometry",
        "audit_d_sampling",
        "audit_e_noise",
        "audit_f_labels",
        "audit_g_rates",
        "audit_h_split",
        "audit_i_detectors",
    }
    told = space["claims"].set_index("claim")
    # one seed, two seeds, none
    assert told.loc["Near-black rendering costs accuracy", "verdict"] == "cannot be told here"
    assert told.loc["… and with 4 labels a class", "difference"].endswith("n = 2")
    assert told.loc["Pretraining lowers ResNet-50's accuracy", "verdict"] == "missing"


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
    for seed, kind in itertools.product((0, 1), ("random", "even random", "geographic")):
        split = draw(study, seed, kind)
        counts = [np.bincount(labels[rows]).tolist() for rows in parts(split)]
        assert counts == [10 * [8], 10 * [2], 10 * [3]]
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
