"""`edit_sidecar` changes only metadata, and leaves either the old file or the new one."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader

from metadeploy import _core
from metadeploy.errors import Error, ModelLoadError, ModelMismatchError, SidecarError
from metadeploy.sidecar import DEFAULT_REFUSAL_TEXT, Metadata, read_sidecar, rewriting, write_sidecar
from metadeploy.sidecar.editing import EDITABLE, edit_sidecar
from metadeploy.sidecar.gguf_file import read_gguf
from metadeploy.sidecar.spec import EncoderType
from support.gguf_tools import write_tiny_gguf
from support.handmade_gguf import Gguf, Tensor, sidecar
from support.random_wrapper import random_wrapper

OTHER = "I don't have enough information to answer that reliably."
#: A value for each key that can be set, and the resulting value in the file.
VALUES: dict[str, tuple[str, Any]] = {
    "name": ("Doubter für X", "Doubter für X"),
    "version": ("2.0", "2.0"),
    "license": ("MIT", "MIT"),
    "description": ("says so", "says so"),
    "base_model": ("org/base", "base"),
    "base_block_count": ("9", 9),
    "refusal_text": (OTHER, OTHER),
    "refusal_token_ids": ("57, 5248,441", [57, 5248, 441]),
    "refusal_bias": ("-0.75", -0.75),
    "prompt_format": ("auto", "auto"),
    "answer_suffix": (" Be brief.", " Be brief."),
    "chat_template_kwargs": ('{"enable_thinking":false}', '{"enable_thinking": false}'),
}


def write(path: Path, encoder: EncoderType = "selective", outtype: Any = "f32", **changes: Any) -> Path:
    config, tensors = random_wrapper(
        encoder, hidden_dim=32, target_layers=(0, 1, 2), cross_attn_layers=(1, 2), num_layers=3
    )
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    metadata = Metadata(name="before", license="Apache-2.0")
    write_sidecar(path, replace(config, **changes), arrays, outtype=outtype, metadata=metadata, force=True)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "sidecar.gguf", refusal_token_ids=(7, 8), refusal_bias=-0.5)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    file = tmp_path / "base.gguf"
    write_tiny_gguf(file, seed=3)
    return file


def tensor_part(path: Path) -> tuple[bytes, bytes]:
    """Return the bytes of the tensors' records and of the tensors."""
    file, content = read_gguf(path), path.read_bytes()
    return content[slice(*file.records_span)], content[file.data_offset :]


def plain(path: Path) -> dict[str, Any]:
    return {key: value.value for key, value in read_gguf(path).metadata.items()}


# -- valid edits


@pytest.mark.parametrize("key", EDITABLE)
@pytest.mark.parametrize("in_place", [True, False], ids=["in place", "new file"])
def test_each_key(key: str, in_place: bool, path: Path, tmp_path: Path) -> None:
    old, before, tensors = path.read_bytes(), plain(path), tensor_part(path)
    text, expected = VALUES[key]
    target = path if in_place else tmp_path / "new.gguf"
    report = edit_sidecar(path, values={key: text}, output=None if in_place else target)
    assert (report.path, report.written) == (target, True)
    assert in_place or path.read_bytes() == old
    after = plain(target)
    assert after[EDITABLE[key].key.format(prefix="meta_spider")] == expected
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert changed == {change.key for change in report.changes}
    follow = {"refusal_text": {"refusal_token_ids", "refusal_bias"}}.get(key, set())
    if key == "base_model":
        assert changed == {
            f"general.base_model.{suffix}" for suffix in ("count", "0.name", "0.organization", "0.repo_url")
        }
    else:
        named = {EDITABLE[name].key.format(prefix="meta_spider") for name in {key} | follow}
        assert changed == named
    assert tensor_part(target) == tensors
    assert sorted(_core.read_sidecar(str(target))[1]) == sorted(read_sidecar(target).tensors)
    assert len(GGUFReader(target).tensors) == len(read_sidecar(target).tensors)


@pytest.mark.parametrize("encoder", ["selective", "multi_token", "transformer"])
@pytest.mark.parametrize("outtype", ["f32", "f16", "bf16", "q8_0"])
def test_tensors_of_every_kind_stay(encoder: EncoderType, outtype: str, tmp_path: Path) -> None:
    """The tensors stay the same even if the header's length crosses an alignment boundary."""
    path = write(tmp_path / "sidecar.gguf", encoder, outtype)
    tensors, values = tensor_part(path), {name: array.copy() for name, array in read_sidecar(path).tensors.items()}
    for length in range(1, 40):
        edit_sidecar(path, values={"name": "n" * length})
        assert tensor_part(path) == tensors
        assert read_gguf(path).data_offset % 32 == 0
    stored = read_sidecar(path).tensors
    assert list(stored) == list(values)
    assert all(np.array_equal(stored[name], array) for name, array in values.items())
    assert [tensor.name for tensor in GGUFReader(path).tensors] == list(values)


