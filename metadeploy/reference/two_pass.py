"""The two passes over token ids: the reference with which tests compare the runtime.

Pass 1 evaluates the prompt with the clean base and reads the outputs of the target layers at the last token. The
encoder turns them into cognitive tokens. Pass 2 evaluates the prompt again, with ``h ← h + gain · tanh(gate) · CA(h,
tokens)`` at the output of every cross-attention layer, and the answer continues from it. Gain and cognitive tokens stay
the same for the whole answer, unless a schedule changes them (``metadeploy.schedule``).

Precision: the base runs in its own dtype, the wrapper in float32 (in float64 with a float64 base). Hidden states are
converted to the wrapper's dtype for the injection, and rounded back once. Results are on the CPU, in the wrapper's
dtype.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from metadeploy._checks import check, flag, instance, number, whole_number
from metadeploy.errors import Error, ModelMismatchError, faults_message
from metadeploy.reference.base import FrozenBase, eos_ids
from metadeploy.reference.context import CleanContext, Context
from metadeploy.reference.doubt import DoubtReading, read_doubt, refusal_token
from metadeploy.reference.doubter import Doubter
from metadeploy.reference.injection import Injection
from metadeploy.reference.refresh import Refresher
from metadeploy.schedule import STATIC, InjectionSchedule
from metadeploy.sidecar.spec import DEFAULT_THRESHOLD


class TwoPass:
    """A frozen base with an optional ``Doubter``, on token ids.

    The base's weights never change, and no hook stays in it between calls. Every call puts base and wrapper into
    evaluation mode, so that dropout is never active.
    """

    def __init__(self, model: nn.Module, tokenizer: Any) -> None:
        """Use a base without a wrapper.

        Args:
            model: a transformers causal LM, on its device.
            tokenizer: its tokenizer.

        Raises:
            ModelMismatchError: no decoder stack is found.
        """
        self.tokenizer: Any = tokenizer
        self._base = FrozenBase(model)
        self._doubter: Doubter | None = None
        self._gain = 1.0

    @property
    def model(self) -> nn.Module:
        """The transformers model of the base."""
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
        """Set the factor of the injection; above about 1.5 to 2 its effect amplifies itself."""
        self._gain = float(gain)

    # --- computed values ---

    def activations(self, token_ids: Sequence[int]) -> Tensor:
        """Return the outputs of the target layers at the last token of a clean pass: [n_target, D]."""
        return _returned(CleanContext(self._base, self._attached()).feed(token_ids))

    def cognitive_tokens(self, token_ids: Sequence[int]) -> Tensor:
        """Return the encoder's output for the activations: [C, D]."""
        doubter = self._attached()
        return _returned(doubter.encode(CleanContext(self._base, doubter).feed(token_ids)))

    def doubt(
        self, token_ids: Sequence[int], *, gain: float | None = None, cognitive_tokens: Tensor | None = None
    ) -> float:
        """Return the doubt of a prompt, without generating an answer.

        Args:
            token_ids: the prompt.
            gain: factor of the injection; None uses the pipeline's. At 0, the logits are those of the base alone.
            cognitive_tokens: cognitive tokens [C, D] to inject instead of the prompt's own.

        Returns:
            A number in (0, 1); above 0.5, a greedy answer begins with the refusal.

        Raises:
            ModelMismatchError: the cognitive tokens do not fit the wrapper.
            Error: wrappers of this kind have no refusal.
        """
        self._check_declines("doubt")
        injection = self._injection(token_ids, gain=gain, cognitive_tokens=cognitive_tokens)
        output = self._base.forward(token_ids, injection=injection, last_only=True)
        return self._read_doubt(output.logits[-1], token_ids).value

    def logits(
        self,
        token_ids: Sequence[int],
        *,
        inject: bool = True,
        gain: float | None = None,
        n_prompt: int | None = None,
        cognitive_tokens: Tensor | None = None,
        schedule: InjectionSchedule = STATIC,
    ) -> Tensor:
        """Return the logits at all positions, from one pass.

        Args:
            token_ids: T ids.
            inject: whether to inject.
            gain: factor of the injection; None uses the pipeline's.
            n_prompt: number of leading ids that are the prompt, from which the cognitive tokens come; None means all.
            cognitive_tokens: cognitive tokens [C, D] to inject instead of the prompt's own.
            schedule: how the injection changes over the ids after the prompt.

        Returns:
            [T, V].

        Raises:
            ModelMismatchError: the cognitive tokens do not fit the wrapper.
            Error: options contradict each other, as in ``generate_ids``.
        """
        _check_alone(inject, cognitive_tokens, schedule)
        injection = None
        if inject:
            prompt_ids = token_ids[:n_prompt]
            injection, refresher = self._begin(prompt_ids, gain, cognitive_tokens, schedule)
            if refresher is not None:
                for token in token_ids[len(prompt_ids) :]:
                    injection = refresher.step(token)
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
        """Return the outputs of decoder blocks at all positions, including the injection.

        Args:
            token_ids: T ids.
            layers: L block numbers, in any order.
            inject: whether to inject.
            gain: factor of the injection; None uses the pipeline's.
            n_prompt: number of leading ids that are the prompt, from which the cognitive tokens come; None means all.

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
        """Return pass 2's attention to the cognitive tokens, in ``cross_attn_layers``: [n_cross_attn, H, T, C]."""
        weights: dict[int, Tensor] = {}
        injection = replace(self._injection(token_ids, gain=gain), attention=weights)
        self._base.forward(token_ids, injection=injection, last_only=True)
        return torch.stack([_returned(weights[layer]) for layer in self._attached().config.cross_attn_layers])

    def generate_ids(
        self,
        prompt_ids: Sequence[int],
        max_new_tokens: int,
        *,
        inject: bool = True,
        gain: float | None = None,
        cognitive_tokens: Tensor | None = None,
        schedule: InjectionSchedule = STATIC,
        stop_ids: Sequence[int] | None = None,
        doubt_threshold: float = DEFAULT_THRESHOLD,
    ) -> list[int]:
        """Generate greedily.

        Args:
            prompt_ids: the prompt's token ids, at least one.
            max_new_tokens: maximum number of tokens of the answer.
            inject: whether to inject.
            gain: factor of the injection; None uses the pipeline's.
            cognitive_tokens: [C, D] from ``encode``, to inject instead of the prompt's own for the whole answer. There
                is no clean pass then.
            schedule: how the injection changes while the answer grows; by default it does not change.
            stop_ids: tokens that end the answer and are not part of it; None means the model's own, () none.
            doubt_threshold: the doubt from which on the model declines, from 0 (always) to 1 (never); 0.5 is the
                calibrated threshold. It has no effect at gain 0, which is the base exactly.

        Returns:
            The answer's token ids.

        Raises:
            TypeError: an option has the wrong type.
            ValueError: an option is out of range.
            ModelMismatchError: the cognitive tokens do not fit the wrapper.
            Error: the base answers alone, and cognitive tokens, a schedule or a threshold other than 0.5 are given. Or
                a threshold other than 0.5 is given, and wrappers of this kind have no refusal. Or cognitive tokens and
                a schedule with a refresh are given together.
        """
        check("max_new_tokens", max_new_tokens, whole_number(0))
        check("inject", inject, flag())
        check("schedule", schedule, instance(InjectionSchedule))
        check("doubt_threshold", doubt_threshold, number(0, 1))
        _check_alone(inject, cognitive_tokens, schedule, doubt_threshold)
        if doubt_threshold != DEFAULT_THRESHOLD:
            self._check_declines(f"doubt_threshold is {doubt_threshold}")
        stop = {*self._base.stop_ids, *eos_ids(self.tokenizer)} if stop_ids is None else set(stop_ids)
        injection, refresher = self._begin(prompt_ids, gain, cognitive_tokens, schedule) if inject else (None, None)
        context = Context(self._base)
        answer: list[int] = []
        while len(answer) < max_new_tokens:
            if refresher is not None and answer:
                injection = refresher.step(answer[-1])
            logits = context.feed(answer[-1:] or prompt_ids, injection=injection)
            token = int(logits.argmax())
            if not answer and injection is not None and injection.gain != 0 and self._attached().config.declines:
                token = self._read_doubt(logits, prompt_ids).greedy_token(doubt_threshold)
            if token in stop:
                break
            answer.append(token)
        return answer

    # --- passes ---

    def _begin(
        self,
        prompt_ids: Sequence[int],
        gain: float | None,
        cognitive_tokens: Tensor | None = None,
        schedule: InjectionSchedule = STATIC,
    ) -> tuple[Injection, Refresher | None]:
        """Run pass 1 and the encoder, unless cognitive tokens are given. Also return the refresher, if any."""
        doubter = self._attached()

        def injection(tokens: Tensor) -> Injection:
            return Injection(
                doubter=doubter,
                cognitive_tokens={0: tokens},
                gain=self._gain if gain is None else float(gain),
                n_prompt=len(prompt_ids),
                schedule=schedule,
            )

        if cognitive_tokens is not None:
            if schedule.refresh is not None:
                raise Error("cognitive_tokens: are given and stay as they are, but the schedule refreshes them")
            return injection(self._given_tokens(cognitive_tokens)), None
        clean = CleanContext(self._base, doubter)
        activations = clean.feed(prompt_ids)
        initial = injection(doubter.encode(activations))
        if schedule.refresh is None:
            return initial, None
        return initial, Refresher(schedule.refresh, initial, clean=clean, encoded=activations)

    def _injection(
        self, prompt_ids: Sequence[int], *, gain: float | None, cognitive_tokens: Tensor | None = None
    ) -> Injection:
        injection, _ = self._begin(prompt_ids, gain, cognitive_tokens)
        return injection

    def _read_doubt(self, logits: Tensor, prompt_ids: Sequence[int]) -> DoubtReading:
        config = self._attached().config
        refusal = refusal_token(self.tokenizer, config, last_prompt_token=prompt_ids[-1])
        return read_doubt(logits, refusal, bias=config.refusal_bias)

    # --- checks ---

    def _attached(self) -> Doubter:
        if self._doubter is None:
            raise Error("pipeline: no Doubter is attached, expected one (call attach(), or pass inject=False)")
        return self._doubter

    def _given_tokens(self, cognitive_tokens: Tensor) -> Tensor:
        """Check the cognitive tokens, and return them on the device and in the dtype of the wrapper."""
        doubter = self._attached()
        expected = [doubter.config.num_cognitive_tokens, doubter.config.hidden_dim]
        if list(cognitive_tokens.shape) != expected:
            raise ModelMismatchError(
                f"cognitive_tokens: have shape {list(cognitive_tokens.shape)}, expected {expected} (encoded by another "
                "wrapper?)"
            )
        if not cognitive_tokens.isfinite().all():
            raise ModelMismatchError("cognitive_tokens: have values that are not finite, expected none")
        return cognitive_tokens.detach().to(next(doubter.parameters()))

    def _check_declines(self, subject: str) -> None:
        config = self._attached().config
        if not config.declines:
            raise Error(f"{subject}: a wrapper of kind '{config.kind}' has no refusal, expected a doubter")


def _returned(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.promote_types(tensor.dtype, torch.float32))


def _check_alone(
    inject: bool,
    cognitive_tokens: Tensor | None,
    schedule: InjectionSchedule,
    doubt_threshold: float = DEFAULT_THRESHOLD,
) -> None:
    """Refuse options that have no effect if the base answers alone."""
    is_set = {
        f"doubt_threshold is {doubt_threshold}": doubt_threshold != DEFAULT_THRESHOLD,
        "cognitive_tokens are given": cognitive_tokens is not None,
        "a schedule is given": schedule != STATIC,
    }
    unused = [phrase for phrase, is_used in is_set.items() if is_used]
    if not inject and unused:
        raise Error(f"{' and '.join(unused)}, but the base answers alone (inject=False)")
