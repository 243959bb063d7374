"""Every detector against pytorch-ood, by hand, on a closed form, on a toy, and on broken input."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from scipy.stats import chi2, kstest, spearmanr
from torch import nn

from src.augmentations.evaluation_transform import prepare
from src.encoders import Classifier, Head, build_encoder
from src.ood import DETECTORS, Train, detector_table, metrics, odin, penultimate, scores
from src.ood.feature_detectors import class_mahalanobis, knn, mahalanobis, relative_mahalanobis, vim
from src.ood.prediction_detectors import (
    energy,
    expected_entropy,
    generalised_entropy,
    max_logit,
    mutual_information,
    one_minus_msp,
    variation_ratio,
)
from src.probes import embed
from src.runs.runtime import pick

FLOAT32 = pick("cpu", "float32")
CLASSES, WIDTH = 4, 12


def clusters(n=400, seed=0, spread=1.0):
    """Features around four class means, in dimensions of unequal width, and a layer for them."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % CLASSES
    widths = np.linspace(0.3, 1.5, WIDTH)
    features = 6 * np.eye(CLASSES, WIDTH)[labels] + spread * widths * rng.normal(size=(n, WIDTH))
    return Train(features, labels, np.eye(CLASSES, WIDTH), np.linspace(-0.2, 0.2, CLASSES))


def ood_features(n=200, seed=1):
    """Near no class mean, and off the space that the classes span."""
    rng = np.random.default_rng(seed)
    return np.hstack([rng.normal(1.5, 0.5, (n, CLASSES)), rng.normal(4, 0.5, (n, WIDTH - CLASSES))])


def passes(logits, t=20, noise=0.3, seed=2):
    return log_softmax(
        logits + noise * np.random.default_rng(seed).normal(size=(t, *logits.shape)), axis=-1
    )


# --- by hand ---


def test_two_passes_over_three_images_and_three_classes_by_hand():
    # MI of the first image: mean (½, ¼, ¼) has H = 1.5 ln 2, both passes have ln 2. The second: two
    # sure passes that disagree, ln 2 − 0. The third: two equal passes.
    p = np.array(
        [[[0.5, 0.5, 0], [1, 0, 0], [0.2, 0.3, 0.5]], [[0.5, 0, 0.5], [0, 1, 0], [0.2, 0.3, 0.5]]]
    )
    with np.errstate(divide="ignore", invalid="ignore"):  # 0·log 0
        log_probs = np.log(p)
        np.testing.assert_allclose(
            mutual_information(log_probs), [0.5 * np.log(2), np.log(2), 0], atol=1e-12
        )
        np.testing.assert_allclose(
            expected_entropy(log_probs), [np.log(2), 0, 1.0296530140645737], atol=1e-12
        )
    # votes of image 0: classes 0 and 0 (the first of equals); of image 1: 0 and 1; of image 2: 2
    # and 2
    np.testing.assert_allclose(variation_ratio(log_probs), [0, 0.5, 0], atol=1e-12)


def test_variation_ratio_counts_the_votes():
    votes = np.array([0, 0, 0, 1, 1, 2])
    log_probs = np.log(0.1 + 0.7 * np.eye(3)[votes][:, None])
    assert variation_ratio(log_probs)[0] == pytest.approx(0.5)  # 3 of 6 for class 0


def test_logit_scores_by_hand():
    logits = np.array([[0.0, np.log(2), np.log(5)]])  # p = 1/8, 2/8, 5/8
    assert energy(logits)[0] == pytest.approx(-np.log(8))
    assert max_logit(logits)[0] == pytest.approx(-np.log(5))
    assert one_minus_msp(logits)[0] == pytest.approx(3 / 8)
    assert generalised_entropy(logits)[0] == pytest.approx(
        sum((v / 8 * (8 - v) / 8) ** 0.1 for v in (1, 2, 5))
    )


def test_logit_scores_keep_their_digits_where_the_softmax_rounds_to_one():
    logits = np.array([[60.0, 0, 0], [61.0, 0, 0], [700.0, 0, 0], [-800.0, -1000, -1000]])
    for score in (one_minus_msp, energy, max_logit, generalised_entropy):
        values = score(logits)
        assert np.isfinite(values).all() and len(np.unique(values)) == 4, score.__name__


