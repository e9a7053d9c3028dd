"""How useful a stored trajectory is to a query: METHOD.md, sections 6 and 7. Pure functions."""

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
    """Score of each candidate while the decision model is trained.

    Best are those that are no near-copies (similarity below `s_max`) and no better than the query's
    own episode; then near-copies that are no better; then the rest; the most similar first within
    each. The authors' code adds one bonus for both conditions together, which falls away where
    every candidate is a near-copy (METHOD.md, section 11); here the second bonus remains.
    """
    no_better = team_return <= query_return[:, None]
    return (similarity + 1) / 2 + no_better + (no_better & (similarity < s_max))


def top_k(score: np.ndarray, item: np.ndarray, k: int, margin: float = np.inf) -> np.ndarray:
    """The candidates to show, as positions: (Q, C) -> (Q, K), ties in the given order.

    They are those with the highest scores. One that scores more than `margin` below the best makes
    room for the better ones, which are shown again: a single success is not diluted by failures.
    Item -1 comes last.
    """
    best = np.argsort(np.where(item >= 0, -score, np.inf), axis=1, kind="stable")[:, :k]
    if margin == np.inf:
        return best
    scores = np.take_along_axis(np.where(item >= 0, score, -np.inf), best, 1)
    good = np.maximum((scores >= scores[:, :1] - margin).sum(1, keepdims=True), 1)
    return np.take_along_axis(best, np.arange(best.shape[1]) % good, 1)
