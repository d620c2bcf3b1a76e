"""Wrappers of kind ``goal_anchor``: from a checkpoint as the framework writes it to an answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from metadeploy.cli import app
from metadeploy.errors import CheckpointError, Error
from metadeploy.export import export, load_wrapper
from metadeploy.reference import Doubter, MetaSpiderConfig, MetaSpiderPipeline
from metadeploy.sidecar import DEFAULT_REFUSAL_TEXT, read_sidecar
from support.goal_anchor import save_goal_anchor
from support.tiny_models import byte_tokenizer, tiny_causal_lm

LAYERS = {"target_layers": [2, 4, 5], "cross_attn_layers": [3, 5]}


def checkpoint(folder: Path, **changes: Any) -> Path:
    return save_goal_anchor(folder, **LAYERS, **changes)


def pipeline(doubter: Any) -> MetaSpiderPipeline:
    pipe = MetaSpiderPipeline.from_pretrained(
        MetaSpiderConfig(model_name="tiny", device="cpu"), model=tiny_causal_lm("llama"), tokenizer=byte_tokenizer()
    )
    pipe.attach(doubter)
    return pipe


def test_a_goal_is_held_over_turns(tmp_path: Path) -> None:
    path = checkpoint(tmp_path)
    sidecar = export(tmp_path)
    assert sidecar.path == tmp_path / "goal_anchor_sidecar.gguf"
    assert not [note for note in sidecar.notes if "default" in note]
    answers = []
    for source in (path, sidecar.path):
        pipe = pipeline(Doubter.from_checkpoint(source))
        goal = pipe.encode("never say the word", raw=True)
        turns = ("Hello?", "And then?")
        held = [pipe.generate(turn, cognitive_tokens=goal, max_new_tokens=8) for turn in turns]
        assert held != [pipe.generate(turn, inject=False, max_new_tokens=8) for turn in turns]
        assert held != [pipe.generate(turn, max_new_tokens=8) for turn in turns]
        answers.append(held)
    assert answers[0] == answers[1]


def test_the_exported_sidecar(tmp_path: Path) -> None:
    config = load_wrapper(checkpoint(tmp_path)).config
    assert (config.kind, config.encoder_type, config.enc_num_heads, config.ca_num_heads) == (
        "goal_anchor", "transformer", 2, 4
    )  # fmt: skip
    sidecar = read_sidecar(export(tmp_path).path)
    assert sidecar.config.kind == "goal_anchor"
    assert sidecar.metadata["general.name"] == "Goal anchor"
    assert sidecar.metadata["meta_spider.enc_num_heads"] == 2
    assert "meta_spider.refusal_text" not in sidecar.metadata


def test_inspect_output(tmp_path: Path) -> None:
    checkpoint(tmp_path)
    commands = (["export", str(tmp_path)], ["inspect", str(tmp_path / "goal_anchor_sidecar.gguf")])
    for command in commands:
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
        assert "goal_anchor" in result.output
        assert DEFAULT_REFUSAL_TEXT[:20] not in result.output


def test_there_is_no_refusal(tmp_path: Path) -> None:
    pipe = pipeline(Doubter.from_checkpoint(checkpoint(tmp_path)))
    ids = pipe.tokenize("Hello?")
    with pytest.raises(Error, match="doubt: a wrapper of kind 'goal_anchor' has no refusal, expected a doubter"):
        pipe.doubt(ids)
    with pytest.raises(Error, match=r"doubt_threshold is 0.4: a wrapper of kind 'goal_anchor' has no refusal"):
        pipe.generate("Hello?", doubt_threshold=0.4)
    pipe.tokenizer = None  # no refusal is looked up
    assert pipe.generate_ids(ids, 1, stop_ids=()) == [int(pipe.logits(ids)[-1].argmax())]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trigger": "fixed"}, "trigger is 'fixed' in the checkpoint, expected 'always'"),
        ({"kind": "chronographer"}, "kind is 'chronographer', expected one of doubter, goal_anchor"),
        ({"encoder_dim": 48}, "encoder_dim is 48 in the checkpoint, but 32 in the tensors"),
        ({"encoder_num_blocks": 3}, "encoder_num_blocks is 3 in the checkpoint, but 2 in the tensors"),
        ({"encoder_ffn_expansion": 4}, "encoder_ffn_expansion is 4 in the checkpoint, but the tensors have 64 inner"),
        ({"encoder_num_heads": 5}, "the encoder has width 32 and 5 heads"),
        ({"transformer_num_heads": 4}, "the number of heads is 2 in encoder_num_heads .*, but 4 in transformer_num_"),
    ],
)
def test_mismatches_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_wrapper(checkpoint(tmp_path, **changes))
