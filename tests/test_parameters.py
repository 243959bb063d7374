"""A notebook's parameters: what cannot be is told before anything is read, let alone trained."""

import ast
import json
from pathlib import Path

import papermill
import pytest

from src.profiles import ROOT, given, read_parameters

NOTEBOOKS = sorted((ROOT / "notebooks").glob("0[1-8]*_*.ipynb"))


def cells(path: Path) -> list[str]:
    content = json.loads(path.read_text(encoding="utf-8"))
    return ["".join(c["source"]) for c in content["cells"] if c["cell_type"] == "code"]


def parameters(number: str) -> dict:
    (path,) = (path for path in NOTEBOOKS if path.name.startswith(f"{number}_"))
    names: dict = {}
    exec(cells(path)[0], names)
    return {name: value for name, value in names.items() if name.isupper()}


def injected(number: str, **changed) -> dict:
    """What a notebook's `globals()` are when papermill has injected these."""
    (path,) = (path for path in NOTEBOOKS if path.name.startswith(f"{number}_"))
    text = "\n".join(["# Parameters", *(f"{name} = {v!r}" for name, v in changed.items())]) + "\n"
    return {**parameters(number), **changed, "In": ["", cells(path)[0], text, "import numpy"]}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_reads_its_parameters_first_and_they_are_sound(path):
    sources = cells(path)
    calls = [number for number, source in enumerate(sources) if "read_parameters(glob" in source]
    profile = next(n for n, source in enumerate(sources) if "open_profile(PROFILE" in source)
    assert calls == [profile]
    lines = sources[profile].splitlines()
    asked = [n for n, line in enumerate(lines) if line.startswith("read_parameters(")]
    assert asked < [n for n, line in enumerate(lines) if "open_profile(PROFILE" in line]
    read_parameters(parameters(path.name.split("_")[0]))
    # a value of 0 is a value: `or` would take the profile's
    assert not [
        line for source in sources for line in source.splitlines() if " or profile." in line
    ]


def wrong(number, name, *values):
    return [pytest.param(number, name, value, id=f"{number} {name}={value!r}") for value in values]


NAN = float("nan")


@pytest.mark.parametrize(
    ("number", "name", "value"),
    [
        *wrong("02", "EPOCHS", 0, -1, 1.5, "many", NAN, [3], True),
        *wrong("02", "LR", 0, -1e-3, NAN, "fast"),
        *wrong("02", "BATCH_SIZE", 0, -64, 2.5, "64 images"),
        *wrong("02", "TEMPERATURE", 0, -1, None, NAN, "warm"),
        *wrong("02", "WEIGHT_DECAY", -1, None),
        *wrong("02", "WARMUP_EPOCHS", -1, "1"),
        *wrong("02", "IMAGE_SIZE", 0, 30.5, "64"),
        *wrong("02", "PROBE_EVERY", 0, -5),
        *wrong("02", "SEED", -1, 0.5, None),
        *wrong("02", "STRETCH", 0, -2750, None),
        *wrong("02", "SCHEDULE", "medium", 3, None),
        *wrong("02", "BANDS", "RGB", "al", None),
        *wrong("02", "UNLABELLED", "", None, ["eurosat"]),
        *wrong("05", "LABELLED", 3, None),
        *wrong("05", "SPLIT", 3, [1, 2, 3], {"train": []}),
        *wrong("02", "ENCODER", "resnet18", None),
        *wrong("02", "PROFILE", "Demo", None),
        *wrong("02", "RESUME", "yes", 1, 0, None),
        *wrong("02", "SCALE_LR", "yes", 1),
        *wrong("02", "WORKSPACE", 5, ""),
        *wrong("02", "EXTRA_AUGMENTATION", {"size": 32}, {"rotate": "yes"}, {"jitter": (1, 2)}),
        *wrong("02", "EXTRA_AUGMENTATION", "vflip", ["vflip"], {"vflop": 0.5}, {"vflip": 7}, None),
        *wrong(
            "05", "PHASES", (-1, 1, 2), (1, 1), (1, 1, 1, 1), (0.5, 0.5, 1), [0, 0, 0], "1,0,x", 3
        ),
        *wrong("05", "MC_SAMPLES", 0, -3, 2.5),
        *wrong("05b", "STEP", 0, -1, 0.5, None),
        *wrong("05b", "HELD_OUT", "River", "[River]", None, [3], {"River": 1}),
        *wrong("05", "OOD_CLASSES", "airplane", 3, [3]),
        *wrong("05", "PRETRAINED", "short", None, ["short", None]),
        *wrong("05", "SCRATCH", "no", None),
    ],
)
def test_a_parameter_that_cannot_be_is_refused_by_its_name(number, name, value):
    assert name in parameters(number)
    with pytest.raises(ValueError, match=rf"\b{name}\b"):
        read_parameters({**parameters(number), name: value})


