"""`metadeploy doctor` on the command line, and the build information of the compiled core and the program."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import unpack

from metadeploy import Error, _core
from metadeploy._version import own_version
from metadeploy.doctor.products import ROWS, SEQUENCES, WIDTHS, WeightType, draw

ROOT = Path(__file__).resolve().parents[2]
TYPES = {fields["name"]: fields for fields in _core.weight_types()}


def run(*arguments: str, cache: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "METADEPLOY_CACHE": str(cache), "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", "metadeploy", "doctor", *arguments],
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=600,
    )


def test_this_machine_is_right(base_gguf: Path, tmp_path: Path) -> None:
    """The cache holds the demo's base and no sidecar."""
    (tmp_path / base_gguf.name).symlink_to(base_gguf)
    result = run("--json", cache=tmp_path)
    document = json.loads(result.stdout)
    assert document["findings"] == []
    assert result.returncode == 0
    assert document["ok"] is True
    assert [(file["name"], file["state"]) for file in document["demo"]] == [("base", "whole"), ("sidecar", "absent")]
    assert document["version"] == document["build"]["version"] == own_version()
    assert document["programs"][0]["build"] == document["build"]["id"]
    groups = {(group["type"], group["place"]): group for group in document["products"]["groups"]}
    plain = {type_ for type_, place in groups if place == "CPU"}
    assert plain == set(TYPES), "plain memory supports every type"
    places = {place["buffer_type"] for place in _core.weight_places()}
    assert {place for _, place in groups} == places
    for (type_, _), group in groups.items():
        widths = [width for width in WIDTHS if width % TYPES[type_]["block"] == 0]
        assert group["right"] >= len(widths) * (len(ROWS) - 1 + len(SEQUENCES)), (type_, group)
        assert (group["wrong"], group["left"]) == ([], 0)
        # too tight a limit would fail on another processor, too loose a limit would find no fault
        assert 0 < group["worst"] < group["limit"] / 3, (type_, group)
        assert group["limit"] <= 1e-3


