"""Pictures: colours that everybody tells apart, any number of classes, and the page to explore."""

import html
import io
import itertools
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from browser import CHROMIUM, Browser
from matplotlib.text import Text
from PIL import Image

from src import figures
from src.figures import palette

EUROSAT = list(palette.LAND_COVER)
SCENES = [f"class number {number}" for number in range(45)]

# --- colours ---

# Machado, Oliveira and Fernandes 2009, table 1: severity 1, on linear RGB
VISION = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
TO_XYZ = [
    [0.4124564, 0.3575761, 0.1804375],
    [0.2126729, 0.7151522, 0.0721750],
    [0.0193339, 0.1191920, 0.9503041],
]


def lab(color: str, vision: str = "normal") -> np.ndarray:
    """CIELAB (D65) of "#RRGGBB", as somebody with this vision sees it."""
    srgb = np.array([int(color[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = (np.array(VISION[vision]) @ linear).clip(0, 1)
    t = np.array(TO_XYZ) @ seen / [0.95047, 1, 1.08883]
    x, y, z = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def ciede2000(first: np.ndarray, second: np.ndarray) -> float:
    """Difference of two colours in CIELAB (Sharma, Wu and Dalal 2005)."""
    (l_1, a_1, b_1), (l_2, a_2, b_2) = first, second
    mean = (np.hypot(a_1, b_1) + np.hypot(a_2, b_2)) / 2
    stretch = 1.5 - 0.5 * np.sqrt(mean**7 / (mean**7 + 25**7))
    c_1, c_2 = np.hypot(stretch * a_1, b_1), np.hypot(stretch * a_2, b_2)
    h_1, h_2 = (np.degrees(np.arctan2(b, stretch * a)) % 360 for a, b in ((a_1, b_1), (a_2, b_2)))
    grey = c_1 * c_2 == 0
    turn = 0 if grey else (h_2 - h_1 + 180) % 360 - 180
    hue = h_1 + h_2 if grey else h_1 + turn / 2
    d_l, d_c, d_h = l_2 - l_1, c_2 - c_1, 2 * np.sqrt(c_1 * c_2) * np.sin(np.radians(turn / 2))
    light, c = (l_1 + l_2) / 2, (c_1 + c_2) / 2
    cos = lambda factor, offset: np.cos(np.radians(factor * hue + offset))  # noqa: E731
    t = 1 - 0.17 * cos(1, -30) + 0.24 * cos(2, 0) + 0.32 * cos(3, 6) - 0.2 * cos(4, -63)
    s_l = 1 + 0.015 * (light - 50) ** 2 / np.sqrt(20 + (light - 50) ** 2)
    d_l, d_c, d_h = d_l / s_l, d_c / (1 + 0.045 * c), d_h / (1 + 0.015 * c * t)
    bend = np.radians(60 * np.exp(-((((hue % 360) - 275) / 25) ** 2)))
    twist = -2 * np.sqrt(c**7 / (c**7 + 25**7)) * np.sin(bend)
    return float(np.sqrt(d_l**2 + d_c**2 + d_h**2 + twist * d_c * d_h))


def nearest_pair(colors: dict[str, str], vision: str) -> tuple[float, str, str]:
    return min(
        (ciede2000(lab(colors[a], vision), lab(colors[b], vision)), a, b)
        for a, b in itertools.combinations(colors, 2)
    )


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, 2.49, -0.001), (50, -2.49, 0.0011), 7.2195),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
        ((2.0776, 0.0795, -1.135), (0.9033, -0.0636, -0.5514), 0.9082),
        ((90.8027, -2.0831, 1.441), (91.1528, -1.6435, 0.0447), 1.4441),
        ((36.4612, 47.858, 18.3852), (36.2715, 50.5065, 21.2231), 1.4146),
    ],
)
def test_the_difference_of_colours_is_that_of_the_published_pairs(first, second, expected):
    assert ciede2000(first, second) == pytest.approx(expected, abs=1e-4)
    assert ciede2000(second, first) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("vision", VISION)
def test_land_cover_is_told_apart_by_everybody_and_from_black_and_paper(vision):
    colors = palette.LAND_COVER | {"out of distribution": palette.OUT_COLOR, "paper": "#FFFFFF"}
    assert nearest_pair(colors, vision)[0] >= 12, nearest_pair(colors, vision)


