"""What a training step costs: the upper blocks alone, against the whole model in two passes.

    python benchmarks/train_step.py [BASE]

Batches of 32 of the demo's questions on SmolLM2-135M (in bfloat16, the shipped Doubter's shape), the same ones for each
kind of step, a third of them to be declined. A step is what `metadeploy train` does: the base's own words without
injection, forward, all three losses, backward, AdamW. The kinds take turns, so that whatever else the machine does hits
all of them; medians are printed. Every batch is gone through once before that, for the first time costs more. What the
cut trainer computes once and keeps is timed apart.
"""

from __future__ import annotations

import argparse
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path

from metadeploy.training.cpu import prepare

prepare()

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from metadeploy.demo import assets  # noqa: E402
from metadeploy.demo.questions import load_questions  # noqa: E402
from metadeploy.reference import MetaSpiderConfig  # noqa: E402
from metadeploy.reference.base import FrozenBase  # noqa: E402
from metadeploy.reference.doubter import Doubter  # noqa: E402
from metadeploy.reference.loading import load_base  # noqa: E402
from metadeploy.reference.prompts import render_chat  # noqa: E402
from metadeploy.sidecar.spec import DEFAULT_REFUSAL_TEXT, InjectFrom, WrapperConfig  # noqa: E402
from metadeploy.training.examples import Batch, Example, Kept, keep  # noqa: E402
from metadeploy.training.fit import injected  # noqa: E402
from metadeploy.training.objective import losses  # noqa: E402
from metadeploy.training.prefix import SharedPrefix  # noqa: E402
from metadeploy.training.upper_blocks import UpperBlocks, selected_rows  # noqa: E402
from metadeploy.training.wrapper import new_wrapper, parameter_groups  # noqa: E402

BATCH = 32


class Trainer(ABC):
    """One kind of step.

    Attributes:
        seconds: of each step so far.
        keep_seconds: what it took to compute the kept parts; 0 where there are none.
    """

    def __init__(self, base: FrozenBase, examples: list[Example], activations: Tensor, inject_from: InjectFrom) -> None:
        self.base, self.examples, self.activations = base, examples, activations
        config = WrapperConfig(
            encoder_type="selective",
            hidden_dim=base.stack.hidden_dim,
            encoder_dim=64,
            bottleneck_dim=64,
            num_cognitive_tokens=10,
            ca_num_heads=4,
            enc_num_heads=8,
            target_layers=layers(base),
            cross_attn_layers=layers(base),
            inject_from=inject_from,
        )
        torch.manual_seed(0)
        self.doubter: Doubter = new_wrapper(config).requires_grad_(True).train()
        self.optimizer = torch.optim.AdamW(parameter_groups(self.doubter, lr=1e-3, weight_decay=0.01))
        self.first = min(config.cross_attn_layers) + 1
        self.refusal_token = next(example.target_ids[0] for example in examples if example.declines)
        self.seconds: list[float] = []
        self.keep_seconds = 0.0

    def step(self, indices: range) -> None:
        began = time.perf_counter()
        logits, own_logits, batch = self.forward(indices)
        found = losses(logits, batch, self.refusal_token, own_logits=own_logits)
        self.optimizer.zero_grad(set_to_none=True)
        found.total(decision_weight=1.0, keep_weight=1.0).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.seconds.append(time.perf_counter() - began)

    @abstractmethod
    def forward(self, indices: range) -> tuple[Tensor, Tensor, Batch]:
        """Logits at the supervised positions, those of the base alone at its own words, and the batch."""


class Cut(Trainer):
    """As `metadeploy train` does it."""

    def __init__(self, base: FrozenBase, examples: list[Example], activations: Tensor, inject_from: InjectFrom) -> None:
        super().__init__(base, examples, activations, inject_from)
        prompts = [example.prompt_ids for example in examples]
        self.prefix = SharedPrefix.none() if inject_from == "prompt" else SharedPrefix.of(base, prompts)
        for _ in range(2):  # the first time counts no more than that of a step
            began = time.perf_counter()
            self.kept: list[Kept] = keep(base, examples, first=self.first, inject_from=inject_from, prefix=self.prefix)
            self.keep_seconds = time.perf_counter() - began
        self.upper = UpperBlocks(base, self.first)

    def forward(self, indices: range) -> tuple[Tensor, Tensor, Batch]:
        tokens = self.doubter(self.activations[indices.start : indices.stop].float())
        batch = self.batch(indices)
        answered = self.batch([i for i in indices if self.examples[i].n_own])
        with self.upper.active():
            with injected(self.base, self.doubter, tokens, batch.injected):
                logits = self.logits(batch, batch.rows, batch.positions)
            with torch.no_grad():
                own = self.logits(answered, answered.rows[answered.is_own], answered.positions[answered.is_own])
        return logits, own, batch

    def batch(self, indices: Iterable[int]) -> Batch:
        return Batch.of(
            [self.examples[i] for i in indices],
            [self.kept[i] for i in indices],
            first=self.first,
            prefix=self.prefix,
            device=self.base.device,
        )

    def logits(self, batch: Batch, rows: Tensor, positions: Tensor) -> Tensor:
        with selected_rows(self.base.model, rows, positions):
            output = self.upper.forward(
                batch.hidden,
                position_ids=batch.position_ids,
                attention_mask=batch.attention_mask,
                past_key_values=batch.cache,
                use_cache=batch.cache is not None,
            )
        logits: Tensor = output.logits[0]
        return logits


