"""Paired comparisons, calibration, temperature, rejection: by hand and against scikit-learn."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import log_softmax, softmax
from sklearn.metrics import log_loss, roc_auc_score

from src.ood import (
    accuracy_rejection,
    calibration,
    compare,
    ece,
    fit_temperature,
    metrics,
    reliability,
)

# --- "A beats B" has an interval ---


def score_tables(n=300, seed=0):
    """a finds more than b on the same images, so their errors go together; flat tells nothing."""
    rng = np.random.default_rng(seed)
    tables = []
    for shift in (0.0, 1.0):
        base = rng.normal(shift, 1, n)
        tables.append(
            pd.DataFrame({"b": base + 0.5 * rng.normal(size=n), "a": base, "flat": np.ones(n)})
        )
    return tables


def test_comparison_ranks_the_scores_and_gives_every_pair():
    id_scores, ood_scores = score_tables()
    table = compare(id_scores, ood_scores, bootstrap=50)
    assert list(table.index) == [("a", "b"), ("a", "flat"), ("b", "flat")]
    is_ood = np.repeat([0, 1], 300)
    auroc = {
        name: roc_auc_score(is_ood, np.append(id_scores[name], ood_scores[name]))
        for name in id_scores
    }
    for a, b in table.index:
        assert table.loc[(a, b), "value"] == pytest.approx(auroc[a] - auroc[b], abs=1e-12)
    assert (table["value"] >= 0).all() and (table["low"] <= table["value"]).all()


def test_a_score_and_its_monotone_image_never_differ():
    id_scores, ood_scores = (
        table[["a"]].assign(same=np.exp(3 * table["a"])) for table in score_tables()
    )
    np.testing.assert_allclose(compare(id_scores, ood_scores, bootstrap=200), 0, atol=1e-12)


def test_pairing_narrows_the_interval_of_a_difference():
    id_scores, ood_scores = score_tables()
    paired = compare(id_scores, ood_scores).loc[("a", "b")]
    alone = [
        metrics(id_scores[name], ood_scores[name], seed=seed).loc["auroc"]
        for seed, name in enumerate("ab")
    ]
    unpaired = np.hypot(*(row["high"] - row["low"] for row in alone))
    assert paired["high"] - paired["low"] < 0.7 * unpaired
    assert paired["low"] > 0  # which is why pairing is worth it: here the winner shows


def test_interval_of_a_difference_equals_a_loop_on_the_same_resamples():
    id_scores, ood_scores = score_tables(40)
    rng = np.random.default_rng(7)
    weights = [rng.multinomial(40, np.full(40, 1 / 40), size=100) for _ in range(2)]
    is_ood = np.repeat([0, 1], 40)
    differences = []
    for counts in np.hstack(weights):
        values = [
            roc_auc_score(is_ood, np.append(id_scores[n], ood_scores[n]), sample_weight=counts)
            for n in "ab"
        ]
        differences.append(values[0] - values[1])
    row = compare(id_scores, ood_scores, bootstrap=100, seed=7).loc[("a", "b")]
    np.testing.assert_allclose(
        row[["low", "high"]], np.quantile(differences, [0.025, 0.975]), atol=1e-12
    )


def test_interval_of_a_difference_covers_the_truth_about_95_times_in_100():
    # two scores of one quality: their AUROCs differ by chance alone
    covered = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        tables = []
        for shift in (0, 1):
            base = rng.normal(shift, 1, 60)
            tables.append(pd.DataFrame({name: base + rng.normal(size=60) for name in "ab"}))
        row = compare(*tables, bootstrap=200, seed=seed).iloc[0]
        covered += row["low"] <= 0 <= row["high"]
    assert 88 <= covered <= 99


@pytest.mark.parametrize("metric", ["aupr_out", "aupr_in", "fpr95"])
def test_other_metrics_can_be_compared(metric):
    id_scores, ood_scores = score_tables(60)
    table = compare(id_scores, ood_scores, metric, bootstrap=20)
    values = {
        name: metrics(id_scores[name], ood_scores[name], bootstrap=1)["value"][metric]
        for name in id_scores
    }
    for a, b in table.index:
        assert table.loc[(a, b), "value"] == pytest.approx(values[a] - values[b], abs=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_comparison_of_broken_scores_is_refused(bad):
    id_scores, ood_scores = score_tables(20)
    ood_scores.loc[3, "b"] = bad
    with pytest.raises(ValueError, match="1 scores are NaN or infinite"):
        compare(id_scores, ood_scores)


# --- calibration ---


def random_case(n=500, c=4, sharp=1.0, seed=0):
    """Logits, and labels drawn from the softmax of `sharp` times them: at 1 confidence is true."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(n, c))
    labels = (softmax(sharp * logits, axis=1).cumsum(1) < rng.uniform(size=(n, 1))).sum(1)
    return logits, labels


