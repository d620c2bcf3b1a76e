"""Compare the runtime with PyTorch, with unfolded cross-attention, and with llama-cpp-python.

    python benchmarks/peers.py [--base BASE --sidecar SIDECAR] [--prompts 128,512] [--tokens 32] [--sequences 1,8]

The default is the demo's SmolLM2-135M and its Doubter, injected at every position as in the meta-spider framework. All
peers take turns on the same prompts with the same number of threads. PyTorch and the runtime have the same weights,
once in F32 and once in BF16; `--without-pytorch` is for bases that transformers cannot read. The base is in memory
three times, and four more times without that option. Then many sequences at once are compared with llama.cpp's batched
decoding of the bare base, through llama-cpp-python.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import reporting

from metadeploy import _core
from metadeploy.bench import Figure, Report
from metadeploy.bench.harness import BenchHarness
from metadeploy.bench.measurements import machine
from metadeploy.bench.runner import with_mode
from metadeploy.bench.timing import Tick, interleave, timed
from metadeploy.sidecar import read_sidecar

#: Evaluates a prompt and a number of tokens after it.
Answer = Callable[[list[int], int], object]

OURS = "runtime"
UNFOLDED = "two full passes, unfolded"
BARE = "runtime, base alone"
WITHOUT_SIDECAR = "runtime without a sidecar"
PEER = "llama-cpp-python, base alone"
BATCHED = "llama.cpp's batched decoding, base alone"
PEER_PACKAGE = "llama-cpp-python==0.3.36"
#: Tokens before the first decoded one, and the maximum prompt length of real answers.
N_PROMPT, N_BATCH_PROMPT = 32, 128


def runtime(harness: BenchHarness, *, inject: bool = True) -> Answer:
    def answer(prompt: list[int], n_tokens: int) -> None:
        harness.prefill(prompt, inject=inject)
        if n_tokens:
            harness.decode(1, n_tokens, inject=inject)

    return answer


def pytorch(base: Path, sidecar: Path, threads: int) -> dict[str, Answer]:
    """Return the PyTorch peers in F32 and in BF16.

    Args:
        base: GGUF in F32.
        sidecar: the sidecar of the base.
        threads: number of threads of PyTorch.
    """
    os.environ.setdefault("TQDM_DISABLE", "1")  # transformers draws bars while it loads
    import torch

    from metadeploy.reference import Doubter, MetaSpiderConfig, MetaSpiderPipeline
    from metadeploy.reference.loading import load_base

    torch.set_num_threads(threads)
    config = MetaSpiderConfig(model_name=str(base), device="cpu", dtype="float32")
    model, tokenizer = load_base(config)
    wrapper = read_sidecar(sidecar)

    def answer(model: torch.nn.Module) -> Answer:
        pipeline = MetaSpiderPipeline.from_pretrained(config, model=model, tokenizer=tokenizer)
        pipeline.attach(Doubter.from_tensors(wrapper.config, wrapper.tensors))
        # the first token comes with the prompt
        return lambda prompt, n_tokens: pipeline.generate_ids(prompt, n_tokens + 1, stop_ids=())

    return {"PyTorch F32": answer(model), "PyTorch BF16": answer(deepcopy(model).bfloat16())}


def llama_cpp_python(base: Path, n_ctx: int, threads: int, stack: ExitStack) -> Answer:
    import llama_cpp

    # the runtime's "auto" selects flash attention on a CPU
    options = {"n_ctx": n_ctx, "n_threads": threads, "n_threads_batch": threads, "flash_attn": True}
    peer: Any = llama_cpp.Llama(str(base), **options, verbose=False)
    stack.callback(peer.close)

    def answer(prompt: list[int], n_tokens: int) -> None:
        peer.reset()
        peer.eval(prompt)
        for token in (prompt * n_tokens)[:n_tokens]:
            peer.eval([token])

    return answer


def peers(
    base: Path, wrapper: Path, arguments: argparse.Namespace, folder: Path, stack: ExitStack
) -> tuple[dict[str, Answer], BenchHarness, list[str]]:
    """Return all peers by name, one harness to draw tokens from, and notes about missing peers."""
    sidecar = with_mode(read_sidecar(wrapper), "prompt", folder)
    n_ctx = max(arguments.prompts) + arguments.tokens + 8

    def bare(path: Path, *, hidden_cache_mib: int | None = None) -> BenchHarness:
        harness = BenchHarness(path, n_ctx=n_ctx, threads=arguments.threads, hidden_cache_mib=hidden_cache_mib)
        return stack.enter_context(harness)

    def attached(path: Path, *, folded: bool = True, hidden_cache_mib: int | None = None) -> BenchHarness:
        harness = bare(path, hidden_cache_mib=hidden_cache_mib)
        harness.attach(sidecar, folded=folded)
        return harness

    ours = attached(base)
    answers = {
        OURS: runtime(ours),
        UNFOLDED: runtime(attached(base, folded=False, hidden_cache_mib=0)),
        BARE: runtime(ours, inject=False),
        WITHOUT_SIDECAR: runtime(bare(base), inject=False),
    }
    notes = []
    if importlib.util.find_spec("llama_cpp") is None:
        notes.append(f"no figures of llama-cpp-python: it is not installed (pip install {PEER_PACKAGE})")
    else:
        answers[PEER] = llama_cpp_python(base, n_ctx, arguments.threads, stack)
    if not arguments.without_pytorch:
        for kind in ("F32", "BF16"):
            path = folder / f"{kind}.gguf"
            _core.quantize(str(base), str(path), kind, arguments.threads)
            answers[f"{OURS} {kind}"] = runtime(attached(path))
        answers |= pytorch(folder / "F32.gguf", sidecar, arguments.threads)
    return answers, ours, notes


def figures(
    arguments: argparse.Namespace, answers: dict[str, Answer], random: BenchHarness, tick: Tick
) -> Iterator[Figure]:
    pairs = [
        (UNFOLDED, OURS),
        (WITHOUT_SIDECAR, BARE),
        (PEER, BARE),
        *((f"PyTorch {kind}", f"{OURS} {kind}") for kind in ("F32", "BF16")),
    ]
    for length in arguments.prompts:
        for n_tokens in dict.fromkeys((0, arguments.tokens)):
            prompt = random.tokens(length)
            for answer in answers.values():
                answer(prompt[:16], 1)  # warms up
            kinds = {
                name: lambda answer=answer, prompt=prompt, n=n_tokens: timed(lambda: answer(prompt, n))
                for name, answer in answers.items()
            }
            what = f"prompt of {length}" + (f" and {n_tokens} tokens" if n_tokens else "")
            measured = interleave(kinds, rounds=arguments.rounds, what=what, tick=tick)
            for peer, ours in pairs:
                if peer in measured:
                    sides = {peer: measured[peer], ours: measured[ours]}
                    yield Figure.ratio(what, f"{peer} ÷ {ours}, {what}", sides, unit="ms")


def compare_batches(
    base: Path, sidecar: Path, arguments: argparse.Namespace, notes: list[str], tick: Tick
) -> Iterator[Figure]:
    """Compare several answers at once, including sampling and Python, with bare llama_decode calls of the base.

    Both start each measurement after the same number of tokens.
    """
    from bare_batch import BareBatch

    n_steps, n_parallel = arguments.tokens, max(arguments.sequences)
    options = {
        "n_ctx": N_BATCH_PROMPT + n_steps,
        "n_parallel": n_parallel,
        "threads": arguments.threads,
    }
    with BenchHarness(base, **options) as harness, BareBatch(base, **options) as peer:
        harness.attach(sidecar)
        for count in arguments.sequences:

            def injected(count: int = count) -> float:
                if harness.has_text:
                    return harness.batch_rate(count, n_steps)
                for sequence in range(count):
                    harness.prefill(harness.tokens(N_PROMPT), inject=True, sequence=sequence)
                return 1e3 * count / float(harness.decode(count, n_steps, inject=True).mean())

            def alone(count: int = count) -> float:
                for sequence in range(count):
                    peer.prefill(sequence, N_PROMPT)
                return 1e3 * count / float(peer.decode(count, n_steps).mean())

            ours = "generate_batch" if harness.has_text else "injected decoding"
            what = f"{count} sequence{'s' * (count > 1)}"
            for side in (injected, alone):
                side()  # warms up
            measured = interleave({ours: injected, BATCHED: alone}, rounds=arguments.rounds, what=what, tick=tick)
            if np.isnan(measured[ours]).any():
                notes.append(f"no figure for {what}: an answer ended before the others had two tokens")
            else:
                yield Figure.ratio("batch", f"{ours} ÷ {BATCHED}, {what}", measured, unit="tokens/s", at=count)


def measure(arguments: argparse.Namespace, tick: Tick) -> Report:
    base, sidecar = reporting.base_and_sidecar(arguments)
    machine_before = machine()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        answers, random, notes = peers(base, sidecar, arguments, Path(folder), stack)
        results = [*figures(arguments, answers, random, tick)]
    if PEER in answers:
        results += compare_batches(base, sidecar, arguments, notes, tick)
    conditions = {
        "machine": machine_before,
        "load_average_after": machine()["load_average"],
        "base": base.name,
        "sidecar": sidecar.name,
        "threads": arguments.threads,
    }
    notes.append(
        "prompts and answers compare the time (above 1, the runtime is faster by this factor), "
        "many sequences compare the speed (1 is free, less is worse)"
    )
    return Report(title=f"{base.name}: peers", conditions=conditions, figures=tuple(results), notes=tuple(notes))


def main() -> None:
    parser = reporting.parser(__doc__)
    reporting.add_base(parser)
    parser.add_argument("--prompts", type=reporting.numbers, default=(128, 512), help="lengths of prompts")
    parser.add_argument("--tokens", type=int, default=32, help="tokens of an answer")
    parser.add_argument("--sequences", type=reporting.numbers, default=(1, 2, 4, 8, 16), help="decoded at once")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--without-pytorch", action="store_true")
    # the defaults of the peers differ, from half of the cores to four
    parser.set_defaults(threads=os.cpu_count() or 1)
    arguments = parser.parse_args()
    reporting.run(lambda tick: measure(arguments, tick), arguments)


if __name__ == "__main__":
    main()
