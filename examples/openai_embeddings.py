"""OpenAI's client finds which of some texts is nearest to a question.

Run `python examples/openai_embeddings.py URL KEY`; the URL is that of Aisle's HTTP door, such as `http://127.0.0.1:8080`, and the key has
the scope `embeddings`.

Needs `pip install openai`.
"""

from __future__ import annotations

import sys

from openai import OpenAI

QUESTION = "somewhere outdoors to celebrate"
TEXTS = ["A barn with a meadow and a pond", "Three-tier chocolate cake", "String quartet for ceremonies"]


def main(url: str, key: str) -> None:
    """Prints the texts, nearest first."""
    client = OpenAI(base_url=f"{url}/compat/openai/v1", api_key=key)
    reply = client.embeddings.create(model="text_encoder", input=[QUESTION, *TEXTS], dimensions=256)
    question, *vectors = (one.embedding for one in reply.data)
    likeness = [sum(a * b for a, b in zip(question, vector, strict=True)) for vector in vectors]
    print(f"{QUESTION!r} by {reply.model}, {reply.usage.total_tokens} tokens:")
    for score, text in sorted(zip(likeness, TEXTS, strict=True), reverse=True):
        print(f"{score:6.3f}  {text}")


if __name__ == "__main__":
    main(*sys.argv[1:3])