def test_the_way_back_leads_to_the_same_bytes(path: Path) -> None:
    old = path.read_bytes()
    edit_sidecar(path, values={"name": "after", "license": "MIT", "refusal_bias": "1.5"})
    assert path.read_bytes() != old
    edit_sidecar(path, values={"name": "before", "license": "Apache-2.0", "refusal_bias": "-0.5"})
    assert path.read_bytes() == old


@pytest.mark.parametrize("prefix", ["meta_spider", "daimon"])
def test_files_of_the_framework(prefix: str, tmp_path: Path) -> None:
    """These files have another order of keys, another alignment, unknown keys, and an older version of GGUF."""
    config, tensors = random_wrapper("multi_token", hidden_dim=32, target_layers=(0, 1), cross_attn_layers=(1,))
    gguf = sidecar(config, {name: tensor.numpy() for name, tensor in tensors.items()}, prefix=prefix)
    gguf.keys[:0] = [("general.alignment", "u32", 64), ("someone.list", "[str]", ["ä", ""]), ("someone.u8", "u8", 200)]
    gguf.alignment, gguf.version = 64, 2
    path = tmp_path / "theirs.gguf"
    path.write_bytes(gguf.build())
    tensors_before, keys_before = tensor_part(path), plain(path)
    edit_sidecar(path, values={"refusal_text": OTHER, f"{prefix}.refusal_bias": "0.25", "license": "MIT"})
    assert tensor_part(path) == tensors_before
    edits = {f"{prefix}.refusal_text": OTHER, f"{prefix}.refusal_bias": 0.25, "general.license": "MIT"}
    assert plain(path) == keys_before | edits
    assert read_gguf(path).version == 2
    assert read_sidecar(path).config.refusal_text == OTHER
    assert _core.read_sidecar(str(path))[0]["refusal_text"] == OTHER


def test_an_edit_mends_a_file_with_faults(tmp_path: Path) -> None:
    config, tensors = random_wrapper("selective", hidden_dim=32, target_layers=(0,), cross_attn_layers=(1,))
    gguf = sidecar(config, {name: tensor.numpy() for name, tensor in tensors.items()})
    path = tmp_path / "broken.gguf"
    path.write_bytes(gguf.with_key("meta_spider.refusal_bias", "f32", 1000.0).build())
    with pytest.raises(SidecarError, match="refusal_bias is 1000"):
        read_sidecar(path)
    with pytest.raises(SidecarError, match="as edited: refusal_bias is 1000"):
        edit_sidecar(path, values={"name": "x"})
    edit_sidecar(path, values={"refusal_bias": "1"})
    assert read_sidecar(path).config.refusal_bias == 1


# -- the refusal


def test_tokens_and_bias_go_with_their_text(path: Path, tmp_path: Path) -> None:
    edit_sidecar(path, values={"refusal_text": OTHER})
    config = read_sidecar(path).config
    assert (config.refusal_text, config.refusal_token_ids, config.refusal_bias) == (OTHER, None, 0.0)
    write(path, refusal_token_ids=(7, 8), refusal_bias=-0.5)
    edit_sidecar(path, values={"refusal_text": OTHER, "refusal_bias": "0.25", "refusal_token_ids": "3"})
    config = read_sidecar(path).config
    assert (config.refusal_text, config.refusal_token_ids, config.refusal_bias) == (OTHER, (3,), 0.25)


@pytest.mark.parametrize("edit", [{"values": {"refusal_text": DEFAULT_REFUSAL_TEXT}}, {"unset": ["refusal_text"]}])
def test_the_same_text_keeps_tokens_and_bias(edit: dict[str, Any], path: Path) -> None:
    """A file without the key has the default text."""
    edit_sidecar(path, **edit)
    config = read_sidecar(path).config
    assert (config.refusal_text, config.refusal_token_ids, config.refusal_bias) == (DEFAULT_REFUSAL_TEXT, (7, 8), -0.5)


