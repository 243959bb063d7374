"""The notebooks: clean as committed, and run for real at a small scale."""

import ast
import json
from pathlib import Path

import nbformat
import pandas as pd
import papermill
import pytest

from src.checkpoints import load_classifier, load_encoder
from src.data.store import DataError
from src.profiles import ROOT, open_profile

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TRAINING = [path for path in NOTEBOOKS if path.name[:2] <= "07"]


def code_cells(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


@pytest.mark.parametrize("path", TRAINING, ids=lambda path: path.stem)
def test_committed_clean_with_parameters_first_and_no_logic_of_its_own(path):
    cells = code_cells(path)
    assert cells[0].metadata.tags == ["parameters"]
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)
    assert max(len(cell.source.splitlines()) for cell in cells) <= 16
    assert not any(
        isinstance(node, (ast.FunctionDef, ast.ClassDef)) for cell in cells for node in ast.walk(ast.parse(cell.source))
    )


def test_the_two_pretraining_notebooks_share_their_code():
    long, short = (
        [cell.source for cell in code_cells(ROOT / "notebooks" / f"{name}epochs.ipynb")]
        for name in ("01_simclr_pretrain_custom_cnn_300", "02_simclr_pretrain_custom_cnn_50")
    )
    assert [cell.replace("profile.long", "profile.short") for cell in long[1:]] == short[1:]


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


def run(name: str, workspace: Path, **parameters) -> nbformat.NotebookNode:
    (path,) = (ROOT / "notebooks").glob(f"{name}_*.ipynb")
    parameters = {"PROFILE": "demo", "WORKSPACE": str(workspace), **parameters}
    return papermill.execute_notebook(
        path, workspace / f"{name}.ipynb", parameters, kernel_name="python3", progress_bar=False
    )


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Notebooks 02 and 05 run for real: files → store → SimCLR → checkpoint → fine-tuning → scores → figures."""
    folder = tmp_path_factory.mktemp("workspace")
    run("02", folder, EPOCHS=2, BATCH_SIZE=100, PROBE_EVERY=1)
    run("05", folder, PRETRAINED=["best_contrastive_model_2Ep.pth"], PHASES=[1, 1, 1], MC_SAMPLES=3)
    return folder


def test_pretraining_leaves_checkpoints_with_the_right_names_that_load(workspace):
    models = workspace / "models/demo"
    assert len(list(models.glob("best_contrastive_model_2Ep_100BS_Loss*_*_*.pth"))) == 1
    encoder, about = load_encoder(models / "best_contrastive_model_2Ep.pth", expect="custom_cnn")
    assert encoder.feature_dim == 256 and about["data"]["kind"] == "bigearthnet-v1-rgb"
    history = json.loads((models / "last_contrastive_model_2Ep.json").read_text())["history"]
    assert [row["epoch"] for row in history] == [0, 1, 2]


def test_fine_tuning_leaves_both_arms_and_says_where_they_came_from(workspace):
    models = workspace / "models/demo"
    (tuned,) = models.glob("final_supervised_model_progressive_unfr_acc*.pth")
    (scratch,) = models.glob("final_supervised_model_from_scratch_acc*.pth")
    assert load_classifier(tuned)[1]["pretrained"] == "best_contrastive_model_2Ep.pth"
    assert load_classifier(scratch)[1]["pretrained"] is None


def test_results_table_holds_both_arms_and_every_score(workspace):
    results = pd.read_csv(workspace / "umap_visualizations/demo/custom_cnn_finetuned_results.csv", index_col=0)
    assert list(results.index) == ["from scratch", "pretrained 2 epochs"]
    assert results.shape[1] == 2 + 5
    assert results.notna().all(axis=None) and (results >= 0).all(axis=None) and (results <= 1).all(axis=None)


def test_every_figure_is_there_and_projections_keep_their_coordinates(workspace):
    figures = workspace / "umap_visualizations/demo"
    expected = {f"custom_cnn_2ep_{name}" for name in
                ("view_pairs", "curves", "umap_before_after", "class_boundaries", "class_centroids")}  # fmt: skip
    expected |= {f"custom_cnn_finetuned_{name}" for name in
                 ("curves", "confusion", "score_histograms", "roc", "umap_comparison", "class_boundaries",
                  "class_centroids")}  # fmt: skip
    assert {path.stem for path in figures.glob("*.png")} == expected
    coordinates = pd.read_csv(figures / "custom_cnn_finetuned_umap_comparison.csv")
    assert set(coordinates["panel"]) == {"untrained", "pretrained", "fine-tuned"} and -1 in set(coordinates["label"])


def test_missing_checkpoint_stops_notebook_05_before_any_training(workspace):
    with pytest.raises(papermill.PapermillExecutionError, match=r"no checkpoint .*run the notebook that makes it"):
        run("05", workspace, PRETRAINED=["best_contrastive_model_999Ep.pth"])
