"""`python -m training.reproduce --data FOLDER`: figures measured once with plain numpy, measured again with this code.

The rows are leave-one-out on three public data sets: fitted on train, asked for test with train and validation as the history. Only then is
a difference between two systems a difference of the systems, and not of how they were measured.

Shapes: B users, N items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from server.errors import InvalidFieldError
from training import baselines
from training.baselines import Baseline
from training.counting import count
from training.data import Interactions, Progress, Vocabulary, read_events
from training.metrics import parse_metrics
from training.ranks import rank_users
from training.report.sections import Table, markdown, markdown_row

_METRICS = parse_metrics("hr@10,ndcg@10")
_KNN_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Known:
    """A published pair of figures."""

    method: str
    hr: float
    ndcg: float


@dataclass(frozen=True, slots=True)
class Found:
    """The pair beside what this code gives."""

    data_set: str
    known: Known
    hr: float
    ndcg: float


KNOWN = {
    "lastfm": (
        Known("popularity", 0.0385, 0.0180),
        Known("item-kNN", 0.0817, 0.0429),
        Known("transitions + kNN", 0.0872, 0.0478),
        Known("transitions + kNN, fitted on validation too", 0.0899, 0.0488),
        Known("EASE", 0.0826, 0.0462),
    ),
    "yelp": (
        Known("popularity", 0.0094, 0.0049),
        Known("item-kNN", 0.0230, 0.0117),
        Known("transitions + kNN", 0.0229, 0.0115),
    ),
    "beauty": (
        Known("popularity", 0.0120, 0.0056),
        Known("item-kNN", 0.0651, 0.0395),
        Known("transitions + kNN", 0.0786, 0.0488),
        Known("transitions + kNN, fitted on validation too", 0.0881, 0.0556),
        Known("EASE", 0.0517, 0.0275),
    ),
}
"""By data set; EASE comes last, as it takes by far the longest."""


@dataclass(frozen=True, slots=True)
class Split:
    """One data set."""

    train: Interactions
    history: Interactions
    """Train and validation."""
    test: Interactions


def transitions_and_knn(fitted: Interactions, histories: Interactions) -> Baseline:
    """Returns 0.7 ** age times (directed transitions + half the cosine), summed over the history.

    A transition counts 1/d for the d-th item after, up to three, over the root of the row's sum and the follower's users: the same
    normalisation as a cosine's, for a count that has a direction.
    """
    counts = count(fitted, neighbours=fitted.item_count)
    raw = counts.transitions
    transitions = sp.csr_matrix((raw.data, raw.indices, raw.indptr), shape=(fitted.item_count, fitted.item_count))
    sources, followers = (sp.diags(1 / np.sqrt(np.maximum(sums, 1e-9))) for sums in (counts.mass, np.maximum(counts.users, 1)))
    both = (sources @ transitions @ followers + _KNN_SHARE * baselines.cosines(fitted)).tocsr()
    recent = baselines.recency(histories)
    return lambda users: np.asarray((recent[users] @ both).toarray(), np.float32)


def ties_to_targets(score: Baseline, asked: Interactions) -> Baseline:
    """Returns the scores with each user's targets before items of the same score: the published popularity was counted so."""

    def lifted(users: NDArray[np.int64]) -> baselines.FloatArray:
        scores = score(users)
        for row, user in enumerate(users.tolist()):
            targets = asked.items[asked.starts[user] : asked.starts[user + 1]]
            scores[row, targets] = np.nextafter(scores[row, targets], np.float32(np.inf))
        return scores

    return lifted


_METHODS: dict[str, Callable[[Split], Baseline]] = {
    "popularity": lambda split: ties_to_targets(baselines.popularity(split.train), split.test),
    "item-kNN": lambda split: baselines.item_knn(split.train, split.history),
    "transitions + kNN": lambda split: transitions_and_knn(split.train, split.history),
    "transitions + kNN, fitted on validation too": lambda split: transitions_and_knn(split.history, split.history),
    "EASE": lambda split: baselines.ease(split.train),  # was asked without the validation item, the only row that was
}


def read_split(folder: Path, progress: Progress) -> Split:
    """Returns the data set in a folder with train.csv, validation.csv and test.csv.

    Raises:
        InvalidFieldError: A file is missing or wrong.
    """
    train, validation, test = (read_events(folder / f"{part}.csv", progress) for part in ("train", "validation", "test"))
    vocabulary = Vocabulary.of([train, validation, test])
    return Split(vocabulary.encode(train), vocabulary.encode(train + validation), vocabulary.encode(test))


def measure(data_set: str, split: Split, known: Known, progress: Progress) -> Found:
    """Returns one row, measured again."""
    users = np.unique(split.test.users)
    score = _METHODS[known.method](split)
    found = rank_users(f"{data_set}, {known.method}", score, users, split.history, split.test, progress=progress)
    hr, ndcg = found.values(_METRICS).mean(axis=0).tolist()
    return Found(data_set, known, hr, ndcg)


def reproduce(data: Path, progress: Progress) -> Iterator[Found]:
    """Yields a row for each known figure of the data sets that lie in `data`.

    Raises:
        InvalidFieldError: None of them does.
    """
    present = [name for name in KNOWN if (data / name).is_dir()]
    if not present:
        raise InvalidFieldError("data", f"{data} holds none of {', '.join(KNOWN)}; give a folder with a folder of CSV files for each")
    for name in present:
        progress(f"reading {name}", 0.0)
        split = read_split(data / name, progress)
        for known in KNOWN[name]:
            progress(f"fitting {name}, {known.method}", 0.0)
            yield measure(name, split, known, progress)


HEAD = ("data", "method", "published", "ours", "difference")


def cells(row: Found) -> tuple[str, ...]:
    """Returns a row's cells: published, ours and the difference are HR@10 / NDCG@10."""
    known = row.known
    published, ours = f"{known.hr:.4f} / {known.ndcg:.4f}", f"{row.hr:.4f} / {row.ndcg:.4f}"
    return row.data_set, known.method, published, ours, f"{row.hr - known.hr:+.4f} / {row.ndcg - known.ndcg:+.4f}"


@click.command
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True, help="Holds beauty, lastfm, yelp.")
def main(data: Path) -> None:
    """Measure the known figures again and print them beside the published ones."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=1.0)
        click.echo(markdown(Table(HEAD, ())))
        for row in reproduce(data, lambda step, share: bar.update(task, description=step, completed=share)):
            click.echo(markdown_row(cells(row)))  # at once: EASE takes minutes


if __name__ == "__main__":
    main()
