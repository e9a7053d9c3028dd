"""Exact search by a matrix product, on any device of torch's."""

from __future__ import annotations

import math

import numpy as np
import torch

_PRODUCTS = 2**28  # that are held at once, 1 GiB


class MatrixSearch:
    """Search for the keys with the largest products, with the interface of a FAISS index.

    A GPU needs no FAISS of its own for it.

    Args:
        keys: (U, D) float32.
        device: Where they are kept and searched.
    """

    def __init__(self, keys: np.ndarray, device: str) -> None:
        self.keys = torch.from_numpy(keys).to(device)

    def search(
        self, queries: np.ndarray, n: int, most: float = math.inf
    ) -> tuple[np.ndarray, np.ndarray]:
        """Finds the n best keys for each query (Q, D).

        Args:
            most: Products above it count as -inf, so that these keys come last.

        Returns:
            Products and numbers of the keys, (Q, n) each, the largest first.
        """
        asked = torch.from_numpy(queries).to(self.keys.device)
        at_once = max(_PRODUCTS // max(len(self.keys), 1), 1)  # queries
        found = [self._nearest(part, n, most) for part in asked.split(at_once)]
        similarity, hits = (torch.cat(parts) for parts in zip(*found, strict=True))
        return similarity.cpu().numpy(), hits.cpu().numpy()

    def _nearest(self, queries: torch.Tensor, n: int, most: float) -> tuple[torch.Tensor, ...]:
        products = queries @ self.keys.T
        if most < math.inf:
            products.masked_fill_(products > most, -math.inf)
        return products.topk(n)
