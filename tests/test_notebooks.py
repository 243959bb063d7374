"""The notebooks: clean as committed, and run for real at a small scale."""

import ast
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest
import rasterio
import timm

from src.checkpoints import best_classifier, load, load_classifier, load_encoder
from src.encoders import ENCODERS, TIMM_NAMES
from src.errors import CheckpointError, DataError
from src.map.thresholds import thresholds_path
from src.profiles import ROOT, open_profile
from src.results.records import read_records
from src.results.study import MISSING
from src.results.tables import beside_study, runs_table

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TRAINING = [path for path in NOTEBOOKS if path.name[:2] <= "07"]


def code_cells(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


@pytest.mark.parametrize("path", TRAINING, ids=lambda path: path.stem)
def test_committed_clean_with_parameters_first_and_no_logic_of_its_own(path):
    cells = code_cells(path)
    assert cells[0].metadata.tags == ["parameters"]
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)
    assert (
        max(len(cell.source.splitlines()) for cell in cells[1:]) <= 16
    )  # the list of parameters may be long
    assert not any(
        isinstance(node, (ast.FunctionDef, ast.ClassDef))
        for cell in cells
        for node in ast.walk(ast.parse(cell.source))
    )


@pytest.mark.parametrize("number", ["08", "09", "10"])
def test_committed_as_it_ran_it_names_no_folder_of_that_machine(number):
    (path,) = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
    cells, text = code_cells(path), path.read_text()
    assert cells[0].metadata.tags == ["parameters"] and any(cell.outputs for cell in cells)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [
        word for word in ("/tmp/", "/home/", "papermill", "injected-parameters") if word in text
    ]
    assert len(text) < 1_000_000


@pytest.mark.parametrize("numbers", ["01 02 03 04", "05 06 07"])
def test_notebooks_of_a_kind_differ_in_parameters_and_prose_alone(numbers):
    kind = [
        [cell.source for cell in code_cells(path)]
        for path in TRAINING
        if path.name[:2] in numbers.split()
    ]
    assert all(cells[1:] == kind[0][1:] for cells in kind)
    names = [{line.split(" = ")[0] for line in cells[0].splitlines()} for cells in kind]
    assert all(own == names[0] for own in names)


@pytest.mark.parametrize("what", ["eurosat", "ucmerced", "bigearthnet"])
def test_missing_real_data_names_the_setup_guide_and_the_demo(tmp_path, what):
    with pytest.raises(DataError, match=r"SETUP.md.*demo"):
        getattr(open_profile("paper", tmp_path), what)()
    assert not list(tmp_path.iterdir())


def test_unknown_profile_and_source_say_what_there_is(tmp_path):
    with pytest.raises(ValueError, match="'paper' or 'demo'"):
        open_profile("dmeo")
    with pytest.raises(ValueError, match="eurosat-train"):
        open_profile("paper", tmp_path).unlabelled("imagenet")


