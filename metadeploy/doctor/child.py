"""The part of ``metadeploy doctor`` that may crash: a separate process that calls the compiled core.

It reads an order from stdin, and writes a line of JSON to stdout before and after each step. So the parent knows the
step at which it crashed: ``python -m metadeploy.doctor.child < order``.

The order is ``{"first": 0, "without": [["AMX", "Q4_1"], ...], "threads": [1, 2]}``: number of the first product, the
types to leave out (in one place, or everywhere if the place is null), and the numbers of threads. The lines:

    {"core": {"build": {...}, "devices": [...]}}                                    the core is loaded
    {"total": 5000}                                                                 number of products
    {"step": "Q4_1, width 32, ...", "number": 7, "type": "Q4_1", "place": "AMX"}    the step that begins now
    {"number": 7, "type": "Q4_1", "place": "AMX", "what": "Q4_1, width 32, ...",    the result of a product: its error
     "error": 2e-5, "limit": 1e-3, "fault": null}                                   and the limit, or the fault
    {"done": true}

Both error and fault are null for a product that llama.cpp would give to another device.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final

from metadeploy.doctor.products import (
    Core,
    Drawn,
    Material,
    Probe,
    Product,
    Weight,
    WeightType,
    cut,
    draw,
    limit,
    list_products,
    list_weights,
    worst_error,
)
from metadeploy.errors import Error

__all__ = ["main", "steps"]

Message = Mapping[str, Any]


def steps(core: Core, order: Mapping[str, Any]) -> Iterator[Message]:
    """Carry out the order.

    Args:
        core: ``metadeploy._core``, or a substitute in tests.
        order: see the module.

    Yields:
        The lines, as plain data. Write each one before you request the next one.
    """
    yield {"core": {"build": core.build_info(), "devices": core.devices()}}
    weights = list_weights(core)
    lists = [[(place, list_products(weight, place, order["threads"])) for place in weight.places] for weight in weights]
    yield {"total": sum(len(products) for places in lists for _, products in places)}
    without = {(place, type_) for place, type_ in order["without"]}
    probes = {place: core.MatmulProbe(place.number) for places in lists for place, _ in places}
    number = 0
    samples: dict[WeightType, Drawn] = {}  # only of the current type, to save memory
    for weight, places in zip(weights, lists, strict=True):
        material = None
        type_ = weight.type.name
        for place, products in places:
            remaining = [(n, product) for n, product in enumerate(products, number) if n >= order["first"]]
            number += len(products)
            if not remaining or not without.isdisjoint({(str(place), type_), (None, type_)}):
                continue
            if weight.type not in samples:
                yield _step(f"quantizing to {type_}", remaining[0][0], weight, None)
                samples = {weight.type: draw(core, weight.type)}
            if material is None:
                material = cut(samples[weight.type], weight)
            yield _step(f"storing {type_} in buffer {place}", remaining[0][0], weight, str(place))
            probes[place].load(type_, weight.width, material.rows)
            for n, product in remaining:
                yield _step(str(product), n, weight, str(place))
                yield _result(n, product, probes[place], material)
    yield {"done": True}


def _step(what: str, number: int, weight: Weight, place: str | None) -> Message:
    return {"step": what, "number": number, "type": weight.type.name, "place": place}


def _result(number: int, product: Product, probe: Probe, material: Material) -> Message:
    n = product.sequences * product.rows
    activations = material.activations[:n].reshape(product.sequences, product.rows, product.width)
    error, fault = None, None
    try:
        result = probe.multiply(activations, product.threads)
        if result is not None:
            # JSON has no NaN, and a value that is not finite exceeds every limit
            error = min(worst_error(result, material.expected[:n]), _NOT_FINITE)
            error = error if error == error else _NOT_FINITE
    except Error as failure:
        fault = str(failure)
    return {
        "number": number,
        "type": product.type.name,
        "place": str(product.place),
        "what": str(product),
        "error": error,
        "limit": limit(product.type, product.place),
        "fault": fault,
    }


#: Replaces an error that is infinite or NaN.
_NOT_FINITE: Final = 1e30


def main(core: Core | None = None) -> None:
    """Read the order from stdin and carry it out.

    Args:
        core: a substitute for ``metadeploy._core`` in tests.
    """
    order = json.load(sys.stdin)
    # output of libraries must not mix with the lines
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    for message in steps(_compiled() if core is None else core, order):
        lines.write(json.dumps(message) + "\n")


def _compiled() -> Core:
    from metadeploy import _core

    return _core


if __name__ == "__main__":
    main()
