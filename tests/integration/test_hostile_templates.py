"""Chat templates are untrusted programs: they cannot crash the process, fill its memory or run endlessly.

Every hostile template gives one clear error. A prompt that needs no template is still answered.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from metadeploy import Error, MetaLlama
from support.gguf_tools import with_chat_template
from support.program import Program, TinyCase

N = 300_000
LIMIT = "takes too many steps or too much memory"

#: Hostile templates, each with a part of its error message.
HOSTILE = {
    "a macro that calls itself": ("{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}", "calls itself endlessly"),
    "two that call each other": (
        "{% macro f(x) %}{% for i in [1] %}{{ g([x]) }}{% endfor %}{% endmacro %}"
        "{% macro g(x) %}{% if 1 %}{{ f(x) }}{% endif %}{% endmacro %}{{ f(1) }}",
        "calls itself endlessly",
    ),
    "a caller": (
        "{% macro f() %}{% call f() %}{{ caller() }}{% endcall %}{% endmacro %}{{ f() }}",
        "calls itself endlessly",
    ),
    "parentheses": ("{{ " + "(" * N + "1" + ")" * N + " }}", "bytes, expected at most 262144"),
    "fewer parentheses": ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "nested too deeply"),
    "lists": ("{{ " + "[" * 5000 + "]" * 5000 + " }}", "nested too deeply"),
    "not": ("{{ " + "not " * 5000 + "1 }}", "nested too deeply"),
    "minus": ("{{ " + "- " * 5000 + "1 }}", "nested too deeply"),
    "sums": ("{{ 1" + "+1" * 50_000 + " }}", "nested too deeply"),
    "members": ("{{ a" + ".b" * 50_000 + " }}", "nested too deeply"),
    "filters": ("{{ 1" + "|string" * 20_000 + " }}", "nested too deeply"),
    "calls": ("{{ a" + "()" * 50_000 + " }}", "nested too deeply"),
    "ternaries": ("{{ " + "1 if 0 else " * 5000 + "1 }}", "nested too deeply"),
    "if": ("{% if 1 %}" * 5000 + "{% endif %}" * 5000, "nested too deeply"),
    "elif": ("{% if 0 %}" + "{% elif 0 %}" * 5000 + "{% endif %}", "nested too deeply"),
    "loops": ("{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}", LIMIT),
    "a long range": ("{% for a in range(10000000000000) %}{% endfor %}", LIMIT),
    "many variables": (
        "".join(f"{{% set v{i} = {i} %}}" for i in range(5000)) + "{% for i in range(9000) %}{% endfor %}",
        LIMIT,
    ),
    "doubling": (
        "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        LIMIT,
    ),
    "repetition": ("{{ 'a' * 1000000000 }}", LIMIT),
    "repetition of nothing": ("{{ '' * 1000000000000 }}", LIMIT),
    "indentation": ("{{ 'a\nb' | indent(10000000000) }}", LIMIT),
    "joining": ("{{ range(10000) | join('x' * 100000) }}", LIMIT),
    "replacing": ("{% set a = 'a' * 100000 %}{{ a | replace('a', a) }}", LIMIT),
    "replacing nothing": ("{% set a = 'a' * 100000 %}{{ a | replace('', a) }}", LIMIT),
    "a tree as JSON": (
        "{% set ns = namespace(x=1) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}"
        "{{ ns.x | tojson }}",
        LIMIT,
    ),
    "a tree as text": (
        "{% set ns = namespace(x=1) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
        LIMIT,
    ),
    "deep values": (
        "{% set ns = namespace(x=1) %}{% for i in range(9000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x | tojson }}",
        "nested too deeply",
    ),
    "deep values, built outwards": (
        "{% set a = namespace() %}{% set ns = namespace(at=a) %}{% for i in range(5000) %}{% set n = namespace() %}"
        "{% set ns.at.next = n %}{% set ns.at = n %}{% endfor %}{{ a | tojson }}",
        "nested too deeply",
    ),
    "deep keys": (
        "{% set ns = namespace(x=(1, 2)) %}{% for i in range(5000) %}"
        "{% set ns.x = ((((((((((((ns.x, 1), 1), 1), 1), 1), 1), 1), 1), 1), 1), 1), 1) %}{% endfor %}"
        "{{ {ns.x: 1} }}",
        "nested too deeply",
    ),
    "keys that double": (
        "{% set ns = namespace(x=(1, 2)) %}{% for i in range(60) %}{% set ns.x = (ns.x, ns.x) %}{% endfor %}"
        "{{ ns.x == ns.x }}",
        LIMIT,
    ),
    "a value in itself": ("{% set ns = namespace() %}{% set ns.x = ns %}{{ ns | tojson }}", "nested too deeply"),
    "a list in itself": ("{% set l = [] %}{% set _ = l.append(l) %}{{ l | string }}", "nested too deeply"),
    "a division": ("{{ 1 is divisibleby 0 }}", "division by zero"),
    "an order that contradicts itself": (
        "{% set l = [] %}{% for i in range(3000) %}{% set _ = l.append([10, '9', 9.5, 'nan' | float][i % 4]) %}"
        "{% endfor %}{{ l | sort | length }}{{ raise_exception('sorted') }}",
        "sorted",
    ),
}

#: Unusual but harmless templates.
HARMLESS = {
    "deep values that nobody looks at": (
        "{% set ns = namespace(x=1) %}{% for i in range(50000) %}{% set ns.x = [ns.x] %}{% endfor %}done",
        "done",
    ),
    "deep arguments": (
        "{% set ns = namespace(l=[1]) %}{% for i in range(50000) %}{% set m = [] %}{% set _ = m.append(b=ns.l[0]) %}"
        "{% set ns.l = m %}{% endfor %}done",
        "done",
    ),
    "values that hold one another": (
        "{% set ns = namespace() %}{% macro m() %}{% set ns.f = caller %}{% endmacro %}"
        "{% for i in range(9) %}{% call m() %}{{ ns.f }}{% endcall %}{% endfor %}{% set ns.me = ns %}done",
        "done",
    ),
    "steps that overflow": (
        "{{ 'abc'[::9223372036854775807] }}{{ 'abc'[::-9223372036854775807] }}{{ -7 is divisibleby(-1) }}",
        "acTrue",
    ),
    "many replacements": (
        "{{ ('a\n' * 20000) | replace('\n', '') | length }}{{ ('a,' * 20000).split(',') | length }}",
        "2000020001",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_of_a_base(name: str, tiny_case: TinyCase, tmp_path: Path) -> None:
    template, fault = HOSTILE[name]
    base = tmp_path / "hostile.gguf"
    with_chat_template(tiny_case.base, base, template)
    with tiny_case.load() as llm:
        expected = llm.generate("hello", raw=True, max_tokens=4).token_ids
    with MetaLlama(base, tiny_case.sidecar, n_threads=1, flash_attn=False) as llm:
        with pytest.raises(Error) as caught:
            llm.generate("hello", max_tokens=4)
        for part in ("chat template: ", fault, "raw"):
            assert part in str(caught.value)
        assert llm.generate("hello", raw=True, max_tokens=4).token_ids == expected
    with MetaLlama(base, tiny_case.sidecar, chat_template="chatml", n_threads=1) as llm:
        assert "hello" in llm.apply_chat_template([{"role": "user", "content": "hello"}])


@pytest.mark.parametrize("name", HOSTILE)
def test_of_the_caller(name: str, tiny_case: TinyCase) -> None:
    """Loading refuses it if the fault shows then; otherwise the first prompt that uses it fails."""
    template, fault = HOSTILE[name]
    with pytest.raises(Error) as caught, tiny_case.load(chat_template=template) as llm:
        llm.generate("hello", max_tokens=4)
    for part in ("chat template: ", fault, "raw"):
        assert part in str(caught.value)


@pytest.mark.parametrize("name", HARMLESS)
def test_harmless(name: str, tiny_case: TinyCase) -> None:
    template, expected = HARMLESS[name]
    content = "x" * 20_000_000  # the limit grows with the messages
    with tiny_case.load(chat_template=template + "{{ messages[0].content }}") as llm:
        assert llm.apply_chat_template([{"role": "user", "content": content}]) == expected + content


@pytest.mark.parametrize("name", ["a macro that calls itself", "loops", "parentheses"])
def test_in_the_program(name: str, tiny: Program, tiny_case: TinyCase, tmp_path: Path) -> None:
    template, fault = HOSTILE[name]
    base = tmp_path / "hostile.gguf"
    with_chat_template(tiny_case.base, base, template)
    flags = ("--meta", tiny_case.sidecar, "-p", "hello", "-n", "2", "-t", "1")
    run = tiny.bare("-m", base, *flags)
    assert run.returncode == 1
    assert "chat template: " in run.stderr
    assert fault in run.stderr
    assert tiny.bare("-m", base, *flags, "--raw").returncode == 0
    file = tmp_path / "template.jinja"
    file.write_text(template, encoding="utf-8")
    run = tiny.bare("-m", tiny_case.base, *flags, "--chat-template-file", file)
    assert run.returncode == 1
    assert "error: chat template" in run.stderr
    assert fault in run.stderr


def test_templates_of_real_models_are_within_the_bounds(tiny_case: TinyCase, repo_root: Path) -> None:
    templates = sorted((repo_root / "vendor" / "llama.cpp" / "models" / "templates").glob("*.jinja"))
    assert len(templates) > 50
    rendered = 0
    for path in templates:
        with tiny_case.load(chat_template=path.read_text(encoding="utf-8")) as llm:
            try:
                rendered += "hello" in llm.apply_chat_template([{"role": "user", "content": "hello"}])
            except Error as error:  # some templates need other roles, or tools
                assert LIMIT not in str(error), path.name
                assert "nested too deeply" not in str(error), path.name
    assert rendered > 0.9 * len(templates)


def test_long_conversations_are_within_the_bounds(tiny_case: TinyCase, repo_root: Path) -> None:
    """This is the slowest template in llama.cpp: its steps grow with the square of the number of messages."""
    path = repo_root / "vendor" / "llama.cpp" / "models" / "templates" / "google-gemma-4-31B-it.jinja"
    messages = [{"role": ("user", "assistant")[i % 2], "content": f"the message of number {i}"} for i in range(101)]
    with tiny_case.load(chat_template=path.read_text(encoding="utf-8")) as llm:
        assert "number 99" in llm.apply_chat_template(messages)


@pytest.mark.skipif(os.name == "nt", reason="SIGINT is a POSIX signal")
def test_interrupted(tiny_case: TinyCase) -> None:
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}{{ messages[0].content }}"
    with tiny_case.load(chat_template=endless) as llm:
        messages = [{"role": "user", "content": "x" * 20_000_000}]  # the limit grows with the messages
        timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        try:
            with pytest.raises(KeyboardInterrupt):
                llm.apply_chat_template(messages)
        finally:
            timer.join()
        assert llm.generate("hello", raw=True, max_tokens=1).token_ids


def test_other_threads_run_meanwhile(tiny_case: TinyCase) -> None:
    gate, ran = threading.Event(), threading.Event()

    def other() -> None:
        gate.wait()
        ran.set()

    slow = "{{ messages[0].content }}{% for a in range(9999) %}{{ a }}{% endfor %}"
    thread = threading.Thread(target=other)
    interval = sys.getswitchinterval()
    with tiny_case.load(chat_template=slow) as llm:
        thread.start()
        try:
            sys.setswitchinterval(1000)  # from now on, this thread runs until it yields
            gate.set()
            was_waiting = not ran.is_set()
            llm.apply_chat_template([{"role": "user", "content": "go"}])
            has_run = ran.is_set()
        finally:
            sys.setswitchinterval(interval)
            thread.join()
    assert was_waiting
    assert has_run
