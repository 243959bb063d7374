"""The house stays one that can be lived in: how many rooms, how long a file, a function, a line."""

import ast
import importlib
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [file for part in ("src", "audit") for file in sorted((ROOT / part).rglob("*.py"))]


def functions(file: Path):
    tree = ast.parse(file.read_text())
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def lines_of_code(function: ast.FunctionDef) -> int:
    """Of signature and body, without the docstring."""
    length = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is not None:
        docstring = function.body[0]
        length -= docstring.end_lineno - docstring.lineno + 1
    return length


def test_src_shows_few_entries():
    entries = {p.name for p in (ROOT / "src").iterdir()} - {"__init__.py", "__pycache__"}
    assert len(entries) <= 17, sorted(entries)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_file_is_one_room(file):
    text = file.read_text()
    assert len(text.splitlines()) <= 300
    assert max(map(len, text.splitlines()), default=0) <= 100
    long = {f.name: lines_of_code(f) for f in functions(file) if lines_of_code(f) > 40}
    assert not long


def test_layout_by_hand_is_for_tables_of_data():
    assert sum(file.read_text().count("fmt: " + "skip") for file in FILES) <= 5


def test_a_module_and_a_function_never_share_a_name():
    from src.ood import evaluate, mc_dropout, metrics, scores

    for name in ("detectors", "evaluation"):
        assert isinstance(importlib.import_module(f"src.ood.{name}"), types.ModuleType)
    assert all(map(callable, (scores, metrics, mc_dropout, evaluate)))
    for package in (
        "augmentations",
        "data",
        "encoders",
        "figures",
        "map",
        "ood",
        "results",
        "runs",
    ):
        found = importlib.import_module(f"src.{package}")
        folder = Path(found.__file__).parent
        rooms = {p.stem for p in folder.iterdir()} & set(vars(found))
        assert all(isinstance(vars(found)[room], types.ModuleType) for room in rooms), package
