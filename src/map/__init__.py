"""A scene in; a land-cover map, and where not to believe it, out.

`scene` reads (`chosen_bands`, `products` and `values` say what), `tiles` asks the network,
`rasters` writes what it said, `thresholds` knows what is usual (`fitting` finds out), and
`scene_map` does all of it in order.
"""

from src.map.fitting import fit_thresholds
from src.map.scene import SceneOptions, open_scene
from src.map.scene_checks import differences
from src.map.scene_map import map_scene
from src.map.thresholds import Thresholds, thresholds_path

__all__ = [
    "SceneOptions",
    "Thresholds",
    "differences",
    "fit_thresholds",
    "map_scene",
    "open_scene",
    "thresholds_path",
]
