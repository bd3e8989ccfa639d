"""`implicit` behind FastAPI: ALS factors fitted at the start, `recommend` for each request. Started by `uvicorn implicit_als:app`.

PEER_EVENTS names an .npz with `user` and `item` (numbers, one an event). Source: benfred.github.io/implicit, "Quickstart".
"""

from __future__ import annotations

import os

import numpy as np
import scipy.sparse
from fastapi import FastAPI
from implicit.als import AlternatingLeastSquares

events = np.load(os.environ["PEER_EVENTS"])
user_items = scipy.sparse.csr_matrix((np.ones(len(events["user"]), np.float32), (events["user"], events["item"])))
model = AlternatingLeastSquares(factors=64, iterations=5, num_threads=1, random_state=1)
model.fit(user_items, show_progress=False)
app = FastAPI()


@app.get("/recommend/{user}")
def recommend(user: int) -> dict[str, list[float]]:
    """Returns the 50 best items that the user has not seen."""
    items, scores = model.recommend(user, user_items[user], N=50)
    return {"items": items.tolist(), "scores": scores.tolist()}
