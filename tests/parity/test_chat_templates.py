"""The runtime makes the same prompts as transformers in training: templates, their variables, refusals."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from metadeploy import MetaLlama
from metadeploy.errors import Error
from metadeploy.reference.prompts import render_chat
from metadeploy.sidecar import write_sidecar
from support.gguf_tools import set_add_bos
from support.random_wrapper import random_wrapper
from support.tiny_models import TinyModel

QUESTION: Final = "What is the plural of wolf, and why is that so?"
ONE: Final = [{"role": "user", "content": QUESTION}]
TURNS: Final = [
    *ONE,
    {"role": "assistant", "content": "The plural of wolf is wolves."},
    {"role": "user", "content": "  And of the word ox? \n"},
]
WITH_SYSTEM: Final = [{"role": "system", "content": "Answer in one short sentence."}, *TURNS]
CHATS: Final = {"one": ONE, "turns": TURNS, "system": WITH_SYSTEM}

_BODY: Final = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}"
#: Variables with which templates of several models turn thinking on or off. Most treat a missing variable and true
#: differently.
THINKING: Final = {
    "thinks only if told to": "{% if enable_thinking %}<think>{% endif %}",
    "defined and false": "{% if enable_thinking is defined and enable_thinking is false %}<no_think>{% endif %}",
    "defined and true": "{% if enable_thinking is defined and enable_thinking %}<think>{% endif %}",
    "is not false": "{% if enable_thinking is not false %}<think>{% endif %}",
    "not defined": "{% if enable_thinking is not defined %}{% set enable_thinking = false %}{% endif %}"
    "{{ enable_thinking }}",
    "default true": "{% set enable_thinking = enable_thinking | default(true) %}{{ enable_thinking }}",
    "another name": "{% if thinking is defined and thinking %}<think>{% endif %}",
    "not none": "{% if enable_thinking is not none %}set{% else %}none{% endif %}",
}
#: Other names that llama.cpp defines and transformers does not, or that they define differently.
VARIABLES: Final = {
    "date": "{% if date_string is not defined %}{% set date_string = '26 Jul 2024' %}{% endif %}{{ date_string }}",
    "datetime": "{% if datetime is defined %}{{ datetime }}{% else %}no date{% endif %}",
    "tools": "{% if tools is defined and tools is none %}no tools{% elif tools %}tools{% endif %}",
    "not none": "{% if tools is not none %}tools{% endif %}{% if documents is not none %}documents{% endif %}",
    "first message": "{% if messages[0].role == 'system' %}s{% else %}u{% endif %}{{ loop is defined }}",
    "keep": "{% if clear_thinking is defined and not clear_thinking %}keep{% endif %}",
    "effort": "{{ reasoning_effort | default('medium') }}",
    "end token": "{{ eos_token }}|{{ bos_token }}",
    "prompt": "{{ add_generation_prompt }}",
}
WHITE_SPACE: Final = {
    "blocks": "{% for m in messages %}\n    {% if m.role == 'user' %}\nU: {{ m.content }}\n    {% else %}\n"
    "A: {{ m.content }}\n    {% endif %}\n{% endfor %}\nA: \n",
    "trimmed": "{%- for m in messages -%}\n  {{- m.role + ': ' + m.content | trim + '\\n' -}}\n{%- endfor -%}\n",
    "comment": "{# what this is #}\n{% for m in messages %}{{ m.content }}\n{% endfor %}\n\n",
}
TEMPLATES: Final = (
    {f"thinking, {name}": _BODY + more for name, more in THINKING.items()}
    | {f"variable, {name}": _BODY + more for name, more in VARIABLES.items()}
    | {f"white space, {name}": text for name, text in WHITE_SPACE.items()}
)
KWARGS: Final[Sequence[Mapping[str, Any]]] = (
    {},
    {"enable_thinking": False},
    {"enable_thinking": True, "thinking": True},
)


@pytest.fixture(scope="module")
def model(tiny: Callable[[str], TinyModel]) -> TinyModel:
    return tiny("llama")


@pytest.fixture(scope="module")
def tokenizer(model: TinyModel) -> Any:
    return AutoTokenizer.from_pretrained(model.path_hf)


@pytest.fixture(scope="module")
def sidecars(model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One for each of KWARGS."""
    folder = tmp_path_factory.mktemp("sidecars")
    config, tensors = random_wrapper(
        "selective", hidden_dim=model.hidden_dim, target_layers=[0, 1], cross_attn_layers=[1, 2]
    )
    paths = []
    for i, kwargs in enumerate(KWARGS):
        paths.append(folder / f"{i}.gguf")
        write_sidecar(
            paths[-1],
            replace(config, chat_template_kwargs=dict(kwargs)),
            {name: tensor.numpy() for name, tensor in tensors.items()},
        )
    return paths


