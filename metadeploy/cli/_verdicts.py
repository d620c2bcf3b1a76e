"""What `metadeploy verdict` and `metadeploy calibrate` print of guarantees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from metadeploy._exact import percent

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["show_guarantees"]


def show_guarantees(console: Console, guarantees: Sequence[dict[str, Any]], delta: float) -> None:
    """Print a sentence for each guarantee.

    Args:
        console: where to.
        guarantees: as in the results of either command.
        delta: probability that a guarantee may fail.
    """
    for guarantee in guarantees:
        on_test = guarantee["test"]
        error_rate = "none" if on_test["error_rate"] is None else f"{percent(on_test['error_rate'])}% wrong"
        console.print(
            f"--max-error {guarantee['max_error']:g}: answers {percent(guarantee['coverage'])}% of such questions, "
            f"with confidence {percent(1 - delta, 0)}% at most {percent(guarantee['max_error'], 0)}% of them wrong "
            f"({guarantee['n']} questions; test: {percent(on_test['coverage'])}% answered, {error_rate})"
        )
    if not guarantees:
        console.print("no error rate can be guaranteed (hint: more questions)")
