"""A scene in; a land-cover map, and where not to believe it, out.

`scene` reads, `tiles` asks the network and paints, `thresholds` knows what is usual, `scene_map`
maps.
"""

from src.map.scene import open_scene
from src.map.scene_checks import differences
from src.map.scene_map import map_scene
from src.map.thresholds import Thresholds, fit_thresholds, thresholds_path

__all__ = [
    "Thresholds",
    "differences",
    "fit_thresholds",
    "map_scene",
    "open_scene",
    "thresholds_path",
]