def reference(tokenizer: Any, template: str, messages: Any, kwargs: Mapping[str, Any]) -> str:
    """The prompt in training."""
    tokenizer.chat_template = template
    return render_chat(tokenizer, messages, template_kwargs=kwargs)


def load(model: TinyModel, template: str, **more: Any) -> MetaLlama:
    return MetaLlama(model.path_gguf, chat_template=template, n_ctx=256, n_threads=1, **more)


@pytest.mark.parametrize("name", TEMPLATES)
def test_prompts_match_training(name: str, model: TinyModel, tokenizer: Any, sidecars: list[Path]) -> None:
    template = TEMPLATES[name]
    with load(model, template) as llm:
        for sidecar, kwargs in zip(sidecars, KWARGS, strict=True):
            llm.attach(sidecar)
            for messages in CHATS.values():
                expected = reference(tokenizer, template, messages, kwargs)
                assert llm.apply_chat_template(messages) == expected, kwargs  # type: ignore[arg-type]
                ids = tokenizer(expected, add_special_tokens=False)["input_ids"]
                assert llm.tokenize_chat(messages) == ids  # type: ignore[arg-type]


def test_the_templates_distinguish_thinking_on_and_off() -> None:
    """Otherwise, the test above would prove little."""
    import jinja2

    def rendered(more: str, **variables: object) -> str:
        return jinja2.Environment().from_string(more).render(messages=ONE, **variables)

    distinguished = [more for more in THINKING.values() if rendered(more) != rendered(more, enable_thinking=True)]
    assert len(distinguished) >= 3


#: Templates that do not support some conversations, or that change their text.
PLACES: Final = {
    "parts only": "{% for m in messages %}{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% endif %}"
    "{% endfor %}{% endfor %}",
    "no system": "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + _BODY,
    "system left out": "{% for m in messages if m.role != 'system' %}" + _BODY[len("{% for m in messages %}") :],
    "upper case": "{% for m in messages %}{{ m.content | upper }}{% endfor %}",
    "as JSON": "{% for m in messages %}{{ m.content | tojson }}{% endfor %}",
    "in other words": "{% for m in messages %}{{ m.content | replace(' ', '+') }}{% endfor %}",
    "thoughts left out": "{% for m in messages %}{{ m.content.split('</think>')[-1] }}{% endfor %}",
}


@pytest.mark.parametrize("name", PLACES)
def test_templates_that_change_messages(name: str, model: TinyModel, tokenizer: Any) -> None:
    quoted = [{"role": "user", "content": 'Say "so"\tand\nnot \\ more, 首都 😀.'}]
    short = [{"role": "user", "content": "a"}]
    thoughtful = [*ONE, {"role": "assistant", "content": "<think>Hm.</think>Wolves."}, *ONE]
    with load(model, PLACES[name]) as llm:
        for messages in (*CHATS.values(), quoted, short, thoughtful):
            rendered = llm.apply_chat_template(messages)  # type: ignore[arg-type]
            assert rendered == reference(tokenizer, PLACES[name], messages, {})
        with_system = llm.apply_chat_template(WITH_SYSTEM)  # type: ignore[arg-type]
        assert "SHORT" in with_system.upper() and "OX" in with_system.upper()


