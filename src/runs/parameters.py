"""Whether a notebook's parameters can be: told before anything is read, let alone trained."""

import ast
import difflib
from pathlib import Path
from typing import Any

from src.augmentations import augmentation
from src.checks import RANGES, check_number, check_phases
from src.encoders import ENCODERS
from src.runs.settings import RESUME

CHOICES = {
    "PROFILE": ("paper", "demo"),
    "ENCODER": ENCODERS,
    "SCHEDULE": ("long", "short"),
    "BANDS": ("rgb", "all"),
    "RESUME": (*RESUME, True),
    "SCRATCH": (True, False),
    "SCALE_LR": (True, False),
}
# None in a parameters cell takes the profile's
OPTIONAL = (
    *("EPOCHS", "BATCH_SIZE", "IMAGE_SIZE", "LR", "PROBE_EVERY", "MC_SAMPLES", "PHASES"),
    *("WORKSPACE", "OOD_CLASSES", "SPLIT"),
)
NAMES = ("PRETRAINED", "OOD_CLASSES", "HELD_OUT")  # lists of names
DATA = ("UNLABELLED", "LABELLED", "OOD")  # a known set, a folder or a store
AS_TEXT = (*NAMES, "PHASES", "EXTRA_AUGMENTATION")  # what papermill's -p gives as text


def given(value: Any, usual: Any) -> Any:
    """A parameter's value; the usual one for None, and for nothing else: 0 is a value."""
    return usual if value is None else value


def read_parameters(names: dict[str, Any]) -> None:
    """Check the parameters of a notebook, which calls it with `globals()` before anything else.

    Lists that papermill's `-p` gave as text become lists.

    Raises:
        ValueError: one that cannot be, or that the notebook does not know: it would run on, with
            what was not meant.
    """
    _refuse_unknown(names)
    for name in [name for name in names if name.isupper()]:
        value = names[name]
        if name in OPTIONAL and value is None:
            continue
        if name in AS_TEXT and isinstance(value, str):
            names[name] = value = _from_text(value, name)
        names[name] = _check_parameter(value, name)
    if names.get("SCRATCH") is False and not names["PRETRAINED"]:
        raise ValueError("SCRATCH = False and PRETRAINED = []: there is nothing to train")


def _check_parameter(value: Any, name: str) -> Any:
    """The value, a number as a plain one."""
    choices = CHOICES.get(name)
    if choices and not any(value is c or (isinstance(c, str) and value == c) for c in choices):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
    if name.lower() in RANGES:
        value = check_number(value, name, RANGES[name.lower()])
    if name == "BATCH_SIZE":
        check_number(value, name, RANGES["epochs"])
    if name == "WORKSPACE" and not (isinstance(value, str | Path) and str(value)):
        raise ValueError(f"{name} must be a folder, got {value!r}")
    if name == "PHASES":
        value = check_phases(value, name)
    if name in DATA and not (isinstance(value, str) and value):
        raise ValueError(f"{name} must name a data set, a folder or a store, got {value!r}")
    if name == "SPLIT" and not (isinstance(value, str) or _is_list_of_text(value)):
        raise ValueError(f"{name} must name a CSV, or three lists of names, got {value!r}")
    if name in NAMES and not _is_list_of_text(value):
        raise ValueError(f"{name} must be a list of names, got {value!r}")
    if name == "EXTRA_AUGMENTATION":
        _check_augmentation(value, name)
    return value


def _is_list_of_text(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)


def _check_augmentation(value: Any, name: str) -> None:
    try:
        augmentation(64, value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _from_text(text: str, name: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError) as error:
        examples = {"PHASES": "[1, 0, 1]", "EXTRA_AUGMENTATION": '{"vflip": 0.5}'}
        example = examples.get(name, '["River"]')
        raise ValueError(f"{name} must look like {example}, got {text!r}") from error


def _refuse_unknown(names: dict[str, Any]) -> None:
    """Compare what papermill injected with the parameters cell: it says of strangers but a warning.

    IPython keeps the cells that have run in `In`.
    """
    cells = [cell for cell in names.get("In", []) if isinstance(cell, str)]
    places = [number for number, cell in enumerate(cells) if cell.startswith("# Parameters")]
    if not places:
        return
    injected, before = _assigned(cells[places[-1]]), map(_assigned, cells[: places[-1]][::-1])
    known = next((assigned for assigned in before if "PROFILE" in assigned), injected)
    if unknown := sorted(injected - known):
        near = difflib.get_close_matches(unknown[0].upper(), known, 1)
        hint = f"; did you mean {near[0]}?" if near else f": there are {', '.join(sorted(known))}"
        raise ValueError(f"unknown parameter {', '.join(unknown)}{hint}")


def _assigned(cell: str) -> set[str]:
    """Names that a cell of plain assignments assigns to; of any other cell none."""
    try:
        body = ast.parse(cell).body
    except SyntaxError:
        return set()
    targets = (target for line in body if isinstance(line, ast.Assign) for target in line.targets)
    return {target.id for target in targets if isinstance(target, ast.Name)}
