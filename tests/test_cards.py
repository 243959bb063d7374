"""The cards of the weights: their three lines run, and their numbers are those of the records."""

import re

import numpy as np
import pytest

from src.profiles import ROOT
from src.results.cards import LIMIT, cards

WRITTEN = (ROOT / "models/CARDS.md").read_text()


def test_the_committed_cards_are_those_of_the_weights():
    assert cards(ROOT / "models") == WRITTEN


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", WRITTEN, re.DOTALL))
def test_three_lines_load_the_weights(code, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert len(code.splitlines()) == 3
    space = {"images": np.zeros((2, 64, 64, 3), np.uint8)}
    exec(code, space)
    assert space["features" if "encoder" in space else "logits"].shape == (
        2,
        256 if "encoder" in space else 10,
    )


def test_large_and_unfinished_weights_have_no_card(tmp_path):
    (tmp_path / "last_contrastive_model_6Ep.pth").write_bytes(b"")
    with open(tmp_path / "large.pth", "wb") as file:
        file.truncate(LIMIT + 1)
    assert "##" not in cards(tmp_path)