def test_knn_equals_a_loop():
    train, test = clusters(60), ood_features(5)
    unit = train.features_N_D / np.linalg.norm(train.features_N_D, axis=1, keepdims=True)
    expected = [np.sort(np.linalg.norm(unit - z / np.linalg.norm(z), axis=1))[6] for z in test]
    # sklearn squares and takes the root
    np.testing.assert_allclose(knn(train, test, k=7), expected, atol=1e-7)


def test_class_mahalanobis_equals_the_quadratic_form():
    train, test = clusters(), ood_features(6)
    means = [train.features_N_D[train.labels_N == c].mean(0) for c in range(CLASSES)]
    centred = train.features_N_D - np.array(means)[train.labels_N]
    inverse = np.linalg.inv(centred.T @ centred / len(centred))
    expected = [min((z - m) @ inverse @ (z - m) for m in means) for z in test]
    np.testing.assert_allclose(class_mahalanobis(train, test), expected, rtol=1e-8)


def test_class_mahalanobis_of_gaussian_classes_is_chi_squared():
    # classes so far apart that the nearest mean is always the own one; the within-class covariance
    # is known
    train, test = clusters(20_000, spread=0.3), clusters(1000, seed=5, spread=0.3)
    assert kstest(class_mahalanobis(train, test.features_N_D), chi2(WIDTH).cdf).pvalue > 1e-3
    # and the background's part is that of one Gaussian over all of them
    z = test.features_N_D
    background = class_mahalanobis(train, z) - relative_mahalanobis(train, z)
    np.testing.assert_allclose(background, mahalanobis(train.features_N_D, z), rtol=1e-6)


def test_mahalanobis_is_blind_to_the_scale_and_mixing_of_features():
    train, test = clusters(), ood_features(9)
    mixing = np.random.default_rng(3).normal(size=(WIDTH, WIDTH))
    mixed = Train(train.features_N_D @ mixing, train.labels_N, train.weight_C_D, train.bias_C)
    for score in (class_mahalanobis, relative_mahalanobis):
        np.testing.assert_allclose(score(mixed, test @ mixing), score(train, test), rtol=1e-6)


def test_a_dead_feature_changes_no_mahalanobis_distance():
    # ReLU leaves features that are 0 on every training image: the covariance has no inverse
    train, test = clusters(), ood_features(9)
    padded_train = np.pad(train.features_N_D, ((0, 0), (0, 3)))
    dead = Train(padded_train, train.labels_N, train.weight_C_D, train.bias_C)
    padded = class_mahalanobis(dead, np.pad(test, ((0, 0), (0, 3))))
    np.testing.assert_allclose(padded, class_mahalanobis(train, test), rtol=1e-8)


def test_one_class_is_enough_to_fit():
    train = clusters()
    one = Train(train.features_N_D, np.zeros(400, int), train.weight_C_D, train.bias_C)
    np.testing.assert_allclose(relative_mahalanobis(one, ood_features(5)), 0, atol=1e-6)


def test_vim_takes_half_of_the_dimensions_that_are_filled():
    train, test = clusters(), ood_features(5)
    padded_train = np.pad(train.features_N_D, ((0, 0), (0, 4)))
    dead = Train(padded_train, train.labels_N, np.eye(CLASSES, WIDTH + 4), train.bias_C)
    padded = np.pad(test, ((0, 0), (0, 4)))
    np.testing.assert_allclose(vim(dead, padded), vim(train, test), rtol=1e-8)
    padded[:, -1] = 1  # a feature no training image has
    assert (vim(dead, padded) > vim(train, test) + 0.01).all()


# --- pytorch-ood: there, too, a higher score is more OOD, so ranks agree with +1 ---


def same_ranking(ours, theirs):
    assert spearmanr(ours, theirs).statistic == pytest.approx(1.0, abs=1e-12)