@pytest.mark.parametrize("vision", VISION)
def test_arms_and_sides_are_told_apart_by_everybody(vision):
    arms = ["from scratch", "untrained", "ImageNet", "pretrained 50", "pretrained 300", "third"]
    colors = figures.arm_colors(arms) | {"in": palette.IN_COLOR, "out": palette.OUT_COLOR}
    colors["paper"] = "#FFFFFF"
    assert nearest_pair(colors, vision)[0] >= 15, nearest_pair(colors, vision)


def test_an_arm_has_one_colour_whatever_its_company_and_its_full_name():
    together = figures.arm_colors(["from scratch", "pretrained 50", "pretrained 300", "untrained"])
    assert figures.arm_colors(["untrained"])["untrained"] == together["untrained"]
    assert figures.arm_colors(["scratch"])["scratch"] == together["from scratch"]
    assert (
        figures.arm_colors(["random weights, linear probe"]).popitem()[1] == together["untrained"]
    )
    assert figures.arm_colors(["pretrained 6 epochs"]).popitem()[1] == together["pretrained 50"]
    assert len(set(together.values())) == 4


@pytest.mark.parametrize("classes", [SCENES[:2], SCENES, [*SCENES[:35], *EUROSAT]])
def test_every_class_has_a_colour_of_its_own(classes):
    colors = dict(zip(classes, figures.class_colors(classes), strict=True))
    assert nearest_pair(colors, "normal")[0] > 10
    assert all(re.fullmatch("#[0-9A-F]{6}", color) for color in colors.values())


def test_a_known_class_has_its_colour_in_every_set_and_spelling():
    forest, lake = palette.LAND_COVER["Forest"], palette.LAND_COVER["SeaLake"]
    assert figures.class_colors(["airplane", "forest", "sea_lake"])[1:] == [forest, lake]
    assert figures.class_colors(["Forest", "forest"])[0] == forest
    assert len(set(figures.class_colors(["Forest", "forest"]))) == 2
    assert len(figures.class_colors([f"more {number}" for number in range(100)])) == 100


# --- panels of a projection ---


@pytest.fixture(scope="module")
def projected():
    return projection(10, 300)


@pytest.mark.filterwarnings("ignore:Tensorflow not installed")
def test_what_umap_compiles_is_kept_for_the_next_process():
    features = {"a": np.random.default_rng(0).normal(size=(80, 8))}
    points = figures.project(features, {"a": np.arange(80) % 4})
    assert len(points) == 80 and np.isfinite(points[["x", "y"]]).all(axis=None)
    from umap.umap_ import smooth_knn_dist  # umap itself does not ask for that

    kept = smooth_knn_dist.stats
    assert Path(kept.cache_path).is_dir()
    assert sum(kept.cache_hits.values()) + sum(kept.cache_misses.values()) > 0


