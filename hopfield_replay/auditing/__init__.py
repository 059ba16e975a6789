"""Audit: what one version of a diffusion model lost against another, sample by sample."""

from hopfield_replay.auditing.measure import audit
from hopfield_replay.auditing.report import AuditReport, Examples

__all__ = ["AuditReport", "Examples", "audit"]
