"""A Hugging Face model card for a run directory, with the figures of the results files there and no others."""

from __future__ import annotations

from metadeploy.card.writer import CardReport, write_card

__all__ = ["CardReport", "write_card"]
