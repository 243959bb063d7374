"""Small real files in the layouts of the three data sets, and the commands run for real."""

import importlib.util
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg  # noqa: F401 (its BLAS can be limited only when it is loaded)
import torch
from PIL import Image
from threadpoolctl import threadpool_limits

from src.data.images import CLASSES, STUDY_CLASSES

REPOSITORY = Path(__file__).parents[1]
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

# networks and matrices are small: more threads would mostly wait for one another
torch.set_num_threads(1)
threadpool_limits(1)


# what neither training nor detection needs: tests that do are skipped where it is missing
OPTIONAL = ("rasterio", "umap", "zstandard", "pyarrow", "papermill", "nbformat", "nbclient")


class _Skipped(pytest.Module):
    """A file of tests of which all need what is missing."""

    missing = ""

    def collect(self):
        pytest.skip(f"{self.missing} is not installed", allow_module_level=True)


def pytest_pycollect_makemodule(module_path, parent):
    text = module_path.read_text()
    imported = (name for name in OPTIONAL if re.search(rf"^(import|from) {name}\b", text, re.M))
    missing = [name for name in imported if importlib.util.find_spec(name) is None]
    if missing:
        module = _Skipped.from_parent(parent, path=module_path)
        module.missing = ", ".join(missing)
        return module
    return None


def _run_or_skip():
    try:
        return (yield)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in OPTIONAL:
            pytest.skip(f"{error.name} is not installed")
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    return (yield from _run_or_skip())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    return (yield from _run_or_skip())


def _write_band(path, band, **profile):
    import rasterio

    with rasterio.open(
        path,
        "w",
        height=band.shape[-2],
        width=band.shape[-1],
        dtype=band.dtype,
        **{
            "driver": "GTiff",
            "crs": "EPSG:32633",
            "transform": rasterio.Affine(10, 0, 600000, 0, -10, 5000000),
            "count": 1 if band.ndim == 2 else len(band),
            **profile,
        },
    ) as file:
        file.write(band if band.ndim == 3 else band[None])


@pytest.fixture(scope="session")
def write_band():
    """(path, (H, W) or (count, H, W) array, **GDAL options) → a GeoTIFF with a place on Earth."""
    return _write_band


@pytest.fixture(scope="session")
def write_patch():
    """(root, name, B04=array, …) → the folder of a BigEarthNet patch; other bands are random."""

    def write(root, name, **bands):
        folder = root / name
        folder.mkdir(parents=True)
        rng = np.random.default_rng(len(list(root.iterdir())))
        for band in ("B02", "B03", "B04"):
            values = bands.get(band, rng.integers(0, 3000, (120, 120)))
            _write_band(folder / f"{name}_{band}.tif", np.asarray(values, np.uint16))
        # a 60 m band, as in every real patch: reading RGB must not stumble over it
        _write_band(folder / f"{name}_B01.tif", np.ones((20, 20), np.uint16))
        return folder

    return write


@pytest.fixture(scope="session")
def real_archive():
    """The six real BigEarthNet patches of the package bigearthnet-common, as a .tar.bz2."""
    # never imported: it makes folders in the user's home
    package = importlib.util.find_spec("bigearthnet_common")
    if package is None:
        pytest.skip("no real patches: bigearthnet-common is missing (pip install -e '.[dev]')")
    return Path(package.origin).with_name("BigEarthNet-S2-Example.tar.bz2")


@pytest.fixture(scope="session")
def real_patches(real_archive, tmp_path_factory):
    """Those six patches as v1 folders. Only to be read: the folder is shared by all tests."""
    folder = tmp_path_factory.mktemp("real")
    with tarfile.open(real_archive) as tar:
        tar.extractall(folder, filter="data")
    return folder / "BigEarthNet-S2-Example"


@pytest.fixture
def eurosat(tmp_path):
    """`2750/<Class>/<Class>_<n>.jpg` for n = 1, 2 and 10, every image of another colour."""
    root = tmp_path / "EuroSAT" / "2750"
    for label, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for n in (10, 2, 1):
            image = Image.new("RGB", (16, 16), (25 * label, 20 * n, 100))
            image.save(root / name / f"{name}_{n}.jpg", quality=95)
    return root


@pytest.fixture
def ucmerced(tmp_path):
    """`Images/<class>/<class>NN.tif` of the study: 256×256 of noise, and a 249×251 colour ramp."""
    root = tmp_path / "UCMerced_LandUse" / "Images"
    rng = np.random.default_rng(0)
    for name in STUDY_CLASSES:
        (root / name).mkdir(parents=True)
        noise = rng.integers(0, 256, (256, 256, 3), dtype=np.uint8)
        ramp = np.broadcast_arrays(np.arange(249)[:, None], np.arange(251), 99)
        for n, image in enumerate([noise, np.stack(ramp, -1).astype(np.uint8)]):
            Image.fromarray(image).save(root / name / f"{name}{n:02}.tif")
    return root


@pytest.fixture(scope="session")
def command():
    """(module, *arguments) → what subprocess needs to run it as a user does, on one thread."""

    def build(module, *arguments):
        return {
            "args": [sys.executable, "-m", module, *map(str, arguments)],
            "cwd": REPOSITORY,
            "env": {**os.environ, **dict.fromkeys(THREADS, "1")},
        }

    return build


@pytest.fixture(scope="session")
def run_module(command):
    """(module, *arguments) → the finished process, with its exit code and both outputs."""
    return lambda *what: subprocess.run(
        **command(*what), capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture(scope="session")
def one_error_line():
    """(finished process) → its error line, if it failed, said why in one line and no traceback."""

    def check(process):
        assert process.returncode == 1
        assert "Traceback" not in process.stderr
        errors = [line for line in process.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and process.stderr.endswith(f"{errors[0]}\n")
        return errors[0]

    return check
