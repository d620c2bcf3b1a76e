"""The two-pass pipeline on tiny random models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedModel,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)

from metadeploy.errors import DecodeError, Error, ModelMismatchError
from metadeploy.reference import Doubter, MetaSpiderConfig, MetaSpiderPipeline
from metadeploy.reference.decoder import find_decoder
from support.random_wrapper import random_wrapper
from support.tiny_models import KINDS, byte_tokenizer, tiny_causal_lm
from tolerances import BF16_ROUNDING_MAX_ABS, F32_LOGITS_MAX_ABS, F32_MAX_ABS

PROMPT = [72, 101, 108, 108, 111, 32, 119, 111, 114, 108, 100, 63]
TARGET, CROSS = (2, 4, 5), (3, 5)


def pipeline(model: nn.Module | str = "llama", *, doubter: Doubter | None = None, **wrapper: Any) -> MetaSpiderPipeline:
    """A pipeline over a tiny model, with a random wrapper attached."""
    if isinstance(model, str):
        model = tiny_causal_lm(model)
    pipe = MetaSpiderPipeline.from_pretrained(
        MetaSpiderConfig(model_name="tiny", device="cpu"), model=model, tokenizer=byte_tokenizer()
    )
    pipe.attach(doubter or random_doubter(pipe, **wrapper))
    return pipe


def random_doubter(pipe: MetaSpiderPipeline, **wrapper: Any) -> Doubter:
    options: dict[str, Any] = {"target_layers": TARGET, "cross_attn_layers": CROSS, **wrapper}
    encoder_type = options.pop("encoder_type", "selective")
    return Doubter.from_tensors(*random_wrapper(encoder_type, hidden_dim=pipe.hidden_dim, **options))


def base_logits(model: Any, token_ids: Sequence[int]) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(torch.tensor([list(token_ids)])).logits[0]
    return logits


def hooks_of(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("encoder_type", ["selective", "multi_token", "transformer"])
def test_injection_acts_where_it_should(kind: str, encoder_type: str) -> None:
    pipe = pipeline(kind, encoder_type=encoder_type)
    layers = range(pipe.num_layers)
    clean = pipe.layer_outputs(PROMPT, layers, inject=False)
    injected = pipe.layer_outputs(PROMPT, layers)
    assert clean.shape == (pipe.num_layers, len(PROMPT), pipe.hidden_dim)
    assert torch.equal(clean[: CROSS[0]], injected[: CROSS[0]])
    assert not torch.isclose(clean[CROSS[0]], injected[CROSS[0]]).all(dim=-1).any()  # at every position
    # the first injected layer differs by exactly the output of its cross-attention
    assert pipe.doubter is not None
    layer = pipe.doubter.cross_attention(CROSS[0])
    with torch.no_grad():
        expected = layer(clean[CROSS[0]], pipe.cognitive_tokens(PROMPT))
    torch.testing.assert_close(injected[CROSS[0]], expected, rtol=0, atol=F32_MAX_ABS)

    assert torch.equal(pipe.activations(PROMPT), clean[list(TARGET), -1])
    logits, base = pipe.logits(PROMPT), pipe.logits(PROMPT, inject=False)
    assert logits.shape == (len(PROMPT), pipe.vocab_size)
    assert (logits - base).abs().amax() > 0.1  # large enough that the tests below can fail


@pytest.mark.parametrize("kind", KINDS)
def test_activations_are_block_outputs_and_not_final_norm_outputs(kind: str) -> None:
    """transformers applies the final norm to the last entry of hidden_states; the reference does not."""
    model = tiny_causal_lm(kind)
    pipe = pipeline(model, target_layers=range(6))
    assert pipe.num_layers >= 6
    with torch.no_grad():
        states = model(torch.tensor([PROMPT]), output_hidden_states=True).hidden_states
    last = pipe.num_layers - 1
    outputs = pipe.layer_outputs(PROMPT, range(pipe.num_layers), inject=False)
    for layer in range(last):
        assert torch.equal(outputs[layer], states[layer + 1][0])
    assert not torch.allclose(outputs[last], states[last + 1][0])
    decoder: Any = model.get_decoder()
    assert torch.equal(decoder.norm(outputs[last]), states[last + 1][0])


@pytest.mark.parametrize("kind", KINDS)
def test_base_is_unchanged(kind: str) -> None:
    model = tiny_causal_lm(kind)
    weights = {name: parameter.clone() for name, parameter in model.state_dict().items()}
    before = base_logits(model, PROMPT)
    pipe = pipeline(model)
    pipe.generate_ids(PROMPT, 4)
    pipe.logits(PROMPT)
    pipe.attention(PROMPT)
    assert hooks_of(model) == 0
    assert torch.equal(base_logits(model, PROMPT), before)
    assert torch.equal(pipe.logits(PROMPT, inject=False), before)
    assert torch.equal(pipe.logits(PROMPT, gain=0.0), before)
    assert all(torch.equal(parameter, weights[name]) for name, parameter in model.state_dict().items())


def test_gain() -> None:
    pipe = pipeline()
    clean = pipe.layer_outputs(PROMPT, [CROSS[0]], inject=False)
    once = pipe.layer_outputs(PROMPT, [CROSS[0]]) - clean
    for gain in (2.0, -1.0, 0.25):
        change = pipe.layer_outputs(PROMPT, [CROSS[0]], gain=gain) - clean
        torch.testing.assert_close(change, gain * once, rtol=0, atol=F32_MAX_ABS)
    with_gain = pipe.logits(PROMPT, gain=-1.0)
    pipe.set_gain(-1.0)
    assert pipe.gain == -1.0
    assert torch.equal(pipe.logits(PROMPT), with_gain)
    pipe.set_gain(0.0)
    assert pipe.generate_ids(PROMPT, 12) == pipe.generate_ids(PROMPT, 12, inject=False)
    # the update is left out, not multiplied by zero: if it overflowed, the product would be NaN
    assert pipe.doubter is not None
    pipe.doubter.cross_attention(CROSS[0]).up_proj.weight.fill_(3e38)
    assert torch.equal(pipe.logits(PROMPT), pipe.logits(PROMPT, inject=False))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("inject_from", ["prompt", "last_prompt_token"])
def test_cached_generation_equals_full_recomputation(kind: str, inject_from: str) -> None:
    pipe = pipeline(kind, inject_from=inject_from)
    answer = pipe.generate_ids(PROMPT, 16, stop_ids=())
    assert len(answer) == 16
    assert len(set(answer)) > 4  # the text does not repeat itself, which would hide mistakes
    assert answer != pipe.generate_ids(PROMPT, 16, inject=False, stop_ids=())
    # one pass over everything, with the cognitive tokens of the prompt alone
    logits = pipe.logits([*PROMPT, *answer], n_prompt=len(PROMPT))[len(PROMPT) - 1 : -1]
    assert logits.argmax(dim=-1).tolist() == answer
    assert pipe.generate_ids(PROMPT, 16, stop_ids=()) == answer


def test_generation_without_a_cache() -> None:
    """A model that returns no past_key_values sees the whole sequence again at each step."""
    model = tiny_causal_lm("llama")
    expected = pipeline(model, inject_from="last_prompt_token").generate_ids(PROMPT, 8, stop_ids=())
    forward = model.forward

    def uncached(*args: Any, use_cache: bool = False, **kwargs: Any) -> Any:
        return forward(*args, use_cache=False, **kwargs)

    model.forward = uncached  # type: ignore[method-assign]
    assert pipeline(model, inject_from="last_prompt_token").generate_ids(PROMPT, 8, stop_ids=()) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_injection_from_the_last_prompt_token_on(kind: str) -> None:
    pipe = pipeline(kind, inject_from="last_prompt_token")
    layers = range(pipe.num_layers)
    clean, injected = pipe.layer_outputs(PROMPT, layers, inject=False), pipe.layer_outputs(PROMPT, layers)
    assert torch.equal(clean[:, :-1], injected[:, :-1])  # and so are their keys and values
    assert not torch.isclose(clean[CROSS[0], -1], injected[CROSS[0], -1]).all()
    # in a longer sequence it starts at the same position
    longer = [*PROMPT, 65, 66]
    clean = pipe.layer_outputs(longer, layers, inject=False)
    injected = pipe.layer_outputs(longer, layers, n_prompt=len(PROMPT))
    start = len(PROMPT) - 1
    assert torch.equal(clean[:, :start], injected[:, :start])
    assert not torch.isclose(clean[CROSS[0], start:], injected[CROSS[0], start:]).all(dim=-1).any()
    everywhere = pipeline(kind, inject_from="prompt")
    assert not torch.allclose(everywhere.logits(PROMPT)[-1], pipe.logits(PROMPT)[-1])


def test_attention_over_cognitive_tokens() -> None:
    pipe = pipeline(encoder_type="multi_token", num_tokens=7)
    weights = pipe.attention(PROMPT)
    assert weights.shape == (len(CROSS), 4, len(PROMPT), 7)
    torch.testing.assert_close(weights.sum(-1), torch.ones(len(CROSS), 4, len(PROMPT)))
    assert pipe.doubter is not None
    hidden = pipe.layer_outputs(PROMPT, [CROSS[0]], inject=False)[0]
    with torch.no_grad():
        expected = pipe.doubter.cross_attention(CROSS[0]).attention(hidden, pipe.cognitive_tokens(PROMPT))
    torch.testing.assert_close(weights[0], expected, rtol=0, atol=F32_MAX_ABS)


def test_dropout_is_off_even_in_training_mode() -> None:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=258, n_embd=32, n_layer=6, n_head=2, resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
    )
    expected = base_logits(model.eval(), PROMPT)
    pipe = pipeline(model)
    injected = pipe.logits(PROMPT)
    assert pipe.doubter is not None
    for inject, logits in ((True, injected), (False, expected)):
        model.train()
        pipe.doubter.train()
        assert torch.equal(pipe.logits(PROMPT, inject=inject), logits)
        assert not model.training
    assert not torch.equal(injected, expected)


def test_float64() -> None:
    single = pipeline()
    double = pipeline(tiny_causal_lm("llama").double())
    logits = double.logits(PROMPT)
    assert logits.dtype == torch.float64
    assert double.cognitive_tokens(PROMPT).dtype == torch.float64
    torch.testing.assert_close(single.logits(PROMPT).double(), logits, rtol=0, atol=F32_LOGITS_MAX_ABS)
    assert double.generate_ids(PROMPT, 8, stop_ids=()) == single.generate_ids(PROMPT, 8, stop_ids=())


def test_bfloat16_base_is_injected_in_float32() -> None:
    pipe = pipeline(tiny_causal_lm("llama").bfloat16())
    layer = CROSS[0]
    clean, injected = pipe.layer_outputs(PROMPT, [layer], inject=False)[0], pipe.layer_outputs(PROMPT, [layer])[0]
    tokens = pipe.cognitive_tokens(PROMPT)
    assert clean.dtype == tokens.dtype == torch.float32
    assert not torch.equal(tokens, tokens.bfloat16().float())  # the wrapper itself is not rounded
    assert pipe.doubter is not None
    with torch.no_grad():
        exact = pipe.doubter.cross_attention(layer)(clean, tokens)
    assert torch.equal(injected, exact.bfloat16().float())
    assert (injected - exact).abs().max() <= BF16_ROUNDING_MAX_ABS


def test_swapping_wrappers() -> None:
    pipe = pipeline(seed=1)
    first = pipe.logits(PROMPT)
    pipe.attach(random_doubter(pipe, seed=2))
    assert not torch.allclose(pipe.logits(PROMPT), first)
    pipe.attach(random_doubter(pipe, seed=1))
    assert torch.equal(pipe.logits(PROMPT), first)
    pipe.detach()
    assert pipe.doubter is None
    assert torch.equal(pipe.logits(PROMPT, inject=False), base_logits(pipe.model, PROMPT))
    with pytest.raises(Error, match="no Doubter is attached"):
        pipe.logits(PROMPT)
    assert pipe.generate("Hi", max_new_tokens=3) == pipe.generate("Hi", max_new_tokens=3, inject=False)


def test_stop_tokens() -> None:
    pipe = pipeline()
    answer = pipe.generate_ids(PROMPT, 10, stop_ids=())
    stop = answer[4]
    assert pipe.generate_ids(PROMPT, 10, stop_ids=[stop]) == answer[: answer.index(stop)]
    pipe.tokenizer.eos_token_id = stop
    assert pipe.generate_ids(PROMPT, 10) == answer[: answer.index(stop)]
    assert pipe.generate_ids(PROMPT, 0) == []


# --- finding the decoder ---


def tiny_llava() -> PreTrainedModel:
    """A vision tower with as many layers as the text model, and wider ones."""
    vision = CLIPVisionConfig(
        hidden_size=96, intermediate_size=192, num_hidden_layers=6, num_attention_heads=2, image_size=16, patch_size=8
    )
    text = LlamaConfig(
        vocab_size=258, hidden_size=32, intermediate_size=64, num_hidden_layers=6, num_attention_heads=2, head_dim=16
    )
    return LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text, image_token_index=257))


def tiny_qwen3_5_vl() -> PreTrainedModel:
    vision = {"depth": 8, "hidden_size": 96, "intermediate_size": 192, "num_heads": 2, "out_hidden_size": 32}
    text = {
        "vocab_size": 258,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 8,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
    }
    tokens = {"image_token_id": 250, "video_token_id": 251, "vision_start_token_id": 252, "vision_end_token_id": 253}
    return Qwen3_5ForConditionalGeneration(Qwen3_5Config(text_config=text, vision_config=vision, **tokens))


@pytest.mark.parametrize(("make", "n_layers"), [(tiny_llava, 6), (tiny_qwen3_5_vl, 8)])
def test_nested_multimodal_models(make: Any, n_layers: int) -> None:
    torch.manual_seed(0)
    model = make().eval()
    stack = find_decoder(model)
    assert (len(stack.blocks), stack.hidden_dim, stack.path) == (n_layers, 32, "model.language_model.layers")
    pipe = pipeline(model)
    assert not torch.equal(pipe.logits(PROMPT), pipe.logits(PROMPT, inject=False))
    answer = pipe.generate_ids(PROMPT, 6, stop_ids=())
    logits = pipe.logits([*PROMPT, *answer], n_prompt=len(PROMPT))[len(PROMPT) - 1 : -1]
    assert logits.argmax(dim=-1).tolist() == answer


class Block(nn.Module):
    """A block that returns a tuple, and holds as many experts as there are blocks."""

    def __init__(self, dim: int, n_experts: int) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(dim, dim, bias=False) for _ in range(n_experts))

    def forward(self, hidden: Tensor) -> tuple[Tensor, str]:
        for expert in self.experts:
            hidden = hidden + torch.tanh(expert(hidden))
        return hidden, "not a tensor"


class OldStyle(nn.Module):
    """A minimal causal LM that does not derive from transformers' base class."""

    def __init__(self, dim: int = 16, n_layers: int = 6) -> None:
        super().__init__()
        self.config = LlamaConfig(vocab_size=258, hidden_size=dim, num_hidden_layers=n_layers, num_attention_heads=1)
        self.embed = nn.Embedding(258, dim)
        self.gates = nn.ModuleList(nn.Linear(1, 1) for _ in range(n_layers))  # not blocks
        self.h = nn.ModuleList(Block(dim, n_layers) for _ in range(n_layers))

    @property
    def dtype(self) -> torch.dtype:
        return self.embed.weight.dtype

    def get_input_embeddings(self) -> nn.Module:
        return self.embed

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> Any:
        hidden = self.embed(input_ids)
        for block in self.h:
            hidden, _ = block(hidden)
        return type("Output", (), {"logits": hidden @ self.embed.weight.T})


