"""The page of `explore`: a plot of points, and the widgets beside it that act on it."""

from typing import Any

from src.figures.palette import INK

# what the widgets run in the browser
PAINT = """
const mode = modes[select.value], data = source.data
data.color = Array.from(data[mode.column], (place) => mode.colors[place])
source.change.emit()
legend.text = mode.legend
"""
FILTER = """
const chosen = new Set(classes.value)
shown.booleans = source.data.name.map((name) => chosen.size == 0 || chosen.has(name))
source.change.emit()
"""
CHOOSE = """
const [point, ...others] = source.selected.indices
if (point === undefined) { detail.text = hint; return }
if (others.length) { source.selected.indices = [point]; return }  // runs this again
const data = source.data
const picture = (url, text, width) =>
  `<figure style="display:inline-block;margin:2px;width:${width}px;vertical-align:top">` +
  `<img src="${url}" width="${width}" height="${width}"><figcaption>${text}</figcaption></figure>`
let html = picture(data.image[point], data.text[point], 128)
if (nearest.length) {
  html += "<h4>nearest training images</h4>"
  for (const [place, distance] of nearest[point])
    html += picture(training.image[place], `${training.name[place]}<br>${distance}`, 80)
}
detail.text = html
"""
HINT = "Click a point to see it here, with its nearest training images."
PICTURE = '<img src="@image" width="128" height="128"><br>@text{safe}'
TOOLTIP = f'<div style="width:140px">{PICTURE}</div>'


def standalone_html(
    table: dict[str, Any],
    modes: dict[str, dict[str, Any]],
    nearest: list[list[tuple[int, str]]],
    training: dict[str, list[str]],
    title: str,
) -> bytes:
    """The HTML of the whole page, its scripts and pictures inside.

    Args:
        table: x, y, name, text and image (a data URL) of every point.
        modes: ways to colour: name → numbers (the place of each point's colour), colors, legend.
        nearest: for each point (place among the training images, distance) of its nearest.
        training: image and name of the training images.

    Raises:
        ModuleNotFoundError: bokeh is not installed; it is an extra.
    """
    try:
        from bokeh.embed import file_html
        from bokeh.resources import INLINE
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "figures.explore needs bokeh, an extra: pip install 'ood-satellite[explore]'"
        ) from error
    layout = _layout(table, modes, nearest, training, title)
    return file_html(layout, INLINE, title or "explore").encode()


def _layout(
    table: dict[str, Any],
    modes: dict[str, dict[str, Any]],
    nearest: list[list[tuple[int, str]]],
    training: dict[str, list[str]],
    title: str,
) -> Any:
    """The plot, and beside it the widgets that act on it."""
    from bokeh.layouts import column, row
    from bokeh.models import BooleanFilter, CDSView, ColumnDataSource, CustomJS
    from bokeh.models.widgets import Div, MultiChoice, Select

    first, *_ = modes.values()
    color = [first["colors"][number] for number in first["numbers"]]
    columns = {f"mode{place}": mode["numbers"] for place, mode in enumerate(modes.values())}
    source = ColumnDataSource(table | columns | {"color": color})
    shown = BooleanFilter(booleans=[True] * len(color))
    select = Select(title="colour by", options=list(modes), value=next(iter(modes)), width=340)
    names = sorted(set(table["name"]))
    classes = MultiChoice(title="show only these classes", options=names, width=340)
    legend, detail = Div(text=first["legend"], width=360), Div(text=HINT, width=360)
    in_browser = {
        name: {"column": f"mode{place}", "colors": mode["colors"], "legend": mode["legend"]}
        for place, (name, mode) in enumerate(modes.items())
    }
    paint = {"source": source, "select": select, "legend": legend, "modes": in_browser}
    select.js_on_change("value", CustomJS(args=paint, code=PAINT))
    narrow = {"source": source, "classes": classes, "shown": shown}
    classes.js_on_change("value", CustomJS(args=narrow, code=FILTER))
    choose = {"source": source, "detail": detail, "nearest": nearest, "training": training}
    callback = CustomJS(args=choose | {"hint": HINT}, code=CHOOSE)
    source.selected.js_on_change("indices", callback)
    plot = _plot(source, CDSView(filter=shown), title)
    return row(plot, column(select, classes, legend, detail))


def _plot(source: Any, view: Any, title: str) -> Any:
    from bokeh.models import HoverTool
    from bokeh.plotting import figure

    tools = "pan,wheel_zoom,box_zoom,tap,reset"
    ranges = {}  # of all points: what is shown stays where it is when classes are chosen
    for name in ("x", "y"):
        low, high = min(source.data[name]), max(source.data[name])
        margin = 0.04 * (high - low) or 1
        ranges[f"{name}_range"] = low - margin, high + margin
    options = {"tools": tools, "active_scroll": "wheel_zoom", "width": 760, "height": 680}
    plot = figure(title=title, **options, **ranges)
    plot.axis.visible = plot.grid.visible = False
    look = {"line_color": None, "fill_alpha": 0.8, "nonselection_fill_alpha": 0.8}
    chosen = {"selection_line_color": INK, "selection_line_width": 3, "selection_fill_alpha": 1}
    look |= {"nonselection_line_color": None} | chosen
    dots = plot.scatter("x", "y", size=6, color="color", source=source, view=view, **look)
    plot.add_tools(HoverTool(renderers=[dots], tooltips=TOOLTIP, limit=1))
    return plot
