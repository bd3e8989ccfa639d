"""Training on a Ray cluster: users are partitioned over its processors. Nothing here is imported without `--ray`."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import reduce
from operator import add
from typing import Any

from server.errors import FailedPreconditionError, UnavailableError
from training.counting import Counts, Part, assemble, blocks, pruned_together
from training.data import Interactions
from training.views.sequential.fit import SequenceTask, Sequential, fit_sequential, missing_reason

LOCAL = "local"
"""The address of a cluster that is started for the moment, on this machine, and listens on loopback."""

_TRIES = 5
"""Times that Ray tries to start the team, which waits up to a minute for processors each time. By itself it tries for ever, in silence."""


@contextmanager
def ray_engine(address: str, *, processors: int | None = None) -> Iterator[RayEngine]:
    """Yields an engine on a cluster; disconnects from it, or stops the one it started, in the end.

    Args:
        address: `HOST:PORT` or `ray://HOST:PORT` of a cluster whose nodes have this package with PyTorch, or `LOCAL`.
        processors: What a cluster started here takes for itself, at least 1; None is all of this machine.

    Raises:
        FailedPreconditionError: Ray is not installed.
        UnavailableError: No cluster answers there, or none could be started.
    """
    if importlib.util.find_spec("ray") is None:
        raise FailedPreconditionError("--ray needs Ray, which is not installed: pip install 'aisle[ray]', or train without --ray")
    started: dict[str, Any] = {}
    if address == LOCAL:
        # Its name aside, on every system this is what keeps a node on 127.0.0.1. Read when Ray is imported, here and by what it starts.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        started = {"num_cpus": processors, "include_dashboard": False}
    import ray

    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **started)
    except Exception as error:  # a node that is slow to start raises a bare one
        if address == LOCAL:
            raise UnavailableError("Ray", f"did not start: {error}; run again on a less busy machine, or train without --ray") from error
        raise UnavailableError(f"Ray at {address}", f"does not answer: {error}; check the address, or use --ray {LOCAL}") from error
    try:
        yield RayEngine(max(1, int(ray.cluster_resources().get("CPU", 1))))
    finally:
        ray.shutdown()


class RayEngine:
    """Counts and trains the sequential view on the cluster that Ray is connected to.

    Args:
        workers: Processes, each with one processor, or one GPU for training where there are as many.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers

    def count(self, interactions: Interactions) -> Counts:
        """Returns exactly what counting here would give: workers count their users, and parts add up without rounding."""
        import ray

        worker = ray.remote(num_cpus=1)(CountWorker)
        parts = [worker.remote(interactions.select(interactions.users % self._workers == n)) for n in range(self._workers)]
        users = reduce(add, ray.get([part.users.remote() for part in parts]))
        costs = reduce(add, ray.get([part.costs.remote() for part in parts]))
        held = ray.put(users)
        rows = []
        for number, (start, stop) in enumerate(blocks(costs)):
            found = [part.together.remote(start, stop) for part in parts]
            rows.append(parts[number % len(parts)].merged.remote(held, *found))
        transitions = reduce(add, ray.get([part.transitions.remote() for part in parts]))
        counts = assemble(transitions, users, ray.get(rows))
        for part in parts:
            ray.kill(part)  # training wants their processors
        return counts

    def fit_sequential(
        self, interactions: Interactions, task: SequenceTask, *, held_out: Interactions | None = None, epochs: int | None = None
    ) -> Sequential | None:
        """Returns the view trained data-parallel: each worker has its users, and gradients are averaged at every step.

        Keeps no checkpoint: an interrupted training begins again.

        Raises:
            UnavailableError: A worker failed.
        """
        if missing_reason(interactions):
            return None
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
        from ray.train.torch import TorchConfig, TorchTrainer

        task.progress(f"sequential view: training on {self._workers} workers", 0.0)
        arrays = ray.put((interactions, held_out, task.texts))
        gpus = int(ray.cluster_resources().get("GPU", 0)) >= self._workers
        with tempfile.TemporaryDirectory(prefix="aisle-ray-") as folder:
            trainer = TorchTrainer(
                train_member,
                train_loop_config={"arrays": [arrays], "event_types": task.event_types, "epochs": epochs},
                torch_config=TorchConfig(backend="gloo"),  # sums sparse gradients, which NCCL does not
                scaling_config=ScalingConfig(num_workers=self._workers, use_gpu=gpus),
                run_config=RunConfig(storage_path=folder, failure_config=FailureConfig(controller_failure_limit=_TRIES - 1)),
            )
            try:
                view: Sequential | None = trainer.fit().return_value
            except TrainingFailedError as error:
                raise UnavailableError("a Ray worker", f"failed: {error}; run again, or train without --ray") from error
        return view


class CountWorker:
    """The counts of some users, held by one process of the cluster."""

    def __init__(self, interactions: Interactions) -> None:
        self._part = Part(interactions)

    def users(self) -> Any:
        """As `Part.users`."""
        return self._part.users()

    def costs(self) -> Any:
        """As `Part.costs`."""
        return self._part.costs()

    def transitions(self) -> Any:
        """As `Part.transitions`."""
        return self._part.transitions()

    def together(self, start: int, stop: int) -> Any:
        """As `Part.together`."""
        return self._part.together(start, stop)

    def merged(self, users: Any, *parts: Any) -> Any:
        """Returns the sum of all workers' `together` of the same rows, pruned."""
        return pruned_together(reduce(add, parts), users)


def train_member(config: Mapping[str, Any]) -> Sequential | None:
    """Trains as one member of the team that Ray started; the first returns the view."""
    import ray
    import torch

    from training.torch_team import TorchTeam

    torch.set_num_threads(1)  # a member's one processor; what `aisle` sets for itself, and Ray hands on, are those of the whole machine
    interactions, held_out, texts = ray.get(config["arrays"][0])
    task = SequenceTask(event_types=config["event_types"], texts=texts, checkpoints=None, progress=lambda _step, _share: None)
    return fit_sequential(interactions, task, held_out=held_out, epochs=config["epochs"], team=TorchTeam())
