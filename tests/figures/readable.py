"""What makes a figure readable at 800 pixels: text inside the border, large enough, and not on top of other text."""

from itertools import combinations


def texts(figure):
    """All text that is drawn, with its box in pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    hidden = {
        label
        for axis in figure.axes
        if not axis.axison
        for label in axis.findobj(Text)
        if label not in (axis.title, axis._left_title, axis._right_title)
    }
    for axis in figure.axes:
        for side in (axis.xaxis, axis.yaxis):
            low, high = sorted(side.get_view_interval())
            ticks = [*side.get_major_ticks(), *side.get_minor_ticks()]
            hidden |= {
                label
                for tick in ticks
                for label in (tick.label1, tick.label2)
                if not low <= tick.get_loc() <= high or not label.get_visible()
            }
    found = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip() and t not in hidden]
    return [(text, text.get_window_extent(renderer)) for text in dict.fromkeys(found)]


def check_readable(figure, *, narrow=False):
    width, height = figure.get_size_inches() * figure.dpi
    assert width == (400 if narrow else 800)
    found = texts(figure)
    assert found
    for text, box in found:
        shown = (text.get_text(), box.bounds)
        assert box.x0 >= 0, shown
        assert box.y0 >= 0, shown
        assert box.x1 <= width, shown
        assert box.y1 <= height, shown
        assert text.get_fontsize() * figure.dpi / 72 >= 11, shown
    for (one, first), (two, second) in combinations(found, 2):
        across = min(first.x1, second.x1) - max(first.x0, second.x0)
        along = min(first.y1, second.y1) - max(first.y0, second.y0)
        assert min(across, along) <= 2, (one.get_text(), two.get_text())
    for axis in figure.axes:
        if not axis.axison:
            continue
        legend = axis.get_legend()
        boxes = [] if legend is None else [legend.get_window_extent()]
        boxes += [other.get_window_extent() for part in (figure, *figure.subfigs) for other in part.legends]
        for box in boxes:
            inside = axis.get_window_extent()
            across = min(box.x1, inside.x1) - max(box.x0, inside.x0)
            along = min(box.y1, inside.y1) - max(box.y0, inside.y0)
            assert min(across, along) <= 1, "a legend covers data"
