"""A gRPC user and a REST user that do what a wedding site does: lists, lists after an event, pages, profiles, text vectors.

Recommendations are asked for the demo tenant's couples; events are written for users of the load's own (`load-…`), so the couples stay
as they were generated.
"""

from __future__ import annotations

from locust import task

from loadtest import doors, reporting
from loadtest.doors import load_user, new_text, random_item, random_user

__all__ = ["GrpcUser", "RestUser", "reporting"]


class GrpcUser(doors.GrpcDoor):
    """Calls by gRPC."""

    @task(6)
    def list_for_couple(self) -> None:
        """A list for a couple."""
        self.recommend(random_user())

    @task(2)
    def filtered_list(self) -> None:
        """A list within a category and a price."""
        self.recommend_filtered(random_user())

    @task(3)
    def list_after_event(self) -> None:
        """An event, then a list that must have seen it."""
        self.act_then_recommend(load_user(), random_item(), "save")

    @task(1)
    def likenesses(self) -> None:
        """What resembles an item."""
        self.similar(random_item())

    @task(1)
    def whole_page(self) -> None:
        """A whole page's content."""
        self.page(random_user())

    @task(1)
    def text_vector(self) -> None:
        """A text nobody sent before."""
        self.embed(new_text())


class RestUser(doors.RestDoor):
    """The same by HTTP and JSON."""

    @task(6)
    def list_for_couple(self) -> None:
        """A list for a couple."""
        self.recommend(random_user())

    @task(3)
    def list_after_event(self) -> None:
        """An event, then a list that must have seen it."""
        self.act_then_recommend(load_user(), random_item(), "save")

    @task(1)
    def whole_page(self) -> None:
        """A whole page's content."""
        self.page(random_user())