class Whole(Trainer):
    """The whole model twice: a clean pass for activations and own words, an injected one; nothing is kept."""

    def forward(self, indices: range) -> tuple[Tensor, Tensor, Batch]:
        examples = [self.examples[i] for i in indices]
        sequences = [[*example.prompt_ids, *example.target_ids[:-1]] for example in examples]
        width = max(map(len, sequences))
        token_ids = torch.tensor([[*each, *[0] * (width - len(each))] for each in sequences])
        last = torch.tensor([len(example.prompt_ids) - 1 for example in examples])
        batch = Batch.of(
            examples,
            [Kept(torch.zeros(len(each), 1), 0, 0, None) for each in sequences],  # only where the targets are
            first=self.first,
            prefix=SharedPrefix.none(),
            device=self.base.device,
        )
        seen: dict[int, Tensor] = {}

        def take(layer: int) -> Callable[[Tensor], None]:
            return lambda hidden: seen.__setitem__(layer, hidden[torch.arange(len(last)), last])

        with (
            torch.no_grad(),
            self.base.stack.hooked({layer: take(layer) for layer in layers(self.base)}),
            selected_rows(self.base.model, batch.rows[batch.is_own], batch.positions[batch.is_own]),
        ):
            own = self.base.model(input_ids=token_ids, use_cache=False).logits[0]
        tokens = self.doubter(torch.stack([seen[layer] for layer in layers(self.base)], dim=1).float())
        where = torch.ones(token_ids.shape, dtype=torch.bool)
        if self.doubter.config.inject_from == "last_prompt_token":
            where = torch.arange(width) >= last[:, None]
        with (
            injected(self.base, self.doubter, tokens, where),
            selected_rows(self.base.model, batch.rows, batch.positions),
        ):
            return self.base.model(input_ids=token_ids, use_cache=False).logits[0], own, batch


def layers(base: FrozenBase) -> tuple[int, ...]:
    return tuple(range(2 * base.num_layers // 3, base.num_layers))


def make_examples(base: FrozenBase, tokenizer: object) -> list[Example]:
    """The demo's questions, of which every third is declined."""

    def encode(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]  # type: ignore[operator,no-any-return]

    end = min(base.stop_ids)
    refusal = [*encode(DEFAULT_REFUSAL_TEXT), end]
    examples = []
    for index, question in enumerate(load_questions()):
        answer = [*encode(f"The answer to that question is {question.answers[0]}."), end]
        examples.append(
            Example(
                prompt_ids=tuple(encode(render_chat(tokenizer, question.question))),
                target_ids=tuple(answer if index % 3 else refusal),
                declines=index % 3 == 0,
                doubt=float(index % 3 == 0),
                n_own=len(answer) - 1 if index % 3 else 0,
            )
        )
    # batches of like length, as in training
    return sorted(examples, key=lambda example: len(example.prompt_ids) + len(example.target_ids))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", nargs="?", type=Path, help="a GGUF of SmolLM2-135M; the demo's by default")
    parser.add_argument("--rounds", type=int, default=9, help="steps of each kind (default 9)")
    arguments = parser.parse_args()
    path = arguments.base or assets.base_model_path()
    model, tokenizer = load_base(MetaSpiderConfig(model_name=str(path), device="cpu", dtype="bfloat16"))
    model.requires_grad_(False)
    base = FrozenBase(model)
    examples = make_examples(base, tokenizer)
    activations = torch.randn(len(examples), len(layers(base)), base.stack.hidden_dim)
    kinds: dict[str, Trainer] = {
        "cut, from the last prompt token": Cut(base, examples, activations, "last_prompt_token"),
        "cut, at every position": Cut(base, examples, activations, "prompt"),
        "whole, from the last prompt token": Whole(base, examples, activations, "last_prompt_token"),
        "whole, at every position": Whole(base, examples, activations, "prompt"),
    }
    starts = range(0, len(examples) - BATCH + 1, BATCH)
    for round_ in range(len(starts) + arguments.rounds):
        start = starts[round_ % len(starts)]
        for trainer in kinds.values():
            trainer.step(range(start, start + BATCH))
    print(f"{BATCH} questions a step, {torch.get_num_threads()} threads, medians of {arguments.rounds}")
    for name, trainer in kinds.items():
        kept = f", kept parts once {1000 * trainer.keep_seconds / len(examples):.0f} ms a question"
        steps = trainer.seconds[len(starts) :]
        print(f"{name:36} {statistics.median(steps):6.2f} s{kept if trainer.keep_seconds else ''}")


if __name__ == "__main__":
    main()