@pytest.mark.parametrize(
    ("template", "messages", "fault"),
    [
        ("gemma{{ '' }}", ONE, "leaves out message 0 (role user)"),
        ("What is{{ '' }}", [{"role": "user", "content": "What is"}], "leaves out message 0"),  # there by chance
        ("{{ messages[0].content }}", TURNS, "leaves out message 2 (role user)"),
        ("{{ messages[-1].content }}", WITH_SYSTEM, "leaves out message 0 (role system)"),
        ("{% for m in messages if m.role == 'usr' %}{{ m.content }}{% endfor %}", ONE, "leaves out message 0"),
        ("{{ raise_exception('only in groups') }}", ONE, "only in groups"),
        (_BODY, [{"role": "usr", "content": QUESTION}], "has the role 'usr', which the chat template does not know"),
    ],
)
def test_messages_that_the_template_drops_are_refused(
    template: str, messages: list[dict[str, str]], fault: str, model: TinyModel, tokenizer: Any
) -> None:
    for render in (
        lambda: reference(tokenizer, template, messages, {}),
        lambda: load(model, template).apply_chat_template(messages),  # type: ignore[arg-type]
    ):
        with pytest.raises(Error, match=re.escape(fault)):
            render()


def test_roles_of_a_template(model: TinyModel, tokenizer: Any) -> None:
    """A role that the template mentions is accepted. OpenAI's newer name "developer" means the system role."""
    template = (
        "{% for m in messages %}{% if m.role == 'ipython' %}tool: {% endif %}{{ m.role }} {{ m.content }}{% endfor %}"
    )
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "ipython", "content": "42"}, *ONE]
    with load(model, template) as llm:
        rendered = llm.apply_chat_template(messages)  # type: ignore[arg-type]
    assert rendered == reference(tokenizer, template, messages, {})
    assert rendered.startswith("system Be brief.tool: ipython 42user ")


def test_variables_that_are_arguments_of_transformers() -> None:
    """Training would tokenize them differently."""
    from metadeploy.training.settings import _NO_VARIABLES

    arguments = set(inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters) - {"self", "kwargs"}
    assert arguments - {"tools", "documents"} <= set(_NO_VARIABLES)


# --- BOS -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("writes", [True, False])
@pytest.mark.parametrize("adds", [True, False])
def test_bos_matches_training(writes: bool, adds: bool, model: TinyModel, tokenizer: Any, tmp_path: Path) -> None:
    """A template's text gets no extra BOS, even if the tokenizer puts BOS before plain text."""
    base = tmp_path / "base.gguf"
    set_add_bos(model.path_gguf, base, adds)
    template = ("{{ bos_token }}" if writes else "") + _BODY
    with MetaLlama(base, chat_template=template, n_ctx=256, n_threads=1) as llm:
        expected = tokenizer(reference(tokenizer, template, ONE, {}), add_special_tokens=False)["input_ids"]
        assert llm.tokenize_chat(ONE) == expected  # type: ignore[arg-type]
        assert llm.generate(QUESTION, max_tokens=1).timings.n_prompt == len(expected)
        assert llm.tokenize("x")[:-1] == ([tokenizer.bos_token_id] if adds else [])


# --- real ones -------------------------------------------------------------------------------------------------------

#: The templates in llama.cpp's source tree, which its own tests use.
_FOLDER: Final = Path(__file__).resolve().parents[2] / "vendor" / "llama.cpp" / "models" / "templates"
_REAL: Final = sorted(path.name for path in _FOLDER.glob("*.jinja"))


def test_there_are_real_templates() -> None:
    assert len(_REAL) > 50


@pytest.mark.parametrize("name", _REAL)
def test_real_templates(name: str, model: TinyModel, tokenizer: Any, sidecars: list[Path]) -> None:
    template = (_FOLDER / name).read_text(encoding="utf-8")
    with load(model, template) as llm:
        for sidecar, kwargs in zip(sidecars, KWARGS, strict=True):
            llm.attach(sidecar)
            for messages in CHATS.values():
                try:
                    expected = reference(tokenizer, template, messages, kwargs)
                except Error:  # the template needs tools, or supports nothing else
                    continue
                assert llm.apply_chat_template(messages) == expected, kwargs  # type: ignore[arg-type]