@pytest.mark.parametrize("equal_mass", [False, True])
def test_confidence_of_zero_and_of_one_counts(equal_mass):
    # torchmetrics #3510: bins open at one end drop them
    assert ece([0.0, 1.0], [1, 0], equal_mass=equal_mass) == pytest.approx(1.0)
    assert reliability([0.0, 1.0, 0.5], [0, 1, 1], equal_mass=equal_mass)["count"].sum() == 3


def test_reliability_by_hand():
    table = reliability([0.1, 0.2, 0.6, 0.9, 1.0], [0, 1, 1, 1, 0], bins=2)
    np.testing.assert_allclose(table["confidence"], [0.15, 2.5 / 3])
    np.testing.assert_allclose(table["accuracy"], [0.5, 2 / 3])
    assert list(table["count"]) == [2, 3]
    expected = (2 * 0.35 + 3 * (2.5 / 3 - 2 / 3)) / 5
    assert ece([0.1, 0.2, 0.6, 0.9, 1.0], [0, 1, 1, 1, 0], bins=2) == pytest.approx(expected)


def test_a_confidence_on_an_edge_belongs_to_the_upper_bin():
    assert list(reliability([0.0, 0.5, 0.5, 0.75], [1, 1, 0, 1], bins=4).index) == [0, 2, 3]


def test_equal_mass_bins_hold_as_many_each_and_keep_ties_together():
    confidence = np.random.default_rng(0).uniform(size=150) ** 4
    assert list(reliability(confidence, confidence > 0.1, equal_mass=True)["count"]) == [10] * 15
    tied = np.repeat([0.2, 0.7], [70, 30])
    assert list(reliability(tied, tied > 0.5, equal_mass=True)["count"]) == [70, 30]


def test_equal_mass_sees_what_equal_width_averages_away():
    # within one bin of width 1/15, the sure half is wrong and the unsure half right
    confidence = np.repeat([0.94, 0.99], 50)
    right = np.repeat([1, 0.93], 50) > np.tile(np.arange(50) / 50, 2)
    assert ece(confidence, right, equal_mass=True) > ece(confidence, right) + 0.01


@pytest.mark.parametrize("equal_mass", [False, True])
def test_ece_does_not_depend_on_the_order(equal_mass):
    rng = np.random.default_rng(0)
    confidence, right = np.round(rng.uniform(size=200), 2), rng.uniform(size=200) < 0.6
    order = rng.permutation(200)
    one, other = (ece(confidence[o], right[o], equal_mass=equal_mass) for o in (slice(None), order))
    assert one == pytest.approx(other, abs=1e-12)


def test_calibration_equals_scikit_learns():
    logits, labels = random_case()
    result, probs = calibration(logits, labels), softmax(logits, axis=1)
    assert result["nll"] == pytest.approx(log_loss(labels, probs), abs=1e-12)
    assert result["accuracy"] == (logits.argmax(1) == labels).mean()
    one_hot = np.array([[label == c for c in range(4)] for label in labels])
    assert result["brier"] == pytest.approx(((probs - one_hot) ** 2).sum(1).mean(), abs=1e-12)


