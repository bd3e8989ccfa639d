from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from server.retrieval.fusion import FusionWeights
from tests.unit.training.synthetic import arrays_of, two_camps
from training.data import Interactions
from training.evaluate import aisle_scores
from training.model import Model, fit
from training.ranks import rank_users
from training.report.ablation import METRICS, ablate, sources, variants


def _quiet(_step: str, _share: float) -> None:
    pass


def _model(weights: FusionWeights) -> tuple[Model, Interactions, Interactions]:
    vocabulary, interactions = arrays_of(two_camps())
    last = interactions.last_of_each(least=3)
    fitted = interactions.select(~last)
    return replace(fit(fitted, vocabulary.item_ids), weights=weights), fitted, interactions.select(last)


def test_sources_are_those_with_a_weight() -> None:
    """They come from the names of the fusion, whatever it is made of; floors and mixtures are no sources."""
    assert sources(FusionWeights(sparse=1, popularity=0, semantic=0, contextual=0, trending=0, freshness=0, sequential=2)) == [
        "sparse",
        "sequential",
    ]


@pytest.mark.parametrize("mix", [0.0, 0.5])
def test_every_source_is_seen_alone_and_removed(mix: float) -> None:
    """The two shares of the sparse source are seen apart where both are used."""
    plans = list(variants(FusionWeights(sparse=1, cosine_mix=mix, semantic=0, contextual=0, trending=0, freshness=0)))
    expected = {"", "sparse", "popularity"} | ({"transitions", "cosine"} if mix else set())
    assert {plan.source for plan in plans} == expected
    assert len(plans) == 2 * len(expected) - 1


def test_each_variant_is_what_a_model_with_that_fusion_scores() -> None:
    """One pass over the columns gives the numbers of ranking every fusion by itself."""
    weights = FusionWeights(sparse=1, collaborative=0.5, popularity=0.3, semantic=0, contextual=0, trending=0, freshness=0)
    model, fitted, asked = _model(weights)
    found = ablate(model, fitted, asked, progress=_quiet)
    users = np.unique(asked.users)
    for row in found.rows:
        for part, values in ((row.alone, "alone"), (row.without, "without")):
            if row.source in {"transitions", "cosine"}:
                continue
            kept = [row.source] if values == "alone" else [name for name in sources(weights) if name != row.source]
            other = replace(model, weights=replace(weights, **{name: 0.0 for name in sources(weights) if name not in kept}))
            ranking = rank_users("x", aisle_scores(other, fitted), users, fitted, asked, progress=_quiet)
            assert part == ranking.estimates(METRICS)
    whole = rank_users("x", aisle_scores(model, fitted), users, fitted, asked, progress=_quiet)
    assert found.whole == whole.estimates(METRICS)


def test_transitions_alone_know_the_next_item_and_popularity_does_not() -> None:
    """Where order decides, taking the sparse source away costs what it brought."""
    model, fitted, asked = _model(FusionWeights(sparse=1, popularity=0.1, semantic=0, contextual=0, trending=0, freshness=0))
    rows = {row.source: row for row in ablate(model, fitted, asked, progress=_quiet).rows}
    assert rows["transitions"].alone["hr@10"].value == 1.0
    assert rows["sparse"].change.value == pytest.approx(
        rows["sparse"].without["ndcg@10"].value - ablate(model, fitted, asked, progress=_quiet).whole["ndcg@10"].value
    )
    assert rows["sparse"].change.high < 0


def test_a_sample_of_users_is_drawn_once() -> None:
    """At most so many users are asked, the same ones each time."""
    model, fitted, asked = _model(FusionWeights(sparse=1, semantic=0, contextual=0, trending=0, freshness=0))
    first, again = (ablate(model, fitted, asked, progress=_quiet, most=7) for _ in range(2))
    assert first == again
    assert first.users == 7
