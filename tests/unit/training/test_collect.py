"""Collecting: the files, resuming after an interruption, and refused runs."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from metadeploy.batched.greedy import GreedyAnswer
from metadeploy.checkpoint.run_dir import SPLITS, RunDir
from metadeploy.data.answers import IsComplete, extract_answer
from metadeploy.data.checker import is_correct
from metadeploy.data.question import Question, write_jsonl
from metadeploy.errors import Error, RunDirError
from metadeploy.reference import Doubter, MetaSpiderConfig, MetaSpiderPipeline
from metadeploy.training import collect as module
from metadeploy.training.collect import collect, contrast_warnings, variable_warnings
from metadeploy.training.records import Collected, Record
from metadeploy.training.settings import CollectSettings
from metadeploy.training.summary import by_category, by_split
from support.random_wrapper import random_wrapper
from support.tiny_models import BYTE_VOCAB_SIZE, byte_tokenizer, draw_weights
from support.tiny_questions import MAX_NEW_TOKENS, collect_settings, write_base_and_questions
from support.tiny_run import write_speaking_gguf
from tolerances import F32_LOGITS_MAX_ABS


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> CollectSettings:
    base, questions = write_base_and_questions(tmp_path_factory.mktemp("tiny"))
    return dataclasses.replace(collect_settings(base, questions), batch_size=4)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 8)


@pytest.fixture(scope="module")
def collected(settings: CollectSettings, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    run = RunDir(tmp_path_factory.mktemp("whole"), create=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", 8)
        collect(run, settings)
    return run


def files(run: RunDir) -> dict[str, bytes]:
    paths = (path for path in run.path.rglob("*") if path.is_file())
    return {path.relative_to(run.path).as_posix(): path.read_bytes() for path in paths}


def stop_at(count: int, error: type[BaseException]) -> Callable[[int, int], None]:
    def progress(done: int, _total: int) -> None:
        if done >= count:
            raise error

    return progress


def test_collected_records_match_the_reference(collected: RunDir, settings: CollectSettings) -> None:
    pipe = MetaSpiderPipeline.from_pretrained(MetaSpiderConfig(model_name=settings.base, device="cpu", dtype="float32"))
    pipe.attach(
        Doubter.from_tensors(
            *random_wrapper("selective", hidden_dim=32, target_layers=(0, 1, 2), cross_attn_layers=(1,), num_layers=3)
        )
    )
    total = 0
    for split in SPLITS:
        stored = Collected.read(collected.collect, split)
        assert stored.layers == (0, 1, 2)
        total += len(stored.records)
        for record, activations in zip(stored.records, stored.activations, strict=True):
            prompt = pipe.tokenize(pipe.apply_chat_template(record.question.question))
            torch.testing.assert_close(activations, pipe.activations(prompt), rtol=0, atol=F32_LOGITS_MAX_ABS)
            answer_ids = pipe.generate_ids(prompt, MAX_NEW_TOKENS, inject=False)
            assert list(record.answer_ids) == answer_ids[: len(record.answer_ids)]
            text = pipe.tokenizer.decode(answer_ids, skip_special_tokens=True)
            assert text.strip().startswith(record.answer)
            assert len(record.logprobs) == len(record.answer_ids)
            assert all(value <= 0 for value in record.logprobs)
    assert total == 60
    right = [record.correct for split in SPLITS for record in Collected.read(collected.collect, split).records]
    assert 10 < sum(right) < 50


def test_the_manifest(collected: RunDir, settings: CollectSettings) -> None:
    manifest = json.loads((collected.path / "run.json").read_text(encoding="utf-8"))
    expected = {"model_name": settings.base, "hidden_dim": 32, "num_layers": 3, "dtype": "float32"}
    assert expected.items() <= manifest.items()
    assert sum(manifest[f"{split}_size"] for split in SPLITS) == 60
    assert manifest["collect"]["layers"] == [0, 1, 2]
    assert "answer_suffix" not in manifest


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("count", [0, 5, 20, 44])
def test_an_interrupted_run_resumes(
    collected: RunDir, settings: CollectSettings, tmp_path: Path, count: int, error: type[BaseException]
) -> None:
    run = RunDir(tmp_path / "run", create=True)
    with pytest.raises(error):
        collect(run, settings, progress=stop_at(count, error))
    progress: list[int] = []
    collect(RunDir(run.path), settings, progress=lambda done, total: progress.append(done))
    sizes = [collected.manifest[f"{split}_size"] for split in SPLITS]
    # complete chunks are not computed again
    assert progress[0] >= max(0, count - 7 - 3 * 8)
    assert progress[0] in {sum(sizes[:i]) + at for i, size in enumerate(sizes) for at in (*range(0, size, 8), size)}
    assert progress[-1] == 60
    assert files(run) == files(collected)


def test_a_finished_run_is_not_repeated(
    collected: RunDir, settings: CollectSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(collected)
    monkeypatch.setattr(module, "load_base", None)  # the base is not even loaded
    progress: list[tuple[int, int]] = []
    collect(RunDir(collected.path), settings, progress=lambda *step: progress.append(step))
    assert progress == [(60, 60)]
    assert files(collected) == before


def test_batch_size_and_device_may_change(collected: RunDir, settings: CollectSettings) -> None:
    again = dataclasses.replace(settings, batch_size=7, device="auto", layers="0-2")
    collect(RunDir(collected.path), again)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "bfloat16"}, 'with dtype "float32", asked for "bfloat16"'),
        ({"max_new_tokens": 5}, "with max_new_tokens 12, asked for 5"),
        ({"answer_suffix": "!"}, 'with answer_suffix null, asked for "!"'),
        ({"chat_template_kwargs": {"a": 1}}, "with chat_template_kwargs {}, asked for"),
        ({"layers": "1-2"}, r"with layers \[0, 1, 2\], asked for \[1, 2\]"),
        ({"layers": "7"}, "--layers has \\[7\\]"),
        ({"seed": 1, "whole_answer": True}, "2 faults"),
    ],
)
def test_mismatches_are_refused(
    collected: RunDir, settings: CollectSettings, change: dict[str, Any], message: str
) -> None:
    before = files(collected)
    with pytest.raises(RunDirError, match=message):
        collect(RunDir(collected.path), dataclasses.replace(settings, **change))
    assert files(collected) == before


def test_other_questions_in_the_same_file_are_refused(settings: CollectSettings, tmp_path: Path) -> None:
    copy = tmp_path / "questions.jsonl"
    text = Path(settings.questions).read_text(encoding="utf-8")
    copy.write_text(text, encoding="utf-8")
    run = RunDir(tmp_path / "run", create=True)
    mine = dataclasses.replace(settings, questions=str(copy))
    collect(run, mine)
    copy.write_text(text.replace("wind", "gale"), encoding="utf-8")
    with pytest.raises(RunDirError, match="was collected with other questions"):
        collect(RunDir(run.path), mine)


@pytest.mark.parametrize("finished", [True, False])
def test_another_base_in_the_same_place_is_refused(finished: bool, settings: CollectSettings, tmp_path: Path) -> None:
    """A file or a folder was replaced since the first run."""
    for name in ("base.gguf", "folder"):
        base = tmp_path / name
        if name == "folder":
            base.mkdir()
            (base / "base.gguf").write_bytes(Path(settings.base).read_bytes())
            base_file = base / "base.gguf"
        else:
            base.write_bytes(Path(settings.base).read_bytes())
            base_file = base
        changed = dataclasses.replace(settings, base=str(base if name == "base.gguf" else base_file), limit=8)
        run = RunDir(tmp_path / f"run of {name}", create=True)
        if finished:
            collect(run, changed)
        else:
            with pytest.raises(KeyboardInterrupt):
                collect(run, changed, progress=stop_at(9, KeyboardInterrupt))
        before = files(run)
        write_speaking_gguf(base_file, seed=4)
        with pytest.raises(RunDirError, match=r"was collected with another base than '.*' is now\n\(hint: take"):
            collect(run, changed)
        assert files(run) == before


def test_runs_without_a_recorded_base_resume(collected: RunDir, settings: CollectSettings, tmp_path: Path) -> None:
    run = RunDir(shutil.copytree(collected.path, tmp_path / "run"))
    recorded = {key: value for key, value in run.manifest["collect"].items() if key != "base_sha256"}
    run.update({"collect": recorded})
    assert collect(run, settings) == collect(collected, settings)
    run.refuse_other_base()


@pytest.mark.parametrize("name", ["train.jsonl", "."])
def test_questions_must_not_be_in_the_folder_of_answers(name: str, settings: CollectSettings, tmp_path: Path) -> None:
    """--restart would delete them."""
    run = RunDir(tmp_path / "run", create=True)
    run.collect.mkdir()
    for split in SPLITS:
        (run.collect / f"{split}.jsonl").write_bytes(Path(settings.questions).read_bytes())
    before = files(run)
    changed = dataclasses.replace(settings, questions=str(run.collect / name))
    for restart in (False, True):
        with pytest.raises(RunDirError, match=r"are in '.*collect', the folder for collected data"):
            collect(run, changed, restart=restart)
    assert files(run) == before


def test_parts_that_a_killed_run_left_are_deleted(collected: RunDir, settings: CollectSettings, tmp_path: Path) -> None:
    run = RunDir(shutil.copytree(collected.path, tmp_path / "run"))
    before = files(run)
    (run.collect / "parts").mkdir()
    (run.collect / "parts" / "train-0000.jsonl").touch()
    collect(run, settings)
    assert files(run) == before
    assert not (run.collect / "parts").exists()


def test_restart_deletes_what_collect_wrote(settings: CollectSettings, tmp_path: Path) -> None:
    run = RunDir(tmp_path, create=True)
    run.update({"mine": 1})
    run.collect.mkdir()
    (run.collect / "notes.txt").write_text("mine")
    with pytest.raises(KeyboardInterrupt):
        collect(run, settings, progress=stop_at(30, KeyboardInterrupt))
    assert any((run.collect / "parts").iterdir())
    before = files(run)
    for change in ({"questions": str(tmp_path / "none.jsonl")}, {"base": str(tmp_path / "none")}, {"layers": "9"}):
        with pytest.raises(Error):
            collect(run, dataclasses.replace(settings, **change), restart=True)
        assert files(run) == before
    progress: list[int] = []
    other = dataclasses.replace(settings, layers="2")
    collect(run, other, restart=True, progress=lambda done, total: progress.append(done))
    assert (run.collect / "notes.txt").read_text() == "mine"
    assert RunDir(tmp_path).manifest["mine"] == 1
    assert progress[0] == 0
    assert Collected.read(run.collect, "val").activations.shape[1:] == (1, 32)


def test_layers_that_the_base_lacks(settings: CollectSettings, tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match=r"collect: --layers has \[3\], expected layers from 0 to 2"):
        collect(RunDir(tmp_path, create=True), dataclasses.replace(settings, layers="3"))


def test_limit(settings: CollectSettings, tmp_path: Path) -> None:
    run = RunDir(tmp_path, create=True)
    collect(run, dataclasses.replace(settings, limit=3))
    assert [run.manifest[f"{split}_size"] for split in SPLITS] == [3, 3, 3]


def test_a_limit_draws_from_all_kinds(settings: CollectSettings, tmp_path: Path) -> None:
    """The file lists the questions category by category."""
    run = RunDir(tmp_path, create=True)
    collect(run, dataclasses.replace(settings, limit=12))
    assert len({record.question.category for record in Collected.read(run.collect, "train").records}) == 3


def test_whole_answers_are_labeled_as_a_whole(settings: CollectSettings, tmp_path: Path) -> None:
    longer = dataclasses.replace(settings, max_new_tokens=40, whole_answer=True)
    run = RunDir(tmp_path / "heard", create=True)
    collect(run, longer)
    (tmp_path / "last words").mkdir()
    for split in SPLITS:  # the accepted answer is the base's last word, after its first sentence
        heard = Collected.read(run.collect, split).records
        last_words = [("nothing", *re.findall(r"\w+", record.answer))[-1] for record in heard]
        questions = [
            dataclasses.replace(record.question, answers=(word,))
            for record, word in zip(heard, last_words, strict=True)
        ]
        write_jsonl(tmp_path / "last words" / f"{split}.jsonl", questions)
    run = RunDir(tmp_path / "judged", create=True)
    collect(run, dataclasses.replace(longer, questions=str(tmp_path / "last words")))
    records = [record for split in SPLITS for record in Collected.read(run.collect, split).records]
    assert all(record.correct for record in records if record.question.answers != ("nothing",))
    assert any(record.correct and not is_correct(record.question, record.answer) for record in records)


def test_choices_are_read_to_their_end(settings: CollectSettings, tmp_path: Path) -> None:
    """Other answers in the same batch are read to the end of their first sentence."""
    plain = [Question(f"What is {n}?", ("A",), "any") for n in range(12)]
    mixed = [
        dataclasses.replace(question, choices=("one", "two")) if n % 2 else question for n, question in enumerate(plain)
    ]

    def collected(name: str, questions: list[Question], *, whole: bool = False) -> list[Record]:
        folder, run = tmp_path / name, RunDir(tmp_path / f"run {name}", create=True)
        folder.mkdir()
        for number, split in enumerate(SPLITS):
            write_jsonl(folder / f"{split}.jsonl", questions[number::3])
        mine = dataclasses.replace(settings, questions=str(folder), max_new_tokens=40, whole_answer=whole)
        collect(run, mine)
        stored = [record for split in SPLITS for record in Collected.read(run.collect, split).records]
        return sorted(stored, key=lambda record: int(re.sub(r"\D", "", record.question.question)))

    first, whole = collected("first", plain), collected("whole", plain, whole=True)
    assert any(one.answer != other.answer for one, other in zip(first[1::2], whole[1::2], strict=True))
    for n, record in enumerate(collected("mixed", mixed)):
        expected = whole[n] if n % 2 else first[n]
        assert (record.answer, record.answer_ids, record.complete) == (
            expected.answer,
            expected.answer_ids,
            expected.complete,
        )


class Scripted:
    """A clean pass with scripted answers, one token for each letter."""

    def __init__(self, *answers: str) -> None:
        self._answers = answers

    def run(
        self, prompts: Any, *, max_new_tokens: int, is_complete: IsComplete
    ) -> tuple[torch.Tensor, list[GreedyAnswer]]:
        replies = []
        for row, (prompt, answer) in enumerate(zip(prompts, self._answers, strict=True)):
            assert list(prompt) == [row]
            ids: list[int] = []
            while len(ids) < min(len(answer), max_new_tokens) and not (ids and is_complete(row, ids)):
                ids.append(ord(answer[len(ids)]))
            replies.append(GreedyAnswer(tuple(ids), (-1.0,) * len(ids), len(ids) == len(answer)))
        return torch.zeros(len(replies), 1, 2), replies

    @staticmethod
    def decode(ids: Any, *, skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return "".join(map(chr, ids))


def test_a_withdrawn_choice_is_wrong(settings: CollectSettings, tmp_path: Path) -> None:
    """The label belongs to the stored text, which training uses as the base's answer."""
    choice, plain = Question("?", ("B",), "any", choices=("one", "two", "three")), Question("?", ("B",), "any")
    answers = ("B. No wait, C", "B. No wait, C", "B. Two it is.")
    longer = dataclasses.replace(settings, max_new_tokens=20)
    records = scripted(longer, tmp_path / "whole", [choice, plain, choice], answers)
    assert [(record.answer, record.correct, record.complete) for record in records] == [
        ("B. No wait, C", False, True),
        ("B.", True, True),
        ("B. Two it is.", True, True),
    ]
    assert [len(record.answer_ids) for record in records] == [13, 2, 13]
    short = dataclasses.replace(settings, max_new_tokens=5)
    assert [record.complete for record in scripted(short, tmp_path / "cut", [choice, plain, choice], answers)] == [
        *(False, True, False)
    ]


