"""The locustfile of the scenarios: users that walk journeys step by step, by both doors, as many as the scenario has at each moment.

`python -m loadtest --scenario NAME` starts it; AISLE_LOAD_SCENARIO names the scenario, AISLE_LOAD_JOURNEYS a file of journeys.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from locust import LoadTestShape, constant_pacing, task

from loadtest import doors, reporting
from loadtest.journeys import JourneyFileError, Step, generated_journeys, read_journeys
from loadtest.scenarios import SCENARIOS, adjusted

SCENARIO = adjusted(SCENARIOS[os.environ["AISLE_LOAD_SCENARIO"]], **json.loads(os.environ.get("AISLE_LOAD_ADJUSTED", "{}")))
reporting.scenario = SCENARIO


def _journeys() -> list[list[Step]]:
    path = os.environ.get("AISLE_LOAD_JOURNEYS")
    if not path:
        return generated_journeys()
    try:
        with Path(path).open(encoding="utf-8") as file:
            return read_journeys(file, path)
    except (JourneyFileError, OSError) as error:
        sys.exit(f"loadtest: {error}")


JOURNEYS = _journeys()
_numbers = itertools.count()


class _Walker:
    """One user of the load after another, each walking a journey: a page, then an event and a list at every step, now and then a text."""

    act_then_recommend: Any
    page: Any
    name: str = ""
    steps: Iterator[Step] = iter(())

    def walk(self) -> None:
        """The next act of the journey, or a whole page where a new one begins."""
        one = next(self.steps, None)
        if one is None:
            self.name = f"load-{next(_numbers) % 200:04d}"
            self.steps = iter(random.choice(JOURNEYS))  # noqa: S311  # which journey is no secret
            self.page(self.name)
            return
        self.act_then_recommend(self.name, one.item, one.event_type)
        if one.event_type == "enquire" and isinstance(self, doors.GrpcDoor):
            self.embed(doors.new_text())


class GrpcUser(_Walker, doors.GrpcDoor):
    """Walks by gRPC."""

    wait_time = constant_pacing(SCENARIO.pace_s)

    @task
    def step(self) -> None:
        """One step of the journey."""
        self.walk()


class RestUser(_Walker, doors.RestDoor):
    """Walks by HTTP."""

    wait_time = constant_pacing(SCENARIO.pace_s)

    @task
    def step(self) -> None:
        """One step of the journey."""
        self.walk()


class Shape(LoadTestShape):
    """The scenario's users at each moment."""

    use_common_options = False

    def tick(self) -> tuple[int, float] | None:
        """Returns users and how many come or go in a second, at once; None at the end."""
        elapsed_s: float = self.get_run_time()  # type: ignore[no-untyped-call]  # locust leaves it out
        users = SCENARIO.users_at(elapsed_s)
        return None if users is None else (users, float(users))