def test_extremes_of_calibration():
    sure = 1000 * np.eye(3)
    right, wrong = calibration(sure, np.arange(3)), calibration(sure, np.array([1, 2, 0]))
    assert right.to_dict() == pytest.approx(
        {"accuracy": 1, "nll": 0, "brier": 0, "ece": 0, "ece_equal_mass": 0}
    )
    assert wrong.to_dict() == pytest.approx(
        {"accuracy": 0, "nll": 1000, "brier": 2, "ece": 1, "ece_equal_mass": 1}
    )


def test_true_confidence_has_a_small_ece_and_false_a_large():
    logits, labels = random_case(20_000)
    true, false = calibration(logits, labels), calibration(3 * logits, labels)
    errors = ["ece", "ece_equal_mass"]
    assert true[errors].max() < 0.015 and false[errors].min() > 0.1


@pytest.mark.parametrize("sharp", [0.5, 1.0, 2.0])
def test_temperature_undoes_a_sharpening(sharp):
    logits, labels = random_case(20_000, sharp=1 / sharp)
    temperature = fit_temperature(logits, labels)
    assert temperature == pytest.approx(sharp, rel=0.04)
    nll = calibration(logits, labels, temperature)["nll"]
    for other in (0.98, 1.02):
        assert nll < calibration(logits, labels, other * temperature)["nll"]
    accuracy = calibration(logits, labels)["accuracy"]
    assert calibration(logits, labels, temperature)["accuracy"] == accuracy


def test_temperature_without_a_minimum_is_refused():
    with pytest.raises(ValueError, match="no temperature"):
        fit_temperature(5 * np.eye(4), np.arange(4))  # all right: the surer the better
    with pytest.raises(ValueError, match="no temperature"):  # all wrong: the less sure the better
        fit_temperature(5 * np.eye(4), (np.arange(4) + 1) % 4)


@pytest.mark.parametrize("confidence", [[], [0.5, 1.1], [0.5, -0.1], [0.5, np.nan]])
def test_what_is_no_confidence_is_refused(confidence):
    with pytest.raises(ValueError, match="confidences"):
        reliability(confidence, np.ones(len(confidence)))


def test_confidences_of_other_images_are_refused():
    with pytest.raises(ValueError, match="as many"):
        ece([0.5, 0.6], [1])


# --- rejection ---


def test_rejection_by_hand():
    curve = accuracy_rejection([3.0, 1.0, 2.0, 2.0], [0, 1, 1, 0])
    # the two of equal uncertainty go together
    np.testing.assert_allclose(curve["kept"], [0.25, 0.75, 1.0])
    np.testing.assert_allclose(curve["accuracy"], [1.0, 2 / 3, 0.5])


def test_constant_uncertainty_rejects_all_or_nothing():
    curve = accuracy_rejection(np.ones(5), [1, 1, 0, 1, 1])
    assert curve.to_numpy().tolist() == [[1.0, 0.8]]


def test_true_uncertainty_rises_to_the_left():
    logits, labels = random_case(2000)
    curve = accuracy_rejection(-log_softmax(logits, axis=1).max(1), logits.argmax(1) == labels)
    assert curve["accuracy"].iloc[-1] == (logits.argmax(1) == labels).mean()
    assert curve["accuracy"].iloc[199] > curve["accuracy"].iloc[-1] + 0.1


@pytest.mark.parametrize("given", [([], []), ([1.0], [1, 0]), ([np.nan, 1.0], [1, 0])])
def test_impossible_rejections_are_refused(given):
    with pytest.raises(ValueError, match="expected finite uncertainties"):
        accuracy_rejection(*given)


@pytest.mark.parametrize(
    "scores",
    [np.ones((50, 2)), np.ones(50, complex), ["1"] * 50, np.ma.masked_less(np.arange(50.0), 3)],
    ids=["two a row", "complex", "text", "masked"],
)
def test_what_is_not_one_score_an_image_is_refused(scores):
    with pytest.raises(ValueError, match=r"one score an image|expected numbers|masked"):
        metrics(np.arange(50.0), scores)


def test_a_metric_that_there_is_not_is_told():
    table = pd.DataFrame({"a": np.arange(60.0), "b": np.arange(60.0)})
    with pytest.raises(ValueError, match=r"metric must be one of auroc, .*got 'AUROC'"):
        compare(table, table, "AUROC")
