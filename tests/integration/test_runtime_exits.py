"""A process exits cleanly during a computation, whatever its threads do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.program import TinyCase

#: How often each script runs, because faults depend on the timing of threads. METADEPLOY_REPEAT sets another number.
REPEAT = int(os.environ.get("METADEPLOY_REPEAT", "3"))

HEAD = """
import atexit, faulthandler, gc, logging, sys, threading, time
faulthandler.dump_traceback_later(100, exit=True)
{before}
from metadeploy import Error, MetaLlama, _core
base, sidecar = sys.argv[1:]
begun = threading.Event()

def load(**options):
    return MetaLlama(base, sidecar, **{{"n_ctx": 8192, "n_threads": 1}} | options)

def daemon(work):
    threading.Thread(target=work, daemon=True).start()
    assert begun.wait(60)

def notice():
    begun.set()
    return False

"""

CASES = {
    # computing, in C++ without Python's lock
    "a long prompt": """
llm = load()
daemon(lambda: llm.generate("word " * 1600, max_tokens=400, cancel=notice))
""",
    "a long answer": """
llm = load()
daemon(lambda: llm.generate("x", max_tokens=None, cancel=notice))
""",
    "with two threads each": """
llm = load(n_threads=2)
daemon(lambda: llm.generate("x", max_tokens=None, cancel=notice))
""",
    "several instances": """
llms = [load() for _ in range(3)]
for llm in llms:
    begun.clear()
    daemon(lambda llm=llm: llm.generate("x", max_tokens=None, cancel=notice))
""",
    "a batch": """
llm = load(n_parallel=3, n_ctx=1024)
daemon(lambda: list(llm.generate_batch(map(str, range(10 ** 9)), cancel=notice)))
""",
    "a stream that is read": """
llm = load()
def work():
    for chunk in llm.stream("x", max_tokens=None):
        begun.set()
daemon(work)
""",
    "calls without end, errors caught": """
llm = load()
def work():
    while True:
        try:
            llm.generate("x", max_tokens=3)
        except Exception:
            pass
        begun.set()
daemon(work)
""",
    "short calls without end": """
llm = load()
def work():
    while True:
        llm.tokenize("some text") and llm.n_ctx and llm.gates
        begun.set()
daemon(work)
""",
    "loading without end": """
def work():
    while True:
        load(n_ctx=256).close()
        begun.set()
daemon(work)
""",
    "attaching without end": """
llm = load()
def work():
    while True:
        llm.attach(sidecar)
        llm.detach()
        begun.set()
daemon(work)
""",
    "reading files without end": """
def work():
    while True:
        _core.read_sidecar(sidecar)
        _core.HostWrapper(sidecar)
        begun.set()
daemon(work)
""",
    # waiting
    "waiting for an open stream": """
llm = load(n_parallel=2)
stream = llm.stream_batch(iter(["x", "y"]))
next(stream)
def work():
    begun.set()
    llm.generate("y", max_tokens=3)
daemon(work)
""",
    "a callback that takes its time": """
llm = load()
def cancel():
    begun.set()
    time.sleep(0.2)
    return False
daemon(lambda: llm.generate("x", max_tokens=None, cancel=cancel))
""",
    # objects that exist until the exit
    "an open stream": """
llm = load()
stream = llm.stream("x", max_tokens=5)
next(stream)
""",
    "an open stream in a cycle with its model": """
llm = load()
stream = llm.stream("x", max_tokens=5)
next(stream)
llm.stream_of_mine, llm.itself = stream, llm
del llm, stream
""",
    "an error while a stream is open": """
llm = load()
stream = llm.stream("x", max_tokens=5)
next(stream)
sys.excepthook = lambda *_: None
status = 1
raise SystemExit(0)
""",
    "closed by a finaliser": """
class Owner:
    def __init__(self):
        self.llm = load()
        self.stream = self.llm.stream("x", max_tokens=5)
        next(self.stream)
    def __del__(self):
        self.stream.close()
        self.llm.close()
owner = Owner()
owner.itself = owner
""",
    "used by a function that runs at exit": """
@atexit.register
def last():
    assert llm.generate("x", max_tokens=3).timings.n_generated == 3
    llm.close()
llm = load()
daemon(lambda: (begun.set(), time.sleep(100)))
""",
    "closed at exit while a thread computes": """
llm = load()
daemon(lambda: llm.generate("x", max_tokens=None, cancel=notice))
""",
    # messages
    "messages of a thread": """
logging.getLogger("metadeploy.llama_cpp").setLevel(logging.DEBUG)
logging.getLogger("metadeploy.llama_cpp").addHandler(logging.NullHandler())
def work():
    while True:
        load(n_ctx=256).close()
        begun.set()
daemon(work)
""",
    "messages when nothing is left": """
logging.getLogger("metadeploy.llama_cpp").setLevel(logging.DEBUG)
llm = load()
llm.itself = llm
""",
}

#: Runs before metadeploy is imported, so that its exit handlers run after those of metadeploy.
BEFORE = {
    "closed at exit while a thread computes": "atexit.register(lambda: llm.close())",
    "used by a function that runs at exit": "atexit.register(lambda: llm.close())",
}


@pytest.mark.parametrize("case", CASES)
def test_the_process_exits_cleanly(case: str, tiny_case: TinyCase, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(HEAD.format(before=BEFORE.get(case, "")) + CASES[case], encoding="utf-8")
    for _ in range(REPEAT):
        run = subprocess.run(
            [sys.executable, str(script), str(tiny_case.base), str(tiny_case.sidecar)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