def projection(classes: int, count: int) -> pd.DataFrame:
    """Two panels of points around class centres, the second far away; the last 20 have no class."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % classes
    labels[-20:] = -1
    centres = rng.normal(size=(classes + 1, 2)) * 4
    panels = {"untrained": 0, "fine-tuned": 100}
    return pd.concat(
        pd.DataFrame(
            centres[labels] + rng.normal(size=(count, 2)) * 0.4 + shift, columns=["x", "y"]
        ).assign(panel=panel, label=labels, row=np.arange(count))
        for panel, shift in panels.items()
    )


def legend_names(figure) -> list[str]:
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def assert_nothing_is_cut(figure):
    """All that is drawn lies within the figure, and no name of the legend over another."""
    figure.draw_without_rendering()
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert drawn.x0 > -0.02 and drawn.y0 > -0.02 and drawn.x1 < width + 0.02
    assert drawn.y1 < height + 0.02
    for legend in figure.legends:
        assert_apart([text.get_window_extent() for text in legend.get_texts()])


def assert_apart(boxes):
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_panels_have_limits_of_their_own_and_say_how_many_images(projected):
    drawn = figures.umap_panels(projected, EUROSAT, {"untrained": "kNN 61 %"}, ood_name="UC Merced")
    for axis, (_, points) in zip(drawn.axes, projected.groupby("panel", sort=False), strict=True):
        assert axis.get_xlim()[0] > points["x"].min() - 3
        assert axis.get_xlim()[1] < points["x"].max() + 3
    titles = [axis.get_title() for axis in drawn.axes]
    assert titles == ["untrained, n = 280 + 20 out", "fine-tuned, n = 280 + 20 out"]
    assert drawn.axes[0].get_xlabel() == "kNN 61 %"
    assert legend_names(drawn) == [*EUROSAT, "UC Merced"]


@pytest.mark.parametrize("count", [2, 10, 45])
def test_any_number_of_classes_is_drawn_and_named(count):
    classes = EUROSAT if count == 10 else SCENES[:count]
    points = projection(count, 400)
    tuned = points[points["panel"] == "fine-tuned"]
    labels = np.arange(400) % count
    features = np.random.default_rng(0).normal(size=(400, 5)) + np.eye(count, 5)[labels]
    drawn = {
        "panels": figures.umap_panels(points, classes),
        "grid": figures.umap_grid({"Custom CNN": (points, {}), "ViT": None}, classes),
        "boundaries": figures.class_boundaries(tuned, classes, "Custom CNN"),
        "centroids": figures.class_centroids(tuned, features, labels, classes),
        "confusion": figures.confusion(labels, labels, classes, "Custom CNN"),
    }
    for name, figure in drawn.items():
        assert_nothing_is_cut(figure)
        width, _ = figure.get_size_inches()
        assert width <= 9.2, name  # text of 8 points is read on a page of 830 pixels
    named = [*classes, figures.projections.OOD_NAME]
    assert legend_names(drawn["panels"]) == legend_names(drawn["grid"]) == named
    assert legend_names(drawn["boundaries"]) == classes
    rows = [text.get_text() for text in drawn["confusion"].axes[0].get_yticklabels()]
    assert rows == [f"{name} ({(labels == n).sum()})" for n, name in enumerate(classes)]
    projected_centres = drawn["centroids"].axes[0]
    assert len(projected_centres.texts) == count
    assert_apart([Text.get_window_extent(text) for text in projected_centres.texts])


def test_labels_of_one_place_are_drawn_side_by_side():
    points = projection(10, 300)
    points[["x", "y"]] = np.random.default_rng(0).normal(size=(len(points), 2))
    tuned = points[points["panel"] == "fine-tuned"]
    labels = np.arange(300) % 10
    figure = figures.class_centroids(tuned, np.eye(10)[labels], labels, EUROSAT)
    figure.draw_without_rendering()
    assert_apart([Text.get_window_extent(text) for text in figure.axes[0].texts])


def test_ground_without_points_belongs_to_no_class():
    corners = np.repeat([[0.0, 0], [10, 10]], 30, axis=0)
    xy = corners + np.random.default_rng(0).normal(size=(60, 2)) * 0.2
    points = pd.DataFrame(xy, columns=["x", "y"]).assign(label=np.repeat([0, 1], 30))
    points.loc[60] = [10, 0, 1]  # one alone
    (axis,) = figures.class_boundaries(points, ["a", "b"], "").axes
    regions = np.ma.masked_invalid(axis.collections[0].get_array())
    corner = {"a": regions[:20, :20], "empty": regions[-20:, :20], "alone": regions[:20, -20:]}
    assert regions.mask.mean() > 0.8
    assert set(corner["a"].compressed()) == {0}
    assert corner["empty"].mask.all() and corner["alone"].mask.all()


def test_thumbnails_lie_on_their_points_and_not_on_each_other(projected):
    images = np.zeros((300, 8, 8, 3), np.uint8) + np.arange(300)[:, None, None, None] % 250
    images = images.astype(np.uint8)
    images = [*images[:280], *images[280:].repeat(2, 1)]  # of two sizes, as two sets are
    everywhere = np.random.default_rng(0).random((600, 2))
    projected = projected.assign(x=everywhere[:, 0], y=everywhere[:, 1])
    figure = figures.umap_panels(projected, EUROSAT, thumbnails=images)
    figure.savefig(io.BytesIO())
    for axis in figure.axes:
        boxes = [artist for artist in axis.artists if hasattr(artist, "offsetbox")]
        assert len(boxes) > 20
        assert_apart([box.offsetbox.get_window_extent() for box in boxes])
        panel = projected[projected["panel"] == axis.get_title().split(",")[0]]
        for box in boxes:
            (row,) = np.flatnonzero((panel[["x", "y"]].to_numpy() == box.xy).all(axis=1))
            assert (box.offsetbox.get_data() == images[row]).all()
    with pytest.raises(ValueError, match="rows of 200 images"):
        figures.umap_panels(projected, EUROSAT, thumbnails=images[:200])


# --- scores, matrices and curves ---


def test_histograms_tell_the_area_the_sets_and_their_sizes():
    scored = pd.DataFrame({"energy": [0.0, 1, 2, 3], "mine": [0.0, 0, 0, 0]})
    unknown = pd.DataFrame({"energy": [2.5, 4.0], "mine": [0.0, 0]})
    figure = figures.score_histograms(scored, unknown, names=("my fields", "the moon"))
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == ["energy\nAUROC 0.875", "mine\nAUROC 0.500"]
    assert legend_names(figure) == ["in: my fields, n = 4", "out of distribution: the moon, n = 2"]
    assert figure.axes[0].get_ylabel() == "density" and len(figure.axes[0].get_yticks()) > 1
    table = pd.DataFrame({"value": 0.5, "low": 0.4, "high": 0.6}, index=["energy", "mine"])
    axis = figures.roc(scored, unknown, table, names=("my fields", "the moon")).axes[0]
    assert axis.get_xlabel() == "share of my fields flagged (n = 4)"
    assert axis.get_ylabel() == "share of the moon flagged (n = 2)"


def test_fifteen_curves_are_fifteen_colours():
    rng = np.random.default_rng(0)
    names = list(figures.SCORE_NAMES)
    known, unknown = (pd.DataFrame(rng.random((30, 15)), columns=names) for _ in range(2))
    table = pd.DataFrame({"value": 0.5, "low": 0.4, "high": 0.6}, index=names)
    figure = figures.roc(known, unknown, table)
    lines = figure.axes[0].lines[:15]
    assert len({line.get_color() for line in lines}) == 15
    assert_nothing_is_cut(figure)
    assert_nothing_is_cut(figures.score_histograms(known, unknown))


def test_confusion_is_in_shares_of_the_true_class():
    truth, told = np.array([0, 0, 0, 0, 1]), np.array([0, 0, 0, 1, 1])
    axis = figures.confusion(truth, told, ["a", "b", "never seen"], "").axes[0]
    np.testing.assert_allclose(axis.images[0].get_array(), [[0.75, 0.25, 0], [0, 1, 0], [0, 0, 0]])
    assert [text.get_text() for text in axis.texts if text.get_text()] == ["75%", "25%", "100%"]


def test_a_long_name_over_an_image_is_parted_between_its_words():
    figure = figures.samples(np.zeros((2, 4, 4, 3), np.uint8), ["HerbaceousVegetation", "River"])
    assert [axis.get_title() for axis in figure.axes[:2]] == ["Herbaceous\nVegetation", "River"]


def test_an_arm_has_its_colour_in_the_curves_of_fine_tuning():
    history = pd.DataFrame({"epoch": [1, 2], "val_accuracy": 0.5, "lr": [0.1, 0.01], "open": 1})
    arms = ["pretrained 50", "from scratch"]
    accuracy, rate = figures.finetuning_curves(dict.fromkeys(arms, history)).axes
    expected = list(figures.arm_colors(arms).values())
    assert [line.get_color() for line in accuracy.lines] == expected
    assert [line.get_color() for line in rate.lines] == expected


# --- the page ---


@pytest.fixture(scope="module")
def explored(tmp_path_factory):
    pytest.importorskip("bokeh", reason="an extra: pip install -e '.[explore]'")
    count, rng = 60, np.random.default_rng(0)
    labels = np.arange(count) % 3
    labels[-10:] = -1
    images = rng.integers(0, 255, (count, 16, 16, 3), np.uint8)
    x, y = np.arange(count) % 10, np.arange(count) // 10  # a grid: places on the screen are known
    points = pd.DataFrame({"panel": "fine-tuned", "label": labels, "row": np.arange(count)})
    points = points.assign(x=x.astype(float), y=y.astype(float))
    scores = pd.DataFrame({"predicted": np.zeros(count, int), "energy": np.arange(count) / 7})
    features = np.stack([np.cos(np.arange(count) / 40), np.sin(np.arange(count) / 40)], 1)
    train = features[::2], images[::2], np.abs(labels[::2])
    near = figures.nearest(features, *train, k=3)
    path = tmp_path_factory.mktemp("explore") / "new/page.html"
    options = {"scores": scores, "nearest": near, "title": "one & all", "ood_name": "the moon"}
    return figures.explore(points, images, ["a", "<b>", "c"], path, **options)


def test_the_page_needs_no_network_and_no_class_name_is_taken_for_html(explored):
    page = explored.read_text()
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=.https?:", page)
    assert "<b>&lt;b&gt;</b>" in html.unescape(page)
    assert explored.stat().st_size < 2_500_000


# everything on the page, that of the widgets' shadow roots too
PICTURES = """(() => {
  const within = (root) => [...root.querySelectorAll("*")].flatMap(
    (node) => node.shadowRoot ? within(node.shadowRoot) : node.tagName == "IMG" ? [node] : [])
  return within(document).filter((picture) => picture.offsetParent).map((picture) => picture.src)
})()"""
MODEL = "[...Bokeh.documents[0]._all_models.values()].find((model) => model.type == '{}')".format
SOURCE = MODEL("ColumnDataSource")
PLACE = f"""(() => {{
  const [view] = Bokeh.index.query((view) => view.model.type == "Figure")
  const box = view.el.getBoundingClientRect(), data = {SOURCE}.data
  return [box.x + view.frame.x_scale.compute(data.x[POINT]),
          box.y + view.frame.y_scale.compute(data.y[POINT])]
}})()"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
def test_in_a_browser_hover_colours_filter_and_neighbours_work(explored, tmp_path):
    with Browser(tmp_path, explored) as page:
        page.wait_for("window.Bokeh && Bokeh.documents.length && Bokeh.documents[0].is_idle")
        x, y = page.run(PLACE.replace("POINT", "34"))
        image = page.run(f"{SOURCE}.data.image[34]")
        page.move(x - 3, y)
        page.move(x, y)
        page.wait_for(f"{PICTURES}.length")
        assert page.run(PICTURES) == [image]
        page.click(x, y)
        page.wait_for(f"{PICTURES}.length >= 4")
        page.move(5, 5)  # away: the picture under the mouse goes
        page.wait_for(f"{PICTURES}.length == 4")
        assert page.run(PICTURES)[0] == image
        # the training images are every second one, so 34 is the nearest to itself
        assert page.run(PICTURES)[1] == image
        before = page.run(f"{SOURCE}.data.color")
        page.run(f"{MODEL('Select')}.value = 'right or wrong'")
        page.wait_for(f"{SOURCE}.data.color[34] != '{before[34]}'")
        colors = page.run(f"Array.from({SOURCE}.data.color)")
        assert [len({*colors[:50:3]}), len({*colors[:50]}), len({*colors[50:]})] == [1, 2, 1]
        page.run(f"{MODEL('Select')}.value = 'energy'")
        page.wait_for(f"new Set({SOURCE}.data.color).size > 40")
        page.run(f"{MODEL('MultiChoice')}.value = ['a', 'the moon']")
        page.wait_for(f"{MODEL('BooleanFilter')}.booleans.filter(Boolean).length == 17 + 10")
        page.move(x - 3, y)
        page.move(x, y)  # a point of another class: it is not there any more
        page.screenshot(tmp_path / "page.png")
        assert len(page.run(PICTURES)) == 4
    picture = np.asarray(Image.open(tmp_path / "page.png").convert("RGB"))
    assert picture.shape[1] > 1000 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 100


