"""The parts of the quantization ladder: figures by hand, files that are made once, and tables."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from metadeploy import _core
from metadeploy.cli import ladder as command
from metadeploy.errors import Error, ModelLoadError
from metadeploy.evaluation.ladder import LadderSettings, parse_sidecar_types, parse_types
from metadeploy.evaluation.ladder.compare import against_reference, outcome
from metadeploy.evaluation.ladder.files import WorkFolder, describe_file, matrix_types, quantized_note
from metadeploy.evaluation.ladder.report import markdown
from metadeploy.evaluation.ladder.runtime import _rates
from metadeploy.evaluation.ladder.samples import Cosine, LadderSample, Rates, RungSamples
from metadeploy.evaluation.ladder.settings import ALL_TYPES, SIDECAR_TYPES, TYPES, Rung
from metadeploy.proportion import wilson_interval
from support.gguf_tools import dequantize_gguf, write_tiny_gguf


def sample(index: int, doubt: float, *, base: bool = True, right: bool = True, **more: Any) -> LadderSample:
    declined = doubt >= 0.5
    return LadderSample(
        index=index,
        question=f"{index}?",
        category="numbers",
        base_answer="Eins.",
        base_correct=base,
        doubt=doubt,
        answer=None if declined else "Zwei.",
        answer_correct=right and not declined,
        **more,
    )


#: Answers the first two questions, one of them correctly. Declines two, of which the base gets one right.
REFERENCE = (sample(0, 0.1), sample(3, 0.2, right=False), sample(4, 0.5), sample(7, 0.9, base=False))


def rung(*doubts: float) -> tuple[LadderSample, ...]:
    measured = {
        "activations": Cosine(0.9, 0.8),
        "cognitive_tokens": Cosine(0.7, -0.1),
        "base_rates": Rates(100.0, 10.0),
        "rates": Rates(50.0, None),
    }
    return tuple(
        replace(sample, doubt=doubt, answer=None if doubt >= 0.5 else "Zwei.", answer_correct=doubt < 0.5, **measured)
        for sample, doubt in zip(REFERENCE, doubts, strict=True)
    )


# --- settings ---


def test_rungs_go_base_by_base() -> None:
    settings = LadderSettings(base=Path("b.gguf"), types=("F32", "Q8_0", "Q4_K_M"), sidecar_types=("q8_0", "f32"))
    names = [rung.name for rung in settings.rungs]
    assert names == ["F32", "F32 + q8_0", "Q8_0", "Q4_K_M", "Q4_K_M + q8_0"]
    alone = LadderSettings(base=Path("b.gguf"), types=("Q8_0", "Q2_K"), sidecar_types=("f16",))
    assert alone.rungs == (Rung("Q8_0", "f32"), Rung("Q8_0", "f16"), Rung("Q2_K", "f32"))
    assert LadderSettings(base=Path("b.gguf"), types=("F16",), sidecar_types=()).rungs == (Rung("F16", "f32"),)


def test_spellings_of_types() -> None:
    assert parse_types(" q8_0, Q4_K_M,Q8_0,") == ("Q8_0", "Q4_K_M")
    assert parse_sidecar_types("F16,q8_0") == ("f16", "q8_0")
    assert parse_types("none") == parse_sidecar_types("None") == ()


def test_the_command_offers_all_types_of_the_settings() -> None:
    defaults = {name: flag.default for name, flag in inspect.signature(command._ladder).parameters.items()}
    assert parse_types(defaults["types"]) == TYPES
    assert parse_sidecar_types(defaults["sidecar_types"]) == SIDECAR_TYPES


def test_the_types_match_the_core(tmp_path: Path) -> None:
    with pytest.raises(Error) as refused:
        _core.quantize("absent", str(tmp_path / "out"), "Q9")
    listed = str(refused.value).removeprefix("file type is 'Q9', expected one of ")
    assert sorted(ALL_TYPES) == sorted(listed.split(", "))


def test_all_faults_of_the_settings_are_named() -> None:
    with pytest.raises(Error) as refused:
        LadderSettings(base=Path("b.gguf"), types=("F33",), sidecar_types=("q4_0",), limit=0, threads=0)  # type: ignore[arg-type]
    for part in (
        "ladder: 4 faults",
        "--types has 'F33', expected some of F32, F16, BF16,",
        "--sidecar-types has 'q4_0', expected some of f32, f16, bf16, q8_0",
        "--limit is 0, expected at least 1",
        "--threads is 0, expected at least 1",
    ):
        assert part in str(refused.value)
    with pytest.raises(Error, match="--types is empty, expected at least one"):
        LadderSettings(base=Path("b.gguf"), types=())


# --- figures ---


def test_cosine() -> None:
    ours = np.array([[1, 0], [3, 4], [0, 0]], dtype=np.float32)
    theirs = np.array([[5, 0], [4, 3], [1, 1]], dtype=np.float32)
    cosine = Cosine.of(ours, theirs)
    assert cosine.mean == pytest.approx((1 + 0.96 + 0) / 3)
    assert cosine.least == 0
    assert Cosine.of(ours[:1], -theirs[:1]) == Cosine(-1.0, -1.0)


def test_rates() -> None:
    assert _rates(20, 1.0, [3.0, 3.5, 4.0]) == Rates(10.0, 2.0)
    assert _rates(20, 1.0, [3.0]) == Rates(10.0, None)  # one token gives no decoding speed


def test_against_the_reference() -> None:
    """Question 0 is as in PyTorch, 3 and 7 differ in opposite ways, and both decline 4."""
    samples = rung(0.1, 0.6, 0.7, 0.4)
    samples = (*samples[:3], replace(samples[3], rates=Rates(90.0, 8.0), activations=Cosine(0.5, 0.1)))
    agreement = against_reference(samples, REFERENCE)
    low, high = wilson_interval(2, 4) or (None, None)
    assert agreement["decisions"] == {
        "agree": {"value": 0.5, "low": low, "high": high, "n": 4},
        "declines_instead": 1,
        "answers_instead": 1,
    }
    assert agreement["activations"] == {"mean": pytest.approx(0.8), "least": 0.1}
    assert agreement["cognitive_tokens"] == {"mean": pytest.approx(0.7), "least": -0.1}
    assert agreement["doubt_difference"] == {"mean": pytest.approx((0 + 0.4 + 0.2 + 0.5) / 4), "greatest": 0.5}
    assert agreement["speed"]["base"]["decode"] == {"median": 10, "low": 10, "high": 10, "n": 4}
    assert agreement["speed"]["doubter"]["prompt"] == {"median": 50, "low": 50, "high": 60, "n": 4}
    assert agreement["speed"]["doubter"]["decode"] == {"median": 8, "low": 8, "high": 8, "n": 1}


def test_outcome() -> None:
    result = outcome(REFERENCE)
    values = {name: row["value"] for name, row in result["metrics"].items()}
    assert values["base_accuracy"] == 0.75
    assert values["coverage"] == 0.5
    assert values["selective_accuracy"] == 0.5
    assert values["refusal_precision"] == 0.5
    assert values["over_refusal_rate"] == pytest.approx(1 / 3)
    assert values["same_words_rate"] == 0
    assert outcome([replace(REFERENCE[0], answer="Eins. "), *REFERENCE])["metrics"]["same_words_rate"]["value"] == 1 / 3
    assert result["auroc"] == 1
    assert outcome([sample(0, 0.9), sample(1, 0.8)])["metrics"]["selective_accuracy"] == {
        "value": None, "low": None, "high": None, "n": 0
    }  # fmt: skip


def test_a_doubt_of_one_half_declines() -> None:
    assert [sample.declined for sample in REFERENCE] == [False, False, True, True]


def test_other_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="other questions than the reference"):
        against_reference(rung(0.1, 0.1, 0.1, 0.1), REFERENCE[::-1])


# --- files ---


def test_a_rung_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "rung.json"
    whole = RungSamples(fingerprint="one", files={"base": {"size": 3}}, samples=rung(0.1, 0.6, 0.7, 0.4))
    whole.write(path)
    assert RungSamples.read(path, "one") == whole
    assert RungSamples.read(path, "another") is None
    assert len(json.loads(path.read_text(encoding="utf-8"))["samples"]) == 4
    path.write_text(path.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    assert RungSamples.read(path, "one") is None
    assert RungSamples.read(tmp_path / "absent.json", "one") is None
    path.write_text('{"fingerprint": "one", "files": {}, "samples": [{"index": 1}]}', encoding="utf-8")
    assert RungSamples.read(path, "one") is None


@pytest.fixture
def bases(tmp_path: Path) -> tuple[Path, Path]:
    """One tiny model in F32 and in Q8_0."""
    write_tiny_gguf(tmp_path / "q8.gguf")
    dequantize_gguf(tmp_path / "q8.gguf", tmp_path / "f32.gguf")
    return tmp_path / "f32.gguf", tmp_path / "q8.gguf"


def test_types_and_weights_of_a_base(bases: tuple[Path, Path]) -> None:
    exact, quantized = bases
    assert matrix_types(exact) == {"F32": 23}
    assert quantized_note(exact, matrix_types(exact)) is None
    note = quantized_note(quantized, matrix_types(quantized))
    assert note is not None
    assert note.startswith("base 'q8.gguf': has weights of type Q8_0, expected F32, F16 or BF16: ")


def test_the_types_that_were_really_used(tmp_path: Path) -> None:
    """In a Q4_K_M file, rows of 32 have no K type, and rows of 256 have one."""
    writer = gguf.GGUFWriter(tmp_path / "mixed.gguf", arch="llama")
    kinds = gguf.GGMLQuantizationType
    for name, kind, shape in (
        ("a", kinds.Q4_K, (6, 256)),
        ("b", kinds.Q4_K, (2, 256)),
        ("c", kinds.Q5_0, (8, 32)),
        ("d", kinds.F32, (256,)),
        ("e", kinds.Q6_K, (4, 512)),
        ("f", kinds.Q5_0, (8, 32)),
    ):
        row = gguf.quant_shape_to_byte_shape(shape, kind) if kind != kinds.F32 else shape
        dtype = np.float32 if kind == kinds.F32 else np.uint8
        writer.add_tensor(name, np.zeros(row, dtype=dtype), raw_dtype=kind)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_K_M)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    description = describe_file(tmp_path / "mixed.gguf")
    assert description["matrices"] == {"Q4_K": 2, "Q5_0": 2, "Q6_K": 1}
    n_weights = 8 * 256 + 2 * 8 * 32 + 4 * 512
    assert description["weights"] == pytest.approx(
        {"Q4_K": 8 * 256 / n_weights, "Q5_0": 512 / n_weights, "Q6_K": 2048 / n_weights}
    )
    assert description["no_k_type"] == 2


Folder = Callable[..., WorkFolder]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    def make(base: Path, *, keep: bool = False) -> WorkFolder:
        return WorkFolder(
            tmp_path / "work", keep=keep, base=base, base_sha256="0123456789", checkpoint=tmp_path, threads=1
        )

    return make


def test_a_base_is_quantized_once(bases: tuple[Path, Path], folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    quantized: list[str] = []
    quantize = _core.quantize

    def counted(src: str, dst: str, file_type: str, n_threads: int = 0) -> None:
        quantized.append(file_type)
        quantize(src, dst, file_type, n_threads)

    monkeypatch.setattr(_core, "quantize", counted)
    work = folder(bases[0])
    assert work.base("F32") == bases[0]  # it has that type
    path = work.base("Q8_0")
    assert path.name == "f32-01234567-Q8_0.gguf"
    assert matrix_types(path) == {"Q8_0": 23}
    assert folder(bases[0]).base("Q8_0") == path
    assert quantized == ["Q8_0"]
    work.release("F32")
    work.release("Q8_0")
    assert bases[0].exists()
    assert not path.exists()
    work.close()
    assert not work.path.exists()


def test_a_users_folder_stays(bases: tuple[Path, Path], folder: Folder) -> None:
    work = folder(bases[0], keep=True)
    path = work.base("F16")
    work.release("F16")
    work.close()
    assert path.exists()


def test_quantized_weights_are_dequantized_exactly(bases: tuple[Path, Path], folder: Folder) -> None:
    from metadeploy.sidecar.gguf_file import read_gguf

    exact, ours = (read_gguf(path, role="base model") for path in (bases[0], folder(bases[1]).base("F32")))
    assert exact.tensors.keys() == ours.tensors.keys()
    for name in exact.tensors:
        assert np.array_equal(exact.f32(name), ours.f32(name)), name


def test_a_base_that_llama_cpp_cannot_quantize_is_an_error(bases: tuple[Path, Path], folder: Folder) -> None:
    work = folder(bases[0])
    bases[0].write_bytes(b"GGUF" + bytes(20))
    with pytest.raises(ModelLoadError, match=r"base model '.*f32.gguf': model '.*' cannot be quantized to Q8_0"):
        work.base("Q8_0")
    assert not list(work.path.iterdir())


# --- tables ---


def test_markdown() -> None:
    samples = rung(0.1, 0.6, 0.7, 0.9)
    row = {
        "name": "Q8_0 + f16",
        "base": "Q8_0",
        "files": {
            "base": {
                "size": 144_800_000,
                "matrices": {"Q5_0": 200, "Q6_K": 11},
                "weights": {"Q5_0": 0.75, "Q6_K": 0.25},
                "no_k_type": 200,
            },
            "sidecar": {"size": 4_560_000},
        },
        **against_reference(samples, REFERENCE),
        **outcome(samples),
    }
    config = {
        "split": "test",
        "seed": 3,
        "threshold": 0.5,
        "base": {"name": "b.gguf"},
        "cache_type": "f32",
        "threads": None,
    }
    text = markdown(
        {
            "n": 4,
            "config": config,
            "environment": {"cpu_count": 2},
            "reference": {"name": "PyTorch F32", **outcome(REFERENCE)},
            "rungs": [row, {**row, "name": "Q8_0"}],
            "notes": ["mind the gap"],
        }
    )
    for line in (
        "| Q8_0 + f16 | 0.90000 (0.8000) | 0.70000 (-0.1000) | 75.0 % [30.1–95.4] | 1 | 0 | 0.1500 |",
        "| PyTorch F32 | 75.0 % | 50.0 % | 50.0 % [9.5–90.5] | 50.0 % | 33.3 % |",
        "| Q8_0 + f16 | 75.0 % | 25.0 % | 100.0 % [20.7–100.0] | 33.3 % | 66.7 % |",
        "| Q8_0 + f16 | 144.8 MB | 4.6 MB | 100 (100–100) | 50 (50–50) | 10 (10–10) | – |",
        "| Q8_0 | 200 Q5_0 (75.0 %), 11 Q6_K (25.0 %) | 200 of 211 |",
        "- Note: mind the gap.",
    ):
        assert line in text.split("\n")
    assert "n = 4 questions of test (seed 3), threshold 0.5; base `b.gguf`" in text
    assert text.count("200 Q5_0") == 1, "once for each base, not for each sidecar"
