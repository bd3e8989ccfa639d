"""ItemService on the wire."""

from __future__ import annotations

from dataclasses import replace

from google.protobuf.empty_pb2 import Empty

from aisle.v1 import item_service_pb2 as pb
from server.api.wellknown import check_json, check_text, item_id_of, masked_fields, optional_datetime, to_struct, to_timestamp
from server.domain import Item, ItemId
from server.errors import InvalidFieldError
from server.interceptors.call import Call
from server.service.items import Items, StoredItem

_WRITABLE = (
    "title",
    "description",
    "categories",
    "attributes",
    "content_type",
    "price",
    "currency",
    "language",
    "available_from",
    "available_until",
)


def item_to_proto(stored: StoredItem) -> pb.Item:
    """Returns the wire form of an item."""
    item = stored.item
    message = pb.Item(
        name=f"items/{item.item_id}",
        title=item.title,
        description=item.description,
        categories=item.categories,
        attributes=to_struct(item.attributes) if item.attributes else None,
        content_type=item.content_type,
        price=item.price,
        currency=item.currency,
        language=item.language,
        etag=stored.etag,
    )
    for field in ("available_from", "available_until", "create_time", "update_time"):
        moment = getattr(item, field)
        if moment is not None:
            getattr(message, field).CopyFrom(to_timestamp(moment))
    return message


def item_from_proto(message: pb.Item, item_id: ItemId) -> Item:
    """Returns the item that a caller sent.

    Raises:
        InvalidFieldError: The title is missing, a time or number is out of range, a string is no text, or it is available for no time at
            all.
    """
    if not message.title.strip():
        raise InvalidFieldError("title", "is required; it is what people and the text encoder read")
    item = Item(
        item_id=item_id,
        title=check_text(message.title, "title"),
        description=check_text(message.description, "description"),
        categories=tuple(check_text(category, f"categories[{place}]") for place, category in enumerate(message.categories)),
        attributes=check_json(message.attributes, "attributes"),
        content_type=message.content_type,
        price=message.price if message.HasField("price") else None,
        currency=message.currency,
        language=check_text(message.language, "language"),
        available_from=optional_datetime(message, "available_from"),
        available_until=optional_datetime(message, "available_until"),
    )
    if item.available_from and item.available_until and item.available_until <= item.available_from:
        raise InvalidFieldError("available_until", "must be after available_from")
    return item


def _item_at(message: pb.Item, item_id: ItemId, place: str) -> Item:
    """Returns the item that stands at a place of the request, which errors name."""
    try:
        return item_from_proto(message, item_id)
    except InvalidFieldError as error:
        raise InvalidFieldError(f"{place}.{error.field}", error.description) from error


class ItemServicer:
    """Converts, calls, converts."""

    def __init__(self, items: Items) -> None:
        self._items = items

    async def GetItem(self, call: Call, request: pb.GetItemRequest) -> pb.Item:  # noqa: N802
        """Returns an item."""
        return item_to_proto(await self._items.get(call.tenant_id, item_id_of(request.name)))

    async def ListItems(self, call: Call, request: pb.ListItemsRequest) -> pb.ListItemsResponse:  # noqa: N802
        """Returns a page of items."""
        page = await self._items.list_page(
            call.tenant_id, content_type=request.content_type, page_size=request.page_size, page_token=request.page_token
        )
        return pb.ListItemsResponse(items=map(item_to_proto, page.items), next_page_token=page.next_page_token)

    async def CreateItem(self, call: Call, request: pb.CreateItemRequest) -> pb.Item:  # noqa: N802
        """Creates an item."""
        item = _item_at(request.item, ItemId(request.item_id), "item")
        return item_to_proto(await self._items.create(call.tenant_id, item, deadline=call.deadline))

    async def UpdateItem(self, call: Call, request: pb.UpdateItemRequest) -> pb.Item:  # noqa: N802
        """Changes an item's masked fields."""
        if not request.item.name:
            raise InvalidFieldError("item.name", "is required: items/ID")
        item_id = item_id_of(request.item.name)
        fields = masked_fields(request.update_mask, request.item, _WRITABLE)

        def change(current: StoredItem) -> Item:
            merged = item_to_proto(current)
            for field in fields:
                merged.ClearField(field)  # type: ignore[arg-type]  # the mask was checked against the descriptor
            sent = pb.Item()
            sent.CopyFrom(request.item)
            for descriptor, _ in request.item.ListFields():
                if descriptor.name not in fields:
                    sent.ClearField(descriptor.name)  # type: ignore[arg-type]  # a descriptor's own name
            merged.MergeFrom(sent)
            return replace(_item_at(merged, item_id, "item"), create_time=current.item.create_time)

        stored = await self._items.update(call.tenant_id, item_id, change, etag=request.item.etag, deadline=call.deadline)
        return item_to_proto(stored)

    async def DeleteItem(self, call: Call, request: pb.DeleteItemRequest) -> Empty:  # noqa: N802
        """Deletes an item."""
        await self._items.delete(call.tenant_id, item_id_of(request.name), etag=request.etag, deadline=call.deadline)
        return Empty()

    async def BatchUpsertItems(self, call: Call, request: pb.BatchUpsertItemsRequest) -> pb.BatchUpsertItemsResponse:  # noqa: N802
        """Creates or replaces items."""
        items = []
        for position, message in enumerate(request.items):
            if not message.name:
                raise InvalidFieldError(f"items[{position}].name", "is required: items/ID")
            items.append(_item_at(message, item_id_of(message.name), f"items[{position}]"))
        counts = await self._items.upsert_many(call.tenant_id, items, deadline=call.deadline)
        return pb.BatchUpsertItemsResponse(created_count=counts.created, updated_count=counts.updated + counts.unchanged)
