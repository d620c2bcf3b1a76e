"""MetaLlama: a base GGUF with a trained wrapper beside it."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, overload

import numpy as np
from numpy.typing import NDArray

from metadeploy import _checks, _core, _prompts
from metadeploy._checks import check, check_all, whole_number
from metadeploy._prompts import message_pairs
from metadeploy.errors import Error
from metadeploy.runtime import batch, logs
from metadeploy.runtime.batch import BatchAnswer, BatchStep, Request
from metadeploy.runtime.lock import InstanceLock
from metadeploy.runtime.openai import chat_completion, text_completion
from metadeploy.runtime.options import (
    CALL,
    CHAT_DEFAULTS,
    COMPLETION_DEFAULTS,
    DEFAULTS,
    GENERATION,
    LOADING,
    ChatCompletionOptions,
    CompletionOptions,
    GenerationOptions,
    accepts,
    complete,
    engine_options,
)
from metadeploy.runtime.stream import Stream, last
from metadeploy.runtime.types import CancelCallback, GenerationChunk, GenerationResult, Message, Prompt
from metadeploy.schedule import InjectionSchedule
from metadeploy.sidecar.refusal import check_refusal_text

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["MetaLlama"]

FloatArray = NDArray[np.float32]

#: llama.cpp draws a seed of its own for this value
_RANDOM_SEED = 0xFFFFFFFF


class MetaLlama:
    """A base model and, beside it, a trained wrapper that makes it say so when it does not know.

    Safe to use from several threads: calls on one instance wait for one another, and release the GIL while they
    compute. Several instances may be alive at once. Use it as a context manager, or call :meth:`close`.

    Example:
        >>> with MetaLlama("base.gguf", "doubter_sidecar.gguf") as llm:
        ...     answer = llm.generate("What is the capital of France?")
        ...     print(answer.text, answer.abstained)
    """

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
        """Load a base model, and a sidecar beside it.

        Args:
            model: base GGUF in any quantisation, with a sidecar of an architecture that can take one
                (`metadeploy inspect` tells).
            sidecar: GGUF written by ``metadeploy export``; None for the base alone.
            n_ctx: context size in tokens, of each sequence; 0 takes the one the model was trained with, shared among
                the sequences.
            n_parallel: sequences, that is, how many prompts :meth:`generate_batch` answers at once; an answer with a
                refresh takes two. The context takes the memory of ``n_parallel`` times ``n_ctx`` tokens, and the two
                caches below are shared.
            n_batch: most tokens in one call of llama.cpp.
            n_ubatch: most tokens in one graph (micro-batch).
            n_threads: threads for decoding; None: one for each physical core, at most as many as the CPUs that this
                process may use (affinity, CPU quota of its cgroup).
            n_threads_batch: threads for prompts; None: as ``n_threads``.
            n_gpu_layers: blocks on the GPU where there is one; -1: as many as fit.
            type_k: type of the cached keys (f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0, iq4_nl).
            type_v: type of the cached values.
            flash_attn: flash attention on, off, or where it helps.
            hidden_cache_mib: most memory for the hidden states that the clean pass over a prompt keeps for the injected
                one, which then begins at the lowest block that is injected into; for a longer prompt it goes through
                all blocks again. 0: always.
            prefix_cache_mib: most memory for what the clean pass over a prompt leaves for the next one that begins with
                the same tokens, as the turns of a chat do. 0: every prompt is computed from its first token on.
            gain: strength of the injection where a call does not say another; 0 is the base exactly.
            chat_template: replaces the model's own template. Jinja text, the name of a template of llama.cpp
                (``chatml``, ``gemma`` …), or the path object of a file with Jinja text. Templates of llama.cpp take no
                variables, so they ignore those of the sidecar.
            refusal_text: the sentence that the wrapper was trained to decline with, if the sidecar has none or a
                different one; see :meth:`attach`.
            verbose: print llama.cpp's messages to stderr. They go to logger ``metadeploy.llama_cpp`` in any case.

        Raises:
            ModelLoadError: llama.cpp cannot load the base.
            SidecarError: the sidecar is malformed.
            ModelMismatchError: the two do not fit each other, or the architecture has no place to inject at.
            Error: the chat template is neither Jinja nor the name of a template of llama.cpp.
            TypeError: an option has the wrong type.
            ValueError: an option has a value that does not exist, or the refusal text has fewer than three words.
        """
        values = check_all(LOADING, locals())
        if refusal_text is not None:
            if sidecar is None:
                raise ValueError(
                    "refusal_text is given without a sidecar, expected one: it is what its wrapper declines with"
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

    # --- life --------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Free model, context and sidecar now. It ends open streams and waits for other calls.

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

    def __enter__(self) -> MetaLlama:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a MetaLlama cannot be copied or sent to another process: load it in the process that uses it")

    def attach(self, sidecar: str | os.PathLike[str], *, refusal_text: str | None = None) -> None:
        """Put a sidecar in place of the one that is there, if any; on an error the old one stays.

        Args:
            sidecar: GGUF written by ``metadeploy export``, or by the meta-spider framework.
            refusal_text: the sentence that the wrapper was trained to decline with, if the sidecar has none or a
                different one. Answers are compared with it, and doubt is the probability of its first token. The tokens
                and the calibrated bias in the sidecar belong to the sidecar's own text and are not used.

        Raises:
            SidecarError: the file is malformed.
            ModelMismatchError: it does not fit the base.
            ValueError: the text has fewer than three words in its opening sentence.
            Error: wrappers of this kind have no refusal.
        """
        file = check("sidecar", sidecar, LOADING["model"])
        text = check("refusal_text", refusal_text, LOADING["refusal_text"])
        if text is not None:
            check_refusal_text(text)
        with self._lock:
            self._engine.attach(file, refusal_text=text or "")

    def detach(self) -> None:
        """Go on with the base alone."""
        with self._lock:
            self._engine.detach()

    @property
    def gain(self) -> float:
        """Strength of the injection for calls that do not set it."""
        return self._gain

    @gain.setter
    def gain(self, gain: float) -> None:
        self._gain = check("gain", gain, LOADING["gain"])

    # --- answers -----------------------------------------------------------------------------------------------------

    @accepts(DEFAULTS)
    def generate(self, prompt: Prompt, **options: Unpack[GenerationOptions]) -> GenerationResult:
        """Answer a question or continue a conversation.

        Args:
            prompt: a question, or messages, which go through the chat template with the sidecar's settings; or token
                ids, which are taken as they are.
            **options: `GenerationOptions`.

        Returns:
            The answer.

        Raises:
            ContextOverflowError: the prompt does not fit into the context.
            Cancelled: ``cancel`` returned True.
            KeyboardInterrupt: Ctrl-C; it is noticed while the prompt is processed too.
            TypeError: an option has the wrong type; True is not a number.
            ValueError: an option is out of range.
            ModelMismatchError: the cognitive tokens are not such as the wrapper makes.
            DecodeError: the injection makes the base overflow (huge weights, or a gain that is too large).
            Error: the prompt is empty, or there is no chat template, or it refuses the messages; or a threshold other
                than 0.5, cognitive tokens or a schedule are given where the base answers alone; or a threshold, and the
                wrapper has no refusal; or a refresh, and cognitive tokens are given or there is one sequence only.
        """
        values = complete("generate", DEFAULTS, options)
        result = last(self._stream(prompt, values)).result
        assert result is not None  # the last chunk holds it
        return result

    @accepts(DEFAULTS)
    def stream(self, prompt: Prompt, **options: Unpack[GenerationOptions]) -> Stream[GenerationChunk]:
        """As :meth:`generate`, token by token; the last chunk holds the whole result.

        Any thread may read, close or drop the stream. The instance is busy until the stream ends. A call in the thread
        that reads the stream raises Error. A call in another thread computes the rest of the stream first; the reader
        then gets it from memory.
        """
        return self._stream(prompt, complete("stream", DEFAULTS, options))

    @accepts(DEFAULTS)
    def generate_batch(
        self,
        prompts: Iterable[Prompt | Request],
        *,
        order: Literal["input", "completion"] = "input",
        **options: Unpack[GenerationOptions],
    ) -> Stream[BatchAnswer]:
        """Answer many prompts, as many at once as the instance has sequences (``n_parallel``).

        Each has its own cognitive tokens, and its answer is the one that it has alone, up to the last digits of logits:
        sums over few and over many tokens are taken in another order. The instance is busy until the iterator is
        exhausted, closed or dropped, in any thread. A call in the thread that reads it raises Error. A call in another
        thread computes the rest first if the prompts are a list; otherwise it waits until the iterator has been read.

        Args:
            prompts: as in :meth:`generate`, or a `Request` where one has options of its own; taken one by one, as
                sequences become free.
            order: answers come as their prompts do, or as soon as they are complete.
            **options: `GenerationOptions`, for all answers. ``cancel`` ends all of them, ``seed`` begins anew for each,
                and an answer with a refresh takes two sequences.

        Yields:
            Each with its result, or with the error of its prompt, which is not raised.

        Raises:
            Cancelled: ``cancel`` returned True.
            KeyboardInterrupt: Ctrl-C.
            DecodeError: llama.cpp failed.
            ValueError: an option is out of range.
        """
        if order not in ("input", "completion"):
            raise ValueError(f"order is {order!r}, expected 'input' or 'completion'")
        values = complete("generate_batch", DEFAULTS, options)
        return batch.answers(batch.stream_batch(prompts, values, self._params, self._run), order)

    @accepts(DEFAULTS)
    def stream_batch(
        self, prompts: Iterable[Prompt | Request], **options: Unpack[GenerationOptions]
    ) -> Stream[BatchStep]:
        """As :meth:`generate_batch`, token by token, in the order in which they come.

        Yields:
            An answer and what it has grown by. The last chunk of each holds its result; where it ends with an error,
            the chunk is None. ``answer.close()`` ends one and leaves the others.
        """
        values = complete("stream_batch", DEFAULTS, options)
        return batch.stream_batch(prompts, values, self._params, self._run)

    @overload
    def create_chat_completion(
        self,
        messages: Sequence[Message],
        *,
        stream: Literal[False] | None = False,
        **options: Unpack[ChatCompletionOptions],
    ) -> dict[str, Any]: ...

    @overload
    def create_chat_completion(
        self, messages: Sequence[Message], *, stream: Literal[True], **options: Unpack[ChatCompletionOptions]
    ) -> Iterator[dict[str, Any]]: ...

    @accepts(CHAT_DEFAULTS)
    def create_chat_completion(
        self,
        messages: Sequence[Message],
        *,
        stream: bool | None = False,
        **options: Unpack[ChatCompletionOptions],
    ) -> dict[str, Any] | Iterator[dict[str, Any]]:
        """A conversation in, an OpenAI ``chat.completion`` out (or ``chat.completion.chunk`` objects).

        Each choice has ``abstained`` and ``doubt`` beside ``finish_reason``; the refusal itself stays in ``content``,
        because clients read OpenAI's ``refusal`` field as a safety block. ``timings`` stands beside ``usage``.

        Args:
            messages: the conversation so far.
            stream: return an iterator of chunks.
            **options: `ChatCompletionOptions`.
        """
        return chat_completion(self.stream, messages, self._model_name(), stream=stream, options=options)

    @overload
    def create_completion(
        self, prompt: str, *, stream: Literal[False] | None = False, **options: Unpack[CompletionOptions]
    ) -> dict[str, Any]: ...

    @overload
    def create_completion(
        self, prompt: str, *, stream: Literal[True], **options: Unpack[CompletionOptions]
    ) -> Iterator[dict[str, Any]]: ...

    @accepts(COMPLETION_DEFAULTS)
    def create_completion(
        self, prompt: str, *, stream: bool | None = False, **options: Unpack[CompletionOptions]
    ) -> dict[str, Any] | Iterator[dict[str, Any]]:
        """Text in, an OpenAI ``text_completion`` out (or an iterator of them). No chat template is applied.

        Args:
            prompt: the text to go on from, as it is.
            stream: return an iterator of chunks.
            **options: `CompletionOptions`.
        """
        return text_completion(self.stream, prompt, self._model_name(), stream=stream, options=options)

    __call__ = create_completion

    def _model_name(self) -> str:
        return os.path.basename(self._model)

    def _stream(self, prompt: Prompt, options: Mapping[str, Any]) -> Stream[GenerationChunk]:
        params = self._params(options)
        check_all(CALL, {name: options[name] for name in CALL})
        return self._run([(Request(prompt=prompt), params)], options["raw"], options["cancel"], ahead=True).through(
            _chunks
        )

    def _params(self, options: Mapping[str, Any]) -> _core.GenerationParams:
        """Check the options of one answer."""
        stop = options["stop"]
        values = check_all(GENERATION, {**options, "stop": None if stop == "" else stop})
        params = _core.GenerationParams()
        for name in ("temperature", "top_k", "top_p", "min_p", "repeat_penalty", "inject", "doubt_threshold"):
            setattr(params, name, values[name])
        params.max_tokens = -1 if values["max_tokens"] is None else values["max_tokens"]
        params.seed = _RANDOM_SEED if values["seed"] is None else values["seed"] % _RANDOM_SEED
        params.stop = values["stop"] or []
        params.gain = self.gain if values["gain"] is None else values["gain"]
        schedule: InjectionSchedule = values["schedule"]
        params.decay = None if schedule.decay is None else (schedule.decay.floor, schedule.decay.tau)
        params.window = schedule.window
        if (refresh := schedule.refresh) is not None:
            params.refresh = (refresh.threshold, refresh.min_interval, refresh.max_interval)
        tokens = options["cognitive_tokens"]
        params.cognitive_tokens = None if tokens is None else _prompts.floats("cognitive_tokens", tokens)
        params.n_logprobs = -1 if values["logprobs"] is None else values["logprobs"]
        return params

    def _run(
        self,
        requests: Iterable[tuple[Request, _core.GenerationParams]],
        raw: bool,
        cancel: CancelCallback | None,
        *,
        ahead: bool,
    ) -> Stream[BatchStep]:
        def tokens_of(prompt: Prompt) -> list[int] | Error:
            try:
                return self._tokens(prompt, raw)
            except Error as error:
                return error

        found = (
            (BatchAnswer(i, _cancel=request.cancel), tokens_of(request.prompt), params)
            for i, (request, params) in enumerate(requests)
        )
        return Stream(self._lock, lambda stop: batch.run(self._engine, found, stop), cancel=cancel, ahead=ahead)

    # --- text and tokens ---------------------------------------------------------------------------------------------

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Text to token ids.

        Args:
            text: any text.
            add_special: begin (and end) as the model's tokenizer is set up to, with BOS for example.
            parse_special: read ``<|im_start|>`` and the like as the control tokens they name.
        """
        given = check("text", text, _checks.text())
        with self._lock:
            return self._engine.tokenize(given, add_special, parse_special)

    def detokenize(self, token_ids: Sequence[int], *, special: bool = False) -> str:
        """Token ids to text; control tokens are shown only where ``special`` is True."""
        with self._lock:
            return self._engine.detokenize(_prompts.token_ids(token_ids), special).decode("utf-8", "replace")

    def apply_chat_template(self, messages: Sequence[Message]) -> str:
        """The text that the model would see of a conversation, with the sidecar's settings; a BOS token is not in it.

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
                raise Error("raw needs a text, got messages (raw leaves the chat template out)")
            return self._engine.tokenize_chat(message_pairs(prompt))
        return _prompts.token_ids(prompt)

    # --- what is computed --------------------------------------------------------------------------------------------

    def activations(self, prompt: Prompt, *, raw: bool = False) -> FloatArray:
        """What the encoder reads: outputs of the target layers at the last prompt token, from a clean pass.

        Args:
            prompt: a text, messages, or token ids.
            raw: do not apply the chat template to a text.

        Returns:
            F32 [n_target, n_embd], rows in the order of the sidecar's target layers.
        """
        with self._lock:
            return self._engine.activations(self._tokens(prompt, raw))

    def cognitive_tokens(self, prompt: Prompt, *, raw: bool = False) -> FloatArray:
        """What the encoder makes of a prompt: F32 [n_cog, n_embd]. Arguments as in :meth:`activations`."""
        with self._lock:
            return self._engine.cognitive_tokens(self._tokens(prompt, raw))

    def encode(self, prompt: Prompt, *, raw: bool = False) -> FloatArray:
        """Cognitive tokens of a text, for ``generate(..., cognitive_tokens=...)`` to hold fixed.

        Encode a goal once and keep it over several turns: this is how wrappers of kind ``goal_anchor`` work, which were
        trained on goals as they are (``raw=True``).

        Args:
            prompt: a text, messages, or token ids.
            raw: do not apply the chat template to a text.

        Returns:
            F32 [n_cog, n_embd].
        """
        return self.cognitive_tokens(prompt, raw=raw)

    def doubt(self, prompt: Prompt, *, raw: bool = False, gain: float | None = None) -> float:
        """How near the answer to a prompt is to beginning with the trained refusal; nothing is generated.

        The sigmoid of m + b: m is the logit of the refusal's first token less the highest of all others, where the
        answer begins, and b the sidecar's calibrated bias. Costs the two passes over the prompt.

        Args:
            prompt: a text, messages, or token ids.
            raw: do not apply the chat template to a text.
            gain: strength of the injection; None: the instance's. At 0 it is the doubt of the base's own logits.

        Returns:
            In (0, 1); from ``doubt_threshold`` on, :meth:`generate` declines.

        Raises:
            Error: there is no sidecar, or nothing tells the refusal's tokens.
        """
        with self._lock:
            return self._engine.doubt(self._tokens(prompt, raw), self._gain_or(gain))

    def logits(self, token_ids: Sequence[int], *, inject: bool = True, gain: float | None = None) -> FloatArray:
        """Logits at every position, F32 [n_tokens, n_vocab].

        With ``inject`` (and a sidecar) the cognitive tokens come from a clean pass over the same ids.
        """
        with self._lock:
            return self._engine.logits(
                _prompts.token_ids(token_ids), check("inject", inject, _checks.flag()), self._gain_or(gain)
            )

    def layer_outputs(
        self, token_ids: Sequence[int], layers: Sequence[int], *, inject: bool = True, gain: float | None = None
    ) -> FloatArray:
        """Outputs of decoder blocks at every position, injection included: F32 [len(layers), n_tokens, n_embd].

        With ``inject`` (and a sidecar) the cognitive tokens come from a clean pass over the same ids.
        """
        with self._lock:
            return self._engine.layer_outputs(
                _prompts.token_ids(token_ids),
                [check("a layer", layer, whole_number()) for layer in layers],
                check("inject", inject, _checks.flag()),
                self._gain_or(gain),
            )

    def cognitive_attention(self, prompt: Prompt, *, raw: bool = False, gain: float | None = None) -> FloatArray:
        """How each position attends to the cognitive tokens: F32 [n_cross_attn_layers, n_tokens, n_head, n_cog].

        Each row over ``n_cog`` sums to 1. Arguments as in :meth:`activations`.
        """
        with self._lock:
            return self._engine.cognitive_attention(self._tokens(prompt, raw), self._gain_or(gain))

    def _gain_or(self, gain: float | None) -> float:
        found: float = self.gain if gain is None else check("gain", gain, GENERATION["gain"])
        return found

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
        """Layers at whose output the wrapper injects; empty without a sidecar."""
        with self._lock:
            return tuple(self._engine.cross_attn_layers)

    @property
    def refusal_text(self) -> str:
        """What the wrapper was trained to say when it does not know."""
        with self._lock:
            return self._engine.refusal_text

    @property
    def n_parallel(self) -> int:
        """Sequences of the context: how many prompts :meth:`generate_batch` answers at once."""
        with self._lock:
            return self._engine.n_parallel

    @property
    def n_ctx(self) -> int:
        """Context size in tokens, of each sequence."""
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


def _chunks(steps: Iterator[BatchStep]) -> Generator[GenerationChunk]:
    """Those of the only answer there is."""
    for answer, chunk in steps:
        if chunk is None:
            assert answer.error is not None
            raise answer.error
        yield chunk
