"""Run records and their tables: what was run is shown with its length, what was not is missing."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import davies_bouldin_score, silhouette_score

from src import checkpoints
from src.ood import metrics
from src.probes import centroid_distances, separation
from src.results.__main__ import main
from src.results.records import metrics_as_json, read_records, wilson, write_record
from src.results.study import MISSING, NOT_IN_STUDY, SCRATCH, STUDY
from src.results.tables import (
    beside_study,
    both_readings,
    differences,
    longest_projection,
    runs_table,
    separation_table,
    sort_key,
)

VERSIONS = {"hardware": "a card", "date": "2026-01-02"}


def checkpoint(folder, name, **metadata):
    history = [{"epoch": 0}, {"epoch": 1, "seconds": 1800.0}, {"epoch": 2, "seconds": 1800.0}]
    metadata = {"versions": VERSIONS, "history": history, **metadata}
    return checkpoints.save(folder / name, {}, metadata)


@pytest.fixture
def pretrained(tmp_path):
    data = {"kind": "eurosat-rgb", "subset": "training images, labels unused"}
    what = {"kind": "simclr", "data": data, "metrics": {"loss": 3.0}}
    config = {"encoder": "custom_cnn", "epochs": 50, "seed": 0}
    return checkpoint(tmp_path, "best.pth", config=config, **what)


def record(
    folder,
    *,
    accuracy,
    auroc,
    seed=0,
    start=None,
    encoder="custom_cnn",
    phases=(0, 0, 100),
    lr=1e-3,
    data="eurosat-rgb",
):
    """The record of one fine-tuning run, written and read as the notebooks do."""
    origin = "scratch" if start is None else getattr(start, "stem", start)
    file = checkpoint(
        folder / "models",
        f"final_{encoder}_{seed}_{origin}_{sum(phases)}_{lr}.pth",
        kind="classifier",
        config={"encoder": encoder, "phases": phases, "lr": lr, "seed": seed},
        data={"kind": data},
        metrics={"val_accuracy": accuracy, "test_accuracy": accuracy - 0.01},
    )
    names = ("mutual_information", "one_minus_msp", "pixel_mahalanobis")
    scores = {score: {"auroc": [auroc + n / 100, 0.0, 1.0]} for n, score in enumerate(names)}
    return write_record(
        folder / "records", file, start, ood={"data": {"kind": "ucmerced"}, "scores": scores}
    )


def test_the_study_is_quoted_right_and_msp_turned_round():
    assert len(STUDY) == 7
    cnn = STUDY.loc["Custom CNN", SCRATCH]
    assert cnn["msp_as_printed"] == 0.0994 and cnn["auroc_one_minus_msp"] == pytest.approx(0.9006)
    # SPEC: read in one direction, MSP beats MI in five of the seven rows
    assert (STUDY["auroc_one_minus_msp"] > STUDY["auroc_mutual_information"]).sum() == 5


def test_a_record_holds_the_run_its_time_and_where_it_started(tmp_path, pretrained):
    path = record(tmp_path, accuracy=0.9, auroc=0.8, start=pretrained)
    (read,) = read_records(tmp_path / "records")
    assert read == json.loads(path.read_text()) and path.name.startswith("custom_cnn_final_")
    assert read["seconds"] == 3600 and read["pretraining"]["seconds"] == 3600
    assert read["pretraining"]["config"]["epochs"] == 50
    assert read["pretraining"]["checkpoint"] == "best.pth"
    assert read["versions"] == VERSIONS


def test_a_file_that_is_no_record_is_named(tmp_path):
    (tmp_path / "other.json").write_text('{"kind": "classifier"}')
    with pytest.raises(ValueError, match=r"other\.json is not a run record"):
        read_records(tmp_path)
    assert read_records(tmp_path / "nowhere") == []


def test_without_runs_all_of_ours_is_missing_and_the_study_is_there():
    table = beside_study(runs_table([]))
    assert list(table.index) == list(STUDY.index)
    assert (table.xs("ours", axis=1, level=1) == MISSING).all(axis=None)
    assert table.loc[("ViT-B/16", SCRATCH), ("val accuracy, %", "study")] == "50.31"
    assert table.loc[("ViT-B/16", SCRATCH), ("AUROC, 1 − MSP", "study")] == f"{1 - 0.5145:.3f}"


def test_rows_stand_where_they_belong_and_never_fill_another(tmp_path, pretrained):
    record(tmp_path, accuracy=0.9, auroc=0.8)
    record(tmp_path, accuracy=0.8, auroc=0.7, start=pretrained, phases=(10, 10, 80))
    record(tmp_path, accuracy=0.95, auroc=0.6, start="imagenet", encoder="resnet50")
    runs = runs_table(read_records(tmp_path / "records"))
    assert list(runs["configuration"]) == [SCRATCH, "pretrained 50", "ImageNet"]
    assert list(runs["hours"]) == ["1.00", "1.00 + 1.00", "1.00"]
    assert list(runs["epochs"]) == ["100", "10+10+80", "100"]
    table = beside_study(runs)
    ours = table["val accuracy, %"]["ours"]
    assert ours[("Custom CNN", SCRATCH)] == "90.00"
    assert ours[("Custom CNN", "pretrained 50")] == "80.00"
    assert ours[("Custom CNN", "pretrained 300")] == MISSING
    assert ours[("ResNet-50", SCRATCH)] == MISSING
    assert table.loc[("ResNet-50", "ImageNet"), ("val accuracy, %", "study")] == NOT_IN_STUDY
    sources = table["pretrained on"]["ours"]
    assert sources[("Custom CNN", "pretrained 50")] == "EuroSAT train"
    assert sources[("Custom CNN", SCRATCH)] == ""
    assert sources[("Custom CNN", "pretrained 300")] == MISSING


def test_runs_on_other_data_never_stand_beside_the_study(tmp_path):
    record(tmp_path, accuracy=0.9, auroc=0.8)
    study = beside_study(runs_table(read_records(tmp_path / "records")))
    record(tmp_path, accuracy=0.5, auroc=0.5, seed=1, data="resisc45")
    runs = runs_table(read_records(tmp_path / "records"))
    assert sorted(runs["data"]) == ["EuroSAT", "resisc45"]
    pd.testing.assert_frame_equal(beside_study(runs), study)
    assert (both_readings(runs)["source"] == "ours").sum() == 1


def test_seeds_are_averaged_with_their_spread_and_number(tmp_path):
    for seed, accuracy in enumerate((0.90, 0.92, 0.94)):
        record(tmp_path, accuracy=accuracy, auroc=0.8, seed=seed)
    table = beside_study(runs_table(read_records(tmp_path / "records")))
    assert table.loc[("Custom CNN", SCRATCH), ("val accuracy, %", "ours")] == "92.00 ± 2.00 (n = 3)"


def test_runs_of_other_lengths_or_rates_are_rows_of_their_own(tmp_path, pretrained):
    record(tmp_path, accuracy=0.8, auroc=0.8, phases=(0, 0, 5))
    for seed, accuracy in enumerate((0.96, 0.98)):
        record(tmp_path, accuracy=accuracy, auroc=0.8, seed=seed)
        fine = {"start": pretrained, "phases": (10, 10, 80), "seed": seed}
        record(tmp_path, accuracy=accuracy - 0.02, auroc=0.8, lr=1e-4, **fine)
        record(tmp_path, accuracy=accuracy, auroc=0.8, **fine)
    table = beside_study(runs_table(read_records(tmp_path / "records")))
    scratch = table.loc[[("Custom CNN", SCRATCH)]].xs("ours", axis=1, level=1)
    assert dict(zip(scratch["fine-tuned epochs"], scratch["val accuracy, %"], strict=True)) == {
        "5": "80.00",
        "100": "97.00 ± 1.41 (n = 2)",
    }
    tuned = table.loc[[("Custom CNN", "pretrained 50")]].xs("ours", axis=1, level=1)
    assert dict(zip(tuned["at rate"], tuned["val accuracy, %"], strict=True)) == {
        "0.0001": "95.00 ± 1.41 (n = 2)",
        "0.001": "97.00 ± 1.41 (n = 2)",
    }
    ours = differences(runs_table(read_records(tmp_path / "records")), SCRATCH, "pretrained 50")
    told = ours.xs("ours", axis=1, level=1)
    assert dict(zip(told["rates"], told["val accuracy, %"], strict=True)) == {
        "0.0001 − 0.001": "-2.00 ± 0.00 (n = 2)",
        "0.001 − 0.001": "+0.00 ± 0.00 (n = 2)",
    }


def test_msp_read_both_ways_are_mirror_images_and_change_who_wins(tmp_path):
    record(tmp_path, accuracy=0.9, auroc=0.8)
    table = both_readings(runs_table(read_records(tmp_path / "records")))
    assert list(table["source"]) == ["study"] * 7 + ["ours"]
    np.testing.assert_allclose(table["msp_as_printed"] + table["auroc_one_minus_msp"], 1)
    study = table[table["source"] == "study"]
    assert (study["auroc_one_minus_msp_wins"] == "MSP").sum() == 5
    assert (study["msp_as_printed_wins"] == "MI").all()
    assert table.iloc[-1]["msp_as_printed"] == pytest.approx(0.19)  # 1 − (0.8 + 0.01)
    # the headline that turns on the sign: pretraining raises the AUROC of 1 − MSP of every encoder
    for _, rows in study.groupby("encoder"):
        auroc, scratch = rows["auroc_one_minus_msp"], rows["configuration"] == SCRATCH
        assert auroc[~scratch].min() > auroc[scratch].max()


def test_differences_are_paired_by_seed_and_length(tmp_path, pretrained):
    for seed, accuracy in enumerate((0.90, 0.92)):
        record(tmp_path, accuracy=accuracy, auroc=0.8, seed=seed)
    record(tmp_path, accuracy=0.93, auroc=0.7, seed=1, start=pretrained, phases=(10, 10, 80))
    ours = differences(runs_table(read_records(tmp_path / "records")), SCRATCH, "pretrained 50")
    row = ours.loc[("Custom CNN", f"pretrained 50 − {SCRATCH}")]
    assert row["val accuracy, %", "ours"] == "+1.00"  # 0.93 − 0.92: seed 0 has no partner
    assert row["val accuracy, %", "study"] == "-5.27"
    assert row["AUROC, 1 − MSP", "study"] == "+0.029"  # and not −0.029, as printed
    # of the others nobody has this pair
    assert list(ours.index.get_level_values("encoder")) == ["Custom CNN"]


def test_a_pair_that_nobody_has_is_an_empty_table():
    assert differences(runs_table([]), "pretrained 1", "pretrained 2").empty


def test_runs_of_another_length_are_no_pair(tmp_path, pretrained):
    record(tmp_path, accuracy=0.9, auroc=0.8)
    record(tmp_path, accuracy=0.8, auroc=0.7, start=pretrained, phases=(1, 1, 3))
    ours = differences(runs_table(read_records(tmp_path / "records")), SCRATCH, "pretrained 50")
    row = ours.loc[("Custom CNN", f"pretrained 50 − {SCRATCH}")]
    assert row["val accuracy, %", "ours"] == MISSING


def test_the_command_prints_one_row_a_run(tmp_path, monkeypatch, capsys):
    record(tmp_path, accuracy=0.9, auroc=0.8)
    monkeypatch.setattr("sys.argv", ["results", str(tmp_path / "records")])
    main()
    titles, row = capsys.readouterr().out.splitlines()
    assert titles.split()[:2] == ["encoder", "configuration"] and titles.split()[-1] == "hours"
    assert " ".join(row.split()) == "Custom CNN from scratch 90.0 0.8 0.81 89.0 1.00"


def test_configurations_are_sorted_by_pretraining():
    names = ["pretrained 300", "ImageNet", "pretrained 50", SCRATCH]
    assert sorted(names, key=sort_key) == [SCRATCH, "ImageNet", "pretrained 50", "pretrained 300"]


def test_pretrainings_give_separations_and_the_longest_its_projection(tmp_path):
    values = {"knn_accuracy": 0.5, "silhouette": 0.1, "davies_bouldin": 2.0}
    data = {"kind": "eurosat-rgb", "subset": "training images, labels unused"}
    what = {"kind": "simclr", "data": data}
    for epochs in (2, 11):
        config = {"encoder": "resnet50", "epochs": epochs, "seed": 0}
        file = checkpoint(tmp_path, f"{epochs}.pth", config=config, **what)
        measured = {"separation": {"before": values, "after": values}, "umap": f"{epochs}.csv"}
        write_record(tmp_path / "records", file, **measured)
        (tmp_path / f"{epochs}.csv").write_text(f"panel,label,x,y\nbefore,0,{epochs}.0,0.0\n")
    records = read_records(tmp_path / "records")
    table = separation_table(records)
    assert table.index.get_level_values("epochs").tolist() == [11, 11, 2, 2]
    assert table.index.get_level_values("features").tolist() == ["before", "after"] * 2
    assert table.shape == (4, 3)
    points, measured = longest_projection(records, "resnet50", tmp_path)
    assert points["x"].item() == 11 and measured["after"] == values
    assert longest_projection(records, "vit_b_16", tmp_path) is None
    assert separation_table([]).empty


def test_metrics_survive_the_way_through_json():
    rng = np.random.default_rng(0)
    table = pd.concat(
        {"a": metrics(rng.normal(0, 1, 50), rng.normal(1, 1, 20), bootstrap=20)},
        names=["score", "metric"],
    )
    read = json.loads(json.dumps(metrics_as_json(table)))
    assert read["a"]["auroc"] == list(table.loc[("a", "auroc")])
    assert set(read["a"]) == set(table.loc["a"].index)


def test_wilson_is_the_closed_form():
    p, n, z = 0.9, 200, 1.959963984540054
    centre, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert wilson(180, 200) == pytest.approx(
        [(centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n)]
    )
    assert wilson(200, 200)[1] == 1.0 and wilson(0, 200)[0] == 0.0


def test_separation_is_scikit_learns_on_unit_vectors_and_knows_no_length():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 20)
    features = rng.normal(0, 0.3, (60, 5)) + np.eye(3, 5)[labels]
    values = separation(features, labels)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    assert values["silhouette"] == pytest.approx(silhouette_score(unit, labels, metric="cosine"))
    assert values["davies_bouldin"] == pytest.approx(davies_bouldin_score(unit, labels))
    assert separation(features * rng.uniform(0.1, 9, (60, 1)), labels) == pytest.approx(values)
    shuffled = separation(features, rng.permutation(labels))
    assert shuffled["silhouette"] < values["silhouette"]
    assert shuffled["davies_bouldin"] > values["davies_bouldin"]


def test_centroid_distances_of_opposite_and_of_orthogonal_classes():
    features = np.array([[2.0, 0], [1, 0], [-3, 0], [-1, 0], [0, 5], [0, 1]])
    expected = np.array([[0, 2, 1], [2, 0, 1], [1, 1, 0]])
    np.testing.assert_allclose(
        centroid_distances(features, np.array([0, 0, 1, 1, 2, 2])), expected, atol=1e-12
    )