def test_the_base_makes_the_tokens(path: Path, base: Path) -> None:
    """The base has one token for each byte. The answer follows the prompt's text immediately."""
    edit_sidecar(path, values={"refusal_text": OTHER}, base=base)
    assert read_sidecar(path).config.refusal_token_ids == tuple(_core.refusal_tokens(str(base), OTHER))
    assert len(_core.refusal_tokens(str(base), OTHER)) == len(OTHER.encode())
    edit_sidecar(path, values={"refusal_text": OTHER[:-1], "refusal_token_ids": "5"}, base=base)
    assert read_sidecar(path).config.refusal_token_ids == (5,)


def test_a_base_that_does_not_fit(path: Path, base: Path, tmp_path: Path) -> None:
    old = path.read_bytes()
    with pytest.raises(ModelMismatchError, match="has 3 layers, the wrapper was trained on 9"):
        edit_sidecar(path, values={"base_block_count": "9"}, base=base)
    for wrong in (path, tmp_path / "absent.gguf"):
        with pytest.raises(ModelLoadError, match=wrong.name):
            edit_sidecar(path, values={"refusal_text": OTHER}, base=wrong)
    assert path.read_bytes() == old


def test_a_goal_anchor_has_no_refusal(tmp_path: Path) -> None:
    path = write(tmp_path / "anchor.gguf", "transformer", kind="goal_anchor")
    old = path.read_bytes()
    for key in ("refusal_text", "refusal_token_ids", "refusal_bias"):
        with pytest.raises(ValueError, match="a wrapper of kind 'goal_anchor' has no refusal, expected a doubter"):
            edit_sidecar(path, values={key: VALUES[key][0]})
    assert path.read_bytes() == old
    assert edit_sidecar(path, values={"name": "x"}).written


# -- refused edits


@pytest.mark.parametrize(
    ("key", "text", "fault"),
    [
        ("refusal_txt", "x", "'refusal_txt' cannot be edited, expected one of name, version"),
        ("daimon.refusal_text", OTHER, "'daimon.refusal_text' cannot be edited"),
        ("general.architecture", "llama", "'general.architecture' cannot be edited"),
        ("hidden_dim", "32", "'hidden_dim' cannot be edited"),
        ("target_layers", "1", "'target_layers' cannot be edited"),
        ("refusal_text", "No.", "the refusal text 'No.' has one word in its first sentence, expected at least 3"),
        ("refusal_text", "No. I do not know.", "has one word in its first sentence"),
        ("refusal_text", "  ", "refusal_text is empty, expected the trained refusal (hint: --unset"),
        ("name", "", "name is empty"),
        ("name", "a\0b", "name has a zero byte"),
        ("name", "a\ud800b", "name is not Unicode text"),
        ("refusal_bias", "much", "refusal_bias is 'much', expected a number such as -0.75"),
        ("refusal_bias", "1_0", "refusal_bias is '1_0', expected a number"),
        ("refusal_bias", "1e400", "refusal_bias is inf, expected -100 to 100"),
        ("refusal_bias", "1e39", "refusal_bias is '1e39', expected a number"),
        ("refusal_bias", "nan", "refusal_bias is nan, expected -100 to 100"),
        ("refusal_bias", "100.1", "expected -100 to 100"),
        ("refusal_token_ids", "1;2", "refusal_token_ids is '1;2', expected token ids between commas"),
        ("refusal_token_ids", "1,,2", "expected token ids between commas"),
        ("refusal_token_ids", "-1", "expected token ids between commas"),
        ("refusal_token_ids", "²", "expected token ids between commas"),
        ("refusal_token_ids", "4294967296", "expected token ids between commas"),
        ("refusal_token_ids", ",".join(["1"] * 100_000), "refusal_token_ids has 100000 entries"),
        ("base_block_count", "0", "base_block_count is '0', expected a whole number from 1 to 2147483647"),
        ("base_block_count", "1", "cross_attn_layers has [1, 2], expected layers from 0 to 0"),
        ("base_block_count", "3.0", "expected a whole number"),
        ("base_block_count", "9" * 5000, "expected a whole number"),
        ("chat_template_kwargs", "{", "chat_template_kwargs is not JSON"),
        ("chat_template_kwargs", '{"a": NaN}', "chat_template_kwargs is not JSON"),
        ("chat_template_kwargs", "[1]", "chat_template_kwargs holds a JSON list, expected an object such as"),
        ("chat_template_kwargs", '{"a":' + "[" * 100_000 + "]" * 100_000 + "}", "chat_template_kwargs is not JSON"),
        ("base_model", "/", "base_model is '/', expected the hub id or name of the base"),
    ],
)
def test_values_that_are_refused(key: str, text: str, fault: str, path: Path) -> None:
    old = path.read_bytes()
    with pytest.raises((ValueError, SidecarError)) as caught:
        edit_sidecar(path, values={key: text})
    assert fault in str(caught.value)
    assert path.read_bytes() == old
    assert list(path.parent.iterdir()) == [path]


