"""MetaLlama: a base GGUF with a trained wrapper, and the answers that they generate."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

from metadeploy import _core
from metadeploy._checks import check_all
from metadeploy.errors import Error
from metadeploy.runtime import batch
from metadeploy.runtime.batch import BatchAnswer, BatchStep, Request
from metadeploy.runtime.model import LoadedModel
from metadeploy.runtime.openai import chat_completion, text_completion
from metadeploy.runtime.options import (
    CALL,
    CHAT_DEFAULTS,
    COMPLETION_DEFAULTS,
    DEFAULTS,
    ChatCompletionOptions,
    CompletionOptions,
    GenerationOptions,
    accepts,
    complete,
    generation_params,
)
from metadeploy.runtime.stream import Stream, last
from metadeploy.runtime.types import CancelCallback, GenerationChunk, GenerationResult, Message, Prompt

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["MetaLlama"]


class MetaLlama(LoadedModel):
    """A base model with a trained wrapper that makes it decline if it would probably be wrong.

    It can be used from several threads: calls on one instance wait for each other, and release the GIL while they
    compute. Several instances can exist at once. Use it as a context manager, or call :meth:`close`.

    Example:
        >>> with MetaLlama("base.gguf", "doubter_sidecar.gguf") as llm:
        ...     answer = llm.generate("What is the capital of France?")
        ...     print(answer.text, answer.abstained)
    """

    @accepts(DEFAULTS)
    def generate(self, prompt: Prompt, **options: Unpack[GenerationOptions]) -> GenerationResult:
        """Answer a question or continue a conversation.

        Args:
            prompt: a question or messages, to which the chat template is applied with the sidecar's settings; or token
                ids, which are used unchanged.
            **options: `GenerationOptions`.

        Returns:
            The answer.

        Raises:
            ContextOverflowError: the prompt does not fit into the context.
            Cancelled: ``cancel`` returned True.
            KeyboardInterrupt: Ctrl-C, also while the prompt is evaluated.
            TypeError: an option has the wrong type; True is not a number.
            ValueError: an option is out of range.
            ModelMismatchError: the cognitive tokens do not fit the wrapper.
            DecodeError: the injection makes the base overflow (huge weights, or a gain that is too large).
            Error: the prompt is empty, there is no chat template, or it refuses the messages. Or the base answers
                alone, and a threshold other than 0.5, cognitive tokens or a schedule are given. Or a threshold is
                given, and the wrapper has no refusal. Or the schedule has a refresh, and cognitive tokens are given or
                there is only one sequence.
        """
        values = complete("generate", DEFAULTS, options)
        result = last(self._stream(prompt, values)).result
        assert result is not None  # the last chunk holds it
        return result

    @accepts(DEFAULTS)
    def stream(self, prompt: Prompt, **options: Unpack[GenerationOptions]) -> Stream[GenerationChunk]:
        """Answer like :meth:`generate`, token by token; the last chunk holds the whole result.

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

        Each prompt has its own cognitive tokens. Its answer is the same as alone, except for the last digits of logits,
        because sums over different numbers of tokens are rounded differently. The instance is busy until the iterator
        is exhausted, closed or dropped, in any thread. A call in the thread that reads it raises Error. A call in
        another thread computes the rest first if the prompts are a list; otherwise it waits until the iterator has been
        read.

        Args:
            prompts: as in :meth:`generate`, or a `Request` if a prompt has its own options. They are taken one by one,
                as sequences become free.
            order: return the answers in the order of their prompts, or as soon as they are complete.
            **options: `GenerationOptions`, for all answers. ``cancel`` ends all of them, each answer samples with the
                same ``seed``, and an answer with a refresh takes two sequences.

        Yields:
            Each answer with its result, or with the error of its prompt, which is not raised.

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
        """Answer like :meth:`generate_batch`, token by token, in the order in which they are generated.

        Yields:
            An answer and its next chunk. The last chunk of each answer holds its result; if the answer ends with an
            error, the chunk is None. ``answer.close()`` ends one answer; the others continue.
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
        """Answer a conversation with an OpenAI ``chat.completion`` (or ``chat.completion.chunk`` objects).

        Each choice has ``abstained`` and ``doubt`` next to ``finish_reason``. The refusal itself is in ``content``,
        because clients read OpenAI's ``refusal`` field as a safety block. ``timings`` is next to ``usage``.

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
        """Continue a text with an OpenAI ``text_completion`` (or an iterator of them). No chat template is applied.

        Args:
            prompt: the text to continue.
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
        return generation_params(options, default_gain=self.gain)

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

        inputs = (
            (BatchAnswer(i, _cancel=request.cancel), tokens_of(request.prompt), params)
            for i, (request, params) in enumerate(requests)
        )
        return Stream(self._lock, lambda stop: batch.run(self._engine, inputs, stop), cancel=cancel, ahead=ahead)


def _chunks(steps: Iterator[BatchStep]) -> Generator[GenerationChunk]:
    """Yield the chunks of the only answer, or raise its error."""
    for answer, chunk in steps:
        if chunk is None:
            assert answer.error is not None
            raise answer.error
        yield chunk
