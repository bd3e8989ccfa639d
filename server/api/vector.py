"""VectorService on the wire."""

from __future__ import annotations

from google.protobuf.empty_pb2 import Empty

from aisle.v1 import vector_service_pb2 as pb
from server.api.wellknown import check_json
from server.errors import InvalidFieldError
from server.interceptors.call import Call
from server.service.vectors import GivenVector, Vectors, parse_vector


def _collection_id(name: str) -> str:
    return name.removeprefix("collections/")


class VectorServicer:
    """Converts, calls, converts."""

    def __init__(self, vectors: Vectors) -> None:
        self._vectors = vectors

    async def UpsertVectors(self, call: Call, request: pb.UpsertVectorsRequest) -> pb.UpsertVectorsResponse:  # noqa: N802
        """Creates or replaces vectors."""
        given: list[GivenVector] = []
        for position, message in enumerate(request.vectors):
            vector = parse_vector(message.vector, f"vectors[{position}].vector")
            if given and len(vector) != len(given[0].vector):
                text = f"has {len(vector)} floats, the first one {len(given[0].vector)}; a collection has one dimension"
                raise InvalidFieldError(f"vectors[{position}].vector", text)
            given.append(GivenVector(message.id, vector, check_json(message.attributes, f"vectors[{position}].attributes")))
        count = await self._vectors.upsert(call.tenant_id, _collection_id(request.collection), given, deadline=call.deadline)
        return pb.UpsertVectorsResponse(upserted_count=count)

    async def DeleteVectors(self, call: Call, request: pb.DeleteVectorsRequest) -> pb.DeleteVectorsResponse:  # noqa: N802
        """Deletes vectors."""
        count = await self._vectors.delete(call.tenant_id, _collection_id(request.collection), request.ids, deadline=call.deadline)
        return pb.DeleteVectorsResponse(deleted_count=count)

    async def SearchVectors(self, call: Call, request: pb.SearchVectorsRequest) -> pb.SearchVectorsResponse:  # noqa: N802
        """Returns the nearest vectors."""
        query = request.text if request.WhichOneof("query") == "text" else parse_vector(request.vector, "vector")
        matches = await self._vectors.search(
            call.tenant_id, _collection_id(request.collection), query, k=request.k, where=request.filter, deadline=call.deadline
        )
        return pb.SearchVectorsResponse(matches=[pb.SearchVectorsResponse.Match(id=name, score=score) for name, score in matches])

    async def ListCollections(self, call: Call, request: pb.ListCollectionsRequest) -> pb.ListCollectionsResponse:  # noqa: N802
        """Returns a page of collections."""
        page, token = await self._vectors.list_page(call.tenant_id, page_size=request.page_size, page_token=request.page_token)
        collections = [
            pb.Collection(name=f"collections/{one.collection_id}", dimension=one.dimension, vector_count=one.vector_count) for one in page
        ]
        return pb.ListCollectionsResponse(collections=collections, next_page_token=token)

    async def DeleteCollection(self, call: Call, request: pb.DeleteCollectionRequest) -> Empty:  # noqa: N802
        """Deletes a collection."""
        await self._vectors.drop(call.tenant_id, _collection_id(request.name), deadline=call.deadline)
        return Empty()
