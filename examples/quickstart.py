"""Ask a few questions and see which ones the model declines.

Run `metadeploy demo` once before to download the small model, or name two files of your own:

    python examples/quickstart.py [BASE.gguf SIDECAR.gguf]
"""

from __future__ import annotations

import sys

from metadeploy import MetaLlama
from metadeploy.demo import assets

QUESTIONS = (
    "What is the plural of wolf?",
    "Nashville is the capital of which US state?",
    "What is the atomic number of xenon?",
)


def main() -> None:
    if len(sys.argv) == 3:
        base, sidecar = sys.argv[1:]
    else:
        base = str(assets.base_model_path())
        sidecar = str(assets.sidecar_path(assets.base_model_path()))

    with MetaLlama(base, sidecar) as llm:
        for question in QUESTIONS:
            alone = llm.generate(question, max_tokens=32, inject=False)
            answer = llm.generate(question, max_tokens=32)
            print(f"\n{question}")
            print(f"  base     {alone.text}")
            print(f"  Doubter  {answer.text}{'  [declined]' if answer.abstained else ''}")


if __name__ == "__main__":
    main()
