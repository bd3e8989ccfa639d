"""Triton's clients, gRPC and HTTP, embed texts on Aisle's own ports.

Run `python examples/tritonclient_infer.py GRPC_ADDRESS HTTP_ADDRESS KEY TOKENIZER`; the addresses are HOST:PORT, the key has the scope
`embeddings`, and TOKENIZER is `tokenizer.json` of the encoder, which `aisle models list` shows the folder of.

Needs `pip install 'tritonclient[grpc,http]' tokenizers`.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.http
from tokenizers import Tokenizer

TEXTS = ["A barn with a meadow and a pond", "Three-tier chocolate cake"]


def main(grpc_address: str, http_address: str, key: str, tokenizer: str) -> None:
    """Prints how alike the texts are by either way, and that both ways agree."""
    encoded = [Tokenizer.from_file(tokenizer).encode(text).ids for text in TEXTS]
    longest = max(map(len, encoded))
    ids = np.array([one + [0] * (longest - len(one)) for one in encoded], np.int64)
    mask = np.array([[1] * len(one) + [0] * (longest - len(one)) for one in encoded], np.int64)
    headers = {"authorization": f"Bearer {key}"}
    found: dict[str, Any] = {}
    for module, address in ((tritonclient.grpc, grpc_address), (tritonclient.http, http_address)):
        client = module.InferenceServerClient(address)
        inputs = [module.InferInput(name, list(values.shape), "INT64") for name, values in (("input_ids", ids), ("attention_mask", mask))]
        for tensor, values in zip(inputs, (ids, mask), strict=True):
            tensor.set_data_from_numpy(values)
        vectors = client.infer("text_encoder", inputs, headers=headers).as_numpy("embedding")
        client.close()
        found[module.__name__] = vectors
        print(f"{module.__name__}: {vectors.shape}, likeness {float(vectors[0] @ vectors[1]):.3f}")
    difference = float(np.abs(found["tritonclient.grpc"] - found["tritonclient.http"]).max())
    print(f"largest difference {difference:.1e}")


if __name__ == "__main__":
    main(*sys.argv[1:5])
