"""The end of a serving process."""

from __future__ import annotations

import subprocess
import sys

_LEARNING = """
import threading, time
import faiss
import numpy as np
from server.cli import leave

rows = np.random.default_rng(0).normal(size=(2000, 64)).astype("f4")


def learn():
    while True:
        faiss.index_factory(64, "IVF16,SQ8", faiss.METRIC_INNER_PRODUCT).train(rows)


for _ in range(8):
    threading.Thread(target=learn, daemon=True).start()
time.sleep(0.3)
print("last words")
leave(3)
"""


def test_a_process_leaves_while_an_index_learns() -> None:
    """With FAISS at work on other threads, around which a plain exit may abort or hang, what was printed arrives and the code is kept."""
    ended = subprocess.run([sys.executable, "-c", _LEARNING], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (3, "last words\n"), ended.stderr
