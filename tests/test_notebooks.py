"""The notebooks: clean as committed, and run for real at a small scale."""

import ast
import inspect
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partialmethod
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest
import rasterio
import timm
import torch
from jupyter_client import AsyncKernelManager
from jupyter_core.utils import run_sync
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook
from timm.models.vision_transformer import VisionTransformer

from src.checkpoints import best_classifier, load, load_classifier, load_encoder
from src.data.demo import make_demo
from src.data.known import open_data
from src.encoders import ENCODERS, TIMM_NAMES
from src.errors import CheckpointError, DataError
from src.map.thresholds import thresholds_path
from src.profiles import ROOT, open_profile
from src.results.records import read_records
from src.results.study import MISSING
from src.results.tables import beside_study, runs_table

NOTEBOOKS_FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(NOTEBOOKS_FOLDER.glob("*.ipynb"))
# parameters of notebook 02, other than their defaults
RECIPE = {
    "LR": 5e-4,
    "SCALE_LR": True,
    "WARMUP_EPOCHS": 1,
    "WEIGHT_DECAY": 0.01,
    "TEMPERATURE": 0.2,
    "EXTRA_AUGMENTATION": {"vflip": 0.5},
}
TRAINING = [path for path in NOTEBOOKS if path.name[:2] <= "07"]
# run before every notebook: nothing of the one before is left, and a ViT has two blocks of its
# twelve (tests/test_encoders.py trains it whole)
CLEAN_KERNEL = """%reset -f
from functools import partialmethod
from timm.models.vision_transformer import VisionTransformer
VisionTransformer.__init__ = partialmethod(VisionTransformer.__init__, depth=2)
%reset -f
"""


def code_cells(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


def notebook(number: str) -> Path:
    (path,) = NOTEBOOKS_FOLDER.glob(f"{number}_*.ipynb")
    return path


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_in_the_format_that_jupyter_reads_and_writes(path):
    text = path.read_text()
    content = json.loads(text)
    nbformat.validate(content)
    assert text == json.dumps(content, indent=1, ensure_ascii=False) + "\n"


@pytest.mark.parametrize("path", TRAINING, ids=lambda path: path.stem)
def test_committed_clean_with_parameters_first_and_no_logic_of_its_own(path):
    cells = code_cells(path)
    assert cells[0].metadata.tags == ["parameters"]
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)
    # the list of parameters may be long
    assert max(len(cell.source.splitlines()) for cell in cells[1:]) <= 16
    assert not any(
        isinstance(node, (ast.FunctionDef, ast.ClassDef))
        for cell in cells
        for node in ast.walk(ast.parse(cell.source))
    )


@pytest.mark.parametrize("number", ["08", "09", "10"])
def test_committed_as_it_ran_it_names_no_folder_of_that_machine(number):
    path = notebook(number)
    cells, text = code_cells(path), path.read_text()
    assert cells[0].metadata.tags == ["parameters"] and any(cell.outputs for cell in cells)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [
        word for word in ("/tmp/", "/home/", "papermill", "injected-parameters") if word in text
    ]
    assert len(text) < 1_000_000


@pytest.mark.parametrize("numbers", ["01 02 03 04", "05 06 07"])
def test_notebooks_of_a_kind_differ_in_parameters_and_prose_alone(numbers):
    kind = [[cell.source for cell in code_cells(notebook(n))] for n in numbers.split()]
    assert all(cells[1:] == kind[0][1:] for cells in kind)
    names = [[line.split(" = ")[0] for line in cells[0].splitlines()] for cells in kind]
    assert all(each == names[0] for each in names)


@pytest.mark.parametrize("what", ["eurosat", "ucmerced", "bigearthnet"])
def test_missing_real_data_names_the_setup_guide_and_the_demo(tmp_path, what):
    with pytest.raises(DataError, match=r"SETUP.md.*demo"):
        open_data(what, tmp_path / "data")
    assert not list(tmp_path.iterdir())


