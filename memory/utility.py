"""Usefulness of a stored trajectory to a query: METHOD.md, sections 6 and 7. Pure functions.

Dimensions: Q queries, C candidates of each, K candidates that are shown.
"""

from __future__ import annotations

from typing import Literal

import numpy as np


def hybrid_utility(
    similarity: np.ndarray,
    team_return: np.ndarray,
    individual_return: np.ndarray,
    alpha: float,
    form: Literal["paper", "code", "similarity"] = "paper",
    offline: np.ndarray | bool = False,
) -> np.ndarray:
    """Score of each candidate at test time.

    Args:
        similarity: (Q, C) cosine.
        team_return: (Q, C) in [0, 1] on the family's scale.
        individual_return: (Q, C) predicted, times the number of agents, on the same scale.
        alpha: Weight of the team return.
        form: `paper`: cos + alpha R + (1 - alpha) R_ind. `code`: (cos + 1) / 2 in place of cos, and
            R_ind for online candidates only. `similarity`: cos alone.
        offline: (Q, 1) bool, whether the candidates are offline ones.

    Returns:
        (Q, C).
    """
    if form == "similarity":
        return similarity
    team, individual = alpha * team_return, (1 - alpha) * individual_return
    if form == "code":
        return (similarity + 1) / 2 + team + np.where(offline, 0.0, individual)
    return similarity + team + individual


def training_utility(
    similarity: np.ndarray, team_return: np.ndarray, query_return: np.ndarray, s_max: float
) -> np.ndarray:
    """Score of each candidate while the decision model is trained: (cos + 1) / 2 + bonus, (Q, C).

    ===== ============================= ===========================================
    bonus team return                   similarity
    ===== ============================= ===========================================
    2     up to the query's own         below `s_max`
    1     up to the query's own         `s_max` or more, so that it is a near-copy
    0     above the query's own         any
    ===== ============================= ===========================================

    Within a row of the table the most similar candidates score highest. The authors' code has one
    bonus, for the first row only. It falls away where every candidate is a near-copy (METHOD.md,
    section 11); here the bonus of the second row remains.

    Args:
        similarity: (Q, C) cosine.
        team_return: (Q, C) of each candidate's episode.
        query_return: (Q,) of the query's own episode.
        s_max: Similarity from which a candidate is a near-copy.
    """
    no_better = team_return <= query_return[:, None]
    return (similarity + 1) / 2 + no_better + (no_better & (similarity < s_max))


def top_k(score: np.ndarray, item: np.ndarray, k: int, margin: float = np.inf) -> np.ndarray:
    """Positions (Q, K) of the candidates with the highest scores, K = min(k, C).

    A candidate that scores more than `margin` below the best is left out. The better ones are shown
    again in its place, so that a single success is not diluted by failures.

    Args:
        score: (Q, C); equal ones stay in the given order.
        item: (Q, C); candidates with item -1 come last.
    """
    best = np.argsort(np.where(item >= 0, -score, np.inf), axis=1, kind="stable")[:, :k]
    if margin == np.inf:
        return best
    scores = np.take_along_axis(np.where(item >= 0, score, -np.inf), best, 1)
    n_good = np.maximum((scores >= scores[:, :1] - margin).sum(1, keepdims=True), 1)
    return np.take_along_axis(best, np.arange(best.shape[1]) % n_good, 1)
