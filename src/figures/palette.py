"""One colour for a class, an arm of the comparison and a side of the detection in every picture.

The colours of land cover, of arms and of sides stay apart for people with protanopia, deuteranopia
and tritanopia (Machado et al. 2009): tests/test_figures.py measures it.
"""

from collections.abc import Iterable, Sequence

from matplotlib.colors import ListedColormap, to_rgb

LAND_COVER = {
    "AnnualCrop": "#E9A726",
    "Forest": "#1A4200",
    "HerbaceousVegetation": "#A08761",
    "Highway": "#939E9E",
    "Industrial": "#7153C6",
    "Pasture": "#C7FF82",
    "PermanentCrop": "#C17500",
    "Residential": "#B70847",
    "River": "#56BAFF",
    "SeaLake": "#000B8A",
}
# each the furthest from all before it, seen by everybody: the first are told apart most easily
_OTHERS = """
    #007676 #00EBC4 #C49DC4 #4E273B #004E76 #C44E9D #766200 #7689EB #89B162 #EBD800 #C44E3B #1489B1
    #B1EBFF #FF6289 #4E4E62 #4E4E3B #FFC49D #C4C4D8 #627662 #9D0089 #1400FF #FFD8D8 #3BB189 #890014
    #C4C4B1 #3BD862 #B17676 #B19D3B #0062FF #4E1462 #764E27 #FF004E #EB89EB #626262 #D8C4FF
"""
PALETTE = [*LAND_COVER.values(), *_OTHERS.split()]

SCRATCH_COLOR, UNTRAINED_COLOR, IMAGENET_COLOR = "#C27D00", "#939088", "#8A115F"
PRETRAINED_COLORS = ["#1B5DD1", "#66A3FF", "#125021"]  # in the order of the arms
IN_COLOR, OUT_COLOR = "#D9C08C", "#111111"
INK, PALE = "#222222", "#8A8A8A"  # of what has no colour of its own


def class_colors(classes: Sequence[str]) -> list[str]:
    """A colour for each class, "#RRGGBB".

    The ten classes of EuroSAT have the colours of `LAND_COVER`, however they are spelt (sea_lake,
    SeaLake); others get the first ones of `PALETTE` that are free. No two of up to 45 classes are
    alike; more repeat the colours from the start.
    """
    known = {_key(name): color for name, color in LAND_COVER.items()}
    of_class = {}  # a second class of the same key is another class
    for number, name in enumerate(classes):
        if _key(name) in known:
            of_class[number] = known.pop(_key(name))
    free = [color for color in PALETTE if color not in of_class.values()] or PALETTE
    others = [number for number in range(len(classes)) if number not in of_class]
    of_class |= {number: free[place % len(free)] for place, number in enumerate(others)}
    return [of_class[number] for number in range(len(classes))]


def class_colormap(classes: Sequence[str]) -> ListedColormap:
    """`class_colors` for an image of class numbers: vmin = −0.5, vmax = C − 0.5."""
    return ListedColormap(class_colors(classes))


def arm_colors(arms: Iterable[str]) -> dict[str, str]:
    """The colour of each arm, by what its name says.

    From scratch, untrained (also "random weights") and ImageNet have one each; every other arm is a
    pretrained one, and these follow one another.
    """
    colors, pretrained = {}, 0
    for arm in arms:
        words = arm.lower()
        if "scratch" in words:
            colors[arm] = SCRATCH_COLOR
        elif "untrained" in words or "random" in words:
            colors[arm] = UNTRAINED_COLOR
        elif "imagenet" in words:
            colors[arm] = IMAGENET_COLOR
        else:
            colors[arm] = PRETRAINED_COLORS[pretrained % len(PRETRAINED_COLORS)]
            pretrained += 1
    return colors


def line_colors(count: int) -> list[str]:
    """Colours for curves that are neither classes nor arms: those dark enough for a thin line."""
    dark = [color for color in PALETTE if brightness(color) < 0.62]
    return [dark[number % len(dark)] for number in range(count)]


def brightness(color: str) -> float:
    """Of a colour in [0, 1], to choose black or white text on it (Rec. 601)."""
    red, green, blue = to_rgb(color)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def _key(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))
