"""A Hugging Face model card for a run directory. All its figures are from the results files there."""

from __future__ import annotations

from metadeploy.card.writer import CardReport, write_card

__all__ = ["CardReport", "write_card"]
