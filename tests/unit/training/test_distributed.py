from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Iterator

import numpy as np
import psutil
import pytest
import torch

from server.errors import FailedPreconditionError, UnavailableError
from training import distributed
from training.counting import count
from training.distributed import LOCAL, RayEngine, ray_engine
from training.growth.generate import EVENT_TYPES, generate
from training.pipeline import LEAST_HISTORY
from training.views.sequential.fit import SequenceTask, fit_sequential

_INSTALLED = importlib.util.find_spec("ray") is not None
_needs_ray = pytest.mark.skipif(not _INSTALLED, reason="Ray is not installed: pip install 'aisle[ray]'")


@pytest.fixture(scope="module")
def engine() -> Iterator[RayEngine]:
    """Yields an engine on a cluster of two processors, on this machine; of what it started nothing is left."""
    before = psutil.Process().children(recursive=True)
    with tempfile.TemporaryDirectory(prefix="ray-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)  # logs and sockets, whose paths must be short
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # as `ray_engine` does, which has no reason to take it back
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", "0123456789abcdef" * 2)  # else Ray makes one in the home directory
        with ray_engine(LOCAL, processors=2) as started:
            yield started
            family = [process for process in psutil.Process().children(recursive=True) if process not in before]
        _, left = psutil.wait_procs(family, timeout=60)
        for process in left:
            process.kill()
        assert not left


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Trains here as each worker does: threads that wait for each other by spinning starve where processors are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.skipif(_INSTALLED, reason="Ray is installed")
def test_without_ray_the_mend_is_named() -> None:
    """Who asks for Ray and lacks it is told what to install, before anything is trained."""
    with pytest.raises(FailedPreconditionError, match=r"pip install 'aisle\[ray\]'"), ray_engine("local"):
        pass


@_needs_ray
@pytest.mark.filterwarnings("ignore")
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
@pytest.mark.usefixtures("one_thread")
def test_a_view_trained_on_two_workers_is_as_good(engine: RayEngine) -> None:
    """After as many epochs its loss is that of the view trained here, within a twentieth."""
    interactions = generate(2000, 60)
    last = interactions.last_of_each(least=LEAST_HISTORY)
    before, held_out = interactions.select(~last), interactions.select(last)
    task = SequenceTask(event_types=EVENT_TYPES, texts=None, checkpoints=None, progress=lambda _step, _share: None)
    here = fit_sequential(before, task, held_out=held_out, epochs=2)
    there = engine.fit_sequential(before, task, held_out=held_out, epochs=2)
    assert here is not None
    assert there is not None
    assert there.curve[-1].loss < there.curve[0].loss
    assert there.curve[-1].loss == pytest.approx(here.curve[-1].loss, rel=0.05)
    assert there.space.items.shape == here.space.items.shape


@_needs_ray
@pytest.mark.filterwarnings("ignore")
def test_processors_that_others_have_are_not_waited_for_for_ever(engine: RayEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A team that finds too few processors gives up after a few tries, and says why."""
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "1")
    monkeypatch.setattr(distributed, "_TRIES", 2)
    task = SequenceTask(event_types=EVENT_TYPES, texts=None, checkpoints=None, progress=lambda _step, _share: None)
    with pytest.raises(UnavailableError, match="startup timed out"):
        RayEngine(3).fit_sequential(generate(1000, 30), task, epochs=1)
