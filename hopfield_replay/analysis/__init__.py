"""What a fine-tune will destroy (forecast), and what it has destroyed (audit)."""

from hopfield_replay.analysis.audit_findings import Examples
from hopfield_replay.analysis.audit_report import AuditReport
from hopfield_replay.analysis.auditing import audit
from hopfield_replay.analysis.forecasting import Forecast, forecast

__all__ = ["AuditReport", "Examples", "Forecast", "audit", "forecast"]
