"""Send many requests of every kind to one instance, whose memory, descriptors and answers must stay the same.

    python benchmarks/soak.py --base BASE --sidecar SIDECAR [-n 10000] [-o FILE]

The exit status is 1 if anything has grown or changed. `nox -s soak` runs it with a tiny base. Linux only.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import random
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from metadeploy import Cancelled, Decay, Error, InjectionSchedule, MetaLlama, Refresh, Request
from metadeploy.runtime import Message

#: The allowed growth in MiB after the warm-up, because the allocator does not return all memory.
MAX_GROWTH_MIB: Final = 2.0

QUESTIONS: Final = (
    "What is the capital of France?",
    "What is the plural of wolf?",
    "And of sheep, if I may ask, and of goose, and of ox, and of all the others that have four legs or two?",
    "Größe, 首都, 😀",
    "x",
)
SCHEDULES: Final = (
    InjectionSchedule(decay=Decay()),
    InjectionSchedule(window=3),
    InjectionSchedule(refresh=Refresh(threshold=0.99, min_interval=1, max_interval=5)),
)


class _MallInfo(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keep",
        )
    )


@dataclass(frozen=True)
class State:
    """The resources of the process.

    Attributes:
        requests: number of requests so far.
        resident_mib: memory that is in RAM.
        heap_mib: memory that is allocated from the C library, and not freed.
        descriptors: open files.
        threads: number of operating-system threads.
    """

    requests: int
    resident_mib: float
    heap_mib: float
    descriptors: int
    threads: int

    @classmethod
    def now(cls, requests: int) -> State:
        """Return the current state, after a garbage collection.

        The C library returns its free pages first. Otherwise its fragments count as growth: some 5 MiB in 20,000
        requests, while the heap stays the same.
        """
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return cls(
            requests,
            pages * 4096 / 2**20,
            _heap_bytes() / 2**20,
            len(list(Path("/proc/self/fd").iterdir())),
            len(list(Path("/proc/self/task").iterdir())),
        )


def _heap_bytes() -> int:
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = _MallInfo
    info = mallinfo2()
    return int(info.uordblks + info.hblkhd)


class Soak:
    """One instance, and every kind of request."""

    def __init__(self, base: Path, sidecar: Path, folder: Path, seed: int = 0) -> None:
        """Load the model.

        Args:
            base: a GGUF with a vocabulary; a small one, because a large one takes long.
            sidecar: its wrapper.
            folder: where to put a file that is not a sidecar.
            seed: determines the requests.
        """
        self.sidecar = sidecar
        self.damaged = folder / "damaged.gguf"
        self.damaged.write_bytes(sidecar.read_bytes()[:-100])
        self.llm = MetaLlama(base, sidecar, n_ctx=256, n_parallel=3, n_threads=1, flash_attn=False)
        self.random = random.Random(seed)
        self.held = self.llm.encode(QUESTIONS[0])
        self.kinds: tuple[Callable[[], object], ...] = (
            self.greedy,
            self.sampled,
            self.streamed,
            self.streamed_in_threads,
            self.abandoned,
            self.abandoned_in_a_cycle,
            self.overtaken,
            self.cancelled,
            self.wrong,
            self.batch,
            self.scheduled,
            self.with_held_tokens,
            self.inspected,
            self.chat,
            self.completion,
            self.attached,
        )

    def ask(self) -> None:
        """Send a request of a random kind."""
        self.random.choice(self.kinds)()

    def answers(self) -> list[tuple[object, ...]]:
        """Return answers of every deterministic kind, which must never change."""
        answers: list[tuple[object, ...]] = []
        for question in QUESTIONS:
            for options in ({}, {"inject": False}, {"gain": 0.5}, {"temperature": 1.0, "seed": 7}):
                result = self.llm.generate(question, max_tokens=12, **options)
                answers.append((result.token_ids, result.doubt, result.text))
            answers.append((self.llm.doubt(question), self.llm.activations(question).tobytes()))
        for schedule in SCHEDULES:
            answers.append((self.llm.generate(QUESTIONS[0], max_tokens=12, schedule=schedule).token_ids,))
        answers += [
            (answer.result and answer.result.token_ids,) for answer in self.llm.generate_batch(QUESTIONS, max_tokens=9)
        ]
        return answers

    @property
    def question(self) -> str:
        """Return a random question, sometimes with another beginning or end."""
        question = self.random.choice(QUESTIONS)
        return self.random.choice((question, question, f"{question} {self.random.random()}", f"{question[:9]}."))

    # --- kinds -------------------------------------------------------------------------------------------------------

    def greedy(self) -> None:
        self.llm.generate(
            self.question, max_tokens=self.random.randrange(20), gain=self.random.choice((None, 0.0, 2.0))
        )

    def sampled(self) -> None:
        self.llm.generate(
            self.question,
            max_tokens=12,
            temperature=self.random.choice((0.5, 1.0, 2.0)),
            seed=self.random.choice((None, 1, 2)),
            repeat_penalty=self.random.choice((1.0, 1.2)),
            stop=self.random.choice((None, "e", ["a", "there"])),
            logprobs=self.random.choice((None, 0, 5)),
        )

    def streamed(self) -> None:
        for _ in self.llm.stream(self.question, max_tokens=12):
            pass

    def streamed_in_threads(self) -> None:
        stream = self.llm.stream(self.question, max_tokens=4)
        for _ in range(6):
            _in_thread(lambda: next(stream, None))

    def abandoned(self) -> None:
        stream = self.llm.stream(self.question, max_tokens=12)
        next(stream)
        if self.random.random() < 0.5:
            stream.close()

    def abandoned_in_a_cycle(self) -> None:
        cycle: list[object] = [self.llm.stream(self.question, max_tokens=12)]
        next(cycle[0])  # type: ignore[call-overload]
        cycle.append(cycle)
        del cycle
        gc.collect()

    def overtaken(self) -> None:
        stream = self.llm.stream(self.question, max_tokens=6)
        next(stream)
        _in_thread(lambda: self.llm.generate("x", max_tokens=2))
        list(stream)

    def cancelled(self) -> None:
        n = self.random.randrange(3)
        calls: list[None] = []

        def enough() -> bool:
            calls.append(None)
            return len(calls) > n

        with suppress(Cancelled):
            self.llm.generate("word " * 40, max_tokens=50, cancel=enough)

    def wrong(self) -> None:
        calls: tuple[Callable[[], object], ...] = (
            lambda: self.llm.generate(""),
            lambda: self.llm.generate("x" * 1000),
            lambda: self.llm.generate([1, 10**6]),
            lambda: self.llm.generate("x", temperature=float("nan")),
            lambda: self.llm.generate("x", cognitive_tokens=[[1.0]]),
            lambda: self.llm.generate([{"role": "user"}]),  # type: ignore[arg-type]
            lambda: self.llm.attach(self.damaged),
            lambda: self.llm.attach(self.damaged.with_name("absent.gguf")),
            lambda: self.llm.layer_outputs([1], [999]),
        )
        try:
            self.random.choice(calls)()
        except (Error, ValueError, TypeError):
            return
        raise AssertionError("no error")

    def batch(self) -> None:
        prompts = [self.question for _ in range(4)]
        prompts.insert(self.random.randrange(4), self.random.choice(("", "x" * 1000)))
        requests = [Request(prompt=prompt, gain=self.random.choice((None, 0.3))) for prompt in prompts]
        for answer, _ in self.llm.stream_batch(requests, max_tokens=6):
            if answer.index == 1:
                answer.close()

    def scheduled(self) -> None:
        self.llm.generate(self.question, max_tokens=12, schedule=self.random.choice(SCHEDULES))

    def with_held_tokens(self) -> None:
        self.llm.generate(self.question, max_tokens=9, cognitive_tokens=self.held)

    def inspected(self) -> None:
        question = self.question
        ids = self.llm.tokenize(question)
        self.llm.detokenize(ids)
        self.random.choice(
            (
                lambda: self.llm.activations(question),
                lambda: self.llm.cognitive_tokens(question),
                lambda: self.llm.cognitive_attention(question),
                lambda: self.llm.doubt(question),
                lambda: self.llm.logits(ids),
                lambda: self.llm.layer_outputs(ids, [0, 1]),
                lambda: self.llm.gates,
            )
        )()

    def chat(self) -> None:
        messages: list[Message] = [{"role": "user", "content": self.question}]
        response = self.llm.create_chat_completion(
            messages,
            stream=self.random.random() < 0.5,  # type: ignore[call-overload]
            max_tokens=9,
            logprobs=True,
            top_logprobs=2,
        )
        for _ in response:
            pass

    def completion(self) -> None:
        response = self.llm.create_completion(self.question, stream=self.random.random() < 0.5, max_tokens=9)  # type: ignore[call-overload]
        for _ in response:
            pass

    def attached(self) -> None:
        self.llm.detach()
        self.llm.generate(self.question, max_tokens=3)
        self.llm.attach(self.sidecar)


def _in_thread(call: Callable[[], object]) -> None:
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


def soak(
    work: Soak, n: int, *, checks: int = 20, say: Callable[[str], object] = print
) -> tuple[list[State], list[str]]:
    """Send requests, and check the process several times.

    Args:
        work: the source of requests.
        n: number of requests after the warm-up, which has half as many.
        checks: number of checks of the process after the warm-up.
        say: called with the result of each check.

    Returns:
        The states since the end of the warm-up, and everything that has grown or changed since then.
    """
    answers_before = work.answers()
    states: list[State] = []
    say(f"{'requests':>9} {'resident MiB':>13} {'heap MiB':>9} {'files':>6} {'threads':>8}")
    warm_up = n // 2
    for i in range(1, warm_up + n + 1):
        work.ask()
        if i % max(1, n // checks) == 0 or i in (warm_up, warm_up + n):
            state = State.now(i)
            say(f"{i:>9} {state.resident_mib:>13.2f} {state.heap_mib:>9.3f} {state.descriptors:>6} {state.threads:>8}")
            if i >= warm_up:
                states.append(state)
    faults = [] if work.answers() == answers_before else ["the answers at the end differ from those at the beginning"]
    first, last = states[0], states[-1]
    faults += [
        f"{what} has grown from {getattr(first, name)} to {getattr(last, name)}"
        for what, name, max_growth in (
            ("resident memory (MiB)", "resident_mib", MAX_GROWTH_MIB),
            ("the heap (MiB)", "heap_mib", MAX_GROWTH_MIB),
            ("the number of open files", "descriptors", 0),
            ("the number of threads", "threads", 0),
        )
        if getattr(last, name) - getattr(first, name) > max_growth
    ]
    return states, faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--sidecar", type=Path, required=True)
    parser.add_argument("-n", "--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, help="write the findings as JSON")
    arguments = parser.parse_args()
    work = Soak(arguments.base, arguments.sidecar, arguments.sidecar.parent, arguments.seed)
    states, faults = soak(work, arguments.requests)
    if arguments.output:
        results = {"requests": arguments.requests, "faults": faults, "states": [asdict(state) for state in states]}
        arguments.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    for fault in faults:
        print(fault, file=sys.stderr)
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