def test_blocks_that_return_tuples_and_hold_experts() -> None:
    torch.manual_seed(0)
    model = OldStyle()
    assert find_decoder(model).path == "h"
    pipe = pipeline(model)
    assert not torch.equal(pipe.logits(PROMPT), pipe.logits(PROMPT, inject=False))
    assert pipe.layer_outputs(PROMPT, [0, 5]).shape == (2, len(PROMPT), 16)
    assert len(pipe.generate_ids(PROMPT, 3, stop_ids=())) == 3


def test_encoder_decoders_are_refused() -> None:
    model = T5ForConditionalGeneration(T5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2))
    with pytest.raises(ModelMismatchError, match="is an encoder-decoder"):
        find_decoder(model)


def test_models_without_a_stack_are_refused() -> None:
    model = OldStyle()
    model.config.num_hidden_layers = 7
    with pytest.raises(ModelMismatchError, match="no stack of decoder blocks"):
        find_decoder(model)
    with pytest.raises(ModelMismatchError, match="has no config"):
        find_decoder(nn.Linear(2, 2))


def test_blocks_of_another_shape_are_refused() -> None:
    model = OldStyle()
    model.config.hidden_size = 15
    pipe = MetaSpiderPipeline.from_pretrained(
        MetaSpiderConfig(model_name="tiny"), model=model, tokenizer=byte_tokenizer()
    )
    with pytest.raises(ModelMismatchError, match=r"block 2 of 'h' outputs \[1, 12, 16\]"):
        pipe.layer_outputs(PROMPT, [2], inject=False)
    assert hooks_of(model) == 0  # also after an error