def test_logit_scores_rank_as_pytorch_oods():
    detectors = pytest.importorskip("pytorch_ood.detector")
    logits = np.random.default_rng(0).normal(0, 2, (300, 8))
    theirs = torch.as_tensor(logits)
    same_ranking(energy(logits), detectors.EnergyBased(None).predict_logits(theirs))
    same_ranking(max_logit(logits), detectors.MaxLogit(None).predict_logits(theirs))
    same_ranking(one_minus_msp(logits), detectors.MaxSoftmax(None).predict_logits(theirs))
    gen = detectors.GEN(None).predict_logits(theirs)
    same_ranking(generalised_entropy(logits), gen)
    # there: the mean over classes
    np.testing.assert_allclose(generalised_entropy(logits), 8 * gen, rtol=1e-6)


@pytest.fixture
def float64_by_default():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_feature_scores_rank_as_pytorch_oods(float64_by_default):
    detectors = pytest.importorskip("pytorch_ood.detector")
    train, test = (
        clusters(),
        np.concatenate([ood_features(100), clusters(100, seed=3).features_N_D]),
    )
    fit = torch.as_tensor(train.features_N_D), torch.as_tensor(train.labels_N)
    z = torch.as_tensor(test)
    theirs = detectors.KNN(None, k=50).fit_features(*fit).predict_features(z)
    np.testing.assert_allclose(knn(train, test), theirs, rtol=1e-9)
    theirs = detectors.Mahalanobis(None).fit_features(*fit).predict_features(z)
    same_ranking(class_mahalanobis(train, test), theirs)
    # there: half the distance, and sums instead of means in the covariance
    np.testing.assert_allclose(
        class_mahalanobis(train, test), 2 * len(fit[0]) * theirs.numpy(), rtol=1e-6
    )
    theirs = detectors.RMD(None).fit_features(*fit).predict_features(z)
    same_ranking(relative_mahalanobis(train, test), theirs)
    layer = torch.as_tensor(train.weight_C_D), torch.as_tensor(train.bias_C)
    theirs = detectors.ViM(None, WIDTH // 2, *layer).fit_features(*fit).predict_features(z)
    same_ranking(vim(train, test), theirs)
    np.testing.assert_allclose(vim(train, test), theirs, rtol=1e-4)  # it works in float32


def test_odin_equals_pytorch_oods():
    detectors = pytest.importorskip("pytorch_ood.detector")
    torch.manual_seed(0)
    model = Classifier(build_encoder("custom_cnn", image_size=16), CLASSES).eval()
    images = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)

    class Double(nn.Module):  # its softmax at temperature 1000 would tie in float32
        def forward(self, x):
            return model(x).double()

    theirs = detectors.ODIN(
        Double(), eps=0.0014, temperature=1000.0, norm_std=[0.229, 0.224, 0.225]
    ).predict(prepare(images, 16, torch.device("cpu")))
    ours = odin(model, images, FLOAT32)
    np.testing.assert_allclose(ours, 1 + theirs.numpy(), rtol=0, atol=1e-7)
    same_ranking(ours, theirs)
    without_step = one_minus_msp(embed(model, images, 16, FLOAT32) / 1000)
    assert np.abs(ours - without_step).max() > 0


def test_odin_leaves_the_model_as_it_was():
    model = Classifier(build_encoder("custom_cnn", image_size=16), CLASSES).train()
    model.encoder.stages[0].eval()
    modes = [module.training for module in model.modules()]
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    odin(model, np.full((3, 16, 16, 3), 90, np.uint8), FLOAT32)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(b, buffers[name]) for name, b in model.named_buffers())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_odin_does_not_depend_on_the_batches():
    model = Classifier(build_encoder("custom_cnn", image_size=16), CLASSES).eval()
    images = np.random.default_rng(0).integers(0, 256, (7, 16, 16, 3), dtype=np.uint8)
    np.testing.assert_allclose(
        odin(model, images, FLOAT32, batch_size=2), odin(model, images, FLOAT32), atol=1e-7
    )


# --- which way they point ---


def test_every_detector_on_arrays_finds_a_separable_toy():
    train = clusters()

    def score(z, noise):
        return scores(passes(train.logits(z), noise=noise), train.logits(z), z, train)

    id_table = score(clusters(seed=7).features_N_D, 0.1)
    ood_table = score(ood_features(), 2.0)
    on_arrays = ("MC samples", "logits", "features")
    expected = [name for name, d in DETECTORS.items() if d.needs in on_arrays]
    assert list(id_table) == list(ood_table) == expected
    for name in expected:
        table = metrics(id_table[name], ood_table[name], bootstrap=1)
        assert table["value"]["auroc"] > 0.95, name


