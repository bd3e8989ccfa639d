from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.unit.training.synthetic import arrays_of, events_of, two_camps
from training.data import Vocabulary
from training.pipeline import Task, _fit_view
from training.views.sequential.batches import Windows, make_windows
from training.views.sequential.fit import SequenceTask, fit_sequential, missing_reason
from training.views.sequential.loop import Recipe, Trainer
from training.views.sequential.net import SequenceNet, Shape
from training.views.sequential.scores import HistoryEncoder

_RECIPE = Recipe(tokens=64, least_tokens=64, steps=4, sample=4, patience=9)


def _windows() -> Windows:
    interactions = arrays_of(two_camps(users=40))[1]
    return make_windows(interactions, np.full_like(interactions.kinds, 2))


def _trainer(windows: Windows, *, checkpoint: Path | None = None, recipe: Recipe = _RECIPE, key: str = "k") -> tuple[SequenceNet, Trainer]:
    net = SequenceNet(Shape(2, 16, 1, 2), windows.item_count, None, dropout=0.1, unknown=0.05, seed=0)
    return net, Trainer(net, windows, recipe, checkpoint=checkpoint, key=key, progress=lambda _step, _share: None)


class _InterruptedError(Exception):
    pass


def _weights(net: SequenceNet) -> list[np.ndarray]:
    return [value.detach().numpy().copy() for value in net.parameters()]


