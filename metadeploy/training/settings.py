"""What can be set of `collect` and `train`, with its defaults; imports nothing heavy, so that the command line can."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from metadeploy.errors import RunDirError
from metadeploy.sidecar.spec import DEFAULT_REFUSAL_TEXT, EncoderType, InjectFrom

if TYPE_CHECKING:
    from metadeploy.export.layers import LayerSpec
    from metadeploy.reference.config import DType, Quantization

__all__ = ["CollectSettings", "FitSettings", "OperatingPoint", "TrainSettings"]


@dataclass(frozen=True, kw_only=True)
class CollectSettings:
    """What to collect; all of it is recorded in run.json.

    Attributes:
        base: a hub id, a folder in Hugging Face format, or a GGUF file.
        questions: ``facts``, ``mmlu``, ``triviaqa``, ``gsm8k``, a .jsonl file, or a folder with train, val and
            test.jsonl.
        source: a local copy of ``mmlu``, ``triviaqa`` or ``gsm8k``: a file or a folder of files with the hub's columns.
        layers: whose activations are kept; what `train` may read later.
        dtype: of the base's weights.
        quantization: bitsandbytes weights for the base.
        device: a torch device, or ``auto``.
        answer_suffix: appended to every question.
        chat_template_kwargs: variables of the chat template.
        max_new_tokens: most tokens of an answer.
        whole_answer: keep and judge the whole answer, not only its first sentence; of multiple choice it always is.
        batch_size: prompts at once.
        limit: most questions of each split.
        seed: of the question set.
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


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How a wrapper learns.

    Attributes:
        pretrain_epochs: passes in which the encoder alone learns to tell right from wrong; they take seconds.
        pretrain_lr: learning rate of these.
        folds: so many encoders, each taught all but its part of the questions, first say how much they doubt that part:
            half of what is taught is what they say. 1 teaches the bare verdicts.
        epochs: most passes after these, in which the wrapper learns to speak through the base.
        patience: such passes without a better validation score after which training ends.
        batch_size: examples of one step of these.
        refusal_share: share of the questions to be declined that such a pass goes over, drawn anew for each. Their
            words are all the same and soon learnt; those of the answers are not. In the decision they count for all.
        lr: learning rate of the matrices; gates and preferences learn five times as fast.
        weight_decay: of the matrices.
        warmup: share of the steps in which the rate rises; it falls along a cosine after that.
        clip: greatest norm of the gradient.
        decision_weight: weight of the first token's decision in the loss.
        keep_weight: weight of how far the base's own words are changed.
        dropout: share of each layer's normed activations that is left out in each step; without it the encoder learns
            the training questions by heart within two epochs.
        seed: of everything that is drawn.
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


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """What the line is to achieve on the validation questions; at most one of the two is given.

    Attributes:
        max_over_refusal: most of what the base had right that may be declined, in [0, 1]; declines as much as that
            allows.
        target_coverage: share of the questions that is to be answered, in (0, 1].
    """

    max_over_refusal: float | None = 0.35
    target_coverage: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if (self.max_over_refusal is None) == (self.target_coverage is None):
            raise RunDirError("operating point: expected one of --max-over-refusal and --target-coverage")
        for name, value in (("--max-over-refusal", self.max_over_refusal), ("--target-coverage", self.target_coverage)):
            if value is not None and not 0 <= value <= 1:
                raise RunDirError(f"operating point: {name} is {value}, expected 0 to 1")


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """What to train; all of it is recorded in run.json.

    Attributes:
        encoder_type: ``selective``, ``multi_token`` or ``transformer``.
        target_layers: whose activations the encoder reads.
        cross_attn_layers: after which the wrapper injects; what training runs begins above the lowest.
        inject_from: ``prompt`` (every position) or ``last_prompt_token``.
        bottleneck_dim: B of encoder and cross-attention.
        ca_num_heads: heads of the cross-attention.
        enc_num_heads: heads inside the multi_token and transformer encoders.
        num_cognitive_tokens: C of the multi_token encoder; the others have one for each target layer.
        encoder_blocks: blocks of the transformer encoder.
        refusal_text: what the wrapper is to say when it doubts.
        self_correction: share of the base's errors that are taught the accepted answer in place of the refusal.
        leave_out: categories that it never sees, to find out what it makes of an unknown kind of question.
        keep_cache: leave the kept parts of the base's work in the run directory, for another training.
        point: the operating point that is calibrated on the validation questions.
        fit: how it learns.
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
    refusal_text: str = DEFAULT_REFUSAL_TEXT
    self_correction: float = 0.0
    leave_out: tuple[str, ...] = ()
    keep_cache: bool = False
    point: OperatingPoint = field(default_factory=OperatingPoint)
    fit: FitSettings = field(default_factory=FitSettings)
    device: str = "auto"
