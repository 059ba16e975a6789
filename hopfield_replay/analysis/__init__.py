"""What a fine-tune will destroy (forecast), what it has destroyed (audit, run_report), and what to keep (select)."""

from hopfield_replay.analysis.audit_findings import Examples
from hopfield_replay.analysis.audit_report import AuditReport
from hopfield_replay.analysis.audit_series import AuditSeries
from hopfield_replay.analysis.auditing import audit
from hopfield_replay.analysis.drawings import DrawingReport, compare_drawings
from hopfield_replay.analysis.forecasting import Forecast, forecast
from hopfield_replay.analysis.gate import Gate, GroupTest
from hopfield_replay.analysis.gate_report import as_junit, as_markdown
from hopfield_replay.analysis.images import ImageCollection, Item, read_collection
from hopfield_replay.analysis.journal import Journal
from hopfield_replay.analysis.run_file import find_runs, run_from_file
from hopfield_replay.analysis.run_report import RunReport, run_report
from hopfield_replay.analysis.selecting import select
from hopfield_replay.analysis.selection_report import SelectionReport
from hopfield_replay.utilities.captions import read_captions
from hopfield_replay.utilities.images import SUFFIXES as IMAGE_SUFFIXES
from hopfield_replay.utilities.images import open_image, pixels

__all__ = [
    "IMAGE_SUFFIXES",
    "AuditReport",
    "AuditSeries",
    "DrawingReport",
    "Examples",
    "Forecast",
    "Gate",
    "GroupTest",
    "ImageCollection",
    "Item",
    "Journal",
    "RunReport",
    "SelectionReport",
    "as_junit",
    "as_markdown",
    "audit",
    "compare_drawings",
    "find_runs",
    "forecast",
    "open_image",
    "pixels",
    "read_captions",
    "read_collection",
    "run_from_file",
    "run_report",
    "select",
]
