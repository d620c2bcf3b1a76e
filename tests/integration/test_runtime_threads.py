"""One instance in many threads: streams are read and closed in any thread, and many calls run at once."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from metadeploy import Error, MetaLlama
from support.program import TinyCase
from support.threads import LIMIT_S, in_thread, run_in_thread, until

PROMPT = "What is the capital of France?"


def test_users_of_a_pool(llm: MetaLlama) -> None:
    """Each user reads a stream chunk by chunk, in any free thread. There are more users than threads."""
    prompts = [f"{PROMPT} {n}" for n in range(7)]
    expected = [llm.generate(prompt, max_tokens=9).text for prompt in prompts]

    async def streamed(prompt: str) -> str:
        text = ""
        with llm.stream(prompt, max_tokens=9) as stream:
            while (chunk := await asyncio.to_thread(next, stream, None)) is not None:
                text += chunk.text
                await asyncio.sleep(0)
        return text

    async def whole(prompt: str) -> str:
        return (await asyncio.to_thread(llm.generate, prompt, max_tokens=9)).text

    async def main() -> list[str]:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))
        users = [streamed(prompt) if n % 2 else whole(prompt) for n, prompt in enumerate(prompts)]
        return await asyncio.wait_for(asyncio.gather(*users), LIMIT_S)

    assert asyncio.run(main()) == expected


def test_streams_of_every_shape_are_read_after_they_were_computed_ahead(llm: MetaLlama) -> None:
    messages = [{"role": "user", "content": PROMPT}]

    def chat() -> list[object]:
        return [chunk["choices"] for chunk in llm.create_chat_completion(messages, stream=True, max_tokens=9)]  # type: ignore[call-overload]

    expected = [chunk.text for chunk in llm.stream(PROMPT, max_tokens=9)], chat()
    chunks = llm.stream(PROMPT, max_tokens=9)
    texts = [next(chunks).text]
    in_thread(llm.tokenize, "x")
    assert llm.tokenize("x")  # no stream is open now
    assert texts + [chunk.text for chunk in chunks] == expected[0]
    parts = llm.create_chat_completion(messages, stream=True, max_tokens=9)  # type: ignore[call-overload]
    first = [next(parts)["choices"], next(parts)["choices"]]
    in_thread(llm.tokenize, "x")
    assert first + [chunk["choices"] for chunk in parts] == expected[1]
    in_thread(parts.close)


def test_a_batch_of_a_list_is_computed_ahead(tiny_case: TinyCase) -> None:
    with tiny_case.load(n_parallel=2) as llm:
        prompts = [f"{PROMPT} {n}" for n in range(5)]
        expected = [llm.generate(prompt, max_tokens=6).token_ids for prompt in prompts]
        answers = llm.generate_batch(prompts, max_tokens=6)
        first = next(answers)
        in_thread(llm.tokenize, "x")
        ids_of_answers = [answer.result and answer.result.token_ids for answer in (first, *answers)]
        assert ids_of_answers == expected
        steps = llm.stream_batch(prompts, max_tokens=6)
        answer, _ = next(steps)
        in_thread(llm.tokenize, "x")
        answer.close()  # this drops even chunks that are already computed
        assert answer.index not in {step.index for step, _ in steps}


def test_a_batch_of_an_iterator_is_waited_for(tiny_case: TinyCase) -> None:
    requested: list[int] = []

    def prompts() -> object:
        for n in range(5):
            requested.append(threading.get_ident())
            yield f"{PROMPT} {n}"

    with tiny_case.load(n_parallel=2) as llm:
        answers = llm.generate_batch(prompts(), max_tokens=6)  # type: ignore[arg-type]
        next(answers)
        waiting = run_in_thread(llm.tokenize, "x")
        until(lambda: len(llm._lock._queue) == 1)
        assert len(list(answers)) == 4
        assert waiting.result()
        assert set(requested) == {threading.get_ident()}  # no other thread calls it


def test_the_model_is_closed_while_other_threads_use_it(tiny_case: TinyCase) -> None:
    """close() ends streams, even during a computation, and waits for a running call."""
    llm = tiny_case.load(n_ctx=4096)
    computing, released = threading.Event(), threading.Event()

    def notice() -> bool:
        computing.set()
        return False

    stream = llm.stream("word " * 700, max_tokens=None, cancel=notice)
    reading = run_in_thread(lambda: [chunk.result for chunk in stream])
    assert computing.wait(LIMIT_S)
    llm.close()
    assert reading.result()[-1:] in ([], [None])
    assert list(stream) == []

    llm = tiny_case.load()
    computing.clear()

    def hold() -> bool:
        computing.set()
        released.wait(LIMIT_S)
        return False

    call = run_in_thread(lambda: llm.generate(PROMPT, max_tokens=6, cancel=hold))
    assert computing.wait(LIMIT_S)
    closing = run_in_thread(llm.close)
    until(lambda: len(llm._lock._queue) == 1)
    released.set()
    assert call.result().timings.n_generated == 6
    closing.result()
    with pytest.raises(Error, match="the model is closed"):
        llm.tokenize("x")


def test_calls_in_callbacks_of_calls(llm: MetaLlama) -> None:
    for inner in (lambda: llm.tokenize("x"), lambda: llm.generate("x"), llm.close):
        with pytest.raises(Error, match="busy with a call of the same thread"):
            llm.generate(PROMPT, max_tokens=3, cancel=lambda inner=inner: bool(inner()))  # type: ignore[misc]
    with pytest.raises(Error, match="busy with a call of the same thread"):
        list(llm.generate_batch(llm.detokenize([n]) for n in range(3)))
    assert llm.tokenize("x")


EVERYTHING = """
import faulthandler, logging, random, sys, threading
faulthandler.dump_traceback_later(280, exit=True)
sys.setswitchinterval(1e-6)
from metadeploy import Cancelled, Error, MetaLlama, Request
from metadeploy.runtime import logs
base, sidecar, n_rounds = *sys.argv[1:3], int(sys.argv[3])
logger = logging.getLogger("metadeploy.llama_cpp")
logger.addHandler(logging.NullHandler())
PROMPTS = ["a", "What is the capital of France?", "What is the capital of Spain?", "x" * 60]
problems = []

