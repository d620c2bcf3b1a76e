"""The pipeline on names and texts: load a base, attach a wrapper, apply the chat template, answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import Tensor, nn

from metadeploy._prompts import token_ids
from metadeploy.checkpoint.layers import LayerSpec, parse_layers
from metadeploy.errors import CheckpointError, Error, ModelMismatchError
from metadeploy.reference.compatibility import check_fit
from metadeploy.reference.config import MetaSpiderConfig
from metadeploy.reference.doubter import Doubter, PendingDoubter
from metadeploy.reference.loading import load_base
from metadeploy.reference.prompts import Message, Prompt, render_chat
from metadeploy.reference.two_pass import TwoPass
from metadeploy.schedule import STATIC, InjectionSchedule
from metadeploy.sidecar.spec import DEFAULT_THRESHOLD


class MetaSpiderPipeline(TwoPass):
    """Two-pass generation in PyTorch: the reference with which tests compare the runtime."""

    def __init__(self, model: nn.Module, tokenizer: Any, *, config: MetaSpiderConfig) -> None:
        """Use a model that is already loaded; ``from_pretrained`` loads one.

        Args:
            model: a transformers causal LM, on its device.
            tokenizer: its tokenizer.
            config: settings. Its layers are resolved with the model, and compared with the wrapper's.

        Raises:
            ModelMismatchError: no decoder stack is found, or the model does not have the config's layers.
        """
        super().__init__(model, tokenizer)
        self.config = config
        self._layers = {name: self._config_layers(name) for name in ("target_layers", "cross_attn_layers")}

    @classmethod
    def from_pretrained(
        cls, config: MetaSpiderConfig, *, model: nn.Module | None = None, tokenizer: Any = None
    ) -> MetaSpiderPipeline:
        """Load the base that ``config`` names, or use one that is already loaded.

        Args:
            config: base and layers; if ``model`` is given, the options for loading are not used.
            model: a transformers causal LM, on its device.
            tokenizer: its tokenizer; required if ``model`` is given, and only then.

        Returns:
            A pipeline without a wrapper.

        Raises:
            ModelLoadError: the base cannot be loaded.
            ModelMismatchError: it is not a decoder-only causal LM, or lacks the config's layers.
            MissingDependencyError: a package that loading needs is not installed.
        """
        if (model is None) != (tokenizer is None):
            raise Error("MetaSpiderPipeline: only one of model and tokenizer is given, expected both or neither")
        if model is None:
            model, tokenizer = load_base(config)
        return cls(model, tokenizer, config=config)

    # --- the wrapper ---

    def attach(self, doubter: Doubter | PendingDoubter) -> Doubter:
        """Attach a wrapper, which replaces the current one, and move it to the device of the base's embedding.

        Args:
            doubter: a wrapper from ``Doubter.from_checkpoint``; a pending one gets the config's layers.

        Returns:
            The attached wrapper.

        Raises:
            CheckpointError: a pending wrapper cannot be used, or neither its files nor the config have the layers.
            ModelMismatchError: wrapper, config and base contradict each other; the message lists all contradictions.
        """
        if isinstance(doubter, PendingDoubter):
            doubter = self._resolve(doubter)
        check_fit(doubter, self._base, self._layers)
        self._doubter = doubter.to(self._base.device, self._base.wrapper_dtype)
        return self._doubter

    def detach(self) -> None:
        """Remove the wrapper and continue with the base alone."""
        self._doubter = None

    # --- text ---

    def apply_chat_template(self, prompt: str | Sequence[Message]) -> str:
        """Render a question or a conversation in the same way as the wrapper's training prompts.

        The base's own chat template gets the wrapper's ``chat_template_kwargs`` (for example thinking off), and the
        wrapper's ``answer_suffix`` is appended to the last message of the user.

        Args:
            prompt: a question, or messages.

        Returns:
            The text of the prompt, up to the beginning of the answer.

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
        """Return the token ids of a text; ``add_special`` adds the tokenizer's special tokens, such as BOS."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=add_special)["input_ids"]
        return ids

    def generate(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int = 256,
        raw: bool = False,
        inject: bool | None = None,
        gain: float | None = None,
        cognitive_tokens: Tensor | None = None,
        schedule: InjectionSchedule = STATIC,
        doubt_threshold: float = DEFAULT_THRESHOLD,
    ) -> str:
        """Answer a prompt greedily.

        Args:
            prompt: a question or messages; or token ids, which are used unchanged.
            max_new_tokens: maximum number of tokens of the answer.
            raw: do not apply the chat template to a text.
            inject: False answers with the base alone; the default uses the wrapper if one is attached.
            gain: factor of the injection; None uses the pipeline's.
            cognitive_tokens: as in ``generate_ids``.
            schedule: as in ``generate_ids``.
            doubt_threshold: as in ``generate_ids``.

        Returns:
            The answer, without special tokens.

        Raises:
            ValueError: the threshold is out of range.
            ModelMismatchError: the cognitive tokens do not fit the wrapper.
            Error: the prompt is empty or the chat template refuses it, ``inject`` is True without a wrapper, or options
                contradict each other, as in ``generate_ids``.
        """
        answer = self.generate_ids(
            self._prompt_ids(prompt, raw=raw),
            max_new_tokens,
            inject=self._doubter is not None if inject is None else inject,
            gain=gain,
            cognitive_tokens=cognitive_tokens,
            schedule=schedule,
            doubt_threshold=doubt_threshold,
        )
        text: str = self.tokenizer.decode(answer, skip_special_tokens=True)
        return text

    def encode(self, prompt: Prompt, *, raw: bool = False) -> Tensor:
        """Return the cognitive tokens of a text, for ``generate(..., cognitive_tokens=...)``.

        Wrappers of kind ``goal_anchor`` need this: encode a goal once, and inject it over several turns. They are
        trained on goals without a chat template (``raw=True``).

        Args:
            prompt: a question or messages; or token ids, which are used unchanged.
            raw: do not apply the chat template to a text.

        Returns:
            [C, D].

        Raises:
            Error: no wrapper is attached, the prompt is empty, or the chat template refuses it.
        """
        return self.cognitive_tokens(self._prompt_ids(prompt, raw=raw))

    def _prompt_ids(self, prompt: Prompt, *, raw: bool) -> list[int]:
        if isinstance(prompt, str):
            text = prompt if raw else self.apply_chat_template(prompt)
            return self.tokenize(text, add_special=raw)
        if not isinstance(prompt, Sequence) or (len(prompt) > 0 and not isinstance(prompt[0], Mapping)):
            return token_ids(prompt)
        if raw:
            raise Error("prompt: is a list of messages, expected a str with raw=True")
        return self.tokenize(self.apply_chat_template(cast("Sequence[Message]", prompt)))

    # --- checks ---

    def _resolve(self, pending: PendingDoubter) -> Doubter:
        if self._layers["target_layers"] is None and not pending.claims("target_layers"):
            raise CheckpointError(
                f"checkpoint '{pending.path}': nothing says which layers the encoder reads, expected target_layers in "
                "the run.json beside it, in from_checkpoint() or in MetaSpiderConfig"
            )
        return pending.resolve(
            target_layers=self._layers["target_layers"],
            cross_attn_layers=self._layers["cross_attn_layers"],
            num_layers=self.num_layers,
        )

    def _config_layers(self, name: str) -> tuple[int, ...] | None:
        """Return the numbers of the config's layers."""
        value: LayerSpec | None = getattr(self.config, name)
        if value is None:
            return None
        try:
            return parse_layers(value, num_layers=self.num_layers)
        except ValueError as error:
            raise ModelMismatchError(f"MetaSpiderConfig: {name} {error}") from error
