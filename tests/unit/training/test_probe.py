"""Training runs only the upper blocks: models that do not allow this are refused before any computation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    Gemma3nForCausalLM,
    Gemma3nTextConfig,
    Gemma4ForCausalLM,
    Gemma4TextConfig,
    PreTrainedModel,
)

from metadeploy.batched.prefix import SharedPrefix
from metadeploy.batched.upper_blocks import UpperBlocks
from metadeploy.checkpoint.run_dir import RunDir
from metadeploy.errors import ModelMismatchError
from metadeploy.reference.base import FrozenBase
from metadeploy.sidecar.spec import InjectFrom
from metadeploy.training import collect as collect_module
from metadeploy.training import train as train_module
from metadeploy.training.collect import collect
from metadeploy.training.examples import compute_states
from metadeploy.training.probe import TOLERANCE_32_BIT, check_cut, cut_error
from metadeploy.training.settings import FitSettings, TrainSettings
from metadeploy.training.train import TrainCallbacks, train
from support.lessons import some_examples
from support.tiny_models import BYTE_VOCAB_SIZE, KINDS, byte_tokenizer, draw_weights, tiny_causal_lm
from support.tiny_questions import collect_settings, write_base_and_questions

_GEMMA: dict[str, Any] = {
    "vocab_size": BYTE_VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention"] * 3,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": BYTE_VOCAB_SIZE,
    "num_kv_shared_layers": 2,
}


def gemma3n() -> PreTrainedModel:
    return Gemma3nForCausalLM(Gemma3nTextConfig(**_GEMMA, laurel_rank=4, activation_sparsity_pattern=[0.0] * 6)).eval()


def gemma4() -> PreTrainedModel:
    model = Gemma4ForCausalLM(Gemma4TextConfig(**_GEMMA, global_head_dim=8))
    draw_weights(model)
    return model.eval()


class _TokensAbove:
    """Adds an embedding of the token ids to the output of a block. Without token ids, it adds nothing or raises."""

    def __init__(self, model: PreTrainedModel, block: int, *, fails: bool) -> None:
        self._ids: Tensor | None = None
        self._table = torch.randn(model.config.vocab_size, model.config.hidden_size)
        self._fails = fails
        model.register_forward_pre_hook(self._see, with_kwargs=True)
        model.model.layers[block].register_forward_hook(self._add)

    def _see(self, _module: Any, _inputs: Any, options: dict[str, Any]) -> None:
        self._ids = options.get("input_ids")

    def _add(self, _module: Any, _inputs: Any, output: Any) -> Any:
        if self._ids is not None:
            return output + self._table[self._ids].to(output)
        if self._fails:
            raise KeyError("token ids")
        return output


@pytest.mark.parametrize("make", [gemma3n, gemma4])
def test_models_whose_blocks_take_more_than_hidden_states(make: Any) -> None:
    base = FrozenBase(make())
    with pytest.raises(ModelMismatchError) as caught:
        UpperBlocks(base, 4)
    message = str(caught.value)
    assert message.startswith(f"base model {type(base.model).__name__}: 2 faults")
    assert "each block has token embeddings of its own (hidden_size_per_layer_input is 8)" in message
    assert "the last 2 blocks use the keys and values of blocks below (num_kv_shared_layers)" in message
    assert "metadeploy train runs the upper blocks alone" in message


def test_all_positions_of_a_model_that_shares_keys_and_values() -> None:
    # for the last logits only, Gemma 4 computes only the last position in the blocks that share keys and values
    base = FrozenBase(gemma4())
    ids = [3, 1, 4, 1, 5, 9]
    lower, upper = base.layer_outputs(ids, [2, 5], injection=None)
    assert lower.shape == upper.shape == (6, 32)
    logits = base.forward(ids, injection=None).logits
    torch.testing.assert_close(base.model.lm_head(base.model.model.norm(upper)), logits)


@pytest.mark.parametrize("inject_from", ["prompt", "last_prompt_token"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_models_that_allow_it(kind: str, dtype: torch.dtype, inject_from: InjectFrom) -> None:
    base = FrozenBase(tiny_causal_lm(kind).to(dtype))
    examples = some_examples(3, vocab_size=BYTE_VOCAB_SIZE)
    prompts = [example.prompt_ids for example in examples]
    prefix = SharedPrefix.none() if inject_from == "prompt" else SharedPrefix.of(base, prompts)
    kept = compute_states(base, examples, first=4, inject_from=inject_from, prefix=prefix)
    upper = UpperBlocks(base, 4)
    if dtype == torch.float32:
        # far below the limit, because another processor may sum in another order
        assert cut_error(upper, examples, kept, prefix) < TOLERANCE_32_BIT / 100
    check_cut(upper, examples, kept, prefix)


@pytest.mark.parametrize(
    ("fails", "message"),
    [
        (False, r"blocks from 3 on compute other logits .* by an NMSE of 0\.\d+, expected at most 1e-05"),
        (True, r"blocks from 3 on do not run on the hidden states of block 2 alone, .*KeyError: 'token ids'"),
    ],
)
def test_a_model_that_looks_at_the_tokens_above(fails: bool, message: str) -> None:
    model = tiny_causal_lm("llama")
    _TokensAbove(model, 4, fails=fails)
    base, prefix = FrozenBase(model), SharedPrefix.none()
    examples = some_examples(2, vocab_size=BYTE_VOCAB_SIZE)
    upper = UpperBlocks(base, 3)
    kept = compute_states(base, examples, first=3, inject_from="prompt", prefix=prefix)
    with pytest.raises(ModelMismatchError, match=message):
        check_cut(upper, examples, kept, prefix)
    # if the tokens enter below the cut, nothing is lost
    upper = UpperBlocks(base, 5)
    check_cut(upper, examples, compute_states(base, examples, first=5, inject_from="prompt", prefix=prefix), prefix)


SETTINGS = TrainSettings(
    target_layers="all",
    cross_attn_layers="1-2",
    bottleneck_dim=16,
    enc_num_heads=4,
    refusal_text="I do not know.",
    fit=FitSettings(pretrain_epochs=0, epochs=2, batch_size=8),
    device="cpu",
)


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    base, questions = write_base_and_questions(folder, per_category=8)
    collect(RunDir(folder / "run", create=True), collect_settings(base, questions))
    return folder / "run"


@pytest.fixture
def run(collected: Path, tmp_path: Path) -> RunDir:
    path = tmp_path / "run"
    path.mkdir()
    (path / "run.json").write_bytes((collected / "run.json").read_bytes())
    (path / "collect").symlink_to(collected / "collect")
    return RunDir(path)


def test_training_checks_before_it_begins(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    load = train_module.load_base

    def changed(*args: Any) -> Any:
        model, tokenizer = load(*args)
        _TokensAbove(model, 2, fails=False)
        return model, tokenizer

    monkeypatch.setattr(train_module, "load_base", changed)
    stages: list[str] = []
    with pytest.raises(ModelMismatchError, match="blocks from 2 on compute other logits"):
        train(run, SETTINGS, callbacks=TrainCallbacks(stage=lambda name, _done, _total: stages.append(name)))
    assert set(stages) == {"load the base"}
    assert not run.checkpoint.exists()


def test_training_does_not_resume_with_another_base(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(name: str, done: int, _total: int) -> None:
        if (name, done) == ("epoch 2", 1):
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(run, SETTINGS, callbacks=TrainCallbacks(stage=stop))
    load = train_module.load_base

    def changed(*args: Any) -> Any:
        model, tokenizer = load(*args)
        model.model.layers[0].mlp.up_proj.weight.data *= 1.5
        return model, tokenizer

    with monkeypatch.context() as patch:
        patch.setattr(train_module, "load_base", changed)
        with pytest.raises(ModelMismatchError, match="has the model changed since these were cached"):
            train(run, SETTINGS)
    assert len(train(run, SETTINGS).history) == 2


def test_collecting_warns_that_training_will_refuse(
    collected: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collect_module, "load_base", lambda _config: (gemma4(), byte_tokenizer()))
    settings = collect_settings(collected.parent / "base.gguf", collected.parent / "questions.jsonl")
    warnings: list[str] = []
    collect(RunDir(tmp_path / "run", create=True), settings, say=warnings.append)
    assert [line for line in warnings if "metadeploy train will refuse this base: each block has token" in line]