def test_training_stops_when_validation_gets_no_better() -> None:
    """Past the best epoch it waits `patience` steps, three epochs here, then returns the best epoch's weights."""
    told = iter([0.1, 0.4, 0.3, 0.2, 0.1, 0.5])
    kept: list[list[np.ndarray]] = []

    def validate(net: SequenceNet) -> float:
        kept.append(_weights(net))
        return next(told)

    net, trainer = _trainer(_windows())
    outcome = trainer.run(epochs=20, validate=validate)
    assert outcome.epochs == 2
    assert [line.validation for line in outcome.curve] == [0.1, 0.4, 0.3, 0.2, 0.1]
    for found, wanted in zip(_weights(net), kept[1], strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_an_interrupted_training_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    """Interrupted after two epochs and started again, it ends where an uninterrupted one does, and repeats no finished epoch."""
    windows = _windows()
    whole, trainer = _trainer(windows)
    trainer.run(epochs=4, validate=lambda _net: 0.0 if len(trainer._outcome.curve) else 1.0)

    calls = 0

    def interrupted(_net: SequenceNet) -> float:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise _InterruptedError
        return 1.0 if calls == 1 else 0.0

    checkpoint = tmp_path / "state.pt"
    with pytest.raises(_InterruptedError):
        _trainer(windows, checkpoint=checkpoint)[1].run(epochs=4, validate=interrupted)
    resumed, trainer = _trainer(windows, checkpoint=checkpoint)
    outcome = trainer.run(epochs=4, validate=lambda _net: 0.0)
    assert [line.epoch for line in outcome.curve] == [1, 2, 3, 4]
    for found, wanted in zip(_weights(resumed), _weights(whole), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut short"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, content: bytes) -> None:
    """Training starts anew and replaces it."""
    checkpoint = tmp_path / "state.pt"
    checkpoint.write_bytes(content)
    outcome = _trainer(_windows(), checkpoint=checkpoint)[1].run(epochs=1, validate=None)
    assert outcome.epochs == 1


def test_a_checkpoint_with_a_flipped_bit_is_passed_over(tmp_path: Path) -> None:
    """Weights that changed on disk are not gone on with, though they read as weights: the finished epoch is trained again."""
    checkpoint, windows = tmp_path / "state.pt", _windows()
    _trainer(windows, checkpoint=checkpoint)[1].run(epochs=1, validate=None)
    raw = bytearray(checkpoint.read_bytes())
    raw[len(raw) // 2] ^= 1
    checkpoint.write_bytes(raw)
    _trainer(windows, checkpoint=checkpoint)[1].run(epochs=1, validate=None)
    assert bytes(raw) != checkpoint.read_bytes()


def test_the_checkpoint_of_other_data_is_passed_over(tmp_path: Path) -> None:
    """A state whose key differs is not gone on with."""
    checkpoint = tmp_path / "state.pt"
    _trainer(_windows(), checkpoint=checkpoint, key="other")[1].run(epochs=2, validate=None)
    outcome = _trainer(_windows(), checkpoint=checkpoint)[1].run(epochs=1, validate=None)
    assert [line.epoch for line in outcome.curve] == [1]


def test_a_folder_that_cannot_be_written_costs_no_training(tmp_path: Path) -> None:
    """Without checkpoints training ends as it would, and the outcome says why there were none and how to mend it."""
    occupied = tmp_path / "training"
    occupied.write_text("a file where the folder should be")
    told: list[str] = []
    windows = _windows()
    net = SequenceNet(Shape(2, 16, 1, 2), windows.item_count, None, dropout=0.1, unknown=0.05, seed=0)
    checkpoint = occupied / "state.pt"
    outcome = Trainer(net, windows, _RECIPE, checkpoint=checkpoint, key="k", progress=lambda step, _share: told.append(step)).run(
        epochs=2, validate=None
    )
    assert (outcome.epochs, outcome.trouble) == (2, "")
    assert str(occupied) in outcome.unsaved
    assert "AISLE_CACHE_DIR" in outcome.unsaved
    assert "without checkpoints: epoch 2" in told[-1]


def test_a_full_disk_costs_no_training_and_leaves_no_rest(tmp_path: Path) -> None:
    """A checkpoint that does not fit is taken away again; the one before stays."""
    checkpoint = tmp_path / "state.pt"
    windows = _windows()
    _trainer(windows, checkpoint=checkpoint)[1].run(epochs=1, validate=None)
    before = checkpoint.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        outcome = _trainer(windows, checkpoint=checkpoint)[1].run(epochs=2, validate=None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert outcome.epochs == 2
    assert "no checkpoint could be written" in outcome.unsaved
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]
    assert checkpoint.read_bytes() == before


@pytest.mark.parametrize("broken", ["nan", "inf", "-inf"])
def test_weights_that_break_at_the_end_of_an_epoch_are_thrown_away(tmp_path: Path, broken: str) -> None:
    """The mean of the weights is looked at too: the last step's weights are in no loss yet."""
    windows, checkpoint = _windows(), tmp_path / "state.pt"
    _trainer(windows, checkpoint=checkpoint)[1].run(epochs=1, validate=None)
    state = torch.load(checkpoint, weights_only=True)
    state["mean"]["members.0.positions.weight"][1, 2] = float(broken)
    torch.save(state, checkpoint)
    net, trainer = _trainer(windows, checkpoint=checkpoint)
    outcome = trainer.run(epochs=3, validate=None)
    assert "kept the weights of epoch 1" in outcome.trouble
    assert all(np.isfinite(value).all() for value in _weights(net))


def test_a_loss_that_is_no_number_stops_training_and_keeps_the_last_good_weights(tmp_path: Path) -> None:
    """Weights that broke after the first epoch are thrown away, and the outcome says so."""
    windows, checkpoint = _windows(), tmp_path / "state.pt"
    good, trainer = _trainer(windows, checkpoint=checkpoint)
    trainer.run(epochs=1, validate=None)
    state = torch.load(checkpoint, weights_only=True)
    state["net"]["members.0.positions.weight"].fill_(float("nan"))
    torch.save(state, checkpoint)
    net, trainer = _trainer(windows, checkpoint=checkpoint)
    outcome = trainer.run(epochs=5, validate=None)
    assert outcome.epochs == 1
    assert "no number in epoch 2" in outcome.trouble
    assert "kept the weights of epoch 1" in outcome.trouble
    for found, wanted in zip(_weights(net), _weights(good), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_the_view_learns_what_comes_next() -> None:
    """Of users who walk round a circle of items the next step ranks first."""
    vocabulary, interactions = arrays_of(two_camps(users=120, length=4))
    task = SequenceTask(event_types=vocabulary.event_types, texts=None, checkpoints=None, progress=lambda _step, _share: None)
    view = fit_sequential(interactions, task, epochs=4)
    assert view is not None
    history = interactions.history(0)
    users = HistoryEncoder(view.space, view.onnx, vocabulary.event_types).encode([history])
    scores = users[0] @ view.space.items.T
    scores[history.rows] = -np.inf
    assert np.argmax(scores) == (history.rows[-1] + 2) % 12


def test_too_little_data_says_what_is_missing() -> None:
    """The sentence counts what there is and what is needed."""
    interactions = arrays_of({"a": ["x", "y"], "b": ["y", "x"]})[1]
    assert missing_reason(interactions).startswith("2 events follow another of the same user, 200 are needed")
    task = SequenceTask(event_types=("click",), texts=None, checkpoints=None, progress=lambda _step, _share: None)
    assert fit_sequential(interactions, task, epochs=1) is None


def test_without_anything_held_out_to_judge_it_on_there_is_no_view() -> None:
    """Held-out rows of strangers and repeats cannot say when to stop, and the reason says so."""
    vocabulary = Vocabulary.of([events_of({**two_camps(), "stranger": ["i00"]})])
    fitted, held_out = vocabulary.encode(events_of(two_camps())), vocabulary.encode(events_of({"stranger": ["i00"], "u000": ["i00"]}))
    task = SequenceTask(event_types=vocabulary.event_types, texts=None, checkpoints=None, progress=lambda _step, _share: None)
    assert "tells when to stop" in missing_reason(fitted, held_out)
    assert fit_sequential(fitted, task, held_out=held_out) is None


def test_trouble_on_the_way_reaches_the_notes(tmp_path: Path) -> None:
    """That no checkpoint could be written is among what a training is told to say, and the view is there all the same."""
    (tmp_path / "occupied").write_text("")
    vocabulary, interactions = arrays_of(two_camps())
    notes: list[str] = []
    task = Task(
        item_ids=vocabulary.item_ids, event_types=vocabulary.event_types, checkpoints=tmp_path / "occupied" / "training", note=notes.append
    )
    assert _fit_view(interactions, task, epochs=1) is not None
    assert [sentence.partition(" to ")[0] for sentence in notes] == ["sequential view: no checkpoint could be written"]