def scripted(
    settings: CollectSettings, part: Path, questions: list[Question], answers: tuple[str, ...]
) -> list[Record]:
    speaker: Any = Scripted(*answers)
    prompts = [[row] for row in range(len(questions))]
    module._collect_chunk(part, questions, prompts, speaker, speaker, settings, lambda _: None)
    return [Record.from_json(line) for line in part.with_suffix(".jsonl").read_text("utf-8").splitlines()]


def test_choices_without_a_suffix_are_warned_of(
    settings: CollectSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The warning comes once, before the base is loaded."""
    monkeypatch.setattr(module, "load_base", raises(InterruptedError))
    questions = [Question(f"{n}?", ("A",), "any", choices=("x", "y")) for n in range(30)]
    write_jsonl(tmp_path / "choices.jsonl", questions)
    with_choices = dataclasses.replace(settings, questions=str(tmp_path / "choices.jsonl"))
    for mine, count in (
        (with_choices, 1),
        (dataclasses.replace(with_choices, answer_suffix=" The letter only."), 0),
        (settings, 0),
    ):
        warnings: list[str] = []
        with pytest.raises(InterruptedError):
            collect(RunDir(tmp_path / "run", create=True), mine, say=warnings.append)
        assert len(warnings) == count
        assert all("--answer-suffix ' Answer with the letter only.'" in warning for warning in warnings)


def raises(error: type[BaseException]) -> Callable[..., None]:
    def call(*_: object, **__: object) -> None:
        raise error

    return call


def test_quantized_bases(settings: CollectSettings, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="the extra `quantized` is not installed")
    from transformers import LlamaConfig, LlamaForCausalLM

    # its kernels for CPUs need widths in multiples of 64
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_hidden_layers": 6}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=BYTE_VOCAB_SIZE, **sizes))
    draw_weights(model)
    model.save_pretrained(tmp_path / "base")
    byte_tokenizer().save_pretrained(tmp_path / "base")
    # the first block's output: over more blocks, the error of 4 bits adds up without bound in random weights
    plain = dataclasses.replace(settings, base=str(tmp_path / "base"), layers="0", limit=6)
    collected_by = {}
    for quantization in (None, "nf4", "int8"):
        run = RunDir(tmp_path / str(quantization), create=True)
        collect(run, dataclasses.replace(plain, quantization=quantization))
        assert run.manifest.get("quantization") == quantization
        collected_by[quantization] = Collected.read(run.collect, "train").activations.float().flatten()
    for quantization, least in (("nf4", 0.9), ("int8", 0.99)):
        cosine = torch.cosine_similarity(collected_by[None], collected_by[quantization], dim=0)
        assert least < float(cosine) < 1 - 1e-7


# -- records, warnings, sums


def record(correct: bool, *, complete: bool = True, category: str = "a") -> Record:
    question = Question("q\u2028?", ("x",), category, choices=("x", "y"))
    return Record(
        question=question, answer="x", answer_ids=(1, 2), logprobs=(-0.5, -1.0), complete=complete, correct=correct
    )


def test_a_record_and_its_line() -> None:
    example = record(True)
    assert "\n" not in example.to_json()
    assert Record.from_json(example.to_json()) == example
    assert example.mean_logprob == -0.75


def test_sets_without_contrast_are_called_out() -> None:
    fine = [record(number % 2 == 0) for number in range(20)]
    easy, hard = [record(True)] * 20, [record(False)] * 20
    assert contrast_warnings({"train": fine, "val": []}) == []
    (warning,) = contrast_warnings({"train": easy})
    assert "100.0% of 20 questions right. With so few wrong answers" in warning
    assert "too easy" in warning
    (warning,) = contrast_warnings({"val": hard})
    assert "so few right answers" in warning
    assert "thinking model" in warning
    cut = contrast_warnings({"test": [record(False, complete=False)] * 20})
    assert len(cut) == 2
    assert "cut off by --max-new-tokens" in cut[0]
    assert "100% of the answers reached --max-new-tokens" in cut[1]


def test_sums() -> None:
    records = {"train": [record(True), record(False, category="b", complete=False)], "test": [record(True)], "val": []}
    assert [(row.split, row.n, row.base_accuracy, row.cut_off) for row in by_split(records)] == [
        ("train", 2, 0.5, 0.5),
        ("test", 1, 1.0, 0.0),
        ("val", 0, None, None),
    ]
    assert [(row.category, row.n, row.base_accuracy) for row in by_category(records)] == [("a", 2, 1), ("b", 1, 0)]


def test_damaged_files_are_named(collected: RunDir, tmp_path: Path) -> None:
    folder = tmp_path / "collect"
    folder.mkdir()
    with pytest.raises(RunDirError, match=r"val\.jsonl': does not exist, expected a file that metadeploy collect"):
        Collected.read(folder, "val")
    for suffix in ("jsonl", "safetensors"):
        (folder / f"val.{suffix}").write_bytes((collected.collect / f"val.{suffix}").read_bytes())
    stored = Collected.read(folder, "val")
    with pytest.raises(RunDirError, match=r"lack layers \[9\]"):
        stored.layers_at([1, 9])
    lines = (folder / "val.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "val.jsonl").write_text("".join(lines[1:]), encoding="utf-8")
    with pytest.raises(RunDirError, match=f"holds {len(lines) - 1}, but there are activations of {len(lines)}"):
        Collected.read(folder, "val")
    (folder / "val.jsonl").write_text('{"question": 1}', encoding="utf-8")
    with pytest.raises(Error, match=r"val\.jsonl': line 1: .*, expected a file that metadeploy collect wrote"):
        Collected.read(folder, "val")


def test_the_stored_part_of_an_answer() -> None:
    words = ["It", " is", " 3", ".", " No", " more"]

    def text(ids: Any) -> str:
        return "".join(words[i] for i in ids)

    stored = extract_answer(range(6), text, ended=False)
    assert (stored.text, stored.n_tokens, stored.complete) == ("It is 3.", 4, True)
    assert extract_answer(range(3), text, ended=False).complete is False
    assert extract_answer(range(3), text, ended=True).complete is True
    assert extract_answer(range(6), text, ended=False, whole=True).n_tokens == 6


def test_variables_that_the_template_never_mentions_are_named() -> None:
    tokenizer = SimpleNamespace(chat_template="{% if enable_thinking is false %}<think></think>{% endif %}")
    assert variable_warnings(tokenizer, {"enable_thinking": False}) == []
    (warning,) = variable_warnings(tokenizer, {"enable_thinking": False, "enable_thinkng": False})
    assert "does not mention the variable 'enable_thinkng'" in warning