def test_text_output(tmp_path: Path) -> None:
    """The cache is empty."""
    result = run(cache=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    for text in ("processor", "features", "everything is right", "`metadeploy demo -n 1` makes it"):
        assert text in result.stdout
    assert list(tmp_path.iterdir()) == [], "nothing is written"


# --- the build ---


def test_the_core_knows_its_build() -> None:
    info = _core.build_info()
    assert re.fullmatch("[0-9a-f]{12}", info["id"])
    assert info["version"] == own_version()
    assert info["llama_cpp"] == unpack.Pin().stem
    assert info["ggml"] == re.findall(r"\(ggml ([\d.]+)\)", (ROOT / "vendor" / "README.md").read_text())[0]
    patches = sorted(path.stem for path in (ROOT / "vendor" / "patches").glob("*.patch"))
    assert [name.partition("@")[0] for name in info["patches"]] == patches
    assert info["build_type"]
    assert re.match(r"\w+ \d+\.", info["compiler"])
    assert {"GGML_NATIVE", "GGML_OPENMP", "GGML_CPU_REPACK", "GGML_CUDA", "GGML_BACKEND_DL"} <= set(info["options"])
    assert info["options"]["GGML_BACKEND_DL"] is False
    assert all(f"{name} = {value}" in _core.system_info() for name, value in info["features"]["CPU"].items())
    assert not any(str(ROOT) in str(value) for value in info.values())


def test_the_program_prints_its_build(llama_meta_generate: Path) -> None:
    result = subprocess.run([llama_meta_generate, "--version"], capture_output=True, encoding="utf-8", timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
    build = _core.build_info()
    first, *lines = result.stdout.splitlines()
    assert first == f"metadeploy {build['version']} (build {build['id']})"
    assert all(patch in lines[0] for patch in build["patches"])
    assert build["compiler"] in lines[1]
    assert "GGML_NATIVE" in lines[2] or not build["options"]["GGML_NATIVE"]
    assert all(name in result.stdout for name in build["features"]["CPU"])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux")
def test_a_version_that_cannot_be_printed_is_an_error(llama_meta_generate: Path) -> None:
    with open("/dev/full", "wb") as full:
        result = subprocess.run([llama_meta_generate, "--version"], stdout=full, stderr=subprocess.PIPE, timeout=60)
    assert result.returncode == 1
    assert b"stdout cannot be written" in result.stderr


# --- the compiled products ---


@pytest.mark.parametrize("name", TYPES)
def test_types_match_gguf(name: str) -> None:
    """The core and the package gguf (NumPy) dequantize the doctor's weights to the same values."""
    drawn = draw(_core, WeightType(**TYPES[name]))
    width = drawn.weights.shape[1]
    ours = _core.dequantize_rows(name, drawn.data.tobytes(), width)
    assert ours.shape == drawn.weights.shape
    assert np.isfinite(ours).all()
    assert 0.01 < np.abs(ours).mean() < 10
    kind = gguf.GGMLQuantizationType.__members__.get(name)
    if kind is None or name == "Q1_0":  # newer than the package: the doctor uses the core's table
        assert name in ("Q1_0", "Q2_0")
        return
    assert TYPES[name]["block"] == gguf.GGML_QUANT_SIZES[kind][0]
    np.testing.assert_allclose(ours, drawn.weights, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["Q8_0", "Q4_1", "Q4_K", "Q6_K", "MXFP4"])
def test_quantizing(name: str) -> None:
    """The values are close to the original ones: the error is 1/10,000 with 8 bits and some hundredths with 4 bits."""
    values = np.random.default_rng(0).standard_normal((3, 512), np.float32)
    rounded = _core.dequantize_rows(name, _core.quantize_rows(name, values), 512)
    assert ((rounded - values) ** 2).mean() < (1e-4 if name == "Q8_0" else 3e-2)


def test_devices_and_places() -> None:
    devices = {device["name"]: device for device in _core.devices()}
    assert devices["CPU"]["type"] == "CPU"
    assert devices["CPU"]["memory_total"] > 0
    for place in _core.weight_places():
        assert place["buffer_type"] in devices[place["device"]]["buffer_types"]


def test_a_product() -> None:
    """Exact numbers in F32: every sum is a whole number."""
    weight = np.arange(3 * 64, dtype=np.float32).reshape(3, 64) % 7
    activations = (np.arange(2 * 5 * 64, dtype=np.float32) % 5).reshape(2, 5, 64)
    probe = _core.MatmulProbe(cpu())
    assert probe.takes("F32", 64, 3)
    probe.load("F32", 64, _core.quantize_rows("F32", weight))
    for n_threads in (1, 3):
        np.testing.assert_array_equal(probe.multiply(activations, n_threads), activations @ weight.T)


def cpu() -> int:
    names = [(place["device"], place["buffer_type"]) for place in _core.weight_places()]
    return names.index(("CPU", "CPU"))


def test_calls_that_would_abort_the_process_raise() -> None:
    probe = _core.MatmulProbe(cpu())
    row = np.zeros((1, 64), np.float32)
    calls = {
        "place is 99": lambda: _core.MatmulProbe(99),
        "no weight has been loaded": lambda: probe.multiply(row[None], 1),
        "weight type is 'Q8_1'": lambda: probe.takes("Q8_1", 64, 1),
        "weight type is 'I32'": lambda: _core.quantize_rows("I32", row),
        "n_in is 33, expected a multiple of 32 for Q4_1": lambda: probe.takes("Q4_1", 33, 1),
        "n_in is 0": lambda: probe.takes("F32", 0, 1),
        "n_out is 0": lambda: probe.takes("F32", 32, 0),
        "expected whole rows of 256": lambda: probe.load("F32", 64, b"abc"),
        "bytes, expected whole rows": lambda: probe.load("F32", 64, b""),
        "n_in a multiple of 256": lambda: _core.quantize_rows("Q4_K", row),
        "have the shape [n_out, n_in]": lambda: _core.quantize_rows("F32", row[0]),
        "not whole rows of type Q8_0": lambda: _core.dequantize_rows("Q8_0", b"abc", 32),
    }
    for text, call in calls.items():
        with pytest.raises(Error, match=re.escape(text)):
            call()
    probe.load("F32", 64, _core.quantize_rows("F32", row))
    for activations, n_threads, text in (
        (np.zeros((1, 1, 32)), 1, "[n_seqs, n_rows, 64]"),
        (np.zeros((1, 64)), 1, "[n_seqs, n_rows, 64]"),
        (np.zeros((0, 1, 64)), 1, "[n_seqs, n_rows, 64]"),
        (np.zeros((1, 1, 64)), 0, "n_threads is 0"),
        (np.zeros((1, 1, 64)), 10**6, "n_threads is 1000000"),
    ):
        with pytest.raises(Error, match=re.escape(text)):
            probe.multiply(activations, n_threads)
