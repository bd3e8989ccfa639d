"""Raw ONNX Runtime: tokenizes and embeds texts in batches of 16 for some seconds, on N threads that share one session.

Reads `{"onnx": …, "tokenizer": …, "texts": […], "threads": N, "seconds": S}` from stdin; prints `{"texts": …, "wall_s": …, "cpu_s": …,
"p50_ms": …}`, the last per batch.
"""

from __future__ import annotations

import json
import statistics
import sys
import threading
import time

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

BATCH = 16


def main() -> None:
    """Runs one measurement."""
    job = json.load(sys.stdin)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # N threads over one session beat one session with N: no spinning, no hand-over
    session = onnxruntime.InferenceSession(job["onnx"], options, providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(job["tokenizer"])
    tokenizer.enable_padding()
    tokenizer.enable_truncation(256)
    texts: list[str] = job["texts"]
    batches_ms: list[float] = []
    stop = threading.Event()

    def work(offset: int) -> None:
        at = offset
        while not stop.is_set():
            begun = time.perf_counter()
            encoded = tokenizer.encode_batch([texts[(at + n) % len(texts)] for n in range(BATCH)])
            ids = np.array([one.ids for one in encoded], np.int64)  # (B, tokens)
            mask = np.array([one.attention_mask for one in encoded], np.int64)
            session.run(["embedding"], {"input_ids": ids, "attention_mask": mask})
            batches_ms.append((time.perf_counter() - begun) * 1000)
            at += BATCH

    work_threads = [threading.Thread(target=work, args=(n * 997,)) for n in range(job["threads"])]
    cpu, wall = time.process_time(), time.perf_counter()
    for thread in work_threads:
        thread.start()
    time.sleep(job["seconds"])
    stop.set()
    for thread in work_threads:
        thread.join()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(json.dumps({"count": len(batches_ms) * BATCH, "wall_s": wall, "cpu_s": cpu, "p50_ms": statistics.median(batches_ms)}))


if __name__ == "__main__":
    main()
