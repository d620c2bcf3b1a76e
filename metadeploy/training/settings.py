"""Settings of `collect` and `train` with their defaults. Imports no torch, so that ``--help`` starts fast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, get_args

from metadeploy._checks import (
    Rule,
    choice,
    flag,
    flag_faults,
    instance,
    layers,
    names,
    number,
    text,
    visible_text,
    whole_number,
)
from metadeploy.errors import RunDirError, faults_message
from metadeploy.sidecar.spec import DEFAULT_REFUSAL_TEXT, EncoderDtype, EncoderType, InjectFrom

if TYPE_CHECKING:
    from metadeploy._types import DType, Quantization
    from metadeploy.checkpoint.layers import LayerSpec

__all__ = ["CollectSettings", "FitSettings", "OperatingPoint", "TrainSettings"]

_SEED: Final = whole_number(0, 2**63 - 1)


def _check(command: str, rules: Mapping[str, Rule], settings: object) -> None:
    """Refuse settings of the wrong type or out of range, with all faults in one message."""
    faults = flag_faults(rules, settings)
    if faults:
        raise RunDirError(faults_message(command, faults))


#: Names that transformers' `apply_chat_template` uses for its own arguments.
_NO_VARIABLES: Final = (
    "conversation", "messages", "chat_template", "add_generation_prompt", "continue_final_message", "tokenize",
    "padding", "truncation", "max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask",
    "tokenizer_kwargs", "sanitize_control_tokens",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class CollectSettings:
    """Settings of `collect`. All of them are recorded in run.json.

    Attributes:
        base: a hub id, a folder in Hugging Face format, or a GGUF file.
        questions: ``facts``, ``mmlu``, ``triviaqa``, ``gsm8k``, a .jsonl file, or a folder with train, val and
            test.jsonl.
        source: a local copy of ``mmlu``, ``triviaqa`` or ``gsm8k``: a file or a folder of files with the hub's columns.
        layers: layers whose activations are stored; `train` can read only these.
        dtype: type of the base's weights.
        quantization: bitsandbytes quantization of the base's weights.
        device: a torch device, or ``auto``.
        answer_suffix: appended to every question.
        chat_template_kwargs: variables of the chat template.
        max_new_tokens: maximum number of tokens of an answer.
        whole_answer: store and score the whole answer, not only its first sentence. Multiple choice always uses all.
        batch_size: number of prompts in a batch.
        limit: maximum number of questions in each split.
        seed: seed of the question set.
    """

    base: str
    questions: str = "facts"
    source: str | None = None
    layers: LayerSpec = "late"
    dtype: DType = "bfloat16"
    quantization: Quantization | None = None
    device: str = "auto"
    answer_suffix: str | None = None
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    max_new_tokens: int = 32
    whole_answer: bool = False
    batch_size: int = 128
    limit: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that are not valid, with all faults in one message."""
        _check(
            "collect",
            {
                "base": text(),
                "questions": visible_text(),
                "source": text().or_none(),
                "layers": layers(),
                "dtype": choice("auto", "float32", "bfloat16", "float16"),
                "quantization": choice("nf4", "fp4", "int8").or_none(),
                "device": visible_text(),
                "answer_suffix": text().or_none(),
                "chat_template_kwargs": instance(Mapping),
                "max_new_tokens": whole_number(1),
                "whole_answer": flag(),
                "batch_size": whole_number(1),
                "limit": whole_number(1).or_none(),
                "seed": _SEED,
            },
            self,
        )
        taken = [name for name in self.chat_template_kwargs if name in _NO_VARIABLES]
        if taken:
            raise RunDirError(
                f"collect: --chat-template-kwargs has {', '.join(taken)}, expected variables of the chat template "
                "(transformers uses these names for its own arguments)"
            )


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """Settings of the training loop.

    Attributes:
        pretrain_epochs: epochs that train the encoder alone to predict the base's errors; they take seconds.
        pretrain_lr: learning rate of the pretraining.
        folds: number of cross-fitting folds. Labels are averaged with out-of-fold predictions; 1 uses hard labels.
        epochs: maximum number of epochs after the pretraining; they train the whole wrapper through the base.
        patience: training ends after this many epochs without a better validation score.
        batch_size: examples in one step, after the pretraining.
        refusal_share: proportion of the questions to be declined that each epoch samples. Their words are all the same
            and quickly learned, unlike those of the answers. In the decision, the sample counts for all of them.
        lr: learning rate of the matrices; that of gates and preferences is five times as high.
        weight_decay: weight decay of the matrices.
        warmup: proportion of the steps in which the learning rate rises; after that it falls along a cosine.
        clip: maximum norm of the gradient.
        decision_weight: weight of the first token's decision in the loss.
        keep_weight: weight of the divergence from the base at its own words in the loss.
        dropout: dropout rate of each layer's normalized activations. Without it, the encoder memorizes the training
            questions within two epochs.
        seed: seed of all random numbers.
    """

    pretrain_epochs: int = 10
    pretrain_lr: float = 1e-3
    folds: int = 3
    epochs: int = 2
    patience: int = 2
    batch_size: int = 32
    refusal_share: float = 0.25
    lr: float = 3e-4
    weight_decay: float = 0.01
    warmup: float = 0.05
    clip: float = 1.0
    decision_weight: float = 4.0
    keep_weight: float = 8.0
    dropout: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that are not valid, with all faults in one message."""
        _check(
            "train",
            {
                "pretrain_epochs": whole_number(0),
                "pretrain_lr": number(above=0),
                "folds": whole_number(1),
                "epochs": whole_number(1),
                "patience": whole_number(1),
                "batch_size": whole_number(1),
                "refusal_share": number(0, 1),
                "lr": number(above=0),
                "weight_decay": number(0),
                "warmup": number(0, 1),
                "clip": number(above=0),
                "decision_weight": number(0),
                "keep_weight": number(0),
                "dropout": number(0, 0.99),
                "seed": _SEED,
            },
            self,
        )


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """The goal of the calibration on the validation questions. Exactly one of the two is set.

    Attributes:
        max_over_refusal: maximum proportion of the base's right answers that may be declined, in [0, 1]. Within this
            limit, the threshold declines as much as possible.
        target_coverage: proportion of the questions to answer, in (0, 1].
    """

    max_over_refusal: float | None = 0.35
    target_coverage: float | None = None

    def __post_init__(self) -> None:
        """Refuse settings that are not valid."""
        if (self.max_over_refusal is None) == (self.target_coverage is None):
            raise RunDirError("operating point: expected one of --max-over-refusal and --target-coverage")
        proportion = number(0, 1).or_none()
        _check("operating point", {"max_over_refusal": proportion, "target_coverage": proportion}, self)


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Settings of `train`. All of them are recorded in run.json.

    Attributes:
        encoder_type: ``selective``, ``multi_token`` or ``transformer``.
        target_layers: layers whose activations the encoder reads.
        cross_attn_layers: layers after which the wrapper injects; training runs only the blocks above the lowest.
        inject_from: ``prompt`` (every position) or ``last_prompt_token``.
        bottleneck_dim: bottleneck width B of encoder and cross-attention.
        ca_num_heads: heads of the cross-attention.
        enc_num_heads: heads inside the multi_token and transformer encoders.
        num_cognitive_tokens: cognitive tokens of the multi_token encoder; the others have one for each target layer.
        encoder_blocks: blocks of the transformer encoder.
        encoder_dtype: type of the encoder in the checkpoint: ``float32``, ``float16`` or ``bfloat16``.
        refusal_text: the refusal that the wrapper learns.
        self_correction: proportion of the base's errors whose targets are the accepted answer, not the refusal.
        leave_out: categories that the wrapper never sees, to measure it on unseen kinds of questions.
        keep_cache: keep the cached states in the run directory, for another training.
        point: the operating point of the calibration on the validation questions.
        fit: settings of the training loop.
        device: a torch device, or ``auto``.
    """

    encoder_type: EncoderType = "selective"
    target_layers: LayerSpec = "late"
    cross_attn_layers: LayerSpec = "late"
    inject_from: InjectFrom = "last_prompt_token"
    bottleneck_dim: int = 64
    ca_num_heads: int = 4
    enc_num_heads: int = 8
    num_cognitive_tokens: int = 8
    encoder_blocks: int = 2
    encoder_dtype: EncoderDtype = "float32"
    refusal_text: str = DEFAULT_REFUSAL_TEXT
    self_correction: float = 0.0
    leave_out: tuple[str, ...] = ()
    keep_cache: bool = False
    point: OperatingPoint = field(default_factory=OperatingPoint)
    fit: FitSettings = field(default_factory=FitSettings)
    device: str = "auto"

    def __post_init__(self) -> None:
        """Refuse settings that are not valid, with all faults in one message."""
        _check(
            "train",
            {
                "encoder_type": choice(*get_args(EncoderType)),
                "target_layers": layers(),
                "cross_attn_layers": layers(),
                "inject_from": choice("prompt", "last_prompt_token"),
                "bottleneck_dim": whole_number(1),
                "ca_num_heads": whole_number(1),
                "enc_num_heads": whole_number(1),
                "num_cognitive_tokens": whole_number(1),
                "encoder_blocks": whole_number(1),
                "encoder_dtype": choice(*get_args(EncoderDtype)),
                "refusal_text": visible_text(),
                "self_correction": number(0, 1),
                "leave_out": names(),
                "keep_cache": flag(),
                "point": instance(OperatingPoint),
                "fit": instance(FitSettings),
                "device": visible_text(),
            },
            self,
        )