class MeanColour(nn.Module):
    """An encoder for the toy: features are the mean of each channel."""

    image_size = 8

    def forward(self, x):
        return x.mean((2, 3))


def test_odin_finds_a_separable_toy():
    model = Classifier.__new__(Classifier)
    nn.Module.__init__(model)
    model.encoder, model.head = MeanColour(), Head(nn.Linear(3, 3))
    nn.init.eye_(model.head[0].weight)
    rng = np.random.default_rng(0)
    colours = 100 + 80 * np.eye(3)[rng.integers(0, 3, 60)]
    grey = np.full((60, 3), 120.0)

    def score(tones):
        noisy = tones[:, None, None] + rng.normal(0, 10, (60, 8, 8, 3))
        return odin(model, np.clip(noisy, 0, 255).astype(np.uint8), FLOAT32)

    assert metrics(score(colours), score(grey), bootstrap=1)["value"]["auroc"] > 0.95


# --- features and logits belong together ---


def test_the_last_layer_makes_the_logits_of_the_features():
    torch.manual_seed(0)
    model = Classifier(build_encoder("custom_cnn", image_size=16), CLASSES)
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    train = Train.of(model, images, np.arange(5), FLOAT32)
    assert (train.features_N_D.shape, train.features_N_D.dtype) == ((5, 256), np.float64)
    np.testing.assert_allclose(
        train.logits(train.features_N_D), embed(model, images, 16, FLOAT32), atol=1e-5
    )
    np.testing.assert_array_equal(train.features_N_D, penultimate(model, images, FLOAT32))


# --- broken input ---


def table_of(features, train, n=3):
    return scores(passes(np.zeros((n, CLASSES)), t=2), np.zeros((n, CLASSES)), features, train)


def test_one_sample_is_warned_about():
    logits = np.random.default_rng(0).normal(size=(5, CLASSES))
    with pytest.warns(UserWarning, match="0 by definition"):
        table = scores(log_softmax(logits, axis=-1)[None], logits)
    np.testing.assert_allclose(
        table[["mutual_information", "predictive_variance", "variation_ratio"]], 0, atol=1e-14
    )


def test_a_single_image_has_scores():
    assert table_of(ood_features(1), clusters(), n=1).shape == (1, 13)


@pytest.mark.parametrize("shape", [(3, WIDTH - 1), (3, WIDTH + 1), (2, WIDTH), (3,)])
def test_features_of_another_width_or_number_are_refused(shape):
    with pytest.raises(ValueError, match=r"expected features of shape \(3, 12\)"):
        table_of(np.zeros(shape), clusters())


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_broken_features_are_refused(bad):
    features, train = ood_features(3), clusters()
    features[1, 2] = bad
    with pytest.raises(ValueError, match="features hold NaN"):
        table_of(features, train)
    train.features_N_D[5, 1] = bad
    with pytest.raises(ValueError, match="features hold NaN"):
        table_of(ood_features(3), train)


def test_labels_of_other_images_are_refused():
    train = clusters()
    short = Train(train.features_N_D, train.labels_N[1:], train.weight_C_D, train.bias_C)
    with pytest.raises(ValueError, match="399"):
        table_of(ood_features(3), short)


@pytest.mark.parametrize(
    "given", [(None, clusters()), (ood_features(3), None)], ids=["no features", "no training split"]
)
def test_half_of_what_the_feature_detectors_need_is_refused(given):
    with pytest.raises(ValueError, match="both or neither"):
        table_of(*given)


def test_fewer_training_images_than_neighbours_are_refused():
    with pytest.raises(ValueError, match="n_neighbors"):
        knn(clusters(40), ood_features(3))


# --- the table ---


