"""What README and the pages beside it say is true in a fresh clone: code, commands, links."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "SETUP.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.M | re.S)


def test_readme_is_read_in_minutes():
    assert len(README.read_text().split()) <= 1500


def test_its_code_runs_in_a_clone_without_data(tmp_path, command):
    shutil.copytree(ROOT / "models", tmp_path / "models", ignore=shutil.ignore_patterns("demo"))
    for code in blocks(README, "python"):
        run = command("") | {"args": [sys.executable, "-c", code], "cwd": tmp_path}
        run["env"] |= {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(**run, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert "SeaLake" in done.stdout and "mutual_information" in done.stdout


COMMANDS = sorted(
    {
        (words[2], option)
        for page in PAGES
        for block in blocks(page, "bash")
        for line in block.replace("\\\n", " ").splitlines()
        for words in [[word for word in shlex.split(line, comments=True) if "=" not in word]]
        if words[:2] == ["python", "-m"] and words[2].startswith(("src", "audit"))
        for option in [word for word in words if word.startswith("--")] or [""]
    }
)


@pytest.mark.parametrize("module", sorted({module for module, _ in COMMANDS}))
def test_its_commands_and_their_options_exist(module, run_module):
    shown = run_module(module, "--help")
    assert shown.returncode == 0, shown.stderr
    for option in (option for name, option in COMMANDS if name == module and option):
        assert re.search(rf"{option}\b", shown.stdout), option


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_are_there(page):
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    local = [target for target in targets if "://" not in target]
    assert [t for t in local if not (page.parent / t).exists()] == []


def test_make_targets_that_are_named_exist():
    made = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.M))
    for page in PAGES:
        named = re.findall(r"(?:^|`)make ([a-z0-9-]+)", page.read_text(), re.M)
        assert set(named) <= made, page
