"""LoadedModel: a base with a sidecar, its tokens, and the values that it computes. It generates no answers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from metadeploy import _checks, _core, _prompts
from metadeploy._checks import check, check_all, whole_number
from metadeploy._prompts import message_pairs
from metadeploy.errors import Error
from metadeploy.runtime import logs
from metadeploy.runtime.lock import InstanceLock
from metadeploy.runtime.options import CALL, GENERATION, LOADING, engine_options
from metadeploy.runtime.types import Message, Prompt
from metadeploy.sidecar.refusal import check_refusal_text

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["LoadedModel"]

#: Number of a block.
_LAYER = whole_number()

FloatArray = NDArray[np.float32]


class LoadedModel:
    """A base model with an optional sidecar. One call at a time uses it; the others wait."""

    def __init__(
        self,
        model: str | os.PathLike[str],
        sidecar: str | os.PathLike[str] | None = None,
        *,
        n_ctx: int = 4096,
        n_parallel: int = 1,
        n_batch: int = 2048,
        n_ubatch: int = 512,
        n_threads: int | None = None,
        n_threads_batch: int | None = None,
        n_gpu_layers: int = -1,
        type_k: str = "f16",
        type_v: str = "f16",
        flash_attn: bool | Literal["auto"] = "auto",
        hidden_cache_mib: int = 256,
        prefix_cache_mib: int = 512,
        gain: float = 1.0,
        chat_template: str | os.PathLike[str] | None = None,
        refusal_text: str | None = None,
        verbose: bool = False,
    ) -> None:
        """Load a base model and, optionally, a sidecar.

        Args:
            model: GGUF of the base in any quantization. With a sidecar, its architecture must support the injection
                (see `metadeploy inspect`).
            sidecar: GGUF that ``metadeploy export`` wrote; None runs the base alone.
            n_ctx: context size of each sequence in tokens; 0 divides the model's trained context size among the
                sequences.
            n_parallel: number of sequences, that is, of prompts that :meth:`generate_batch` answers at once. An answer
                with a refresh takes two. The context needs memory for ``n_parallel`` times ``n_ctx`` tokens. The
                sequences share the two caches below.
            n_batch: maximum number of tokens in one call of llama.cpp.
            n_ubatch: maximum number of tokens in one graph (micro-batch).
            n_threads: threads for decoding; None uses one for each physical core, but no more than the number of CPUs
                that this process may use (affinity, CPU quota of its cgroup).
            n_threads_batch: threads for prompts; None uses ``n_threads``.
            n_gpu_layers: number of blocks on the GPU, if there is one; -1 puts as many there as fit.
            type_k: type of the cached keys (f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0, iq4_nl).
            type_v: type of the cached values.
            flash_attn: whether to use flash attention; ``auto`` lets llama.cpp decide.
            hidden_cache_mib: maximum memory for the hidden states that pass 1 caches for pass 2, so that pass 2 starts
                at the lowest injected block. If a prompt needs more, or with 0, pass 2 evaluates all blocks.
            prefix_cache_mib: maximum memory for the state after pass 1. The next prompt reuses it for the tokens at its
                beginning that are the same, as in the turns of a chat. 0 evaluates every prompt from its first token.
            gain: strength of the injection for calls that do not set it; 0 is the base exactly.
            chat_template: replaces the model's own template. Jinja text, the name of a template of llama.cpp
                (``chatml``, ``gemma`` …), or the path object of a file with Jinja text. Templates of llama.cpp take no
                variables, so they ignore those of the sidecar.
            refusal_text: the sentence that the wrapper was trained to decline with, if the sidecar has none or a
                different one; see :meth:`attach`.
            verbose: print llama.cpp's messages to stderr. They always go to the logger ``metadeploy.llama_cpp``.

        Raises:
            ModelLoadError: llama.cpp cannot load the base.
            SidecarError: the sidecar is malformed.
            ModelMismatchError: the sidecar does not fit the base, or the architecture does not support the injection.
            Error: the chat template is neither Jinja nor the name of a template of llama.cpp.
            TypeError: an option has the wrong type.
            ValueError: an option has an invalid value, or the refusal text has fewer than three words.
        """
        values = check_all(LOADING, locals())
        if refusal_text is not None:
            if sidecar is None:
                raise ValueError(
                    "refusal_text is given without a sidecar, expected one: it is the refusal of its wrapper"
                )
            check_refusal_text(values["refusal_text"])
        logs.configure(verbose)
        template = "" if chat_template is None else _prompts.template_text(chat_template)
        options = engine_options({**values, "chat_template": template})
        self._lock = InstanceLock()
        self._model: str = values["model"]
        self._engine = _core.Engine(options)
        self._gain: float = values["gain"]
        if values["sidecar"] is not None:
            try:
                self._engine.attach(values["sidecar"], refusal_text=values["refusal_text"] or "")
            except BaseException:
                self._engine.close()
                raise

    # --- lifetime ----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Free model, context and sidecar now. This ends open streams and waits for other calls.

        A second call does nothing. All other calls on a closed instance raise Error. In a forked child it frees
        nothing, because threads that may have been using the instance do not exist there.
        """
        if self._lock.is_lost:
            return
        for stream in self._lock.open_streams():
            if not stream.is_one_call:
                stream.close()
        with self._lock:
            self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"a {type(self).__name__} cannot be copied or sent to another process: load it in the process that uses it"
        )

    def attach(self, sidecar: str | os.PathLike[str], *, refusal_text: str | None = None) -> None:
        """Load a sidecar, which replaces the current one, if any. After an error, the current one stays.

        Args:
            sidecar: GGUF that ``metadeploy export`` or the meta-spider framework wrote.
            refusal_text: the sentence that the wrapper was trained to decline with, if the sidecar has none or a
                different one. Answers are compared with it, and doubt is the probability of its first token. The tokens
                and the calibrated bias in the sidecar belong to the sidecar's own text and are not used.

        Raises:
            SidecarError: the file is malformed.
            ModelMismatchError: it does not fit the base.
            ValueError: the text has fewer than three words in its first sentence.
            Error: wrappers of this kind have no refusal.
        """
        file = check("sidecar", sidecar, LOADING["model"])
        text = check("refusal_text", refusal_text, LOADING["refusal_text"])
        if text is not None:
            check_refusal_text(text)
        with self._lock:
            self._engine.attach(file, refusal_text=text or "")

    def detach(self) -> None:
        """Remove the sidecar and continue with the base alone."""
        with self._lock:
            self._engine.detach()

    def tap_answers(self, prompt_layers: Sequence[int] = (), answer_layers: Sequence[int] = ()) -> None:
        """Gather what a verdict reads: from now on, every `GenerationResult` has ``features``.

        Costs a copy of one row per layer and token, and one pass over the logits per token. Meanwhile, no verdicts are
        computed. Without layers: stop. The layers stay the same when a sidecar is attached or detached.

        Args:
            prompt_layers: blocks whose output at the prompt's last token is gathered, each once.
            answer_layers: blocks whose mean output over the answer's tokens is gathered, each once.

        Raises:
            ModelMismatchError: the model has no such block, or its architecture does not show the block's output.
        """
        lists = [
            [check("a layer to tap", layer, _LAYER) for layer in layers] for layers in (prompt_layers, answer_layers)
        ]
        with self._lock:
            self._engine.tap_answers(*lists)

    @property
    def gain(self) -> float:
        """Strength of the injection for calls that do not set it."""
        return self._gain

    @gain.setter
    def gain(self, gain: float) -> None:
        self._gain = check("gain", gain, LOADING["gain"])

    # --- text and tokens ---------------------------------------------------------------------------------------------

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Convert text to token ids.

        Args:
            text: any text.
            add_special: add special tokens, such as BOS, if the model's tokenizer is configured to.
            parse_special: convert control tokens in the text, such as ``<|im_start|>``, to their ids.
        """
        checked = check("text", text, _checks.text())
        with self._lock:
            return self._engine.tokenize(checked, add_special, parse_special)

    def detokenize(self, token_ids: Sequence[int], *, special: bool = False) -> str:
        """Convert token ids to text; control tokens are shown only if ``special`` is True."""
        with self._lock:
            return self._engine.detokenize(_prompts.token_ids(token_ids), special).decode("utf-8", "replace")

    def apply_chat_template(self, messages: Sequence[Message]) -> str:
        """Return the text of a conversation as the model gets it, with the sidecar's settings and without BOS.

        Raises:
            Error: the model has no template, or it refuses the conversation.
        """
        with self._lock:
            return self._engine.apply_chat_template(message_pairs(messages))

    def tokenize_chat(self, messages: Sequence[Message]) -> list[int]:
        """Return the token ids that the model would get for a conversation, with the sidecar's settings.

        They are the tokens of the text of :meth:`apply_chat_template`, after BOS if the template writes it.

        Raises:
            Error: the model has no template, or it refuses the conversation or leaves a message out.
        """
        with self._lock:
            return self._engine.tokenize_chat(message_pairs(messages))

    def _tokens(self, prompt: Prompt, raw: bool) -> list[int]:
        check("raw", raw, CALL["raw"])
        if not _prompts.is_sequence(prompt) and not isinstance(prompt, (str, np.ndarray)):
            raise TypeError(f"the prompt is of type {type(prompt).__name__}, expected str, messages or token ids")
        if len(prompt) == 0:
            raise Error("the prompt is empty, expected a text, at least one message or at least one token id")
        if isinstance(prompt, str):
            if raw:
                return self._engine.tokenize(_prompts.unicode_text(prompt), True, True)
            return self._engine.tokenize_chat(message_pairs([{"role": "user", "content": prompt}]))
        if isinstance(prompt[0], str):
            raise Error("the prompt is a list of texts, expected one text (generate_batch takes several)")
        if isinstance(prompt[0], Mapping):
            if raw:
                raise Error("raw needs a text, got messages (raw applies no chat template)")
            return self._engine.tokenize_chat(message_pairs(prompt))
        return _prompts.token_ids(prompt)

    # --- computed values ---------------------------------------------------------------------------------------------

    def activations(self, prompt: Prompt, *, raw: bool = False) -> FloatArray:
        """Return the encoder's input: outputs of the target layers at the last prompt token in a clean pass.

        Args:
            prompt: a text, messages, or token ids.
            raw: do not apply the chat template to a text.

        Returns:
            F32 [n_target, n_embd], rows in the order of the sidecar's target layers.
        """
        with self._lock:
            return self._engine.activations(self._tokens(prompt, raw))

    def cognitive_tokens(self, prompt: Prompt, *, raw: bool = False) -> FloatArray:
        """Return the encoder's output for a prompt: F32 [n_cog, n_embd]. Arguments as in :meth:`activations`."""
        with self._lock:
            return self._engine.cognitive_tokens(self._tokens(prompt, raw))

    def encode(self, prompt: Prompt, *, raw: bool = False) -> FloatArray:
        """Return the cognitive tokens of a text, for ``generate(..., cognitive_tokens=...)``.

        Wrappers of kind ``goal_anchor`` need this: encode a goal once, and inject it over several turns. They are
        trained on goals without a chat template (``raw=True``).

        Args:
            prompt: a text, messages, or token ids.
            raw: do not apply the chat template to a text.

        Returns:
            F32 [n_cog, n_embd].
        """
        return self.cognitive_tokens(prompt, raw=raw)

    def doubt(self, prompt: Prompt, *, raw: bool = False, gain: float | None = None) -> float:
        """Return the doubt of a prompt, without generating an answer.

        It is the sigmoid of m + b, where m is the logit of the refusal's first token minus the highest other logit at
        the beginning of the answer, and b the sidecar's calibrated bias. It costs both passes over the prompt.

        Args:
            prompt: a text, messages, or token ids.
            raw: do not apply the chat template to a text.
            gain: strength of the injection; None uses the instance's. At 0, the logits are those of the base alone.

        Returns:
            A number in (0, 1). From ``doubt_threshold`` on, :meth:`generate` declines.

        Raises:
            Error: there is no sidecar, or the tokens of the refusal are unknown.
        """
        with self._lock:
            return self._engine.doubt(self._tokens(prompt, raw), self._gain_or_default(gain))

    def logits(self, token_ids: Sequence[int], *, inject: bool = True, gain: float | None = None) -> FloatArray:
        """Return the logits at every position, F32 [n_tokens, n_vocab].

        With ``inject`` (and a sidecar), the cognitive tokens come from a clean pass over the same ids.
        """
        with self._lock:
            return self._engine.logits(
                _prompts.token_ids(token_ids), check("inject", inject, _checks.flag()), self._gain_or_default(gain)
            )

    def layer_outputs(
        self, token_ids: Sequence[int], layers: Sequence[int], *, inject: bool = True, gain: float | None = None
    ) -> FloatArray:
        """Return the outputs of decoder blocks at every position, F32 [len(layers), n_tokens, n_embd].

        They include the injection. With ``inject`` (and a sidecar), the cognitive tokens come from a clean pass over
        the same ids.
        """
        with self._lock:
            return self._engine.layer_outputs(
                _prompts.token_ids(token_ids),
                [check("a layer", layer, whole_number()) for layer in layers],
                check("inject", inject, _checks.flag()),
                self._gain_or_default(gain),
            )

    def cognitive_attention(self, prompt: Prompt, *, raw: bool = False, gain: float | None = None) -> FloatArray:
        """Return the attention to the cognitive tokens, F32 [n_cross_attn_layers, n_tokens, n_head, n_cog].

        Each row over ``n_cog`` sums to 1. Arguments as in :meth:`activations`.
        """
        with self._lock:
            return self._engine.cognitive_attention(self._tokens(prompt, raw), self._gain_or_default(gain))

    def _gain_or_default(self, gain: float | None) -> float:
        checked: float = self.gain if gain is None else check("gain", gain, GENERATION["gain"])
        return checked

    @property
    def gates(self) -> dict[int, float]:
        """tanh(gate) of each cross-attention layer, by layer; empty without a sidecar."""
        with self._lock:
            return dict(zip(self._engine.cross_attn_layers, self._engine.gates.tolist(), strict=True))

    @property
    def target_layers(self) -> tuple[int, ...]:
        """Layers whose outputs the encoder reads; empty without a sidecar."""
        with self._lock:
            return tuple(self._engine.target_layers)

    @property
    def cross_attn_layers(self) -> tuple[int, ...]:
        """Layers after which the wrapper injects; empty without a sidecar."""
        with self._lock:
            return tuple(self._engine.cross_attn_layers)

    @property
    def refusal_text(self) -> str:
        """The refusal that the wrapper was trained to decline with."""
        with self._lock:
            return self._engine.refusal_text

    @property
    def n_parallel(self) -> int:
        """Number of sequences, that is, of prompts that :meth:`generate_batch` answers at once."""
        with self._lock:
            return self._engine.n_parallel

    @property
    def n_ctx(self) -> int:
        """Context size of each sequence in tokens."""
        with self._lock:
            return self._engine.n_ctx

    @property
    def n_embd(self) -> int:
        """Width of the base."""
        with self._lock:
            return self._engine.n_embd

    @property
    def n_layer(self) -> int:
        """Number of decoder blocks of the base."""
        with self._lock:
            return self._engine.n_layer

    @property
    def n_vocab(self) -> int:
        """Size of the vocabulary."""
        with self._lock:
            return self._engine.n_vocab