def load():
    return MetaLlama(base, sidecar, n_threads=1, n_ctx=256, n_parallel=2, flash_attn=False)

with load() as llm:
    expected = {
        (prompt, inject): llm.generate(prompt, max_tokens=6, inject=inject).token_ids
        for prompt in PROMPTS for inject in (True, False)
    }

class Work:
    def __init__(self, llm):
        self.llm, self.abandoned, self.closing = llm, [], False

    def prompt(self, dice):
        return dice.choice(PROMPTS)

    def generate(self, dice):
        prompt = self.prompt(dice)
        result = self.llm.generate(prompt, max_tokens=6)
        assert result.token_ids == expected[prompt, result.gain != 0.0], prompt

    def stream(self, dice):
        prompt, tokens = self.prompt(dice), ()
        with self.llm.stream(prompt, max_tokens=6, inject=False) as stream:
            for chunk in stream:
                tokens += chunk.token_ids
        assert self.closing or tokens == expected[prompt, False], prompt

    def hand_over(self, dice):
        stream = self.llm.stream(self.prompt(dice), max_tokens=6)
        next(stream, None)
        self.abandoned.append(stream)  # to be read, closed or dropped by any thread

    def take_over(self, dice):
        try:
            stream = self.abandoned.pop(dice.randrange(len(self.abandoned)))
        except (IndexError, ValueError):
            return
        dice.choice((lambda: next(stream, None), lambda: list(stream), stream.close, lambda: None))()

    def share(self, dice):
        for stream in self.abandoned[:1]:
            next(stream, None)

    def batch(self, dice):
        requests = [Request(prompt=prompt, inject=False) for prompt in PROMPTS]
        for answer in self.llm.generate_batch(requests, max_tokens=6):
            assert answer.result.token_ids == expected[PROMPTS[answer.index], False]

    def cancelled(self, dice):
        try:
            self.llm.generate("x" * 200, max_tokens=30, cancel=lambda: True)
        except Cancelled:
            pass

    def attach(self, dice):
        self.llm.attach(sidecar)

    def detach(self, dice):
        self.llm.detach()

    def look(self, dice):
        self.llm.tokenize("abc"), self.llm.n_ctx, self.llm.gates, self.llm.logits([1, 2, 3])

    def configure(self, dice):
        logger.setLevel(dice.choice((logging.DEBUG, logging.ERROR)))
        logs.configure(False)

    def load(self, dice):
        load().close()

KINDS = ("generate stream hand_over take_over share batch cancelled attach detach look configure load").split()

def run(work, seed):
    dice = random.Random(seed)
    try:
        for _ in range(n_rounds):
            try:
                getattr(work, dice.choice(KINDS))(dice)
            except Error as error:
                # a thread that reads another one's stream is the one that reads it; and the model may be closed
                if "busy with a stream of the same thread" not in str(error):
                    if not (work.closing and "the model is closed" in str(error)):
                        raise
    except BaseException as error:
        problems.append(error)
        raise

for closes in (False, True):
    work = Work(load())
    threads = [threading.Thread(target=run, args=(work, seed)) for seed in range(6)]
    for thread in threads:
        thread.start()
    if closes:
        work.closing = True
        work.llm.close()
    for thread in threads:
        thread.join()
    work.abandoned.clear()
    work.llm.close()
assert not problems, problems
"""


def test_everything_at_once(tiny_case: TinyCase, tmp_path: Path) -> None:
    script = tmp_path / "everything.py"
    script.write_text(EVERYTHING, encoding="utf-8")
    result = subprocess.run(
        [sys.executable, str(script), str(tiny_case.base), str(tiny_case.sidecar), "25"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
