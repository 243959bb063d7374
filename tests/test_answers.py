"""What a run says in words follows from its numbers, and says when they say nothing."""

import numpy as np
import pandas as pd
import pytest

from src import results
from src.ood.evaluation import Evaluation


def votes(both, only_a, only_b, neither):
    a = np.repeat([1, 1, 0, 0], [both, only_a, only_b, neither]).astype(bool)
    return a, np.repeat([1, 0, 1, 0], [both, only_a, only_b, neither]).astype(bool)


def test_a_paired_difference_is_that_of_the_two_accuracies():
    a, b = votes(60, 25, 5, 10)
    value, low, high = results.paired_difference(a, b)
    assert value == pytest.approx(a.mean() - b.mean()) and low < value < high
    swapped = results.paired_difference(b, a)
    assert swapped == pytest.approx([-value, -high, -low])


def test_it_covers_what_it_should_for_few_images_too():
    rng, truth, held = np.random.default_rng(0), 0.2, []
    for n in (20, 200):
        for _ in range(1500):
            table = rng.multinomial(n, [0.5, 0.25, 0.05, 0.2])
            _, low, high = results.paired_difference(*votes(*table))
            held.append((n, low <= truth <= high))
    covered = pd.DataFrame(held).groupby(0)[1].mean()
    assert covered.between(0.93, 0.985).all(), covered


def test_two_that_always_agree_leave_room_for_doubt():
    value, low, high = results.paired_difference(np.ones(30), np.ones(30))
    assert value == 0 and low < -0.02 and high > 0.02


@pytest.mark.parametrize(
    ("table", "verdict"),
    [
        ((60, 25, 5, 10), "Pretraining helped in this run"),
        ((60, 5, 25, 10), "Pretraining hurt in this run"),
        ((60, 12, 10, 18), "cannot be told from these images"),
    ],
)
def test_did_pretraining_help(table, verdict):
    ours, theirs = votes(*table)
    told = results.did_it_help(results.against({"from scratch": theirs, "pretrained 16": ours}))
    assert verdict in told and f"pretrained 16 gets {ours.mean():.1%} right" in told
    assert f"from scratch {theirs.mean():.1%}" in told


def evaluation(shift_mi, shift_msp, n=200):
    rng = np.random.default_rng(0)
    names = ["mutual_information", "one_minus_msp", "pixel_mahalanobis"]
    known = pd.DataFrame(rng.normal(0, 1, (n, 3)), columns=names)
    unknown = pd.DataFrame(rng.normal([shift_mi, shift_msp, 3], 1, (n, 3)), columns=names)
    return Evaluation(known, unknown)


@pytest.mark.parametrize(
    ("shifts", "n", "verdict"),
    [
        ((2, 0.5), 200, "Mutual information is ahead here, by +"),
        ((0.5, 2), 200, "1 − MSP is ahead here: mutual information minus it is -"),
        ((1, 1), 200, "cannot be told from these images"),
        ((2, 0.5), 5, "they are too few"),
    ],
)
def test_which_score_works(shifts, n, verdict):
    measured = results.detection(evaluation(*shifts, n), "fields", "ships")
    told = results.which_score_works(measured)
    assert verdict in told and told.startswith("ships is told from fields by mutual information")


def test_a_record_without_them_has_no_answers():
    assert results.answers({"kind": "classifier"}) == []