def run(name: str, workspace: Path, **parameters) -> None:
    """One notebook in the demo profile, in a process of its own with one thread, as papermill's
    command line has it.
    """
    (path,) = (ROOT / "notebooks").glob(f"{name}_*.ipynb")
    parameters = {"PROFILE": "demo", "WORKSPACE": str(workspace), **parameters}
    papermill.execute_notebook(
        path, workspace / f"{name}.ipynb", parameters, kernel_name="python3", progress_bar=False
    )


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Every notebook run for real, two at a time: files → stores → SimCLR → fine-tuning → scores →
    results page.
    """
    folder = tmp_path_factory.mktemp("workspace")
    profile = open_profile("demo", folder)
    (
        profile.eurosat(),
        profile.bigearthnet(),
        profile.ucmerced(),
    )  # once, before the notebooks look for them together
    pretrain = {"EPOCHS": 1, "BATCH_SIZE": 200}
    tune = {
        "PHASES": [1, 0, 1],
        "MC_SAMPLES": 3,
        "BATCH_SIZE": 160,
        "STEP": 4,
        "PRETRAINED": ["best_contrastive_model_1Ep.pth"],
    }
    stages = [
        {
            "04": {**pretrain, "IMAGE_SIZE": 16},
            "03": {**pretrain, "IMAGE_SIZE": 16},
            "02": {"EPOCHS": 2, "BATCH_SIZE": 100, "PROBE_EVERY": 1},
            "01": {**pretrain, "BANDS": "all"},
        },
        {
            "07": {**tune, "IMAGE_SIZE": 16},
            "06": {**tune, "IMAGE_SIZE": 16},
            "05": {**tune, "PRETRAINED": ["best_contrastive_model_2Ep.pth"], "PHASES": [1, 1, 1]},
        },
        {"08": {}, "10": {"STRIDE": 64, "OTHERS": ["knn"]}},
    ]
    # kernels get this process's environment: two of them with a thread each, not two fighting for
    # both cores
    with pytest.MonkeyPatch.context() as environment, ThreadPoolExecutor(2) as pool:
        environment.setenv("OMP_NUM_THREADS", "1")
        for stage in stages:
            for done in [
                pool.submit(run, name, folder, **parameters) for name, parameters in stage.items()
            ]:
                done.result()
    return folder


@pytest.mark.parametrize(
    ("encoder", "folder", "epochs", "batch_size", "data"),
    [
        ("custom_cnn", "", 2, 100, "bigearthnet-v1-rgb"),
        ("custom_cnn", "12bands", 1, 200, "bigearthnet-v1-all"),
        ("resnet50", "", 1, 200, "bigearthnet-v1-rgb"),
        ("vit_b_16", "", 1, 200, "bigearthnet-v1-rgb"),
    ],
)
def test_pretraining_leaves_checkpoints_with_the_right_names_that_load(
    workspace, encoder, folder, epochs, batch_size, data
):
    models = open_profile("demo", workspace, encoder).models / folder
    assert (
        len(list(models.glob(f"best_contrastive_model_{epochs}Ep_{batch_size}BS_Loss*_*_*.pth")))
        == 1
    )
    _, about = load_encoder(models / f"best_contrastive_model_{epochs}Ep.pth", expect=encoder)
    assert about["data"]["kind"] == data and len(about["data"]["sha256"]) == 64
    assert about["config"]["in_channels"] == (12 if folder else 3)
    history = about["history"]
    assert [row["epoch"] for row in history] == list(range(epochs + 1))


@pytest.mark.parametrize(
    ("encoder", "epochs"), [("custom_cnn", 2), ("resnet50", 1), ("vit_b_16", 1)]
)
def test_fine_tuning_leaves_both_arms_and_says_where_they_came_from(workspace, encoder, epochs):
    models = open_profile("demo", workspace, encoder).models
    (tuned,) = models.glob("final_supervised_model_progressive_unfr_acc*.pth")
    (scratch,) = models.glob("final_supervised_model_from_scratch_acc*.pth")
    assert (
        load_classifier(tuned, encoder)[1]["pretrained"] == f"best_contrastive_model_{epochs}Ep.pth"
    )
    assert load_classifier(scratch, encoder)[1]["pretrained"] is None


def test_pretrained_weights_load_into_plain_timm(workspace):
    for encoder, options in (("resnet50", {}), ("vit_b_16", {"img_size": 16})):
        models = open_profile("demo", workspace, encoder).models
        state = load(models / "best_contrastive_model_1Ep.pth")[0]["encoder"]
        timm.create_model(TIMM_NAMES[encoder], num_classes=0, **options).load_state_dict(
            state, strict=True
        )


def test_results_table_holds_both_arms_and_every_score(workspace):
    results = pd.read_csv(
        workspace / "umap_visualizations/demo/custom_cnn_finetuned_results.csv", index_col=0
    )
    assert list(results.index) == ["from scratch", "pretrained 2"]
    assert results.shape[1] == 2 + 11
    assert (
        results.notna().all(axis=None)
        and (results >= 0).all(axis=None)
        and (results <= 1).all(axis=None)
    )


def test_every_figure_is_there_and_projections_keep_their_coordinates(workspace):
    figures = workspace / "umap_visualizations/demo"
    expected = {
        "comparison_umap_before_after",
        "comparison_msp_both_ways",
        "custom_cnn_map_made_scene",
        "custom_cnn_map_made_scene_scores",
    }
    for run_name in ("custom_cnn_1ep_12bands", "custom_cnn_2ep", "resnet50_1ep", "vit_b_16_1ep"):
        expected |= {
            f"{run_name}_{name}"
            for name in (
                "view_pairs",
                "curves",
                "umap_before_after",
                "class_boundaries",
                "class_centroids",
            )
        }
    for encoder in ENCODERS:
        expected |= {
            f"{encoder}_finetuned_{name}"
            for name in (
                "curves",
                "confusion",
                "score_histograms",
                "roc",
                "umap_comparison",
                "class_boundaries",
                "class_centroids",
            )
        }
        expected |= {
            f"{encoder}_ood_{name}" for name in ("heatmap", "extremes", "reliability", "rejection")
        }
    assert {path.stem for path in figures.glob("*.png")} == expected
    coordinates = pd.read_csv(figures / "custom_cnn_finetuned_umap_comparison.csv")
    assert set(coordinates["panel"]) == {"untrained", "pretrained 2", "fine-tuned"} and -1 in set(
        coordinates["label"]
    )


def test_the_results_page_shows_our_runs_beside_the_study_and_what_is_missing(workspace):
    records = read_records(workspace / "models/demo/records")
    assert len(records) == 4 + 2 * 3
    table = beside_study(runs_table(records))["val accuracy, %"]
    assert float(table.loc[("Custom CNN", "pretrained 2"), "ours"]) > 0
    assert table.loc[("Custom CNN", "pretrained 300"), "ours"] == MISSING
    shown = nbformat.read(workspace / "08.ipynb", 4)
    html = "".join(
        str(output.get("data", {}).get("text/html", ""))
        for cell in shown.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )
    assert table.loc[("ResNet-50", "pretrained 1"), "ours"] in html and MISSING in html


def test_the_map_lies_on_the_scene_and_keeps_its_thresholds_beside_the_checkpoint(workspace):
    profile = open_profile("demo", workspace)
    checkpoint = best_classifier(profile.models)
    assert thresholds_path(checkpoint).is_file()
    folder = profile.data / "maps" / checkpoint.stem / "made_scene"
    assert sorted(path.name for path in folder.iterdir()) == ["energy", "knn"]
    with (
        rasterio.open(profile.scene / "B04.tif") as given,
        rasterio.open(folder / "energy/class.tif") as made,
    ):
        assert (made.crs, made.transform, made.shape) == (given.crs, given.transform, given.shape)
        assert 5 <= len(np.unique(made.read(1))) <= 11


def test_a_map_without_a_classifier_names_the_notebook_that_makes_one(tmp_path):
    with pytest.raises(CheckpointError, match=r"no classifier in .*: run notebook 05"):
        best_classifier(tmp_path)


def test_missing_checkpoint_stops_notebook_05_before_any_training(workspace):
    with pytest.raises(
        papermill.PapermillExecutionError, match=r"no checkpoint .*run the notebook that makes it"
    ):
        run("05", workspace, PRETRAINED=["best_contrastive_model_999Ep.pth"])