# --- wrappers that do not fit ---


def test_everything_that_does_not_fit_is_named() -> None:
    model = tiny_causal_lm("llama")
    pipe = MetaSpiderPipeline.from_pretrained(
        MetaSpiderConfig(model_name="tiny", target_layers="late"), model=model, tokenizer=byte_tokenizer()
    )
    config, tensors = random_wrapper(
        "selective", hidden_dim=48, target_layers=[2, 3], cross_attn_layers=[5, 6], num_layers=7
    )
    with pytest.raises(ModelMismatchError) as caught:
        pipe.attach(Doubter.from_tensors(config, tensors, source="checkpoint 'x.pt'"))
    text = str(caught.value)
    assert text.startswith("checkpoint 'x.pt': 4 faults")
    assert "cross_attn_layers has [6], expected 0 to 5 (the base has 6 blocks)" in text
    assert "was made for width 48, the base has 64 (wrong base model?)" in text
    assert "was made for 7 decoder blocks, the base has 6" in text
    assert "has target_layers [2, 3], MetaSpiderConfig says [4, 5]" in text
    assert pipe.doubter is None


@pytest.mark.parametrize(
    ("layers", "message"),
    [([0, 6], r"\[6\]"), ("4-6", r"\[6\]"), ("late:32", "32"), ("last", "last"), ([1, 1], "twice"), ([], "empty")],
)
def test_config_layers_are_checked(layers: Any, message: str) -> None:
    config = MetaSpiderConfig(model_name="tiny", cross_attn_layers=layers)
    with pytest.raises(ModelMismatchError, match=f"MetaSpiderConfig: cross_attn_layers .*{message}"):
        MetaSpiderPipeline.from_pretrained(config, model=tiny_causal_lm("llama"), tokenizer=byte_tokenizer())


