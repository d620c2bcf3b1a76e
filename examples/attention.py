"""Draw the attention of the last prompt token over the cognitive tokens.

Each row is a cross-attention layer, and each column a cognitive token. Darker cells have more attention.

    python examples/attention.py "What is the atomic number of xenon?" [BASE.gguf SIDECAR.gguf]
"""

from __future__ import annotations

import sys

from metadeploy import MetaLlama
from metadeploy.demo import assets

SHADES = " ░▒▓█"


def main() -> None:
    question = sys.argv[1] if len(sys.argv) > 1 else "What is the atomic number of xenon?"
    if len(sys.argv) == 4:
        base, sidecar = sys.argv[2:]
    else:
        base = str(assets.base_model_path())
        sidecar = str(assets.sidecar_path(assets.base_model_path()))

    with MetaLlama(base, sidecar) as llm:
        attention = llm.cognitive_attention(question)  # [n_layers, n_tokens, n_heads, n_cog]
        last = attention[:, -1].mean(axis=1)  # [n_layers, n_cog], each row sums to 1
        print(f"{question}\n{llm.generate(question, max_tokens=32).text}\n")
        for layer, weights in zip(llm.cross_attn_layers, last, strict=True):
            cells = "".join(SHADES[round(float(w / last.max()) * (len(SHADES) - 1))] * 2 for w in weights)
            print(f"layer {layer:2}  gate {llm.gates[layer]:+.3f}  |{cells}|")


if __name__ == "__main__":
    main()
