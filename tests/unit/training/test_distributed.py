from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import numpy as np
import pytest

from server.errors import FailedPreconditionError
from training.counting import count
from training.distributed import RayEngine, ray_engine
from training.growth.generate import EVENT_TYPES, generate
from training.pipeline import LEAST_HISTORY
from training.views.sequential.fit import SequenceTask, fit_sequential

_INSTALLED = importlib.util.find_spec("ray") is not None
_needs_ray = pytest.mark.skipif(not _INSTALLED, reason="Ray is not installed: pip install 'aisle[ray]'")


@pytest.fixture(scope="module")
def engine() -> Iterator[RayEngine]:
    """Yields an engine on a cluster of two processors, on this machine."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        yield RayEngine(2)
    finally:
        ray.shutdown()


@pytest.mark.skipif(_INSTALLED, reason="Ray is installed")
def test_without_ray_the_mend_is_named() -> None:
    """Who asks for Ray and lacks it is told what to install, before anything is trained."""
    with pytest.raises(FailedPreconditionError, match=r"pip install 'aisle\[ray\]'"), ray_engine("local"):
        pass


@_needs_ray
@pytest.mark.filterwarnings("ignore")
@pytest.mark.timeout(900)
def test_counts_of_a_cluster_are_exactly_those_of_one_process(engine: RayEngine) -> None:
    """Users are partitioned, sums are put together, and every array is the same to the last bit."""
    interactions = generate(6000, 150)
    here, there = count(interactions), engine.count(interactions)
    for name in ("transitions", "together"):
        for part in ("indptr", "indices", "data"):
            np.testing.assert_array_equal(getattr(getattr(there, name), part), getattr(getattr(here, name), part))
    np.testing.assert_array_equal(there.mass, here.mass)
    np.testing.assert_array_equal(there.users, here.users)


@_needs_ray
@pytest.mark.filterwarnings("ignore")
@pytest.mark.timeout(900)
def test_a_view_trained_on_two_workers_is_as_good(engine: RayEngine) -> None:
    """After as many epochs its loss is that of the view trained here, within a twentieth."""
    interactions = generate(3000, 100)
    last = interactions.last_of_each(least=LEAST_HISTORY)
    before, held_out = interactions.select(~last), interactions.select(last)
    task = SequenceTask(event_types=EVENT_TYPES, texts=None, checkpoints=None, progress=lambda _step, _share: None)
    here = fit_sequential(before, task, held_out=held_out, epochs=3)
    there = engine.fit_sequential(before, task, held_out=held_out, epochs=3)
    assert here is not None
    assert there is not None
    assert there.curve[-1].loss < there.curve[0].loss
    assert there.curve[-1].loss == pytest.approx(here.curve[-1].loss, rel=0.05)
    assert there.space.items.shape == here.space.items.shape
