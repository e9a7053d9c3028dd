"""Keys of stored trajectories, one FAISS index per step."""

from __future__ import annotations

from typing import Any, NamedTuple

import h5py
import numpy as np

from maicc.types import Candidates, UserError

_GRID = 1e-3  # keys whose entries agree to this count as equal
_TRAINED_FROM = 10_000  # with fewer distinct keys an index that must be trained gives way to Flat


def import_faiss() -> Any:
    """The faiss module, or an error that says how to install it."""
    try:
        import faiss
    except ImportError:
        raise UserError(
            "faiss is not installed; install maicc with exactly one of its extras: "
            'pip install "maicc[cpu]" or pip install "maicc[gpu]"'
        ) from None
    return faiss


class _Step(NamedTuple):
    index: Any  # a FAISS index over U distinct keys
    offsets: np.ndarray  # (U + 1,) int64
    members: np.ndarray  # trajectories with distinct key u: members[offsets[u]:offsets[u + 1]]


class KeyIndex:
    """Nearest keys of the same step, by cosine.

    Early in an episode thousands of trajectories share one prefix and so one key. Equal keys are
    indexed once; a hit stands for all trajectories that share it, taken in an order the caller
    draws, so that no trajectory is favoured for being stored first.
    """

    def __init__(self, steps: list[_Step]) -> None:
        self.steps = steps

    @classmethod
    def build(
        cls, vectors: np.ndarray, played: np.ndarray, factory: str = "Flat", seed: int = 0
    ) -> KeyIndex:
        """
        Args:
            vectors: (M, T, D) float32, unit norm.
            played: (M, T) bool; only these get keys.
            factory: A FAISS index_factory string; `Flat` is exact. Search parameters may follow
                a semicolon: `IVF256,Flat;nprobe=16`. A step with few distinct keys is searched
                exactly where the index would have to be trained on them.
            seed: Order of the trajectories that share a key.
        """
        order = np.random.default_rng([seed, 40])
        steps = []
        for t in range(vectors.shape[1]):
            items = order.permutation(np.flatnonzero(played[:, t]))
            keys = np.ascontiguousarray(vectors[items, t], np.float32)
            first, group = _equal_rows(keys)
            by_group = np.argsort(group, kind="stable")
            offsets = np.concatenate([[0], np.cumsum(np.bincount(group, minlength=len(first)))])
            index = _make_index(keys[first], vectors.shape[2], factory)
            steps.append(_Step(index, offsets.astype(np.int64), items[by_group].astype(np.int64)))
        return cls(steps)

    def search(self, step: int, queries: np.ndarray, n: int, tie: np.ndarray) -> Candidates:
        """The `n` trajectories with the most similar keys at `step`, for each query.

        Args:
            queries: (Q, D) float32, unit norm.
            tie: (Q,) in [0, 1); decides among trajectories that share a key.

        Returns:
            Candidates (Q, n), most similar first; item -1 where there are fewer than n.
        """
        index, offsets, members = self.steps[step]
        queries = np.ascontiguousarray(queries, np.float32)
        distinct = len(offsets) - 1
        if distinct == 0:
            return Candidates(
                np.full((len(queries), n), -1), np.full((len(queries), n), -1.0, np.float32)
            )
        similarity, hit = index.search(queries, min(n, distinct))
        sizes = np.where(hit >= 0, np.diff(offsets)[hit], 0)  # (Q, U)
        ends = sizes.cumsum(1)
        slot = np.arange(n)
        # slot j falls into the first hit whose running total exceeds j
        which = (ends[:, :, None] <= slot).sum(1)  # (Q, n)
        found = which < hit.shape[1]
        which = np.minimum(which, hit.shape[1] - 1)

        def at(values: np.ndarray) -> np.ndarray:
            return np.take_along_axis(values, which, 1)

        size = np.maximum(at(sizes), 1)
        within = slot - (at(ends) - at(sizes))
        turned = (within + (tie[:, None] * size).astype(np.int64)) % size
        item = members[np.minimum(offsets[at(hit)] + turned, len(members) - 1)]
        return Candidates(
            np.where(found, item, -1), np.where(found, at(similarity), -1.0).astype(np.float32)
        )

    def draw(self, step: int, draws: np.ndarray) -> np.ndarray:
        """Trajectories that reached `step`, at random: draws (Q, K) in [0, 1) -> items (Q, K)."""
        members = self.steps[step].members
        if len(members) == 0:
            return np.full(draws.shape, -1)
        return members[(draws * len(members)).astype(np.int64)]

    def save(self, group: h5py.Group) -> None:
        faiss = import_faiss()
        for t, step in enumerate(self.steps):
            part = group.create_group(str(t))
            part["index"] = faiss.serialize_index(step.index)
            part["offsets"] = step.offsets
            part["members"] = step.members

    @classmethod
    def load(cls, group: h5py.Group) -> KeyIndex:
        faiss = import_faiss()
        steps = []
        for t in range(len(group)):
            part = group[str(t)]
            index = faiss.deserialize_index(part["index"][:])
            steps.append(_Step(index, part["offsets"][:], part["members"][:]))
        return cls(steps)

    def to_gpu(self) -> KeyIndex:
        """A copy on the GPU where this FAISS has one, else this index."""
        faiss = import_faiss()
        if not (hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0):
            return self
        resources = faiss.StandardGpuResources()
        return KeyIndex(
            [s._replace(index=faiss.index_cpu_to_gpu(resources, 0, s.index)) for s in self.steps]
        )


def distinct(keys: np.ndarray) -> np.ndarray:
    """Numbers of rows (M, D) that no row before them equals."""
    return _equal_rows(keys)[0]


def _equal_rows(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First row of each group of equal rows, and every row's group."""
    grid = np.round(keys / _GRID).astype(np.int64)
    multipliers = np.random.default_rng(0).integers(1, 2**62, keys.shape[1]) * 2 + 1
    _, first, group = np.unique(grid @ multipliers, return_index=True, return_inverse=True)
    return first, group


def empty_index(width: int, factory: str) -> Any:
    """An index as the string says.

    Raises:
        UserError: FAISS can't read the string.
    """
    faiss = import_faiss()
    kind, _, parameters = factory.partition(";")
    try:
        index = faiss.index_factory(width, kind, faiss.METRIC_INNER_PRODUCT)
        if parameters:
            faiss.ParameterSpace().set_index_parameters(index, parameters)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"index {factory!r} of width {width} can't be made: {reason}") from None
    return index


def _make_index(keys: np.ndarray, width: int, factory: str) -> Any:
    try:
        index = empty_index(width, factory)
        if not index.is_trained:
            if len(keys) < _TRAINED_FROM:
                index = empty_index(width, "Flat")
            else:
                index.train(keys)
        index.add(keys)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(
            f"index {factory!r} can't be built over {len(keys)} keys of width {width}: {reason}"
        ) from None
    return index
