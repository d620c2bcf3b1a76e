"""A base model and a wrapper, from names and texts: loading, attaching, chat templates, answers."""

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
    """Two-pass generation in PyTorch: the oracle that the runtime is compared with."""

    def __init__(self, model: nn.Module, tokenizer: Any, *, config: MetaSpiderConfig) -> None:
        """Wrap a model that is loaded already; ``from_pretrained`` loads one.

        Args:
            model: a transformers causal LM, on its device.
            tokenizer: its tokenizer.
            config: whose layers are resolved against the model, and which the wrapper's are checked with.

        Raises:
            ModelMismatchError: no decoder stack is found, or the config's layers are not the model's.
        """
        super().__init__(model, tokenizer)
        self.config = config
        self._layers = {name: self._config_layers(name) for name in ("target_layers", "cross_attn_layers")}

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
        check_fit(doubter, self._base, self._layers)
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
        """Answer a prompt, greedily.

        Args:
            prompt: what the user says, or messages; or token ids, which are taken as they are.
            max_new_tokens: length limit of the answer.
            raw: use the prompt, a str, as it is and not through the chat template.
            inject: False answers with the base alone; the default uses the wrapper where one is attached.
            gain: in place of the pipeline's.
            cognitive_tokens: as in ``generate_ids``.
            schedule: as in ``generate_ids``.
            doubt_threshold: as in ``generate_ids``.

        Returns:
            The answer, without special tokens.

        Raises:
            ValueError: the threshold is out of range.
            ModelMismatchError: the cognitive tokens are not such as the wrapper makes.
            Error: the prompt is empty or cannot be wrapped, or ``inject`` is asked for without a wrapper, or options
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
        """Cognitive tokens of a text, for ``generate(..., cognitive_tokens=...)`` to hold fixed.

        Encode a goal once and keep it over several turns: this is how wrappers of kind ``goal_anchor`` work, which
        were trained on goals as they are (``raw=True``).

        Args:
            prompt: a text or messages, as in ``generate``; or token ids, which are taken as they are.
            raw: use the prompt, a str, as it is and not through the chat template.

        Returns:
            [C, D].

        Raises:
            Error: no wrapper is attached, or the prompt is empty or cannot be wrapped.
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
                "run.json beside it, in from_checkpoint() or in MetaSpiderConfig"
            )
        return pending.resolve(
            target_layers=self._layers["target_layers"],
            cross_attn_layers=self._layers["cross_attn_layers"],
            num_layers=self.num_layers,
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