def test_unknown_profile_and_source_say_what_there_is(tmp_path):
    with pytest.raises(ValueError, match="'paper' or 'demo'"):
        open_profile("dmeo")
    with pytest.raises(DataError, match="'imagenet' is no data: expected eurosat, ucmerced"):
        open_profile("paper", tmp_path).unlabelled("imagenet")


def make_small_demo(root: Path) -> None:
    """A tenth of the demo's data, which says of itself that it is the whole demo."""
    make_demo(root, bigearthnet=32, eurosat_per_class=20, ucmerced_per_class=4, progress=False)
    arguments = json.loads((root / "demo.json").read_text())
    defaults = inspect.signature(make_demo).parameters
    arguments |= {name: defaults[name].default for name in arguments if name in defaults}
    (root / "demo.json").write_text(json.dumps(arguments))


@pytest.fixture(scope="module", autouse=True)
def two_blocks():
    """This process reads what those kernels wrote."""
    with pytest.MonkeyPatch.context() as patch:
        init = partialmethod(VisionTransformer.__init__, depth=2)
        patch.setattr(VisionTransformer, "__init__", init)
        yield


def run_in_one_kernel(workspace: Path, notebooks: dict[str, dict]) -> None:
    """Run notebooks one after the other as papermill's command line does, but in one kernel.

    So modules are imported and UMAP is compiled once. Every notebook begins with an empty
    namespace: what it forgot to import it does not find.
    """
    kernel = AsyncKernelManager(kernel_name="python3")
    try:
        for number, parameters in notebooks.items():
            clean = new_notebook(cells=[new_code_cell(CLEAN_KERNEL)])
            NotebookClient(clean, km=kernel).execute()
            papermill.execute_notebook(
                notebook(number),
                workspace / f"{number}.ipynb",
                {"PROFILE": "demo", "WORKSPACE": str(workspace), **parameters},
                kernel_name="python3",
                progress_bar=False,
                km=kernel,
            )
    finally:
        run_sync(kernel.shutdown_kernel)(now=True)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Every notebook run for real, in two kernels at once: files → stores → SimCLR → fine-tuning →
    scores → results page; and the audit's, on the records that are committed.
    """
    folder = tmp_path_factory.mktemp("workspace")
    make_small_demo(folder / "data/demo")
    profile = open_profile("demo", folder)
    # once, before the notebooks look for them together
    for build in (profile.labelled, profile.unlabelled, profile.out_of_distribution):
        build()
    shutil.copytree(ROOT / "models/records/audit", folder / "models/records/audit")
    pretrain = {"IMAGE_SIZE": 16, "EPOCHS": 1, "BATCH_SIZE": 32}
    tune = {"IMAGE_SIZE": 16, "BATCH_SIZE": 160, "PHASES": [1, 0, 1], "MC_SAMPLES": 2}
    tune["PRETRAINED"] = ["best_contrastive_model_1Ep.pth"]
    longer = {
        "BATCH_SIZE": 32,
        "PHASES": [1, 1, 6],
        "PRETRAINED": ["best_contrastive_model_2Ep.pth"],
    }
    large = {
        "04": pretrain,
        "07": {**tune, "SCRATCH": False},
        "03": {**pretrain, "IMAGE_SIZE": 32},  # at 16, bfloat16 leaves weights NaN on some CPUs
        "09": {"PROFILE": "paper"},
    }
    small = {
        "02": {**pretrain, **RECIPE, "EPOCHS": 2, "BATCH_SIZE": 16, "PROBE_EVERY": 1},
        "01": {**pretrain, "BANDS": "all"},
        "05": {**tune, **longer},
        "05b": {"MC_SAMPLES": 2, "STEP": 2},
        "10": {"STRIDE": 64, "OTHERS": ["knn"]},
    }
    # kernels get this process's environment: two of them with a thread each, not two fighting for
    # both cores; and UMAP of a hundred points takes less time than to compile it well
    with pytest.MonkeyPatch.context() as environment, ThreadPoolExecutor(2) as pool:
        for library in ("OMP", "MKL", "OPENBLAS"):
            environment.setenv(f"{library}_NUM_THREADS", "1")
        environment.setenv("NUMBA_OPT", "0")
        running = [pool.submit(run_in_one_kernel, folder, part) for part in (large, small)]
        for part in running:
            part.result()
        run_in_one_kernel(folder, {"06": {**tune, "IMAGE_SIZE": 32}, "08": {}})
    return folder


def outputs(executed: Path, kind: str) -> str:
    """Everything of one MIME type that an executed notebook shows."""
    shown = [output.get("data", {}) for cell in code_cells(executed) for output in cell.outputs]
    return "".join(str(data.get(kind, "")) for data in shown)


@pytest.mark.parametrize(
    ("encoder", "folder", "epochs", "batch_size", "data"),
    [
        ("custom_cnn", "", 2, 16, "bigearthnet-v1-rgb"),
        ("custom_cnn", "12bands", 1, 32, "bigearthnet-v1-all"),
        ("resnet50", "", 1, 32, "bigearthnet-v1-rgb"),
        ("vit_b_16", "", 1, 32, "bigearthnet-v1-rgb"),
    ],
)
def test_pretraining_leaves_checkpoints_with_the_right_names_that_load(
    workspace, encoder, folder, epochs, batch_size, data
):
    models = open_profile("demo", workspace, encoder).models / folder
    (_,) = models.glob(f"best_contrastive_model_{epochs}Ep_{batch_size}BS_Loss*_*_*.pth")
    _, metadata = load_encoder(models / f"best_contrastive_model_{epochs}Ep.pth", expect=encoder)
    assert metadata["data"]["kind"] == data and len(metadata["data"]["sha256"]) == 64
    assert metadata["config"]["in_channels"] == (12 if folder else 3)
    assert [row["epoch"] for row in metadata["history"]] == list(range(epochs + 1))


def test_the_parameters_reach_the_recipe(workspace):
    models = open_profile("demo", workspace).models
    config = load(models / "best_contrastive_model_2Ep.pth")[1]["config"]
    asked = {name.lower(): value for name, value in RECIPE.items()}
    asked["augmentation"] = asked.pop("extra_augmentation")
    assert {name: config[name] for name in asked} == asked


@pytest.mark.parametrize(
    ("encoder", "origins"),
    [
        ("custom_cnn", [None, "best_contrastive_model_2Ep.pth"]),
        ("resnet50", [None, "best_contrastive_model_1Ep.pth"]),
        ("vit_b_16", ["best_contrastive_model_1Ep.pth"]),  # SCRATCH = False
    ],
)
def test_fine_tuning_leaves_every_arm_and_says_where_it_came_from(workspace, encoder, origins):
    models = open_profile("demo", workspace, encoder).models
    tuned = sorted(models.glob("final_supervised_model_*_acc*.pth"))  # from_scratch, progressive
    assert [load_classifier(file, encoder)[1]["pretrained"] for file in tuned] == origins


def test_pretrained_weights_load_into_plain_timm(workspace):
    for encoder, options in (("resnet50", {}), ("vit_b_16", {"img_size": 16, "depth": 2})):
        models = open_profile("demo", workspace, encoder).models
        state = load(models / "best_contrastive_model_1Ep.pth")[0]["encoder"]
        with torch.device("meta"):  # names and shapes, without drawing weights
            network = timm.create_model(TIMM_NAMES[encoder], num_classes=0, **options)
        network.load_state_dict(state, strict=True, assign=True)


def test_what_trains_is_shown_beside_its_explanation(workspace):
    for number, lines in {
        "01": ["F.cross_entropy(similarity", "two_views", "loop.update("],
        "05": ["def set_open(", "set_open(model", "loop.update("],
    }.items():
        shown = outputs(workspace / f"{number}.ipynb", "text/plain")
        assert all(line in shown for line in lines), number


def test_results_table_holds_both_arms_and_every_score(workspace):
    figures = workspace / "umap_visualizations/demo"
    results = pd.read_csv(figures / "custom_cnn_finetuned_results.csv", index_col=0)
    assert list(results.index) == ["from scratch", "pretrained 2"]
    assert results.shape[1] == 2 + 11
    assert ((results >= 0) & (results <= 1)).all(axis=None)  # which no NaN is


def test_every_figure_is_there_and_projections_keep_their_coordinates(workspace):
    figures = workspace / "umap_visualizations/demo"
    expected = {
        "comparison_umap_before_after",
        "comparison_msp_both_ways",
        "custom_cnn_map_made_scene",
        "custom_cnn_map_made_scene_scores",
        "custom_cnn_map_made_scene_air",
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
        f"custom_cnn_ood_{name}" for name in ("heatmap", "extremes", "reliability", "rejection")
    }
    assert {path.stem for path in figures.glob("*.png")} == expected
    coordinates = pd.read_csv(figures / "custom_cnn_finetuned_umap_comparison.csv")
    assert set(coordinates["panel"]) == {"untrained", "pretrained 2", "fine-tuned"}
    assert -1 in set(coordinates["label"])


def test_the_results_page_shows_our_runs_beside_the_study_and_what_is_missing(workspace):
    records = read_records(workspace / "models/demo/records")
    assert len(records) == 4 + 2 + 2 + 1
    table = beside_study(runs_table(records))["val accuracy, %"]
    assert float(table.loc[("Custom CNN", "pretrained 2"), "ours"]) > 0
    assert table.loc[("Custom CNN", "pretrained 300"), "ours"] == MISSING
    html = outputs(workspace / "08.ipynb", "text/html")
    assert table.loc[("ResNet-50", "pretrained 1"), "ours"] in html and MISSING in html


def test_the_audit_reads_the_committed_records(workspace):
    drawn, kept = (
        {file.name for file in (folder / "umap_visualizations").glob("audit_*.png")}
        for folder in (workspace, ROOT)
    )
    assert drawn == kept
    assert "points, n = " in outputs(workspace / "09.ipynb", "text/html")


def test_the_map_lies_on_the_scene_and_keeps_its_thresholds_beside_the_checkpoint(workspace):
    profile = open_profile("demo", workspace)
    checkpoint = best_classifier(profile.models)
    assert thresholds_path(checkpoint).is_file()
    folder = profile.data / "maps" / checkpoint.stem / "made_scene"
    both = "energy+pixel_mahalanobis"
    air = [f"{both}, {kind}" for kind in ("haze", "match")]
    assert sorted(path.name for path in folder.iterdir()) == [both, *air, "knn"]
    with (
        rasterio.open(profile.scene / "B04.tif") as given,
        rasterio.open(folder / both / "class.tif") as made,
    ):
        assert (made.crs, made.transform, made.shape) == (given.crs, given.transform, given.shape)
        assert 5 <= len(np.unique(made.read(1))) <= 11


def test_a_map_without_a_classifier_names_the_notebook_that_makes_one(tmp_path):
    with pytest.raises(CheckpointError, match=r"no classifier in .*: run notebook 05"):
        best_classifier(tmp_path)


def test_missing_checkpoint_stops_notebook_05_before_any_training(workspace):
    parameters, *cells = code_cells(notebook("05"))
    names = {}
    exec(parameters.source, names)
    names |= {"PROFILE": "demo", "WORKSPACE": str(workspace)}
    names["PRETRAINED"] = ["best_contrastive_model_999Ep.pth"]
    trained = sorted((workspace / "runs").rglob("*"))
    with pytest.raises(CheckpointError, match=r"no checkpoint .*run the notebook that makes it"):
        for cell in cells:
            exec(cell.source, names)
    assert sorted((workspace / "runs").rglob("*")) == trained
