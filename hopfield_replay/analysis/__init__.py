"""What a fine-tune will destroy (forecast), what it has destroyed (audit), and what to keep (select)."""

from hopfield_replay.analysis.audit_findings import Examples
from hopfield_replay.analysis.audit_report import AuditReport
from hopfield_replay.analysis.auditing import audit
from hopfield_replay.analysis.forecasting import Forecast, forecast
from hopfield_replay.analysis.images import ImageCollection, Item, read_collection
from hopfield_replay.analysis.selecting import select
from hopfield_replay.analysis.selection_report import SelectionReport

__all__ = [
    "AuditReport",
    "Examples",
    "Forecast",
    "ImageCollection",
    "Item",
    "SelectionReport",
    "audit",
    "forecast",
    "read_collection",
    "select",
]
