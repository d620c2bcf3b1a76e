"""What a verdict must be better than: scores of the same answers that anyone could compute or train."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_union
from sklearn.preprocessing import StandardScaler

from metadeploy.metrics import auroc
from metadeploy.sidecar.verdict import FIGURE_NAMES, VerdictConfig
from metadeploy.verdict.answers import Answers
from metadeploy.verdict.settings import VerdictSettings

__all__ = ["BASELINES", "Baseline", "verdict_baselines"]

#: Each baseline, in the order in which they are computed. ``MLP`` is a network like those of the head.
BASELINES: Final = {
    "logprob_mean": "mean log-probability of the answer's tokens",
    "logprob_sum": "log-probability of the answer",
    "logprob_min": "least log-probability of its tokens",
    "entropy_mean": "mean entropy at its tokens",
    "category": "error rate of the question's kind",
    "figures": "logistic regression on all figures of log-probabilities, entropies and margins",
    "tfidf_question": "logistic regression on words and letters of the question, without the base",
    "tfidf_answer": "logistic regression on words and letters of question and answer, without the base",
    "prompt_probe": "logistic regression on the prompt's last token, at the best layer",
    "prompt_layers": "logistic regression on the prompt's last token, at all kept layers together",
    "prompt_mlp": "MLP on the prompt's last token, at all kept layers together",
    "answer_last": "logistic regression on the answer's last token, at the best layer",
    "answer_mean": "logistic regression on the mean over the answer's tokens, at the head's layers",
}

#: Inverse strengths of the L2 penalty, of which the validation questions choose one: for activations, and for texts.
_STRENGTHS: Final = (1e-4, 1e-3, 1e-2, 1e-1)
_TEXT_STRENGTHS: Final = (1.0, 10.0)
#: Newton's method takes about five steps from zero, and fewer from the solution of the previous strength.
_MAX_STEPS: Final = 100


@dataclass(frozen=True)
class Baseline:
    """A score of the test answers.

    Attributes:
        name: a key of `BASELINES`.
        doubt: float64 [n], higher for answers that are more likely wrong.
    """

    name: str
    doubt: NDArray[np.float64]


def verdict_baselines(
    answers: Mapping[str, Answers],
    config: VerdictConfig,
    settings: VerdictSettings,
    *,
    progress: Callable[[int, int], None],
) -> list[Baseline]:
    """Compute every baseline, trained on the same questions as the head and tuned on the validation questions.

    Args:
        answers: the parts ``train``, ``val`` and ``test``; the first two with right and wrong answers.
        config: the head, for its answer layers.
        settings: how the head was trained, for the MLP.
        progress: called with the number of baselines that are done, and of all.
    """
    found = []
    progress(0, len(BASELINES))
    for name, doubt in _scores(answers["train"], answers["val"], answers["test"], config, settings):
        found.append(Baseline(name, np.asarray(doubt, dtype=np.float64)))
        progress(len(found), len(BASELINES))
    assert [baseline.name for baseline in found] == list(BASELINES)
    return found


def _scores(
    train: Answers, val: Answers, test: Answers, config: VerdictConfig, settings: VerdictSettings
) -> Iterator[tuple[str, NDArray[Any]]]:
    parts = (train, val, test)
    yield "logprob_mean", -test.figures[:, FIGURE_NAMES.index("logprob_mean")]
    yield "logprob_sum", -test.figures[:, FIGURE_NAMES.index("logprob_sum")]
    yield "logprob_min", -test.figures[:, FIGURE_NAMES.index("logprob_min")]
    yield "entropy_mean", test.figures[:, FIGURE_NAMES.index("entropy_mean")]
    yield "category", _category_errors(train, test)
    yield "figures", _regression(train, val, [part.figures for part in parts])[1]
    yield "tfidf_question", _text_regression(train, val, [part.questions for part in parts])
    pairs = [[f"{q}\n{a}" for q, a in zip(part.questions, part.texts, strict=True)] for part in parts]
    yield "tfidf_answer", _text_regression(train, val, pairs)
    yield "prompt_probe", _best_layer(train, val, [part.prompt for part in parts])
    prompts = [part.prompt.reshape(len(part), -1) for part in parts]
    yield "prompt_layers", _regression(train, val, prompts)[1]
    yield "prompt_mlp", _network_scores(train, val, prompts, settings)
    yield "answer_last", _best_layer(train, val, [part.last for part in parts])
    columns = [train.answer_layers.index(layer) for layer in config.answer_layers]
    yield "answer_mean", _regression(train, val, [part.means[:, columns].reshape(len(part), -1) for part in parts])[1]


def _category_errors(train: Answers, test: Answers) -> NDArray[np.float64]:
    """Return the error rate of each test question's kind on the training questions; of all, for a new kind."""
    rates = {name: float((~train.correct[train.category == name]).mean()) for name in np.unique(train.category)}
    everywhere = float((~train.correct).mean())
    return np.array([rates.get(name, everywhere) for name in test.category])


def _best_layer(train: Answers, val: Answers, activations: Sequence[NDArray[np.floating[Any]]]) -> NDArray[np.float64]:
    """Return the scores of the layer whose regression is best, for activations [n, n_layers, n_embd] of each part."""
    fits = [
        _regression(train, val, [part[:, number] for part in activations]) for number in range(activations[0].shape[1])
    ]
    return max(fits, key=lambda fit: fit[0])[1]


def _regression(
    train: Answers, val: Answers, inputs: Sequence[NDArray[np.floating[Any]]]
) -> tuple[float, NDArray[np.float64]]:
    """Return AUROC on the validation questions, and scores of the test questions, for inputs [n, n_inputs]."""
    scaler = StandardScaler().fit(np.asarray(inputs[0], dtype=np.float32))
    rows = [scaler.transform(np.asarray(part, dtype=np.float32)) for part in inputs]
    # Newton's method, because activations are so correlated that L-BFGS takes hundreds of steps
    model = LogisticRegression(solver="newton-cholesky", max_iter=_MAX_STEPS, warm_start=True)
    return _tuned(model, _STRENGTHS, train, val, rows)


def _text_regression(train: Answers, val: Answers, texts: Sequence[Sequence[str]]) -> NDArray[np.float64]:
    vectorizer = make_union(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, max_features=100_000),
    )
    rows = [vectorizer.fit_transform(texts[0]), *(vectorizer.transform(part) for part in texts[1:])]
    return _tuned(LogisticRegression(max_iter=1000, warm_start=True), _TEXT_STRENGTHS, train, val, rows)[1]


def _tuned(
    model: LogisticRegression, strengths: Sequence[float], train: Answers, val: Answers, inputs: Sequence[Any]
) -> tuple[float, NDArray[np.float64]]:
    fits = []
    for strength in strengths:
        model.set_params(C=strength).fit(inputs[0], ~train.correct)
        score = auroc(model.decision_function(inputs[1]), val.correct)
        assert score is not None  # there are right and wrong answers
        fits.append((score, np.asarray(model.decision_function(inputs[2]), dtype=np.float64)))
    return max(fits, key=lambda fit: fit[0])


def _network_scores(
    train: Answers, val: Answers, inputs: Sequence[NDArray[np.floating[Any]]], settings: VerdictSettings
) -> NDArray[np.float64]:
    from metadeploy.verdict.train import train_networks

    networks = train_networks(
        inputs[0], inputs[1], train.correct, val.correct, settings, progress=lambda n, total: None
    )
    return networks.logits(inputs[2])
