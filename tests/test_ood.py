"""MC Dropout against naive passes, scores by hand, metrics against scikit-learn, and signs."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import chi2, kstest, norm, spearmanr
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve
from torch import nn

from src.augmentations.evaluation_transform import prepare
from src.encoders import Classifier, build_encoder
from src.ood import (
    DETECTORS,
    entropy,
    evaluate,
    mahalanobis,
    mc_dropout,
    metrics,
    outputs,
    pixel_statistics,
    scores,
)
from src.ood.evaluation import auroc_interval, bootstrap_intervals
from src.ood.outputs import dropout_mask
from src.probes import embed
from src.runs.runtime import pick

pytestmark = pytest.mark.filterwarnings("ignore:one MC sample")
FLOAT32 = pick("cpu", "float32")
COLUMNS = [name for name, d in DETECTORS.items() if d.needs in ("MC samples", "logits")]


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def random_log_probs(t=7, n=50, c=5, spread=2.0, seed=0):
    return log_softmax(spread * np.random.default_rng(seed).normal(size=(t, n, c)))


def classifier(dropout=0.2, head_dropout=0.2, size=32):
    torch.manual_seed(0)
    model = Classifier(
        build_encoder("custom_cnn", image_size=size, dropout=dropout), 4, head_dropout
    )
    # running statistics as after training, not the initial 0 and 1
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.1, 0.3)
    return model


def patches(n=3, size=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


# --- scores ---


def test_scores_of_two_samples_by_hand():
    # one image, two passes over three classes: p₁ = (½, ½, 0), p₂ = (½, 0, ½); their mean is (½, ¼,
    # ¼)
    with np.errstate(divide="ignore", invalid="ignore"):  # 0·log 0
        table = scores(np.log([[[0.5, 0.5, 0.0]], [[0.5, 0.0, 0.5]]]), np.log([[0.5, 0.25, 0.25]]))
    # H[mean] = ½·ln 2 + 2·¼·ln 4 = 1.5·ln 2; each pass has H = ln 2, so the information is ½·ln 2
    assert table["predictive_entropy"][0] == pytest.approx(1.0397207708, abs=1e-10)
    assert table["mutual_information"][0] == pytest.approx(0.3465735903, abs=1e-10)
    # class by class: 0, then 0.5 or 0 around 0.25: 0.0625 each
    assert table["predictive_variance"][0] == pytest.approx(0.125, abs=1e-12)
    assert table["one_minus_msp"][0] == pytest.approx(0.5, abs=1e-12)


def test_scores_of_two_images_and_three_classes_by_hand():
    p = np.array([[[0.7, 0.2, 0.1], [1 / 3, 1 / 3, 1 / 3]], [[0.1, 0.2, 0.7], [0.8, 0.1, 0.1]]])
    table = scores(np.log(p), np.zeros((2, 3)))
    # image 0: mean (0.4, 0.2, 0.4), H = 1.0549201680; both passes H = 0.8018185525
    # image 1: mean (17, 6.5, 6.5)/30, H = 0.9845955434; passes ln 3 = 1.0986122887 and 0.6390318597
    np.testing.assert_allclose(
        table["predictive_entropy"], [1.0549201680, 0.9845955434], rtol=0, atol=1e-9
    )
    np.testing.assert_allclose(
        table["mutual_information"], [0.2531016154, 0.1157734692], rtol=0, atol=1e-9
    )
    # image 0: 0.3² twice; image 1: (7/30)² + 2·(3.5/30)²
    np.testing.assert_allclose(
        table["predictive_variance"], [0.18, 0.0816666667], rtol=0, atol=1e-9
    )
    np.testing.assert_allclose(table["one_minus_msp"], [2 / 3, 2 / 3], rtol=0, atol=1e-12)


def test_one_sample_holds_no_mutual_information():
    log_probs = random_log_probs(t=1)
    table = scores(log_probs, log_probs[0])
    np.testing.assert_allclose(table["mutual_information"], 0, atol=1e-14)
    np.testing.assert_allclose(table["predictive_variance"], 0, atol=1e-14)


def test_identical_samples_hold_no_mutual_information():
    log_probs = np.repeat(random_log_probs(t=1), 30, axis=0)
    table = scores(log_probs, log_probs[0])
    np.testing.assert_allclose(table["mutual_information"], 0, atol=1e-13)
    np.testing.assert_allclose(table["predictive_entropy"], entropy(log_probs[0]), rtol=1e-12)


@pytest.mark.parametrize("spread", [0.01, 1.0, 30.0])
def test_mutual_information_is_between_zero_and_the_entropy(spread):
    log_probs = random_log_probs(spread=spread)
    table = scores(log_probs, log_probs[0])
    assert (table["mutual_information"] >= 0).all()
    assert (table["mutual_information"] <= table["predictive_entropy"] + 1e-12).all()
    assert (table["predictive_entropy"] <= np.log(5) + 1e-12).all()
    assert table["mutual_information"].max() > 0


def test_one_minus_msp_equals_the_softmax():
    logits = np.random.default_rng(0).normal(0, 3, (200, 6))
    expected = 1 - (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).max(1)
    np.testing.assert_allclose(
        scores(logits[None], logits)["one_minus_msp"], expected, rtol=0, atol=1e-12
    )


def test_one_minus_msp_keeps_its_digits_where_the_softmax_rounds_to_one():
    logits = np.array([[60.0, 0.0, 0.0], [61.0, 0.0, 0.0], [0.0, 100.0, 40.0]], np.float32)
    naive = 1 - torch.as_tensor(logits).double().softmax(1).amax(1)
    assert (naive == 0).all()  # no digit is left
    expected = [2 * np.exp(-60.0), 2 * np.exp(-61.0), np.exp(-60.0)]
    np.testing.assert_allclose(
        scores(logits[None].astype(float), logits)["one_minus_msp"], expected, rtol=1e-12
    )


def test_ranking_equals_pytorch_oods():
    detectors = pytest.importorskip("pytorch_ood.detector")
    logits = np.random.default_rng(0).normal(0, 2, (300, 8))
    table = scores(log_softmax(logits)[None], logits)
    # there, too, a higher score is more out-of-distribution: +1 and not −1
    msp = detectors.MaxSoftmax(None).predict_logits(torch.as_tensor(logits))
    assert spearmanr(table["one_minus_msp"], msp).statistic == pytest.approx(1.0, abs=1e-12)
    its_entropy = detectors.Entropy(None).predict_logits(torch.as_tensor(logits))
    # it clips p at 1e-7
    np.testing.assert_allclose(table["predictive_entropy"], its_entropy, rtol=0, atol=1e-5)


def test_predictive_variance_ranks_as_pytorch_oods():
    detectors = pytest.importorskip("pytorch_ood.detector")
    logits = np.random.default_rng(0).normal(0, 2, (6, 40, 5))
    passes = iter(torch.as_tensor(logits))

    class Replay(nn.Module):
        def forward(self, images):
            return next(passes)

    _, variance = detectors.MCD.run(Replay(), torch.zeros(40, 1), samples=6)
    # there: mean over 5 classes, divided by T − 1
    ours = scores(log_softmax(logits), logits[0])["predictive_variance"]
    np.testing.assert_allclose(ours, 5 * 5 / 6 * variance, rtol=1e-10)


def toy(n=200, t=20, c=5, seed=0):
    """ID: every pass is sure of one class. OOD: passes are unsure, and disagree."""
    generator = np.random.default_rng(seed)
    sure = 8 * np.eye(c)[generator.integers(0, c, n)]
    id_logits = sure + 0.3 * generator.normal(size=(t, n, c))
    ood_logits = 1.5 * generator.normal(size=(t, n, c))
    return [(log_softmax(logits), logits.mean(0)) for logits in (id_logits, ood_logits)]


def test_every_score_is_higher_out_of_distribution():
    id_table, ood_table = (scores(*side) for side in toy())
    assert list(id_table) == list(ood_table) == COLUMNS
    for column in COLUMNS:
        table = metrics(id_table[column], ood_table[column], bootstrap=1)
        assert table["value"]["auroc"] > 0.95, column


def test_mahalanobis_is_higher_out_of_distribution():
    generator = np.random.default_rng(0)
    train, id_rows, ood_rows = (generator.normal(shift, 1, (200, 4)) for shift in (0, 0, 3))
    table = metrics(mahalanobis(train, id_rows), mahalanobis(train, ood_rows), bootstrap=1)
    assert table["value"]["auroc"] > 0.95


def test_entropy_by_hand():
    with np.errstate(divide="ignore", invalid="ignore"):  # 0·log 0
        values = entropy(np.log([[0.25] * 4, [1, 0, 0, 0], [0.5, 0.5, 0, 0]]))
    np.testing.assert_allclose(values, [np.log(4), 0, np.log(2)], rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("log_probs", "logits"), [((2, 5, 3), (4, 3)), ((2, 5, 3), (5, 4)), ((5, 3), (5, 3))]
)
def test_scores_of_other_shapes_are_refused(log_probs, logits):
    with pytest.raises(ValueError, match=r"expected \(T, N, C\) and \(N, C\)"):
        scores(np.zeros(log_probs), np.zeros(logits))


@pytest.mark.parametrize(("where", "value"), [(0, np.nan), (1, np.nan), (1, np.inf), (1, -np.inf)])
def test_scores_of_broken_predictions_are_refused(where, value):
    arrays = [random_log_probs(2, 4, 3), np.zeros((4, 3))]
    arrays[where].flat[5] = value
    with pytest.raises(ValueError, match="NaN or infinite"):
        scores(*arrays)


# --- metrics ---


def sklearn_metrics(id_scores, ood_scores):
    values = np.concatenate([id_scores, ood_scores])
    label = np.repeat([0, 1], [len(id_scores), len(ood_scores)])
    fpr, tpr, _ = roc_curve(label, values, drop_intermediate=False)
    return {
        "auroc": roc_auc_score(label, values),
        "aupr_out": average_precision_score(label, values),
        "aupr_in": average_precision_score(1 - label, -values),
        "fpr95": fpr[tpr >= 0.95 - 1e-12][0],
        "prevalence": label.mean(),
    }


def score_sets(n_id, n_ood, levels, shift=1.0, seed=0):
    generator = np.random.default_rng(seed)
    sets = generator.normal(0, 1, n_id), generator.normal(shift, 1.5, n_ood)
    return sets if levels is None else tuple(np.round(s * levels) for s in sets)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("levels", [None, 5, 1, 0.3], ids=lambda v: f"levels-{v}")
@pytest.mark.parametrize(
    ("n_id", "n_ood"), [(100, 100), (300, 20), (20, 300), (1, 40), (40, 1), (1, 1), (7, 60)]
)
def test_metrics_equal_scikit_learns(n_id, n_ood, levels, seed):
    sets = score_sets(n_id, n_ood, levels, seed=seed)
    ours, expected = metrics(*sets, bootstrap=1)["value"], sklearn_metrics(*sets)
    assert set(ours.index) == set(expected)
    for name, value in expected.items():
        assert ours[name] == pytest.approx(value, abs=1e-12), name


def test_order_of_the_scores_does_not_matter():
    # sorting tied scores must not favour the side that comes first
    id_scores, ood_scores = score_sets(80, 50, 1)
    shuffled = metrics(id_scores[::-1], np.sort(ood_scores), bootstrap=1)["value"]
    assert shuffled.to_dict() == pytest.approx(
        metrics(id_scores, ood_scores, bootstrap=1)["value"].to_dict()
    )


def test_constant_scores_tell_nothing():
    value = metrics(np.full(30, 0.2), np.full(10, 0.2), bootstrap=5)["value"]
    assert value.to_dict() == pytest.approx(
        {"auroc": 0.5, "aupr_out": 0.25, "aupr_in": 0.75, "fpr95": 1.0, "prevalence": 0.25}
    )


def test_perfect_separation():
    table = metrics(np.arange(150), 1000 + np.arange(50), bootstrap=20)
    assert table["value"].to_dict() == pytest.approx(
        {"auroc": 1.0, "aupr_out": 1.0, "aupr_in": 1.0, "fpr95": 0.0, "prevalence": 0.25}
    )
    # no resample can mix the two: rounding aside the interval is a point
    np.testing.assert_allclose(
        table[["low", "high"]], table[["value", "value"]], rtol=0, atol=1e-12
    )


def test_scores_the_wrong_way_round_are_worse_than_a_guess():
    value = metrics(100 + np.arange(30), np.arange(10), bootstrap=1)["value"]
    assert (value["auroc"], value["fpr95"]) == (0.0, 1.0)


def test_fpr95_finds_exactly_95_percent_of_twenty():
    # 19 of 20 OOD images are above the ID ones: at exactly 95 % no ID image is taken along
    ood_scores = np.append(np.full(19, 2.0), 0.0)
    assert metrics(np.ones(10), ood_scores, bootstrap=1)["value"]["fpr95"] == 0.0
    # 18 of 19 are 94.7 %: the threshold must go below the ID images
    assert metrics(np.ones(10), ood_scores[1:], bootstrap=1)["value"]["fpr95"] == 1.0


@pytest.mark.parametrize("levels", [None, 1])
def test_interval_agrees_with_a_plain_loop_of_resampling(levels):
    id_scores, ood_scores = score_sets(400, 300, levels)
    generator = np.random.default_rng(1)
    rows = []
    for _ in range(100):
        resampled = (s[generator.integers(0, len(s), len(s))] for s in (id_scores, ood_scores))
        rows.append(list(sklearn_metrics(*resampled).values()))
    low, high = np.quantile(rows, [0.025, 0.975], axis=0)
    table = metrics(id_scores, ood_scores)
    # fpr95 hangs on a handful of images: four times as wide
    tolerance = np.array([0.02, 0.02, 0.02, 0.04, 0])
    assert (np.abs(table["low"] - low) <= tolerance).all(), table["low"] - low
    assert (np.abs(table["high"] - high) <= tolerance).all(), table["high"] - high
    assert ((table["low"] <= table["value"]) & (table["value"] <= table["high"])).all()
    width = (table["high"] - table["low"]).drop("prevalence")
    assert width.min() > 0.02  # wider than the tolerance could hide


def test_interval_of_auroc_covers_the_truth_about_95_times_in_100():
    # for N(0, 1) against N(1, 1) the AUROC is Φ(1/√2) = 0.7602
    covered = 0
    for seed in range(100):
        generator = np.random.default_rng(seed)
        table = metrics(generator.normal(0, 1, 80), generator.normal(1, 1, 60), bootstrap=200)
        row = table.loc["auroc"]
        covered += row["low"] <= 0.7602 <= row["high"]
    assert 88 <= covered <= 99


def test_width_of_the_auroc_interval_is_that_of_95_percent():
    id_scores, ood_scores = score_sets(300, 200, None)
    above = ood_scores[:, None] > id_scores
    # DeLong et al. 1988
    error = np.sqrt(above.mean(1).var(ddof=1) / 200 + above.mean(0).var(ddof=1) / 300)
    row = metrics(id_scores, ood_scores, bootstrap=4000).loc["auroc"]
    # 90 % would be 16 % narrower
    assert row["high"] - row["low"] == pytest.approx(2 * 1.96 * error, rel=0.06)


@pytest.mark.parametrize(("n_id", "n_ood"), [(1, 1), (1, 9), (2, 2)])
def test_tiny_sets_have_no_resample_without_one_side(n_id, n_ood):
    for low, high in bootstrap_intervals(*score_sets(n_id, n_ood, None))[1].values():
        assert 0 <= low <= high <= 1


@pytest.mark.parametrize("n_ood", [1, 2, 5, 10, 29])
def test_few_images_give_a_wide_interval_of_the_auroc_and_none_of_the_rest(n_ood):
    table = metrics(*score_sets(300, n_ood, None), bootstrap=50)
    assert table["value"].notna().all()
    value, low, high = table.loc["auroc"]
    assert low < value <= high <= 1 and high - low > 0.9 / (n_ood + 3) ** 0.5 / 2
    assert table.drop(["auroc", "prevalence"])[["low", "high"]].isna().all(axis=None)


@pytest.mark.parametrize(("n_ood", "given"), [(30, 1), (49, 1), (50, 4)])
def test_more_images_have_bootstrap_intervals(n_ood, given):
    scores = score_sets(300, n_ood, None)
    table, (_, intervals) = metrics(*scores), bootstrap_intervals(*scores)
    assert table.drop("prevalence")["low"].notna().sum() == given
    assert tuple(table.loc["auroc", ["low", "high"]]) == tuple(intervals["auroc"])


@pytest.mark.parametrize("n_ood", [1, 2, 5, 10])
@pytest.mark.parametrize("area", [0.6, 0.95])
def test_an_interval_from_few_images_covers_the_truth_as_often_as_it_says(n_ood, area):
    rng, shift, covered = np.random.default_rng(n_ood), 2**0.5 * norm.ppf(area), 0
    for _ in range(300):
        found = roc_auc_score(
            np.repeat([0, 1], [100, n_ood]), rng.normal(np.repeat([0, shift], [100, n_ood]))
        )
        low, high = auroc_interval(found, 100, n_ood)
        covered += low <= area <= high
    assert covered >= 0.92 * 300


@pytest.mark.parametrize("area", [0.0, 1.0])
@pytest.mark.parametrize("n", [1, 3, 20])
def test_an_interval_of_a_perfect_score_is_no_point(area, n):
    low, high = auroc_interval(area, 100, n)
    assert 0 <= low <= area <= high <= 1 and high - low > 0.05


def test_more_scores_narrow_the_interval():
    few, many = (metrics(*score_sets(n, n, None)) for n in (50, 800))
    width = [(t["high"] - t["low"])["auroc"] for t in (few, many)]
    assert width[1] < width[0] / 2  # by √16


def test_same_seed_same_interval():
    sets = score_sets(60, 40, None)
    first = metrics(*sets, bootstrap=50, seed=3)
    assert metrics(*sets, bootstrap=50, seed=3).equals(first)
    assert not metrics(*sets, bootstrap=50, seed=4).equals(first)


def test_metrics_take_columns_of_a_table():
    id_table, ood_table = (scores(*side) for side in toy(n=20))
    column = "predictive_entropy"
    as_arrays = metrics(id_table[column].to_numpy(), ood_table[column].to_numpy(), bootstrap=5)
    assert metrics(id_table[column], ood_table[column], bootstrap=5).equals(as_arrays)


@pytest.mark.parametrize("sets", [([], [1.0]), ([1.0], []), ([], [])])
def test_an_empty_set_is_refused(sets):
    with pytest.raises(ValueError, match="need scores of both sets"):
        metrics(*sets)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused(bad):
    with pytest.raises(ValueError, match="1 scores are NaN or infinite"):
        metrics([0.1, bad], [0.3])
    with pytest.raises(ValueError, match="1 scores are NaN or infinite"):
        metrics([0.1], [bad, 0.3])


# --- Monte-Carlo dropout ---


def test_mc_dropout_gives_log_probabilities_of_every_pass():
    log_probs = mc_dropout(classifier(), patches(3), samples=5, runtime=FLOAT32)
    assert (log_probs.shape, log_probs.dtype) == ((5, 3, 4), np.float64)
    np.testing.assert_allclose(np.exp(log_probs).sum(-1), 1, rtol=0, atol=1e-12)


def test_every_pass_has_its_own_mask_and_so_has_every_image():
    images = np.repeat(patches(1), 3, axis=0)  # only masks can tell them apart
    log_probs = mc_dropout(classifier(), images, samples=4, runtime=FLOAT32)
    answers = log_probs.reshape(-1, 4)
    assert len(np.unique(answers, axis=0)) == len(answers)


@pytest.mark.parametrize(("encoder", "head"), [(0.2, 0.0), (0.0, 0.2)])
def test_dropout_in_one_place_is_enough(encoder, head):
    log_probs = mc_dropout(classifier(encoder, head), patches(2), samples=3, runtime=FLOAT32)
    assert (log_probs[0] != log_probs[1]).any()


def snapshot(model):
    state = {name: value.clone() for name, value in model.state_dict().items()}
    return state, {name: module.training for name, module in model.named_modules()}


def mixed_modes(model):
    """Some stages frozen, as in the middle of unfreezing, and one dropout off by hand."""
    model.train()
    model.encoder.stages[0].eval()
    model.head[2].eval()
    return model


@pytest.mark.parametrize(
    "prepare_", [nn.Module.train, nn.Module.eval, mixed_modes], ids=["train", "eval", "mixed"]
)
def test_mc_dropout_leaves_the_model_as_it_was(prepare_):
    model = prepare_(classifier())
    state, modes = snapshot(model)
    mc_dropout(model, patches(3), samples=2, runtime=FLOAT32)
    state_after, modes_after = snapshot(model)
    assert modes_after == modes
    assert all(torch.equal(state_after[name], value) for name, value in state.items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_mc_dropout_leaves_the_model_as_it_was_after_an_exception():
    model = mixed_modes(classifier())
    state, modes = snapshot(model)
    with pytest.raises(ValueError, match="channel"):  # one band too many for the normalisation
        mc_dropout(model, np.zeros((2, 32, 32, 4), np.uint8), samples=2, runtime=FLOAT32)
    handle = model.head.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # half-way through the passes
        mc_dropout(model, patches(2), samples=2, runtime=FLOAT32)
    handle.remove()
    state_after, modes_after = snapshot(model)
    assert modes_after == modes
    assert all(torch.equal(state_after[name], value) for name, value in state.items())


def test_mode_of_the_model_has_no_influence():
    model = classifier()
    results = [
        mc_dropout(f(model), patches(2), 3, runtime=FLOAT32)
        for f in (nn.Module.train, nn.Module.eval)
    ]
    np.testing.assert_array_equal(*results)


def test_same_seed_same_passes_whatever_the_global_state():
    model, images = classifier(), patches(2)
    torch.manual_seed(1)
    first = mc_dropout(model, images, 3, runtime=FLOAT32, seed=5)
    torch.manual_seed(2)
    np.testing.assert_array_equal(mc_dropout(model, images, 3, runtime=FLOAT32, seed=5), first)
    assert (mc_dropout(model, images, 3, runtime=FLOAT32, seed=6) != first).any()


def test_global_random_numbers_are_not_moved():
    model = classifier()
    before = torch.get_rng_state()
    mc_dropout(model, patches(2), 3, runtime=FLOAT32)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "elements", [1, 3 * 64 * 8 * 8 * 4, 2**24], ids=["one by one", "four at once", "all at once"]
)
@pytest.mark.parametrize("dropout", [0.3, 0.0], ids=["every stage", "head only"])
def test_passes_side_by_side_equal_a_loop_of_passes_with_the_same_masks(
    monkeypatch, dropout, elements
):
    monkeypatch.setattr(outputs, "PASS_ELEMENTS", elements)
    model, images, t, n = classifier(dropout, 0.3, size=16), patches(3, 16), 7, 3
    masks, draw = {}, outputs.dropout_mask

    def recorded(layer, x):
        masks.setdefault(layer, []).append(draw(layer, x))
        return masks[layer][-1]

    monkeypatch.setattr(outputs, "dropout_mask", recorded)
    log_probs = mc_dropout(model, images, t, runtime=FLOAT32)
    masks = {layer: torch.cat(some).unflatten(0, (t, n)) for layer, some in masks.items()}
    assert len(masks) == (5 if dropout else 2)
    model.eval()
    batch = prepare(images, 16, torch.device("cpu"))
    for sample in range(t):
        hooks = [
            layer.register_forward_hook(lambda _, inputs, __, mask=mask: inputs[0] * mask)
            for layer, mask in ((layer, some[sample]) for layer, some in masks.items())
        ]
        with torch.no_grad():
            expected = model(batch).double().log_softmax(-1).numpy()
        for hook in hooks:
            hook.remove()
        # other batch sizes, other order of the sums in float32
        np.testing.assert_allclose(log_probs[sample], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("elements", "runs"), [(1, 7), (4 * 2 * 64 * 16 * 16, 2), (2**24, 1)])
def test_trunk_runs_once_a_batch_and_the_tail_in_groups_of_passes(monkeypatch, elements, runs):
    monkeypatch.setattr(outputs, "PASS_ELEMENTS", elements)
    model, calls = classifier(), {"trunk": 0, "dropout": 0, "tail": 0}

    def count(name):
        return lambda *_: calls.__setitem__(name, calls[name] + 1)

    first, last = model.encoder.stages[0], model.encoder.stages[2]
    for name, layer in {"trunk": first[0], "dropout": first[7], "tail": last[0]}.items():
        layer.register_forward_hook(count(name))
    mc_dropout(model, patches(6), samples=7, runtime=FLOAT32, batch_size=2)
    assert calls == {"trunk": 3, "dropout": 3 * runs, "tail": 3 * runs}


def test_whole_encoder_runs_once_where_only_the_head_drops():
    model, calls = classifier(dropout=0.0), []
    model.encoder.stages[2][0].register_forward_hook(lambda *_: calls.append(1))
    mc_dropout(model, patches(2), samples=7, runtime=FLOAT32)
    assert len(calls) == 1


def test_sharing_the_trunk_gives_the_distribution_of_full_passes():
    model, images, t = classifier(0.3, 0.3, size=16), patches(2, 16), 400
    shared = np.exp(mc_dropout(model, images, t, runtime=FLOAT32))
    model.eval()
    for module in model.modules():
        module.training = isinstance(module, nn.Dropout | nn.Dropout2d)
    torch.manual_seed(9)
    batch = prepare(images, 16, torch.device("cpu")).repeat(t, 1, 1, 1)  # t whole passes
    with torch.no_grad():
        full = model(batch).softmax(1).unflatten(0, (t, 2)).double().numpy()
    # means within four standard errors, and the whole distribution of each probability
    error = np.sqrt((shared.var(0) + full.var(0)) / t)
    assert (np.abs(shared.mean(0) - full.mean(0)) < 4 * error).all()
    for image in range(2):
        for label in range(4):
            assert kstest(shared[:, image, label], full[:, image, label]).pvalue > 1e-3


@pytest.mark.parametrize(
    "layer", [nn.Dropout(0.3), nn.Dropout1d(0.3), nn.Dropout2d(0.3), nn.Dropout3d(0.3)]
)
def test_masks_are_those_of_torchs_dropout(layer):
    by_value = type(layer) is nn.Dropout
    sides = {nn.Dropout: 1, nn.Dropout1d: 1, nn.Dropout2d: 2, nn.Dropout3d: 3}[type(layer)]
    x = torch.ones(60, 50, *[4] * sides)
    torch.manual_seed(0)
    ours, theirs = x * outputs.dropout_mask(layer, x), layer.train()(x)
    assert torch.equal(ours.unique(), theirs.unique())  # 0 and 1 / 0.7
    # whole channels, or value by value
    whole = [(side.flatten(2) == side.flatten(2)[..., :1]).all() for side in (ours, theirs)]
    assert whole[0] == whole[1] == (not by_value)
    draws = x.numel() if by_value else 3000
    assert abs((ours == 0).float().mean() - 0.3) < 4 * (0.3 * 0.7 / draws) ** 0.5


def test_mean_pass_without_dropout_noise_is_the_deterministic_one():
    # as p goes to 0 every pass is the evaluation pass: batch norm on running statistics, the same
    # transform
    model, images = classifier(1e-9, 1e-9), patches(3, 48)
    log_probs = mc_dropout(model, images, 2, runtime=FLOAT32)
    deterministic = log_softmax(embed(model, images, 32, FLOAT32).astype(np.float64))
    np.testing.assert_allclose(log_probs, np.stack([deterministic] * 2), rtol=0, atol=1e-5)


def test_dropout_in_place_does_not_leak_from_pass_to_pass():
    # the first dropout gets the shared trunk features: dropped in place they would be gone for
    # every later pass
    plain, in_place = classifier(0.5), classifier(0.5)
    for stage in in_place.encoder.stages:
        stage[7].inplace = True
    results = [mc_dropout(model, patches(2), 6, runtime=FLOAT32) for model in (plain, in_place)]
    np.testing.assert_array_equal(*results)


def test_mc_dropout_in_bfloat16_still_gives_float64_log_probabilities():
    log_probs = mc_dropout(classifier(), patches(2), 3, runtime=pick("cpu", "bfloat16"))
    assert log_probs.dtype == np.float64
    np.testing.assert_allclose(np.exp(log_probs).sum(-1), 1, rtol=0, atol=1e-12)


def test_model_without_dropout_is_refused():
    with pytest.raises(ValueError, match="no dropout above 0"):
        mc_dropout(classifier(0.0, 0.0), patches(2), 3, runtime=FLOAT32)


@pytest.mark.parametrize(("n", "samples"), [(0, 3), (2, 0), (2, -1)])
def test_no_images_or_no_samples_are_refused(n, samples):
    with pytest.raises(ValueError, match="at least one sample and one image"):
        mc_dropout(classifier(), patches(n), samples, runtime=FLOAT32)


# --- the control without a network ---


def test_pixel_statistics_equal_a_loop_in_numpy():
    images = patches(4, 16)
    rows = []
    for image in images / 255:
        means = [image[..., c].mean() for c in range(3)]
        deviations = [image[..., c].std(ddof=1) for c in range(3)]
        down = np.mean([abs(image[r + 1, c] - image[r, c]) for r in range(15) for c in range(16)])
        across = np.mean([abs(image[r, c + 1] - image[r, c]) for r in range(16) for c in range(15)])
        rows.append([*means, *deviations, down, across])
    statistics = pixel_statistics(images, 16)
    assert statistics.shape == (4, 8)
    np.testing.assert_allclose(statistics, rows, rtol=0, atol=1e-6)


def test_pixel_statistics_tell_stripes_down_from_stripes_across():
    stripes = np.zeros((1, 16, 16, 3), np.uint8)
    stripes[:, ::2] = 255
    np.testing.assert_allclose(pixel_statistics(stripes, 16)[0, 6:], [1, 0], atol=1e-7)
    np.testing.assert_allclose(
        pixel_statistics(stripes.transpose(0, 2, 1, 3), 16)[0, 6:], [0, 1], atol=1e-7
    )


def test_pixel_statistics_are_of_what_the_network_sees():
    images = patches(3, 48)
    x = prepare(images, 16, torch.device("cpu")).permute(0, 2, 3, 1).numpy()
    seen = x * [0.229, 0.224, 0.225] + [0.485, 0.456, 0.406]
    np.testing.assert_allclose(
        pixel_statistics(images, 16)[:, :3], seen.mean((1, 2)), rtol=0, atol=1e-5
    )
    np.testing.assert_allclose(
        pixel_statistics(images, 16)[:, 6],
        np.abs(np.diff(seen, axis=1)).mean((1, 2, 3)),
        rtol=0,
        atol=1e-5,
    )


def test_pixel_statistics_of_many_images_keep_their_order():
    images = patches(300, 8)  # more than one batch inside
    np.testing.assert_allclose(
        pixel_statistics(images, 8)[[0, 255, 256, 299]],
        pixel_statistics(images[[0, 255, 256, 299]], 8),
        rtol=0,
        atol=1e-6,
    )


def test_mahalanobis_equals_the_quadratic_form():
    generator = np.random.default_rng(0)
    train, test = (
        generator.normal(size=(n, 4)) @ generator.normal(size=(4, 4)) + 3 for n in (100, 10)
    )
    inverse = np.linalg.inv(np.cov(train.T, ddof=0))
    expected = [(row - train.mean(0)) @ inverse @ (row - train.mean(0)) for row in test]
    np.testing.assert_allclose(mahalanobis(train, test), expected, rtol=1e-8)


def test_mahalanobis_of_a_gaussian_is_chi_squared():
    generator = np.random.default_rng(0)
    mixing = generator.normal(size=(5, 5))
    train, test = (generator.normal(size=(n, 5)) @ mixing - 2 for n in (20_000, 1000))
    assert kstest(mahalanobis(train, test), chi2(5).cdf).pvalue > 1e-3


# --- all together ---


def test_evaluate_puts_every_score_of_both_sides_into_one_table():
    model, train, id_images = classifier(size=16), patches(40, 16), patches(12, 16, seed=1)
    ood_images = (patches(9, 24, seed=2) // 8).astype(np.uint8)  # dark, and of another size
    result = evaluate(model, train, id_images, ood_images, samples=3, runtime=FLOAT32, seed=1)
    columns = [*COLUMNS, "odin", "pixel_mahalanobis"]
    assert list(result.id_scores) == list(result.ood_scores) == columns
    assert (len(result.id_scores), len(result.ood_scores)) == (12, 9)
    log_probs = mc_dropout(model, ood_images, 3, runtime=FLOAT32, seed=1)
    expected = scores(log_probs, embed(model, ood_images, 16, FLOAT32))
    np.testing.assert_allclose(result.ood_scores[COLUMNS], expected, rtol=1e-6, atol=1e-12)
    for name in columns:
        again = metrics(result.id_scores[name], result.ood_scores[name], seed=1)
        assert result.table.loc[name].equals(again), name
    # the dark ones stick out
    assert result.table.loc[("pixel_mahalanobis", "auroc"), "value"] == 1.0


def test_evaluate_without_difference_finds_none():
    model, train, same = classifier(size=16), patches(40, 16), patches(12, 16, seed=1)
    result = evaluate(model, train, same, same.copy(), samples=3, runtime=FLOAT32)
    auroc = result.table.xs("auroc", level="metric")["value"]
    assert auroc.to_numpy() == pytest.approx(0.5, abs=1e-12)


def test_masks_are_drawn_in_sixteen_bits_where_torch_fills_no_more_than_half_of_sixty_four(
    monkeypatch,
):
    # MPS fills the low 32 bits: the other half of the features would share one fate
    drawn = []

    def randint(low, high, shape, **how):
        drawn.append((low, high, tuple(shape), how["dtype"]))
        return torch.zeros(shape, dtype=how["dtype"])

    monkeypatch.setattr(torch, "randint", randint)
    x = SimpleNamespace(
        device=torch.device("mps"), shape=(4, 6), dim=lambda: 2, dtype=torch.float32
    )
    dropout_mask(torch.nn.Dropout(0.1), x)
    assert drawn == [(-(2**15), 2**15, (4, 6), torch.int16)]
