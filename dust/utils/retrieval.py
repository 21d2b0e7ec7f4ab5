"""How well nearest neighbours agree: precision at 1 and mean average precision at R.

Both are defined in https://arxiv.org/abs/2003.08505, section 3.2. A query looks among all other rows for those of its
label; similarity is the cosine. Queries that have no such row are left out. Figures are percent.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from dust.utils.errors import DataError
from dust.utils.numbers import as_classes, as_numbers

CHUNK = 1024  # queries at a time: memory is CHUNK times the number of rows


def retrieval_metrics(
    embeddings: Any, labels: Any, *, ignore: int | None = None, groups: Any | None = None
) -> dict[str, float]:
    """Return ``precision_at_1``: the nearest row has the query's label. ``map_at_r``: with R rows of the query's label,
    the mean over the R nearest of the precision so far where the row is one of them, and 0 where it is not. NaN without
    any query. ``queries``: how many there are.

    Args:
        embeddings: (N, D), of any length above 0.
        labels: (N,) integers.
        ignore: a label whose rows are no queries, but are found, such as the background.
        groups: (N,) integers; rows of the query's own group are not looked among, so that neighbours in time do not
            count. None: only the query itself is not.

    Lists, arrays or tensors. Raises DataError for other shapes and for embeddings that are not finite.
    """
    vectors = as_numbers("embeddings", embeddings, ndim=2).astype(np.float32)
    if not np.isfinite(vectors).all():
        raise DataError(f"{int((~np.isfinite(vectors).all(axis=1)).sum())} of {len(vectors)} embeddings are not finite")
    named = {"labels": labels} if groups is None else {"labels": labels, "groups": groups}
    numbers = {name: as_numbers(name, values, ndim=1) for name, values in named.items()}
    for name, values in numbers.items():
        if len(values) != len(vectors):
            raise DataError(f"{len(values)} {name} for {len(vectors)} embeddings")
        as_classes(name, np.abs(values))  # whole numbers
    rows = torch.nn.functional.normalize(torch.from_numpy(vectors), dim=1)
    labels_of = torch.from_numpy(numbers["labels"].astype(np.int64))
    groups_of = torch.arange(len(rows)) if groups is None else torch.from_numpy(numbers["groups"].astype(np.int64))
    queries = torch.arange(len(rows)) if ignore is None else torch.nonzero(labels_of != ignore).flatten()
    first, average = [], []
    for chunk in queries.split(CHUNK):
        others = groups_of[chunk][:, None] != groups_of  # (Q, N)
        relevant = (labels_of[chunk][:, None] == labels_of) & others
        similarity = (rows[chunk] @ rows.T).masked_fill(~others, -torch.inf)
        hit, precision = _at_r(similarity, relevant)
        first.append(hit)
        average.append(precision)
    hits, averages = torch.cat([*first, torch.empty(0)]), torch.cat([*average, torch.empty(0)])
    return {
        "precision_at_1": 100.0 * float(hits.mean()),
        "map_at_r": 100.0 * float(averages.mean()),
        "queries": float(len(hits)),
    }


def nearest_agrees(rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Tell of each row whether its nearest other one has its label, and whether any other has it: (N,) bools both. What
    precision at 1 counts, without waiting for a device.

    Args:
        rows: (N, D) embeddings of any length, float.
        labels: (N,) integers.
    """
    unit = torch.nn.functional.normalize(rows, dim=1)
    itself = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    same = (labels[:, None] == labels) & ~itself
    nearest = (unit @ unit.T).masked_fill(itself, -torch.inf).argmax(dim=1)
    return same.gather(1, nearest[:, None])[:, 0], same.any(dim=1)


def _at_r(similarity: Tensor, relevant: Tensor) -> tuple[Tensor, Tensor]:
    """Map (Q, N) both -> for the queries with R > 0, whether the nearest is relevant, and the average precision at
    R."""
    count = relevant.sum(dim=1)
    asked = count > 0
    similarity, relevant, count = similarity[asked], relevant[asked], count[asked]
    if not len(count):
        return torch.empty(0), torch.empty(0)
    nearest = similarity.topk(int(count.max()), dim=1).indices
    hits = relevant.gather(1, nearest).float()  # (Q, R of the largest class)
    rank = torch.arange(1, hits.shape[1] + 1)
    precision = hits.cumsum(dim=1) / rank
    return hits[:, 0], (precision * hits * (rank <= count[:, None])).sum(dim=1) / count
