"""Two-pass generation in PyTorch: the oracle that the runtime is compared with.

Pass 1 runs the clean base over the prompt and takes the outputs of the target layers at its last token; the encoder
makes cognitive tokens of them; pass 2 runs the prompt again, with ``h ← h + gain · tanh(gate) · CA(h, tokens)`` at the
output of every cross-attention layer, and generation goes on from there. The cognitive tokens stay as they are for the
whole answer (static mode).

Precision: the base runs in its own dtype, the wrapper in float32 (float64 beside a float64 base). Hidden states are
raised to the wrapper's dtype, injected into, and rounded back once. What is returned is on the CPU, in the wrapper's
dtype.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from metadeploy.errors import CheckpointError, Error, ModelMismatchError, faults_message
from metadeploy.export.layers import LayerSpec, parse_layers
from metadeploy.reference.base import FrozenBase, eos_ids
from metadeploy.reference.config import MetaSpiderConfig
from metadeploy.reference.doubt import AS_CALIBRATED, DoubtReading, read_doubt, refusal_token
from metadeploy.reference.doubter import Doubter, PendingDoubter
from metadeploy.reference.injection import Injection
from metadeploy.reference.loading import load_base
from metadeploy.reference.prompts import Message, render_chat


class MetaSpiderPipeline:
    """A frozen base model, and a ``Doubter`` where one is attached.

    The base's weights are never modified, and nothing stays hooked into it between calls. Every call puts base and
    wrapper into evaluation mode, so that no dropout is active whatever was done to them before.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, *, config: MetaSpiderConfig) -> None:
        """Wrap a model that is loaded already; ``from_pretrained`` loads one.

        Args:
            model: a transformers causal LM, on its device.
            tokenizer: its tokenizer.
            config: whose layers are resolved against the model, and which the wrapper's are checked with.

        Raises:
            ModelMismatchError: no decoder stack is found, or the config's layers are not the model's.
        """
        self.tokenizer: Any = tokenizer
        self.config = config
        self._base = FrozenBase(model)
        self._target_layers = self._config_layers("target_layers")
        self._cross_attn_layers = self._config_layers("cross_attn_layers")
        self._doubter: Doubter | None = None
        self._gain = 1.0

    @classmethod
    def from_pretrained(
        cls, config: MetaSpiderConfig, *, model: nn.Module | None = None, tokenizer: Any = None
    ) -> MetaSpiderPipeline:
        """Load the base that ``config`` names, or take one that is loaded already.

        Args:
            config: base and layers; with ``model`` given its loading options are not used.
            model: a transformers causal LM, on its device.
            tokenizer: its tokenizer; given if and only if ``model`` is.

        Returns:
            A pipeline without a wrapper.

        Raises:
            ModelLoadError: the base cannot be loaded.
            ModelMismatchError: it is no decoder-only causal LM, or lacks the config's layers.
            MissingDependencyError: a package that loading needs is not installed.
        """
        if (model is None) != (tokenizer is None):
            raise Error("MetaSpiderPipeline: model and tokenizer go together, expected both or neither")
        if model is None:
            model, tokenizer = load_base(config)
        return cls(model, tokenizer, config=config)

    # --- the wrapper ---

    @property
    def model(self) -> nn.Module:
        """The base, as transformers has it."""
        model: nn.Module = self._base.model
        return model

    @property
    def doubter(self) -> Doubter | None:
        """The attached wrapper."""
        return self._doubter

    @property
    def gain(self) -> float:
        """Factor of the injection: 1 as trained, 0 the base exactly, negative inverts."""
        return self._gain

    @property
    def num_layers(self) -> int:
        """Number of decoder blocks of the base."""
        return self._base.num_layers

    @property
    def hidden_dim(self) -> int:
        """Width D of the base."""
        return self._base.stack.hidden_dim

    @property
    def vocab_size(self) -> int:
        """Rows V of the base's token embedding."""
        return self._base.stack.vocab_size

    def set_gain(self, gain: float) -> None:
        """Set the factor of the injection; above about 1.5 to 2 the feedback runs away."""
        self._gain = float(gain)

    def attach(self, doubter: Doubter | PendingDoubter) -> Doubter:
        """Attach a wrapper in place of the one before; it is moved to the device of the base's embedding.

        Args:
            doubter: from ``Doubter.from_checkpoint``; where that could not tell the layers, the config's are used.

        Returns:
            The wrapper as attached.

        Raises:
            CheckpointError: a pending wrapper is unusable, or neither its files nor the config say the layers.
            ModelMismatchError: wrapper, config and base contradict each other; all contradictions are named.
        """
        if isinstance(doubter, PendingDoubter):
            doubter = self._resolve(doubter)
        self._check_fit(doubter)
        self._doubter = doubter.to(self._base.device, self._base.wrapper_dtype)
        return self._doubter

    def detach(self) -> None:
        """Take the wrapper off: what remains is the base."""
        self._doubter = None

    # --- text ---

    def apply_chat_template(self, prompt: str | Sequence[Message]) -> str:
        """Wrap a question, or a conversation, as the wrapper's training prompts were.

        The base's own chat template is used, with the wrapper's ``chat_template_kwargs`` (thinking off, for example);
        its ``answer_suffix`` is appended to the last message of the user.

        Args:
            prompt: what the user says, or messages.

        Returns:
            The prompt's text, up to where the answer begins.

        Raises:
            Error: the tokenizer has no chat template, or it does not accept the messages.
        """
        settings = self._doubter.config if self._doubter is not None else None
        return render_chat(
            self.tokenizer,
            prompt,
            answer_suffix=settings.answer_suffix if settings is not None else None,
            template_kwargs=settings.chat_template_kwargs if settings is not None else None,
        )

    def tokenize(self, text: str, *, add_special: bool = False) -> list[int]:
        """Token ids of a text; ``add_special`` adds what the tokenizer puts around a plain one, such as BOS."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=add_special)["input_ids"]
        return ids

    def generate(
        self,
        prompt: str | Sequence[Message],
        *,
        max_new_tokens: int = 256,
        raw: bool = False,
        inject: bool | None = None,
        gain: float | None = None,
        doubt_threshold: float = AS_CALIBRATED,
    ) -> str:
        """Answer a prompt, greedily.

        Args:
            prompt: what the user says, or messages.
            max_new_tokens: length limit of the answer.
            raw: use the prompt, a str, as it is and not through the chat template.
            inject: False answers with the base alone; the default uses the wrapper where one is attached.
            gain: in place of the pipeline's.
            doubt_threshold: as in ``generate_ids``.

        Returns:
            The answer, without special tokens.

        Raises:
            Error: the prompt is empty or cannot be wrapped, or ``inject`` is asked for without a wrapper.
        """
        if not raw:
            ids = self.tokenize(self.apply_chat_template(prompt))
        elif isinstance(prompt, str):
            ids = self.tokenize(prompt, add_special=True)
        else:
            raise Error("prompt: is a list of messages, expected a str with raw=True")
        if inject is None:
            inject = self._doubter is not None
        answer = self.generate_ids(ids, max_new_tokens, inject=inject, gain=gain, doubt_threshold=doubt_threshold)
        text: str = self.tokenizer.decode(answer, skip_special_tokens=True)
        return text

    # --- token ids: what the runtime is compared with ---

    def activations(self, token_ids: Sequence[int]) -> Tensor:
        """Outputs of the target layers at the last token of a clean pass: [n_target, D]."""
        return _returned(self._activations(token_ids))

    def cognitive_tokens(self, token_ids: Sequence[int]) -> Tensor:
        """What the encoder makes of the activations: [C, D]."""
        return _returned(self._cognitive_tokens(token_ids))

    def doubt(self, token_ids: Sequence[int], *, gain: float | None = None) -> float:
        """How near the answer to a prompt is to beginning with the trained refusal; nothing is generated.

        Args:
            token_ids: the prompt.
            gain: in place of the pipeline's; at 0 it is the doubt of the base's own logits.

        Returns:
            In (0, 1); above 0.5 a greedy answer begins with the refusal.
        """
        injection = self._injection(token_ids, gain=gain)
        output = self._base.forward(token_ids, injection=injection, last_only=True)
        return self._read_doubt(output.logits[-1], token_ids).value

    def logits(
        self, token_ids: Sequence[int], *, inject: bool = True, gain: float | None = None, n_prompt: int | None = None
    ) -> Tensor:
        """Logits at every position.

        Args:
            token_ids: T ids.
            inject: whether the wrapper takes part.
            gain: in place of the pipeline's.
            n_prompt: how many of the ids are the prompt, from which the cognitive tokens come; all where None.

        Returns:
            [T, V].
        """
        injection = self._injection(token_ids[:n_prompt], gain=gain) if inject else None
        return _returned(self._base.forward(token_ids, injection=injection).logits)

    def layer_outputs(
        self,
        token_ids: Sequence[int],
        layers: Sequence[int],
        *,
        inject: bool = True,
        gain: float | None = None,
        n_prompt: int | None = None,
    ) -> Tensor:
        """Outputs of decoder blocks at every position, after the injection where there is one.

        Args:
            token_ids: T ids.
            layers: L block numbers, in any order.
            inject: whether the wrapper takes part.
            gain: in place of the pipeline's.
            n_prompt: how many of the ids are the prompt, from which the cognitive tokens come; all where None.

        Returns:
            [L, T, D].

        Raises:
            ModelMismatchError: a layer that the base does not have.
        """
        faults = self._base.range_faults("layers", layers) if layers else ["layers is empty, expected at least one"]
        if faults:
            raise ModelMismatchError(faults_message("layer_outputs", faults))
        injection = self._injection(token_ids[:n_prompt], gain=gain) if inject else None
        outputs = self._base.layer_outputs(token_ids, layers, injection=injection)
        return torch.stack([_returned(output) for output in outputs])

    def attention(self, token_ids: Sequence[int], *, gain: float | None = None) -> Tensor:
        """Where pass 2 looks: attention over the cognitive tokens, [n_cross_attn, H, T, C] in ``cross_attn_layers``."""
        seen: dict[int, Tensor] = {}
        injection = replace(self._injection(token_ids, gain=gain), attention=seen)
        self._base.forward(token_ids, injection=injection, last_only=True)
        return torch.stack([_returned(seen[layer]) for layer in self._attached().config.cross_attn_layers])

    def generate_ids(
        self,
        prompt_ids: Sequence[int],
        max_new_tokens: int,
        *,
        inject: bool = True,
        gain: float | None = None,
        stop_ids: Sequence[int] | None = None,
        doubt_threshold: float = AS_CALIBRATED,
    ) -> list[int]:
        """Generate greedily.

        Args:
            prompt_ids: the prompt's token ids, at least one.
            max_new_tokens: length limit of the answer.
            inject: whether the wrapper takes part.
            gain: in place of the pipeline's.
            stop_ids: tokens that end the answer and are not part of it; the model's own where None, () for none.
            doubt_threshold: decline where ``doubt`` reaches it, from 0 (always) to 1 (never); 0.5 is how the wrapper is
                calibrated. Without effect at gain 0, which is the base exactly.

        Returns:
            The answer's token ids.

        Raises:
            ValueError: the threshold is out of range.
            Error: a threshold other than 0.5 is given where the base answers alone.
        """
        if not 0 <= doubt_threshold <= 1:
            raise ValueError(f"doubt_threshold is {doubt_threshold}, expected 0 to 1")
        if not inject and doubt_threshold != AS_CALIBRATED:
            raise Error(f"doubt_threshold is {doubt_threshold}, but the base answers alone (inject=False)")
        stop = {*self._base.stop_ids, *eos_ids(self.tokenizer)} if stop_ids is None else set(stop_ids)
        injection = self._injection(prompt_ids, gain=gain) if inject else None
        answer: list[int] = []
        token_ids, n_past, cache = list(prompt_ids), 0, None
        while len(answer) < max_new_tokens:
            output = self._base.forward(
                token_ids, injection=injection, n_past=n_past, cache=cache, use_cache=True, last_only=True
            )
            token = int(output.logits[-1].argmax())
            if injection is not None and injection.gain != 0 and not answer:
                token = self._read_doubt(output.logits[-1], prompt_ids).greedy_token(doubt_threshold)
            if token in stop:
                break
            answer.append(token)
            cache = output.cache
            if cache is None:  # a model without one: everything again, injected where it was before
                token_ids = [*prompt_ids, *answer]
            else:
                n_past += len(token_ids)
                token_ids = [token]
        return answer

    # --- passes ---

    def _activations(self, token_ids: Sequence[int]) -> Tensor:
        """[n_target, D], on the device and in the dtype of the encoder."""
        doubter = self._attached()
        like = next(doubter.enc.parameters())
        outputs = self._base.layer_outputs(token_ids, doubter.config.target_layers, injection=None, last_only=True)
        return torch.stack([output[-1].to(like) for output in outputs])

    @torch.no_grad()
    def _cognitive_tokens(self, token_ids: Sequence[int]) -> Tensor:
        activations = self._activations(token_ids)
        tokens: Tensor = self._attached().eval()(activations)
        return tokens

    def _injection(self, prompt_ids: Sequence[int], *, gain: float | None) -> Injection:
        """Pass 1 and the encoder."""
        doubter = self._attached()
        from_last = doubter.config.inject_from == "last_prompt_token"
        return Injection(
            doubter=doubter,
            cognitive_tokens=self._cognitive_tokens(prompt_ids),
            gain=self._gain if gain is None else float(gain),
            first_position=len(prompt_ids) - 1 if from_last else 0,
        )

    def _read_doubt(self, logits: Tensor, prompt_ids: Sequence[int]) -> DoubtReading:
        config = self._attached().config
        refusal = refusal_token(self.tokenizer, config, last_prompt_token=prompt_ids[-1])
        return read_doubt(logits, refusal, bias=config.refusal_bias)

    # --- checks ---

    def _attached(self) -> Doubter:
        if self._doubter is None:
            raise Error("pipeline: no Doubter is attached, expected one (call attach(), or pass inject=False)")
        return self._doubter

    def _resolve(self, pending: PendingDoubter) -> Doubter:
        if self._target_layers is None and not pending.claims("target_layers"):
            raise CheckpointError(
                f"checkpoint '{pending.path}': nothing says which layers the encoder reads, expected target_layers in "
                "run.json beside it, in from_checkpoint() or in MetaSpiderConfig"
            )
        return pending.resolve(
            target_layers=self._target_layers, cross_attn_layers=self._cross_attn_layers, num_layers=self.num_layers
        )

    def _config_layers(self, name: str) -> tuple[int, ...] | None:
        """The config's layers in numbers."""
        value: LayerSpec | None = getattr(self.config, name)
        if value is None:
            return None
        try:
            return parse_layers(value, num_layers=self.num_layers)
        except ValueError as error:
            raise ModelMismatchError(f"MetaSpiderConfig: {name} {error}") from error

    def _check_fit(self, doubter: Doubter) -> None:
        config = doubter.config
        faults = self._base.range_faults("target_layers", config.target_layers)
        faults += self._base.range_faults("cross_attn_layers", config.cross_attn_layers)
        if not config.cross_attn_layers:
            faults.append("has no cross-attention layers, so it would change nothing")
        if config.hidden_dim != self.hidden_dim:
            faults.append(f"was made for width {config.hidden_dim}, the base has {self.hidden_dim} (wrong base model?)")
        if config.base_block_count not in (None, self.num_layers):
            faults.append(
                f"was made for {config.base_block_count} decoder blocks, the base has {self.num_layers} "
                "(wrong base model?)"
            )
        unknown = [token for token in config.refusal_token_ids or () if token >= self.vocab_size]
        if unknown:
            faults.append(
                f"has refusal token {unknown[0]}, the base has a vocabulary of {self.vocab_size} (wrong base model?)"
            )
        for name, ours in (("target_layers", self._target_layers), ("cross_attn_layers", self._cross_attn_layers)):
            theirs: tuple[int, ...] = getattr(config, name)
            if ours is not None and (sorted(ours) != sorted(theirs) if name == "cross_attn_layers" else ours != theirs):
                faults.append(f"has {name} {list(theirs)}, MetaSpiderConfig says {list(ours)}")
        if faults:
            raise ModelMismatchError(faults_message(doubter.source, faults))


def _returned(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.promote_types(tensor.dtype, torch.float32))
