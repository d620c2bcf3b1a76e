"""Train and calibrate verdict heads, which judge finished answers: `metadeploy verdict`."""

from __future__ import annotations
