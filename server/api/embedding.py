"""EmbeddingService on the wire."""

from __future__ import annotations

from aisle.v1 import embedding_service_pb2 as pb
from server.api.recommendation import bundle_name
from server.api.wellknown import user_id_of
from server.inference import TextEncoder
from server.interceptors.call import Call
from server.service.recommendation import Recommendations


class EmbeddingServicer:
    """Converts, calls, converts."""

    def __init__(self, encoder: TextEncoder, recommendations: Recommendations) -> None:
        self._encoder = encoder
        self._recommendations = recommendations

    async def EmbedTexts(self, call: Call, request: pb.EmbedTextsRequest) -> pb.EmbedTextsResponse:  # noqa: N802
        """Returns a vector a text."""
        truncate = request.truncate if request.HasField("truncate") else True
        embedded = await self._encoder.embed(request.texts, deadline=call.deadline, truncate=truncate)
        rows = zip(embedded.vectors, embedded.token_counts, embedded.truncated, strict=True)
        return pb.EmbedTextsResponse(
            embeddings=[
                pb.EmbedTextsResponse.Embedding(vector=vector.tobytes(), token_count=int(count), truncated=bool(cut))
                for vector, count, cut in rows
            ],
            model=f"text_encoder@{self._encoder.version}",
            runtime=embedded.runtime,
        )

    async def EmbedUser(self, call: Call, request: pb.EmbedUserRequest) -> pb.EmbedUserResponse:  # noqa: N802
        """Returns a user's fused vector."""
        moment = await self._recommendations.user_vector(
            call.tenant_id, user_id_of(request.user), token=request.consistency_token, deadline=call.deadline
        )
        return pb.EmbedUserResponse(
            vector=moment.user.query.astype("<f4").tobytes(),
            bundle=bundle_name(moment.catalogue.bundle_id),
            history_length=len(moment.history),
            consistent=moment.known.consistent,
        )