def test_all_faults_are_named_at_once(path: Path) -> None:
    with pytest.raises(ValueError, match="edit: 3 faults") as caught:
        edit_sidecar(path, values={"title": "x", "refusal_bias": "y", "general.license": "MIT"}, unset=["license"])
    for part in ("'title' cannot be edited", "refusal_bias is 'y'", "'license' is given twice"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("options", "error", "fault"),
    [
        ({"path": 3}, TypeError, "path is 3, expected a path"),
        ({"path": b"x"}, TypeError, "path is b'x', expected a path"),
        ({"values": "name=x"}, TypeError, "values is 'name=x', expected an object of class Mapping"),
        ({"values": {"refusal_bias": 0.5}}, TypeError, "refusal_bias is 0.5, expected the value as text"),
        ({"unset": "name"}, TypeError, "unset is 'name', expected a list of texts"),
        ({"base": 1}, TypeError, "base is 1, expected a path, the path of a file, or None"),
        ({"output": ""}, ValueError, "output is '', expected the path of a file"),
        ({"force": 1}, TypeError, "force is 1, expected True or False"),
        ({"dry_run": "no"}, TypeError, "dry_run is 'no', expected True or False"),
    ],
)
def test_arguments_of_wrong_types(options: dict[str, Any], error: type[Exception], fault: str, path: Path) -> None:
    with pytest.raises(error) as caught:
        edit_sidecar(**{"path": path, "values": {"name": "x"}} | options)
    assert str(caught.value).startswith(fault)


def _text_file(path: Path) -> None:
    path.write_text("no GGUF", encoding="utf-8")


def _base_model(path: Path) -> None:
    path.write_bytes(Gguf([("general.architecture", "str", "llama")]).build())


def _truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 64)


def _newer(path: Path) -> None:
    keys = [("general.architecture", "str", "meta-spider"), ("meta_spider.format_version", "u32", 99)]
    path.write_bytes(Gguf(keys, [Tensor.f32("a", np.zeros((4,)))]).build())


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (Path.unlink, "does not exist"),
        (_text_file, "is not a GGUF file"),
        (_base_model, "has architecture 'llama', expected 'meta-spider' or 'daimon'"),
        (_truncated, "but the file has"),
        (_newer, "has format version 99"),
    ],
)
def test_files_that_are_no_sidecar(spoil: Callable[[Path], object], fault: str, path: Path, tmp_path: Path) -> None:
    spoil(path)
    old = path.read_bytes() if path.exists() else None
    for output in (None, tmp_path / "new.gguf"):
        with pytest.raises(SidecarError, match=fault):
            edit_sidecar(path, values={"name": "x"}, output=output)
    assert (path.read_bytes() if path.exists() else None) == old
    assert not (tmp_path / "new.gguf").exists()


def test_a_folder_is_no_sidecar(tmp_path: Path) -> None:
    with pytest.raises(SidecarError, match="is a directory, expected a GGUF file"):
        edit_sidecar(tmp_path, values={"name": "x"})


# -- output files


def test_outputs_that_cannot_be(path: Path, base: Path, tmp_path: Path) -> None:
    old, other = path.read_bytes(), tmp_path / "other.gguf"
    other.write_bytes(b"precious")
    for output, error, fault in (
        (other, SidecarError, r"exists already \(hint: --force"),
        (tmp_path, SidecarError, "is a directory"),
        (tmp_path / "absent" / "x.gguf", SidecarError, "its directory does not exist"),
        (path, Error, "is the same file as the input"),
        (tmp_path / "absent" / ".." / path.name, SidecarError, "exists already"),
        (base, Error, "is the same file as the input"),
    ):
        with pytest.raises(error, match=fault):
            edit_sidecar(path, values={"name": "x"}, output=output, base=base)
    for output in (path, base):
        with pytest.raises(Error, match="is the same file as the input"):
            edit_sidecar(path, values={"name": "x"}, output=output, base=base, force=True)
    assert (path.read_bytes(), other.read_bytes()) == (old, b"precious")
    assert edit_sidecar(path, values={"name": "x"}, output=other, force=True).written
    assert plain(other)["general.name"] == "x"


