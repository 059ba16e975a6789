"""Every result shows itself in the same way: in a line, as a table, as a frame, as JSON, as a plot."""

import json
import pickle
import sys
from html.parser import HTMLParser

import pytest
import torch

from hopfield_replay import (
    EnergyReplayBuffer,
    ForgettingMonitor,
    ForgettingTracker,
    HopfieldMemory,
    TaskSource,
    audit,
    forecast,
    select,
)
from hopfield_replay.denoisers import CallableDenoiser
from hopfield_replay.functional import greedy_replay_gain
from hopfield_replay.utilities.showing import ShownText

HOSTILE = "</td><script>alert(1)</script>\n<img src=x onerror=y>\x1b[31m\u202e$\\alpha$"
VOID = {"img", "br", "meta"}


class Tags(HTMLParser):
    """Notes every tag and whether they are closed in order."""

    def __init__(self, markup):
        super().__init__()
        self.names, self.open, self.attributes = set(), [], []
        self.feed(markup)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.names.add(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def tracker(buffer=None, kind=ForgettingTracker):
    made = kind(buffer, probe_size=8)
    history = made if kind is ForgettingTracker else made.tracker
    generator = torch.Generator().manual_seed(0)
    for centre in (0.0, 4.0, 8.0):
        source = TaskSource([centre + torch.randn(12, 3, generator=generator)])
        history.begin_task(source)
        history.end_task(source)
    return made


def results():
    generator = torch.Generator().manual_seed(0)
    old, new = (torch.randn(40, 3, generator=generator) + shift for shift in (0.0, 3.0))
    schedule = torch.linspace(0.99, 0.01, 10)
    one, two = (
        CallableDenoiser(lambda x, t, value=value: torch.full_like(x, value), schedule, prediction_type="sample")
        for value in (0.0, 1.0)
    )
    pictures = torch.rand(12, 1, 4, 4, generator=generator)
    pictures[1::2] *= 0.1  # of the class that the second model, which says 1, has lost
    buffer = EnergyReplayBuffer(6)
    history = tracker(buffer)
    buffer.provenance = buffer.provenance.with_names(0, HOSTILE, torch.arange(0), [])
    return {
        "forecast": forecast(old, new, capacities=(5, 10), labels=torch.arange(40) % 2),
        "audit": audit(one, two, {HOSTILE: pictures[:6], "other": pictures[6:]}, labels=[HOSTILE, "dog"] * 6),
        "audit without groups": audit(one, two, pictures, names=[HOSTILE] * 12),
        "report": select(old, keep=5),
        "selection": greedy_replay_gain(torch.rand(9, 7, generator=generator), 3, beta=1.0),
        "diagnosis": HopfieldMemory(old).diagnose(),
        "tracker": history,
        "buffer": buffer,
        "monitor": tracker(EnergyReplayBuffer(6), ForgettingMonitor),
        "new tracker": ForgettingTracker(),
        "new buffer": EnergyReplayBuffer(3),
        "new monitor": ForgettingMonitor(),
    }


@pytest.fixture(scope="module")
def made():
    return results()


NAMES = [
    *("forecast", "audit", "audit without groups", "report", "selection", "diagnosis", "tracker", "buffer", "monitor"),
    *("new tracker", "new buffer", "new monitor"),
]


@pytest.mark.parametrize("name", NAMES)
class TestEveryResult:
    def test_is_one_line_without_tensors_or_addresses(self, made, name):
        line = repr(made[name])
        assert "\n" not in line
        assert "tensor" not in line
        assert "0x" not in line
        assert line.startswith(type(made[name]).__name__ + "(")
        assert 20 < len(line) < 400
        assert "\x1b" not in line

    def test_is_markup_in_a_notebook_that_names_cannot_break(self, made, name):
        tags = Tags(made[name]._repr_html_())
        assert tags.names <= {"p", "table", "thead", "tbody", "tr", "th", "td", "div"}
        assert {key for key, _ in tags.attributes} <= {"class"}

    def test_is_json(self, made, name):
        text = json.dumps(made[name].to_dict(), allow_nan=False)
        assert json.loads(text) == made[name].to_dict() | {}

    def test_is_a_frame(self, made, name):
        pytest.importorskip("pandas")
        frame = made[name].to_frame()
        assert len(frame) == len(made[name].rows())
        if not name.startswith("new"):
            assert list(frame.columns) == list(made[name].rows()[0])

    def test_says_what_a_frame_needs(self, made, name, monkeypatch):
        monkeypatch.setitem(sys.modules, "pandas", None)
        with pytest.raises(ImportError, match=r'pip install "hopfield-replay\[pandas\]"'):
            made[name].to_frame()

    def test_is_a_plot_of_its_own_or_on_given_axes(self, made, name):
        pytest.importorskip("matplotlib")
        from matplotlib.figure import Figure

        plot = made[name].plot()
        figure, axes = plot
        assert axes in figure.axes
        assert plot._repr_png_().startswith(b"\x89PNG")
        mine = Figure()
        left, right = mine.subplots(1, 2)
        assert made[name].plot(ax=right) == (mine, right)
        assert not left.has_data()
        assert right.get_xlabel()
        with pytest.raises(TypeError, match=r"ax must be matplotlib Axes .* got str"):
            made[name].plot(ax="left")

    def test_says_what_a_plot_needs(self, made, name, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        with pytest.raises(ImportError, match=r'pip install "hopfield-replay\[tensorboard\]"'):
            made[name].plot()


@pytest.mark.parametrize("name", ["forecast", "audit", "report", "tracker", "monitor"])
def test_tables_show_themselves(made, name):
    table = made[name].table()
    assert isinstance(table, ShownText)
    assert repr(table) == str(table)
    assert Tags(table._repr_html_()).names <= {"pre", "p", "div", "table", "thead", "tbody", "tr", "th", "td"}
    again = pickle.loads(pickle.dumps(table))
    assert (again, again._repr_html_()) == (table, table._repr_html_())


def test_the_lines_say_what_matters(made):
    assert "worst: class dog " in repr(made["audit"])
    assert "most at risk: class " in repr(made["forecast"])
    assert "worst after task 2: task 0, intrinsic forgetting " in repr(made["tracker"])
    assert "EnergyReplayBuffer(6 of 6" in repr(made["monitor"])
    records = [*made["tracker"].history, *made["tracker"].history[-1].probes, made["tracker"].probe(0)]
    assert all("tensor" not in repr(record) and len(repr(record)) < 200 for record in records)


def test_rows_begin_with_the_worst(made):
    for name in ("audit", "forecast"):
        rises = [row["rise"] for row in made[name].rows()]
        assert rises == sorted(rises, reverse=True)
        assert sorted(row["position"] for row in made[name].rows()) == list(range(len(rises)))


def test_figures_appear_in_notebooks_and_pyplots_own_only_once(made):
    pytest.importorskip("matplotlib")
    from matplotlib import pyplot

    assert made["forecast"].figure()._repr_png_().startswith(b"\x89PNG")
    figure, axes = pyplot.subplots()
    assert made["buffer"].plot(ax=axes)._repr_png_() is None  # pyplot shows it
    pyplot.close(figure)