@pytest.mark.parametrize(
    ("spec", "layers"), [("late", (4, 5)), ("all", tuple(range(6))), ("2,4-5", (2, 4, 5)), ([4, 2], (4, 2))]
)
def test_config_layers_are_cross_checked(spec: Any, layers: tuple[int, ...]) -> None:
    config = MetaSpiderConfig(model_name="tiny", target_layers=spec, cross_attn_layers=spec)
    pipe = MetaSpiderPipeline.from_pretrained(config, model=tiny_causal_lm("llama"), tokenizer=byte_tokenizer())
    pipe.attach(random_doubter(pipe, target_layers=layers, cross_attn_layers=layers))
    with pytest.raises(ModelMismatchError, match="MetaSpiderConfig says"):
        pipe.attach(random_doubter(pipe, target_layers=[0, 1], cross_attn_layers=layers))


def test_bad_input_is_named() -> None:
    pipe = pipeline()
    with pytest.raises(DecodeError, match="has no tokens"):
        pipe.logits([])
    with pytest.raises(DecodeError, match="token id 258 at position 1"):
        pipe.logits([1, 258])
    with pytest.raises(DecodeError, match="token id -1 at position 0"):
        pipe.generate_ids([-1], 1)
    with pytest.raises(ModelMismatchError, match=r"layers has \[6, -1\]"):
        pipe.layer_outputs(PROMPT, [6, 0, -1])
    with pytest.raises(ModelMismatchError, match="layers is empty"):
        pipe.layer_outputs(PROMPT, [])
    with pytest.raises(Error, match="only one of model and tokenizer is given"):
        MetaSpiderPipeline.from_pretrained(MetaSpiderConfig(model_name="tiny"), model=pipe.model)