@pytest.mark.parametrize(
    ("number", "name", "text"),
    [
        ("05", "PHASES", "[1, 0, 1]"),
        ("05", "PHASES", "(1,0,1)"),
        ("05b", "HELD_OUT", "['River', 'Forest']"),
        ("05b", "HELD_OUT", "[]"),
        ("05", "PRETRAINED", '["short"]'),
        ("02", "EXTRA_AUGMENTATION", '{"vflip": 0.5, "rotate": True}'),
    ],
)
def test_a_list_that_papermill_gives_as_text_is_a_list(number, name, text):
    names = {**parameters(number), name: text}
    read_parameters(names)
    assert names[name] == ast.literal_eval(text)


@pytest.mark.parametrize(
    ("number", "name", "told"),
    [
        ("02", "EPOCH", "did you mean EPOCHS?"),
        ("02", "epochs", "did you mean EPOCHS?"),
        ("02", "LEARNING_RATE", "there are BANDS, BATCH_SIZE"),
        ("02", "MC_SAMPLES", "unknown parameter MC_SAMPLES"),  # of another notebook
        ("05", "SCHEDULE", "unknown parameter SCHEDULE"),
        ("08", "SEED", "unknown parameter SEED"),
    ],
)
def test_a_parameter_that_the_notebook_does_not_have_is_refused(number, name, told):
    with pytest.raises(ValueError, match=told.replace("?", r"\?")):
        read_parameters(injected(number, **{name: 3}))


def test_parameters_that_it_has_are_taken():
    read_parameters(injected("02", EPOCHS=3, PROFILE="demo"))
    read_parameters(injected("05", PHASES="[1, 0, 1]", WORKSPACE="/tmp"))


def test_of_several_notebooks_in_one_kernel_the_last_counts():
    first, last = injected("05b", STEP=2), injected("02", EPOCHS=2)
    read_parameters({**last, "In": first["In"] + last["In"]})


def test_papermill_itself_is_stopped(tmp_path):
    (path,) = (path for path in NOTEBOOKS if path.name.startswith("08"))
    with pytest.raises(papermill.PapermillExecutionError, match="unknown parameter EPOCH"):
        papermill.execute_notebook(
            path, tmp_path / "08.ipynb", {"EPOCH": 5}, kernel_name="python3", progress_bar=False
        )


def test_no_arm_at_all_is_nothing_to_train():
    with pytest.raises(ValueError, match="nothing to train"):
        read_parameters({**parameters("05"), "SCRATCH": False, "PRETRAINED": []})


def test_numbers_become_plain_ones():
    names = {**parameters("05b"), "STEP": 2.0, "PHASES": [1.0, 0, 1]}
    read_parameters(names)
    assert [type(number) for number in (names["STEP"], *names["PHASES"])] == [int] * 4


def test_zero_is_a_value():
    assert [given(value, 5) for value in (None, 0, 0.0, [], 7)] == [5, 0, 0.0, [], 7]