def test_the_table_names_every_detector_with_its_formula_and_paper():
    table = detector_table()
    assert list(table) == ["needs", "formula", "paper"]
    assert tuple(table.loc["kNN"]) == (
        "features",
        "distance to the 50th nearest training feature, all of unit length",
        "Sun et al. 2022, arXiv 2204.06507",
    )
    assert len(table) == len(DETECTORS) == 15 and table.index.is_unique
    assert (table != "").all(axis=None)
    assert set(table["needs"]) == {"MC samples", "logits", "features", "gradients", "pixels"}
    papers = table.drop("pixel statistics (no network)")["paper"]
    assert papers.str.contains(r"(?:19|20)\d\d").all()


def test_the_readme_shows_every_detector_as_the_code_has_it():
    readme = (Path(__file__).parents[1] / "docs/ood.md").read_text()
    for row in detector_table().reset_index().itertuples(index=False):
        assert f"| {' | '.join(row)} |\n" in readme


# --- whatever precision comes in ---


@pytest.fixture(scope="module")
def sure_passes():
    """Passes that nearly agree, on images of which half are strange."""
    rng = np.random.default_rng(0)
    logits = 8 * np.eye(4)[rng.integers(0, 4, 200)]
    noise = np.where(np.arange(200) < 100, 0.02, 0.05)[:, None]
    return log_softmax(logits + noise * rng.normal(size=(20, 200, 4)), axis=-1)


HALF = {
    "float16": lambda x: x.astype(np.float16),
    "float32": lambda x: x.astype(np.float32),
    "torch": lambda x: torch.from_numpy(x).float(),
    "bfloat16": lambda x: torch.from_numpy(x).bfloat16(),
    "list": lambda x: x.astype(np.float16).tolist(),
}
OF_ARRAYS = [name for name, d in DETECTORS.items() if d.needs in ("MC samples", "logits")]


@pytest.mark.parametrize("spell", HALF.values(), ids=HALF)
@pytest.mark.parametrize("name", OF_ARRAYS)
def test_scores_are_worked_out_in_float64_whatever_comes_in(sure_passes, name, spell):
    given = sure_passes if DETECTORS[name].needs == "MC samples" else sure_passes[0]
    given = spell(given)
    wide = np.asarray(given.double() if torch.is_tensor(given) else given, np.float64)
    np.testing.assert_array_equal(DETECTORS[name].score(given), DETECTORS[name].score(wide))
    assert DETECTORS[name].score(given).dtype == np.float64


@pytest.mark.filterwarnings("error")
def test_half_precision_costs_the_mutual_information_little(sure_passes):
    logits = sure_passes[0]
    given = sure_passes, HALF["float16"](sure_passes)
    whole, half = (scores(log_probs, logits)["mutual_information"] for log_probs in given)
    exact, found = (metrics(s[:100], s[100:], bootstrap=1)["value"]["auroc"] for s in (whole, half))
    assert exact > 0.95 and found > exact - 0.02


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, nullcontext])
@pytest.mark.parametrize("default", [torch.float32, torch.float64, torch.bfloat16])
def test_odin_and_samples_do_not_depend_on_what_the_caller_has_switched(context, default):
    torch.manual_seed(0)
    model = Classifier(build_encoder("custom_cnn", image_size=16), CLASSES).eval()
    images = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
    expected = odin(model, images, FLOAT32), embed(model, images, 16, FLOAT32)
    torch.set_default_dtype(default)
    try:
        with context():
            found = odin(model, images, FLOAT32), embed(model, images, 16, FLOAT32)
    finally:
        torch.set_default_dtype(torch.float32)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_odin_takes_twelve_bands():
    model = Classifier(build_encoder("custom_cnn", 12, 16), CLASSES).eval()
    images = np.random.default_rng(0).integers(0, 4000, (6, 16, 16, 12)).astype(np.uint16)
    assert np.isfinite(odin(model, images, FLOAT32)).all()


@pytest.mark.parametrize("epsilon", [-0.0014, np.nan, np.inf, "0.1"])
def test_a_step_of_odin_is_a_number_from_0(epsilon):
    model = Classifier(build_encoder("custom_cnn", image_size=8), 2)
    with pytest.raises(ValueError, match="epsilon must be a number at least 0"):
        odin(model, np.zeros((2, 8, 8, 3), np.uint8), epsilon=epsilon)
