"""Measure a training step: the upper blocks alone, against the whole model in two passes.

    python benchmarks/train_step.py [BASE]

A step has 32 of the demo's questions on SmolLM2-135M (in bfloat16, the shipped Doubter's shape): forward,
cross-entropy, backward and AdamW. The kinds of step take turns on the same questions, so that other load on the machine
affects all of them. The script prints medians. It times separately what the cut trainer computes once and caches.
"""

from __future__ import annotations

import argparse
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from metadeploy.cli._process import prepare

prepare()

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from metadeploy.batched.injection import injected  # noqa: E402
from metadeploy.batched.prefix import SharedPrefix  # noqa: E402
from metadeploy.batched.upper_blocks import UpperBlocks, selected_rows  # noqa: E402
from metadeploy.demo import assets  # noqa: E402
from metadeploy.demo.questions import load_questions  # noqa: E402
from metadeploy.reference import MetaSpiderConfig  # noqa: E402
from metadeploy.reference.base import FrozenBase  # noqa: E402
from metadeploy.reference.doubter import Doubter  # noqa: E402
from metadeploy.reference.loading import load_base  # noqa: E402
from metadeploy.reference.prompts import render_chat  # noqa: E402
from metadeploy.sidecar.spec import DEFAULT_REFUSAL_TEXT, InjectFrom, WrapperConfig  # noqa: E402
from metadeploy.training.examples import Batch, CachedStates, Example, compute_states  # noqa: E402
from metadeploy.training.initialization import new_wrapper, parameter_groups  # noqa: E402

BATCH = 32


class Trainer(ABC):
    """One kind of step.

    Attributes:
        seconds: duration of each step so far.
        cache_seconds: time to compute the cached parts; 0 if there are none.
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
        self.seconds: list[float] = []
        self.cache_seconds = 0.0

    def step(self, indices: range) -> None:
        start_time = time.perf_counter()
        logits, batch = self.forward(indices)
        self.optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(logits.float(), batch.targets).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.seconds.append(time.perf_counter() - start_time)

    @abstractmethod
    def forward(self, indices: range) -> tuple[Tensor, Batch]:
        """Return the logits at the supervised positions, and their batch."""


class Cut(Trainer):
    """The step of `metadeploy train`."""

    def __init__(self, base: FrozenBase, examples: list[Example], activations: Tensor, inject_from: InjectFrom) -> None:
        super().__init__(base, examples, activations, inject_from)
        prompts = [example.prompt_ids for example in examples]
        self.prefix = SharedPrefix.none() if inject_from == "prompt" else SharedPrefix.of(base, prompts)
        start_time = time.perf_counter()
        self.kept: list[CachedStates] = compute_states(
            base, examples, first=self.first, inject_from=inject_from, prefix=self.prefix
        )
        self.cache_seconds = time.perf_counter() - start_time
        self.upper = UpperBlocks(base, self.first)

    def forward(self, indices: range) -> tuple[Tensor, Batch]:
        batch = Batch.of(
            [self.examples[i] for i in indices],
            [self.kept[i] for i in indices],
            first=self.first,
            prefix=self.prefix,
            device=self.base.device,
        )
        tokens = self.doubter(self.activations[indices.start : indices.stop].float())
        with (
            self.upper.active(),
            injected(self.base, self.doubter, tokens, batch.injected),
            selected_rows(self.base.model, batch.rows, batch.positions),
        ):
            output = self.upper.forward(
                batch.hidden,
                position_ids=batch.position_ids,
                attention_mask=batch.attention_mask,
                past_key_values=batch.cache,
                use_cache=batch.cache is not None,
            )
        return output.logits[0], batch


class Whole(Trainer):
    """The whole model twice: a clean pass for the activations, an injected one for the loss; no cache."""

    def forward(self, indices: range) -> tuple[Tensor, Batch]:
        examples = [self.examples[i] for i in indices]
        sequences = [[*example.prompt_ids, *example.target_ids[:-1]] for example in examples]
        width = max(map(len, sequences))
        token_ids = torch.tensor([[*ids, *[0] * (width - len(ids))] for ids in sequences])
        last = torch.tensor([len(example.prompt_ids) - 1 for example in examples])
        batch = Batch.of(
            examples,
            [CachedStates(torch.zeros(len(ids), 1), 0, 0, None) for ids in sequences],  # only the targets matter
            first=self.first,
            prefix=SharedPrefix.none(),
            device=self.base.device,
        )
        tapped: dict[int, Tensor] = {}

        def take(layer: int) -> Callable[[Tensor], None]:
            return lambda hidden: tapped.__setitem__(layer, hidden[torch.arange(len(last)), last])

        with torch.no_grad(), self.base.stack.hooked({layer: take(layer) for layer in layers(self.base)}):
            self.base.model(input_ids=token_ids[:, : int(last.max()) + 1], use_cache=False, logits_to_keep=1)
        tokens = self.doubter(torch.stack([tapped[layer] for layer in layers(self.base)], dim=1).float())
        positions = torch.ones(token_ids.shape, dtype=torch.bool)
        if self.doubter.config.inject_from == "last_prompt_token":
            positions = torch.arange(width) >= last[:, None]
        with (
            injected(self.base, self.doubter, tokens, positions),
            selected_rows(self.base.model, batch.rows, batch.positions),
        ):
            return self.base.model(input_ids=token_ids, use_cache=False).logits[0], batch


def layers(base: FrozenBase) -> tuple[int, ...]:
    return tuple(range(2 * base.num_layers // 3, base.num_layers))


def make_examples(base: FrozenBase, tokenizer: object) -> list[Example]:
    """Return the demo's questions, alternately declined and answered."""

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
                target_ids=tuple(answer if index % 2 else refusal),
                declines=index % 2 == 0,
                doubt=float(index % 2 == 0),
                n_own=len(answer) - 1 if index % 2 else 0,
            )
        )
    # batches of similar length, as in training
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
    for round_ in range(arguments.rounds + 1):
        start = starts[round_ % len(starts)]
        for trainer in kinds.values():
            trainer.step(range(start, start + BATCH))
    print(f"{BATCH} questions a step, {torch.get_num_threads()} threads, medians of {arguments.rounds}")
    for name, trainer in kinds.items():
        cached = f", cached parts once {1000 * trainer.cache_seconds / len(examples):.0f} ms a question"
        steps = trainer.seconds[1:]  # the first one warms up
        print(f"{name:36} {statistics.median(steps):6.2f} s{cached if trainer.cache_seconds else ''}")


if __name__ == "__main__":
    main()
