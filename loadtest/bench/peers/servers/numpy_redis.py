"""Brute force with NumPy and Redis behind FastAPI: factors in memory, each user's vector and history in Redis. `uvicorn numpy_redis:app`.

PEER_EVENTS as for `implicit_als`; PEER_REDIS is a redis URL. Factors are truncated SVD's. Source: redis.readthedocs.io, "Asyncio examples".
"""

from __future__ import annotations

import os

import numpy as np
import redis
import redis.asyncio
import scipy.sparse
import scipy.sparse.linalg
from fastapi import FastAPI

events = np.load(os.environ["PEER_EVENTS"])
user_items = scipy.sparse.csr_matrix((np.ones(len(events["user"]), np.float32), (events["user"], events["item"])))
left, weights, right = scipy.sparse.linalg.svds(user_items, k=64)
items = np.ascontiguousarray(right.T, np.float32)  # (N, 64)
with redis.Redis.from_url(os.environ["PEER_REDIS"]) as filling, filling.pipeline(transaction=False) as pipeline:
    for number, vector in enumerate((left * weights).astype(np.float32)):
        pipeline.hset(f"user:{number}", mapping={"vector": vector.tobytes(), "seen": user_items[number].indices.astype(np.int32).tobytes()})
    pipeline.execute()
client = redis.asyncio.Redis.from_url(os.environ["PEER_REDIS"])
app = FastAPI()


@app.get("/recommend/{user}")
async def recommend(user: int) -> dict[str, list[float]]:
    """Returns the 50 best items that the user has not seen."""
    vector, seen = await client.hmget(f"user:{user}", "vector", "seen")
    scores = items @ np.frombuffer(vector, np.float32)  # (N,)
    scores[np.frombuffer(seen, np.int32)] = -np.inf
    best = np.argpartition(-scores, 50)[:50]
    best = best[np.argsort(-scores[best])]
    return {"items": best.tolist(), "scores": scores[best].tolist()}
