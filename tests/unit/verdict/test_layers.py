from __future__ import annotations

from metadeploy.verdict.layers import choose_layers
from metadeploy.verdict.settings import candidate_layers
from support.verdict_answers import ANSWER_LAYERS, TELLING_ANSWER, TELLING_PROMPT, random_answers


def test_the_layers_that_tell_errors_are_chosen() -> None:
    calls = []
    prompt, answer = choose_layers(
        random_answers(800, seed=0), random_answers(400, seed=1), progress=lambda n, total: calls.append((n, total))
    )
    assert prompt == (TELLING_PROMPT,)
    assert len(answer) == 2 and TELLING_ANSWER in answer
    assert calls[-1] == (9, 9)  # three prompt layers times three pairs


def test_given_layers_are_kept() -> None:
    train, val = random_answers(60, seed=0), random_answers(60, seed=1)
    assert choose_layers(train, val, prompt_layers=(1,), answer_layers=ANSWER_LAYERS) == ((1,), ANSWER_LAYERS)
    assert choose_layers(train, val, prompt_layers=(1,))[0] == (1,)


def test_candidates_are_layers_of_the_base() -> None:
    assert candidate_layers(30) == ((10, 16, 20, 25), (12, 15, 18, 20, 22, 25))
    for n_layers in range(1, 50):
        for layers in candidate_layers(n_layers):
            assert layers == tuple(sorted(set(layers))) and layers[0] >= 0 and layers[-1] < n_layers
