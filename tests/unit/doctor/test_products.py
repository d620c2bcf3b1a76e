"""The doctor's matrix products: their shapes, the detection of wrong kernels, and a child that dies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from metadeploy.doctor import child, products
from metadeploy.doctor.products import (
    OUTPUTS,
    ROWS,
    SEQUENCES,
    WIDTHS,
    Place,
    WeightType,
    limit,
    list_products,
    list_weights,
    worst_error,
)
from metadeploy.doctor.watch import Checked, run_child
from metadeploy.errors import Error
from support.doctor_core import FEW_WIDTHS, Call, FakeCore, Fault, Floats, command

THREADS = (1, 2)
CPU = Place(0, "CPU", "CPU", "CPU")
ORDER = {"first": 0, "without": [], "threads": list(THREADS)}


def silent(name: str, done: int, total: int) -> None:
    """Ignores the progress."""


def checked(fault: Fault = lambda _, product: product) -> Checked:
    """The result for a core with a fault, in this process, with a few widths."""
    outcome = Checked()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "WIDTHS", FEW_WIDTHS)
        for line in child.steps(FakeCore(fault), ORDER):
            if "error" in line:
                outcome.take(line)
    return outcome


def test_products_of_the_doctor() -> None:
    weights = list_weights(FakeCore())
    assert {weight.width for weight in weights} == set(WIDTHS) == {32, 64, 96, 256, 576, 896, 1024, 4096}
    for weight in weights:
        # the fake AMX accepts no other products, like Intel's
        both = weight.type.name == "Q8_0" and weight.outputs % 32 == 0
        assert [place.buffer_type for place in weight.places] == (["CPU", "AMX"] if both else ["CPU"])
    multiplied = [
        product for weight in weights for place in weight.places for product in list_products(weight, place, THREADS)
    ]
    for name in ("F32", "Q8_0"):
        ours = [product for product in multiplied if product.type.name == name]
        assert {product.rows for product in ours if product.sequences == 1} == set(ROWS) == {1, 8, 31, 32, 33, 64, 512}
        assert {(product.sequences, product.rows) for product in ours if product.sequences > 1} == set(SEQUENCES)
        assert {product.threads for product in ours} == set(THREADS)
        assert {product.outputs for product in ours} == {*OUTPUTS, 576}
        for width in WIDTHS:
            for rows in ROWS:
                assert any((product.width, product.rows) == (width, rows) for product in ours), (width, rows)
    assert len(set(multiplied)) == len(multiplied)


def test_rows_are_multiples_of_the_types_block() -> None:
    class Core(FakeCore):
        def weight_types(self) -> list[dict[str, Any]]:
            return [{"name": "Q4_K", "block": 256, "factor": "Q8_K"}]

    assert {weight.width for weight in list_weights(Core())} == {256, 1024, 4096}


def test_a_right_core() -> None:
    outcome = checked()
    assert [(tally.type, tally.place) for tally in outcome.tallies] == [
        ("F32", "CPU"),
        ("Q8_0", "CPU"),
        ("Q8_0", "AMX"),
    ]
    for tally in outcome.tallies:
        assert tally.right > 40
        assert (tally.wrong, tally.left) == ([], 0)
        assert tally.worst < 1e-10


def one_block_from_32_rows(call: Call, product: Floats) -> Floats:
    """Like AMX of ggml 0.25.3 with one block: it adds the product to the old content of the memory."""
    spoiled = call.width == 32 and call.rows >= 32
    return product + np.float32(np.nan) if spoiled else product


def one_block_with_remains(call: Call, product: Floats) -> Floats:
    """The same, with finite old content."""
    spoiled = call.width == 32 and call.rows >= 32
    return product + np.roll(product, 1, axis=1) if spoiled else product


def three_dimensions(call: Call, product: Floats) -> Floats:
    """Like AMX of ggml 0.25.3: it writes all sequences but the first to wrong addresses."""
    out = product.copy()
    out[1:] = np.nan
    return out


def last_rows(call: Call, product: Floats) -> Floats:
    """Rows after the last whole tile repeat the tile before."""
    out = product.copy()
    if call.rows == 33:
        out[:, 32] = out[:, 31]
    return out


def second_thread(call: Call, product: Floats) -> Floats:
    out = product.copy()
    if call.threads > 1:
        out[..., call.outputs // 2 :] = 0
    return out


def one_value(call: Call, product: Floats) -> Floats:
    out = product.copy()
    if call.width == 576:
        out[-1, -1, -1] += 3 * np.abs(out).mean()
    return out


def scale_of_a_width(call: Call, product: Floats) -> Floats:
    """All values are 4 % off."""
    return product * np.float32(1.04) if call.width == 96 else product


@pytest.mark.parametrize(
    ("fault", "spoils"),
    [
        (one_block_from_32_rows, lambda call: call.width == 32 and call.rows >= 32),
        (one_block_with_remains, lambda call: call.width == 32 and call.rows >= 32),
        (three_dimensions, lambda call: call.sequences > 1),
        (last_rows, lambda call: call.rows == 33),
        (second_thread, lambda call: call.threads > 1),
        (one_value, lambda call: call.width == 576),
        (scale_of_a_width, lambda call: call.width == 96),
    ],
)
def test_wrong_kernels_show(fault: Fault, spoils: Callable[[Call], bool]) -> None:
    """The doctor finds faults in exactly the products that they spoil."""
    n_spoiled = 0

    def counted(call: Call, product: Floats) -> Floats:
        nonlocal n_spoiled
        if call.buffer_type != "AMX":
            return product
        n_spoiled += spoils(call)
        return fault(call, product)

    outcome = checked(counted)
    assert [len(tally.wrong) for tally in outcome.tallies] == [0, 0, n_spoiled]
    assert n_spoiled > 0


def test_the_worst_row_counts() -> None:
    expected = np.ones((3, 4), np.float32)
    product = expected.copy().reshape(1, 3, 4)
    assert worst_error(product, expected) == 0.0
    product[0, 1] = 3.0
    assert worst_error(product, expected) == 4.0
    expected[0] = 0.0  # for a row this small, the error is relative to the mean of the rows
    product[0] = 1.0
    product[0, 1] = 1.0
    assert worst_error(product, expected) == pytest.approx(1.5)
    product[0, 1, 0] = np.nan
    assert np.isnan(worst_error(product, expected))


def test_a_probe_that_leaves_and_one_that_refuses() -> None:
    """A device may leave a product to another device. If the core refuses it, that is a fault."""

    def fault(call: Call, product: Floats) -> Floats:
        if call.rows == 8 and call.sequences == 1:
            return None  # type: ignore[return-value]
        if call.rows == 31:
            raise Error("writes outside its result")
        return product

    for tally in checked(fault).tallies:
        assert tally.left > 0
        assert {reason for _, reason in tally.wrong} == {"writes outside its result"}
        assert all(" 31 rows, " in what for what, _ in tally.wrong)


def test_limits() -> None:
    """Limits are tight if nothing is rounded, and at most a thousandth of the error of a wrong kernel."""
    places = {"CPU": CPU, "ACCEL": Place(1, "BLAS", "ACCEL", "CPU"), "GPU": Place(2, "CUDA0", "GPU", "CUDA0")}
    for kind, place in places.items():
        assert limit(WeightType("F32", 1, "F32"), place) <= 1e-4
        assert limit(WeightType("Q4_1", 32, "Q8_1"), place) <= (2e-3 if kind == "GPU" else 1e-3)
    assert limit(WeightType("F32", 1, "F32"), CPU) == 1e-9
    assert limit(WeightType("MXFP4", 32, "Q8_0"), places["GPU"]) == 5e-2


@pytest.mark.parametrize(("block", "expected"), [(32, 3e-5), (256, 4e-5)])
def test_rounding_to_8_bits_stays_far_below_the_limit(block: int, expected: float) -> None:
    """The errors of Q8_0 and Q8_K match the comment at the limits."""
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((1024, 64), np.float32)
    activations = rng.standard_normal((512, 1024), np.float32)
    blocks = activations.reshape(-1, block)
    step = np.abs(blocks).max(axis=1, keepdims=True) / 127
    rounded = (np.round(blocks / step) * step).reshape(activations.shape)
    exact = activations @ weights
    error = ((rounded @ weights - exact) ** 2).mean() / (exact**2).mean()
    assert error == pytest.approx(expected, rel=0.3)
    assert worst_error((rounded @ weights)[None], exact) < limit(WeightType("Q4_K", 256, "Q8_K"), CPU) / 4


# --- children ---


@pytest.mark.parametrize(
    ("what", "how", "message"),
    [
        ("SIGSEGV", "killed by SIGSEGV", ""),
        ("assertion", "killed by SIGABRT", "GGML_ASSERT(x) failed"),
        ("exit", "ended with exit code 7", ""),
        ("garbage", "killed by SIGSEGV", ""),
    ],
)
def test_a_child_that_dies_is_a_finding(what: str, how: str, message: str) -> None:
    """The next child continues after the weights that killed it."""
    progress: list[tuple[int, int]] = []
    outcome = run_child(THREADS, tick=lambda _, done, total: progress.append((done, total)), command=command(what))
    (death,) = outcome.deaths
    assert (death.how, death.said, death.type, death.place) == (how, message, "Q8_0", "AMX")
    assert death.step == "Q8_0, width 576, 64 outputs, 32 rows, 1 thread, buffer AMX"
    right = {(tally.type, tally.place): tally for tally in checked().tallies}
    for tally in outcome.tallies:
        whole = right[tally.type, tally.place].right
        assert tally.wrong == []
        assert 0 < tally.right < whole if tally.place == "AMX" else tally.right == whole
    assert progress[-1][0] == progress[-1][1] > 0
    assert [done for done, _ in progress] == sorted(done for done, _ in progress)


def test_a_child_that_runs_to_its_end() -> None:
    outcome = run_child(THREADS, tick=silent, command=command("right"))
    assert outcome.deaths == []
    assert outcome.build is not None
    assert [device["name"] for device in outcome.devices] == ["CPU"]
    assert all(tally.right > 0 and not tally.wrong for tally in outcome.tallies)


@pytest.mark.parametrize(
    ("what", "how", "message"),
    [
        ("import", "killed by SIGILL", ""),
        ("missing", "ended with exit code 1", "ImportError: cannot import name '_core' from 'metadeploy'"),
        ("devices", "killed by SIGBUS", ""),
    ],
)
def test_a_core_that_does_not_load(what: str, how: str, message: str) -> None:
    outcome = run_child(THREADS, tick=silent, command=command(what))
    (death,) = outcome.deaths
    assert (death.how, death.said, death.step, death.type) == (how, message, "", None)
    assert (outcome.build, outcome.tallies) == (None, [])


def test_a_child_that_hangs_is_killed() -> None:
    outcome = run_child(THREADS, tick=silent, command=command("hang"), timeout=3.0)
    assert outcome.deaths[-1].how == "gave no sign of life for 3 seconds"