@pytest.mark.skipif(os.name == "nt", reason="links need privileges on Windows")
def test_links_of_the_sidecar_are_the_sidecar(path: Path, tmp_path: Path) -> None:
    soft, hard = tmp_path / "soft.gguf", tmp_path / "hard.gguf"
    soft.symlink_to(path)
    os.link(path, hard)
    for output in (soft, hard):
        with pytest.raises(Error, match="is the same file as the input"):
            edit_sidecar(path, values={"name": "x"}, output=output, force=True)
    edit_sidecar(soft, values={"name": "x"})
    assert soft.is_symlink()
    assert plain(path)["general.name"] == "x"


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX modes")
def test_in_place_keeps_the_mode(path: Path) -> None:
    path.chmod(0o640)
    edit_sidecar(path, values={"name": "x"})
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_nothing_to_do_and_dry_runs_write_nothing(path: Path, tmp_path: Path) -> None:
    old, when = path.read_bytes(), path.stat().st_mtime_ns
    report = edit_sidecar(path, values={"name": "before"}, unset=["answer_suffix"])
    assert (report.changes, report.written, report.sha256) == ((), False, None)
    report = edit_sidecar(path, values={"name": "x"}, dry_run=True)
    assert [(change.key, change.before, change.after) for change in report.changes] == [("general.name", "before", "x")]
    assert not report.written
    assert not edit_sidecar(path, values={"name": "x"}, output=tmp_path / "new.gguf", dry_run=True).written
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (old, when)
    assert list(tmp_path.iterdir()) == [path]
    # the user asked for a new file, even without changes
    assert edit_sidecar(path, values={"name": "before"}, output=tmp_path / "new.gguf").written
    assert (tmp_path / "new.gguf").read_bytes() == old


def test_unset(path: Path) -> None:
    edit_sidecar(path, values={"base_model": "org/base"})
    report = edit_sidecar(path, unset=["refusal_bias", "general.license", "base_model"])
    assert {change.after for change in report.changes} == {None}
    assert len(report.changes) == 6
    values = plain(path)
    assert not [key for key in values if "base_model" in key or "bias" in key or "license" in key]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failing_disk_leaves_the_old_file(step: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    old = path.read_bytes()
    monkeypatch.setattr(os, step, fail)
    with pytest.raises(SidecarError, match=r"sidecar.gguf': cannot be written: No space left on device"):
        edit_sidecar(path, values={"name": "x"})
    assert path.read_bytes() == old
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(os.name == "nt", reason="open files cannot be truncated on Windows")
@pytest.mark.parametrize("share", [0.1, 0.5, 0.999])
def test_truncated_or_unreadable_while_it_is_copied(
    share: float, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file changes after the examination and before the copy. No new file is written."""
    whole, parts = path.read_bytes(), rewriting._parts

    def truncate(file: Any, *wanted: Any, **options: Any) -> Any:
        os.truncate(path, int(len(whole) * share))
        return parts(file, *wanted, **options)

    monkeypatch.setattr(rewriting, "_parts", truncate)
    with pytest.raises(SidecarError, match=r"sidecar.gguf': has become shorter than .*truncated while it was read\?"):
        edit_sidecar(path, values={"name": "x"}, output=tmp_path / "new.gguf")
    assert list(tmp_path.iterdir()) == [path]

    path.write_bytes(whole)

    def fail(file: Any, *wanted: Any, **options: Any) -> Any:
        monkeypatch.setattr(type(file.file), "read", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        return parts(file, *wanted, **options)

    monkeypatch.setattr(rewriting, "_parts", fail)
    with pytest.raises(SidecarError, match=r"sidecar.gguf': cannot be read: Input/output error"):
        edit_sidecar(path, values={"name": "x"}, output=tmp_path / "new.gguf")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name == "nt", reason="open files cannot be replaced on Windows")
def test_replaced_while_it_is_copied(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new file comes entirely from the file that was opened."""
    parts, expected = rewriting._parts, tensor_part(path)

    def swap(file: Any, *wanted: Any, **options: Any) -> Any:
        other = write(tmp_path / "other.gguf", "transformer")
        other.replace(path)
        return parts(file, *wanted, **options)

    monkeypatch.setattr(rewriting, "_parts", swap)
    edit_sidecar(path, values={"name": "x"}, output=tmp_path / "new.gguf")
    assert tensor_part(tmp_path / "new.gguf") == expected
