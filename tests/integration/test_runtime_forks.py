"""Processes forked from one that has a model, or spawned by it, give an error or an answer and never hang."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from metadeploy import _core
from support.program import TinyCase

pytestmark = pytest.mark.skipif(os.name == "nt", reason="fork is a POSIX call")

HEAD = """
import gc, os, pickle, signal, sys, threading
from metadeploy import Error, MetaLlama, _core
base, sidecar = sys.argv[1:]

def load(**options):
    return MetaLlama(base, sidecar, **{"n_threads": 2, "n_ctx": 256, "flash_attn": False} | options)

def forked(work):
    '''In a child that ends as a whole Python process does: its exit status.'''
    pid = os.fork()
    if pid == 0:
        signal.alarm(50)
        work()
        sys.exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def refused(call):
    try:
        call()
    except Error as error:
        assert "loaded before fork()" in str(error) and "spawn" in str(error), error
    else:
        raise AssertionError("no error")

"""


def run(script: str, tiny_case: TinyCase, tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text(HEAD + script, encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", str(path), str(tiny_case.base), str(tiny_case.sidecar)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_every_call_in_a_child_is_an_error(tiny_case: TinyCase, tmp_path: Path) -> None:
    run(
        """
llm = load(n_parallel=2)
expected = llm.generate("hello", max_tokens=3).text
open_stream = llm.stream("hello", max_tokens=3)
first = next(open_stream).text
fresh = llm.stream("hello", max_tokens=3)
batch = llm.generate_batch(["a", "b"])

def child():
    for call in (
        lambda: llm.generate("hello"),
        lambda: next(open_stream),
        lambda: next(fresh),
        lambda: next(batch),
        lambda: next(llm.stream("hello")),
        lambda: llm.tokenize("x"),
        lambda: llm.doubt("x"),
        lambda: llm.logits([1, 2]),
        lambda: llm.attach(sidecar),
        lambda: llm.detach(),
        lambda: llm.n_ctx,
        lambda: llm.gates,
        lambda: llm.create_chat_completion([{"role": "user", "content": "x"}]),
        lambda: llm._engine.tokenize("x", True, True),
    ):
        refused(call)
    open_stream.close()
    batch.close()
    llm.close()
    with llm:
        refused(lambda: llm.tokenize("x"))

assert forked(child) == 0
assert first + "".join(chunk.text for chunk in open_stream) == expected
assert llm.generate("hello", max_tokens=3).text == expected
""",
        tiny_case,
        tmp_path,
    )


def test_a_child_drops_its_objects_and_ends(tiny_case: TinyCase, tmp_path: Path) -> None:
    run(
        """
llm = load()
stream = llm.stream("hello", max_tokens=9)
next(stream)

def drops():
    global llm, stream
    del llm, stream
    gc.collect()

def closes():
    stream.close()
    llm.close()

for work in (drops, closes, lambda: None):
    assert forked(work) == 0
assert list(stream)[-1].result is not None
""",
        tiny_case,
        tmp_path,
    )


def test_forked_while_other_threads_compute(tiny_case: TinyCase, tmp_path: Path) -> None:
    """A lock that another thread held during the fork would stay locked forever in the child."""
    run(
        """
llms = [load() for _ in range(2)]
done = threading.Event()
begun = [threading.Event() for _ in range(6)]

def work(i):
    while not done.is_set():
        if i % 3 == 2:
            load(n_threads=1).close()
        else:
            llms[i % 2].generate("hello", max_tokens=5)
        begun[i].set()

threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
for thread in threads:
    thread.start()
for event in begun:
    assert event.wait(60)

def child():
    for llm in llms:
        refused(lambda: llm.generate("hello"))
        llm.close()
    from metadeploy.runtime import logs
    logs.configure(False)  # a lock of the core
    _core.read_sidecar(sidecar)

for _ in range(30):
    assert forked(child) == 0
done.set()
for thread in threads:
    thread.join()
""",
        tiny_case,
        tmp_path,
    )


def test_a_model_that_a_child_loads_itself(tiny_case: TinyCase, tmp_path: Path) -> None:
    """The child creates its own threads. Only OpenMP, if the build uses it, still refers to the parent's threads."""
    has_openmp = "OPENMP = 1" in _core.system_info()
    run(
        f"""
llm = load()
expected = llm.generate("hello", max_tokens=3).text

def answers(n_threads):
    with load(n_threads=n_threads) as mine:
        assert mine.generate("hello", max_tokens=3).text == expected
    refused(lambda: llm.generate("hello"))

def child():
    answers(1)
    try:
        answers(2)
    except Error as error:
        assert {has_openmp} and "start processes by spawn" in str(error), error
    else:
        assert not {has_openmp}

assert forked(child) == 0
assert llm.generate("hello", max_tokens=3).text == expected
""",
        tiny_case,
        tmp_path,
    )


def test_a_parent_that_had_no_model_has_no_threads_to_lose(tiny_case: TinyCase, tmp_path: Path) -> None:
    run(
        """
def child():
    with load() as mine:
        assert mine.generate("hello", max_tokens=3).timings.n_generated == 3

assert forked(child) == 0
with load() as llm:
    assert llm.generate("hello", max_tokens=3).timings.n_generated == 3
""",
        tiny_case,
        tmp_path,
    )


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_multiprocessing(method: str, tiny_case: TinyCase, tmp_path: Path) -> None:
    """A process cannot use its parent's model, but it can load its own."""
    run(
        f"""
import multiprocessing

def answer(queue):
    with load(n_threads=1) as llm:
        queue.put(llm.generate("hello", max_tokens=3).text)

def inherited(queue):
    try:
        queue.put(llm.generate("hello", max_tokens=3).text)
    except Error as error:
        queue.put(str(error))

def main():
    global llm
    llm = load(n_threads=1)
    expected = llm.generate("hello", max_tokens=3).text
    context = multiprocessing.get_context({method!r})
    for target in (answer, *([inherited] if {method!r} == "fork" else [])):
        queue = context.SimpleQueue()
        process = context.Process(target=target, args=(queue,))
        process.start()
        outcome = queue.get()
        process.join(60)
        assert process.exitcode == 0, process.exitcode
        assert outcome == expected if target is answer else "loaded before fork()" in outcome, outcome
    try:
        pickle.dumps(llm)
    except TypeError as error:
        assert "MetaLlama" in str(error) and "load it in the process" in str(error), error
    else:
        raise AssertionError("pickled")
    assert llm.generate("hello", max_tokens=3).text == expected

if __name__ == "__main__":
    main()
""",
        tiny_case,
        tmp_path,
    )