def test_more_points_than_a_page_holds_get_smaller_thumbnails(tmp_path):
    pytest.importorskip("bokeh", reason="an extra: pip install -e '.[explore]'")
    images = np.random.default_rng(0).integers(0, 255, (3000, 32, 32, 3), np.uint8)  # noise: large
    points = pd.DataFrame({"panel": "a", "label": 0, "row": np.arange(3000)})
    points = points.assign(x=points["row"] % 50, y=points["row"] // 50)
    page = figures.explore(points, images, ["only"], tmp_path / "page.html")
    assert page.stat().st_size <= 5_000_000


def test_without_bokeh_the_extra_is_named(projected, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bokeh.embed", None)
    tuned = projected[projected["panel"] == "fine-tuned"]
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'ood-satellite\[explore\]'"):
        figures.explore(tuned, np.zeros((300, 4, 4, 3), np.uint8), EUROSAT, tmp_path / "a.html")


def test_what_does_not_fit_together_is_one_error(projected, tmp_path):
    images, path = np.zeros((300, 4, 4, 3), np.uint8), tmp_path / "page.html"
    tuned = projected[projected["panel"] == "fine-tuned"]
    scores = pd.DataFrame({"energy": np.zeros(299)})
    with pytest.raises(ValueError, match="one panel"):
        figures.explore(projected, images, EUROSAT, path)
    with pytest.raises(ValueError, match="one panel"):
        figures.explore(tuned.drop(columns="row"), images, EUROSAT, path)
    with pytest.raises(ValueError, match=r"300 images, got \{'scores': 299\}"):
        figures.explore(tuned, images, EUROSAT, path, scores=scores)
    with pytest.raises(ValueError, match="points up to row 299"):
        figures.explore(tuned, images[:200], EUROSAT, path)
    assert not path.exists()
