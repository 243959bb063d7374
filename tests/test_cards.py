"""The cards of the weights: their lines of code run, and their numbers are those of the records."""

import re

import numpy as np
import pytest

from src.profiles import ROOT
from src.results.cards import LIMIT, cards, main

WRITTEN = (ROOT / "models/CARDS.md").read_text()


def test_the_committed_cards_are_those_of_the_weights():
    assert cards(ROOT / "models") == WRITTEN


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", WRITTEN, re.DOTALL))
def test_the_lines_of_a_card_load_the_weights(code, monkeypatch):
    monkeypatch.chdir(ROOT)
    names = {"images": np.zeros((2, 64, 64, 3), np.uint8)}
    exec(code, names)
    output, width = ("features", 256) if "encoder" in names else ("logits", 10)
    assert names[output].shape == (2, width)


def test_large_and_unfinished_weights_have_no_card(tmp_path):
    (tmp_path / "last_contrastive_model_6Ep.pth").write_bytes(b"")
    with open(tmp_path / "large.pth", "wb") as file:
        file.truncate(LIMIT + 1)
    assert "##" not in cards(tmp_path)


def test_the_command_writes_the_cards_into_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["cards", str(tmp_path)])
    main()
    assert (tmp_path / "CARDS.md").read_text() == cards(tmp_path)
