from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from server.inference.contract import SEQUENCE_ACTIONS, SEQUENCE_GAPS
from server.inference.sequence import EncodedHistory, sequence_inputs
from training.quantize import channel_maxima, quantize_rows
from training.views.sequential.fit import export_graph, export_space
from training.views.sequential.net import SequenceNet, Shape

_ITEMS = 40


def _net(layers: int, *, texts: bool = False) -> SequenceNet:
    torch.manual_seed(1)
    described = torch.randn(_ITEMS, 384) if texts else None
    net = SequenceNet(Shape(2, 16, layers, 2), _ITEMS, described, dropout=0.3, unknown=0.1, seed=2).eval()
    with torch.no_grad():
        for value in net.parameters():
            value.add_(0.2 * torch.randn_like(value))
    return net


def _history(net: SequenceNet, length: int, seed: int) -> tuple[EncodedHistory, np.ndarray]:
    generator = np.random.default_rng(seed)
    rows = generator.integers(0, _ITEMS, length)
    times = np.cumsum(generator.exponential(5000.0, length))
    return EncodedHistory(export_space(net, ()).items[rows], generator.integers(1, SEQUENCE_ACTIONS, length), times), rows


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("length", [1, 2, 17, 200])
def test_the_graph_answers_as_the_network_does(layers: int, length: int) -> None:
    """The exported encoder gives the members' vectors after the last event, by their number, and zeros past their width."""
    net = _net(layers)
    history, rows = _history(net, length, 3)
    feed = sequence_inputs([history])
    found = onnxruntime.InferenceSession(export_graph(net).SerializeToString()).run(["vector"], feed)[0]
    with torch.no_grad():
        items = net.item_vectors(torch.from_numpy(rows))[None]
        members = net(items, torch.from_numpy(feed["actions"]), torch.from_numpy(feed["gaps"]))
    wanted = np.concatenate([member[0, -1].numpy() for member in members]) / 2
    np.testing.assert_allclose(found[0, :32], wanted, atol=2e-5)
    assert not found[0, 32:].any()


def _served() -> onnxruntime.InferenceSession:
    exact = export_graph(_net(2))
    maxima = channel_maxima(exact, [sequence_inputs([_history(_net(2), 9, seed)[0]]) for seed in range(4)])
    return onnxruntime.InferenceSession(quantize_rows(exact, maxima).SerializeToString())


_SERVED = _served()


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(0, 100))
def test_a_history_has_one_vector_in_any_batch(lengths: list[int], seed: int) -> None:
    """The int8 encoder's answer for a history does not depend on the histories beside it, nor on padding."""
    net = _net(2)
    histories = [_history(net, length, seed + place)[0] for place, length in enumerate(lengths)]
    together = _SERVED.run(["vector"], sequence_inputs(histories))[0]
    for row, history in enumerate(histories):
        np.testing.assert_allclose(together[row], _SERVED.run(["vector"], sequence_inputs([history]))[0][0], atol=1e-5)


def test_int8_is_near_float32() -> None:
    """Mean cosine of the int8 encoder's vectors to the float32 ones is at least .99."""
    net = _net(2)
    exact = onnxruntime.InferenceSession(export_graph(net).SerializeToString())
    cosines = []
    for seed in range(50):
        feed = sequence_inputs([_history(net, 1 + seed % 30, seed)[0]])
        one, other = exact.run(["vector"], feed)[0][0], _SERVED.run(["vector"], feed)[0][0]
        cosines.append(float(one @ other / np.linalg.norm(one) / np.linalg.norm(other)))
    assert np.mean(cosines) > 0.99


def test_an_item_with_a_text_alone_has_a_vector() -> None:
    """An item that training did not see gets the stranger's vector and its text's part: what the network shows it as while training."""
    net = _net(2, texts=True)
    space = export_space(net, ("click",))
    text = np.random.default_rng(5).standard_normal((1, 384)).astype(np.float32)
    found = space.vectors(np.array([-1]), text)[0, :32]
    assert net.project is not None
    with torch.no_grad():
        wanted = net.stranger + net.project(torch.from_numpy(text[0]))
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-5)
    with torch.no_grad():
        known = net.item_vectors(torch.tensor([7])).numpy()
    np.testing.assert_allclose(space.vectors(np.array([7]), text)[0, :32], known[0], rtol=1e-5, atol=1e-5)


def test_the_tables_hold_what_the_contract_says() -> None:
    """Every action and gap that the contract allows has a row."""
    net = _net(1)
    assert net.members[0].actions.num_embeddings == SEQUENCE_ACTIONS
    assert net.members[0].gaps.num_embeddings == SEQUENCE_GAPS
