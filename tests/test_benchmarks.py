"""The benchmarks run, compare like with like, and say what they could not compare."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from benchmarks import estimate, launches, peers, speed, timing, training
from src.augmentations import SimCLRAugmentation
from src.encoders import Classifier, build_encoder
from src.losses import nt_xent
from src.runs.runtime import pick

FLOAT32 = pick("cpu", "float32")
TINY = speed.SMALL | {
    "seconds": 0.01,
    "pairs": (4, 8),
    "mc_samples": 2,
    "mc_images": 2,
    "batch": 4,
    "images": {"custom_cnn": 8},
}


def test_the_studys_loss_is_the_same_loss():
    z = torch.randn(
        2, 6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ).requires_grad_()
    ours, theirs = nt_xent(*z), peers.study_loss(*z)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, z), torch.autograd.grad(theirs, z))


def test_pil_views_are_of_the_same_kind_as_ours():
    images = speed.patches(64)
    theirs = torch.stack([view for pair in peers.PilPairs(images) for view in pair])
    ours = SimCLRAugmentation()(
        torch.as_tensor(images).permute(0, 3, 1, 2), torch.Generator().manual_seed(0)
    )
    assert theirs.shape[1:] == ours.shape[1:] and theirs.dtype == ours.dtype
    # 128 and 64 random views: means within four standard errors
    for measure in (lambda x: x.mean((1, 2, 3)), lambda x: x.std((1, 2, 3))):
        a, b = measure(ours), measure(theirs)
        assert (a.mean() - b.mean()).abs() < 4 * (a.var() / len(a) + b.var() / len(b)).sqrt()


def test_naive_dropout_draws_another_mask_each_pass():
    model = Classifier(build_encoder("custom_cnn", image_size=16, dropout=0.3), 4)
    log_probs = peers.naive_mc_dropout(model, torch.rand(2, 3, 16, 16), 3)
    assert log_probs.shape == (3, 2, 4) and len(log_probs[:, 0].unique(dim=0)) == 3


def test_candidates_take_turns(monkeypatch):
    calls = []
    medians = timing.by_turns(
        {n: lambda n=n: calls.append(n) for n in "ab"}, torch.device("cpu"), seconds=0
    )
    assert calls == ["a", "b", "a", "b"] + ["a", "b"] * timing.REPEATS
    assert all(len(some) == timing.REPEATS and min(some) >= 0 for some in medians.values())


def test_rows_are_ratios_of_medians():
    row, other = timing.rows(
        {"ours": [1.0, 2.0, 3.0], "peer": [8.0, 9.0, 6.0]}, "ours", "ms", lambda s: 1000 * s
    )
    assert row == {"what": "ours", "ms": 2000.0, "spread": 1.0, "ours is faster by": 1.0}
    assert other == {"what": "peer", "ms": 8000.0, "spread": 3 / 8, "ours is faster by": 4.0}


@pytest.mark.parametrize("name", ["augmentation", "loss", "dropout", "train_custom_cnn"])
def test_a_table_is_made(name):
    table = speed.TABLES[name][1](TINY, FLOAT32)
    assert all(
        value > 0
        for row in table["rows"]
        for key, value in row.items()
        if key not in ("what", "spread")
    )
    assert any("ours" in row["what"] or "custom_cnn" in row["what"] for row in table["rows"])


def test_launches_and_memory_are_counted_without_a_gpu(monkeypatch):
    (row,) = launches.table(("custom_cnn",), (64,))
    assert row["a step"] <= 160 and row["a step, before"] > 450
    assert 5 * row["host for views, ms"] < row["host for views, before, ms"]
    small, large = launches.memory_table(("custom_cnn",), (64, 256))
    assert small["64"] < small["256"] < large["256"] and small["256, recomputed"] < small["256"]


def test_tables_are_written_one_by_one_and_what_is_missing_is_said(monkeypatch, tmp_path, capsys):
    def missing(size, runtime):
        raise ModuleNotFoundError(name="umap")

    made = {"how": "", "rows": [{"what": "ours"}], "notes": []}
    tables = {"a": ("A", lambda *_: made), "look": ("Look", missing), "b": ("B", broken)}
    monkeypatch.setattr(speed, "TABLES", tables)
    monkeypatch.setattr(sys, "argv", f"speed.py --device cpu --small --out {tmp_path}".split())
    with pytest.raises(RuntimeError, match="in the middle"):
        speed.main()
    written = json.loads((tmp_path / "cpu-small.json").read_text())
    assert written["A"]["rows"] == made["rows"]
    assert written["Look"]["notes"] == ["Not measured: umap is not installed."]


def broken(size, runtime):
    raise RuntimeError("in the middle")


def test_the_most_wanted_tables_come_first_and_none_begins_when_the_time_is_over(
    monkeypatch, tmp_path, capsys
):
    assert list(speed.TABLES)[:4] == [*(f"train_{e}" for e in speed.ENCODERS), "augmentation"]
    monkeypatch.setattr(speed, "TABLES", {"b": ("B", broken)})
    argv = f"speed.py --device cpu --small --minutes 1e-9 --out {tmp_path}".split()
    monkeypatch.setattr(sys, "argv", argv)
    speed.main()
    assert "B: left out" in capsys.readouterr().out


def test_every_row_of_the_waterfall_trains():
    steps = training.waterfall_steps(speed.patches(8), 4, FLOAT32, workers=0)
    assert len(steps) == len(training.CHANGES)
    kinds = [type(step()) for step in steps.values()]
    assert kinds == [float] * 6 + [type(None)] * 2  # .item() until it is taken out


def test_a_missing_peer_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "kornia", None)
    monkeypatch.setitem(sys.modules, "kornia.augmentation", None)
    table = speed.augmentation(TINY, FLOAT32)
    assert not any("kornia" in row["what"] for row in table["rows"])
    assert any(
        note.startswith("kornia: not measured") and "pip install" in note for note in table["notes"]
    )


def test_a_peer_that_would_need_too_much_memory_is_said(monkeypatch):
    monkeypatch.setattr(speed, "LIMIT", 1e4)
    table = speed.loss(TINY, FLOAT32)
    assert not any("study" in row["what"] for row in table["rows"])
    assert any("the study's, by rows, N = 8: not measured" in note for note in table["notes"])


def test_operations_of_the_custom_cnn_by_hand():
    convolutions = [
        (3, 64, 64),
        (64, 64, 64),
        (64, 128, 32),
        (128, 128, 32),
        (128, 256, 16),
        (256, 256, 16),
    ]
    layers = [2 * 9 * a * b * side**2 for a, b, side in convolutions] + [
        2 * a * b for a, b in ((256, 512), (512, 512), (512, 128))
    ]
    # backward is a product for the weights and one for the input, which the first layer does not
    # need
    expected = 3 * sum(layers) - layers[0]
    assert estimate.flops_per_view("custom_cnn") == pytest.approx(expected, rel=1e-6)


def test_results_go_between_the_markers_of_their_device_and_keep_older_tables(tmp_path):
    readme, path = tmp_path / "README.md", tmp_path / "cpu.json"
    readme.write_text("before\n<!-- cpu -->\nold\n<!-- end of cpu -->\nafter\n")
    about = {"precision": "b", "torch": "c", "commit": "d", "date": "e", "threads": "2"}
    made = [("first", 0.5, "A"), ("second", 0.5, "A"), ("second", 0.25, "B")]
    for name, spread, hardware in made:
        rows = [{"what": name, "spread": spread}]
        table = {"how": "how", "notes": ["note"], "rows": rows, "seconds": 1.0}
        timing.write({name: table | {"about": about | {"hardware": hardware}}}, path, readme)
    text = readme.read_text()
    assert (
        text.startswith("before\n")
        and text.endswith("after\n")
        and "old" not in text
        and "note" in text
    )
    assert text.count("| first | 50.0% |") == text.count("| second | 25.0% |") == 1
    # the first was not made again: it stays another machine's
    assert [text.count(f"\n{of}, threads: 2; networks in b") for of in "AB"] == [1, 1]
    assert list(json.loads(path.read_text())) == ["first", "second"]
    with pytest.raises(SystemExit, match=r"has no lines '<!-- cuda -->'"):
        timing.write({}, tmp_path / "cuda.json", readme)


def test_an_unknown_device_is_one_error_line(monkeypatch):
    monkeypatch.setattr(
        sys, "argv", ["speed.py", "--device", "cuda" if not torch.cuda.is_available() else "mps"]
    )
    with pytest.raises(SystemExit, match="error: device"):
        speed.main()


def test_training_and_detection_import_without_what_data_maps_and_pictures_need():
    code = """
import importlib, pkgutil, sys
for missing in ("rasterio", "umap", "zstandard", "pyarrow", "papermill", "kornia", "lightly"):
    sys.modules[missing] = None
import audit, benchmarks.speed, src
for package in (src, audit):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.startswith("src.map"):
            importlib.import_module(module.name)
assert {"src.figures", "src.profiles", "src.data.demo", "audit.steps"} <= set(sys.modules)
print(*sorted({"numba", "pynndescent"} & set(sys.modules)))
"""
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=speed.ROOT, capture_output=True, text=True, check=True
    )
    assert out.stdout.split() == []


def test_made_patches_fill_the_range_and_are_smooth():
    images = speed.patches(4)
    assert (images.shape, images.dtype) == ((4, 120, 120, 3), np.uint8)
    assert images.std() > 30 and np.abs(np.diff(images.astype(int), axis=1)).mean() < 10
