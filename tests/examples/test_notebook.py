"""The notebook runs from top to bottom, here with one epoch a task, and its results show themselves."""

import ast
import json
from pathlib import Path

import pytest

pytest.importorskip("sklearn")
ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples" / "forgetting.ipynb"
CELLS = json.loads(NOTEBOOK.read_text())["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]


def test_it_has_no_outputs_and_every_cell_is_code():
    for cell in CELLS:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None
    for source in CODE:
        ast.parse(source)
    assert len({cell["id"] for cell in CELLS}) == len(CELLS)
    assert NOTEBOOK.stat().st_size < 20_000


def shown(source, names):
    """Run a cell; what its last line shows, by the kinds that a notebook asks for."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    value = None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    if value is None:
        return {}
    kinds = {kind: getattr(value, kind, lambda: None)() for kind in ("_repr_html_", "_repr_png_")}
    return {kind: made for kind, made in kinds.items() if made} | {"repr": repr(value)}


@pytest.mark.heavy
@pytest.mark.filterwarnings("default")
def test_it_runs_and_results_show_themselves(tmp_path, monkeypatch):
    pytest.importorskip("pandas")
    pytest.importorskip("matplotlib")
    assert sum(source.count("epochs=60") for source in CODE) == 1
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "notebook"}
    results = [shown(source.replace("epochs=60", "epochs=1"), names) for source in CODE]
    by_source = dict(zip(CODE, results, strict=True))
    for source in ("alone.table()", "monitor.table()", "monitor.buffer", "monitor.buffer.to_frame().head()"):
        assert "<table" in by_source[source]["_repr_html_"], source
    for source in ("predicted.plot()", "alone.plot()"):
        assert by_source[source]["_repr_png_"].startswith(b"\x89PNG"), source
    for result in results:
        assert "tensor(" not in result.get("repr", "")
    assert "<table" in results[-2]["_repr_html_"]
    assert (tmp_path / "forgetting_report" / "report.html").exists()
    assert "Forecast against outcome" in (tmp_path / "forgetting_report" / "report.html").read_text()


@pytest.mark.heavy
@pytest.mark.filterwarnings("default")
def test_jupyter_runs_it(tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    pytest.importorskip("pandas")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    book = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(book)
    for cell in book.cells:
        cell.source = cell.source.replace("epochs=60", "epochs=1")
    nbclient.NotebookClient(book, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    kinds = [kind for cell in book.cells for out in cell.get("outputs", []) for kind in out.get("data", {})]
    assert kinds.count("image/png") == 2
    assert kinds.count("text/html") >= 6
