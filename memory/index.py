"""Keys of stored trajectories, one FAISS index per step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import h5py
import numpy as np

from maicc.streams import Stream
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
    """Keys of one step, equal ones stored once."""

    index: Any  # a FAISS index over U distinct keys
    offsets: np.ndarray  # (U + 1,) int64
    members: np.ndarray  # trajectories with distinct key u: members[offsets[u]:offsets[u + 1]]


class KeyIndex:
    """Search for the nearest keys of the same step, by cosine.

    Early in an episode thousands of trajectories share one prefix and so one key. Equal keys of a
    dataset are indexed once, and a hit stands for all trajectories that share it. The caller draws
    a number that turns their order, so that no trajectory is favoured for being stored first.
    """

    def __init__(self, steps: list[_Step]) -> None:
        self.steps = steps

    @classmethod
    def build(cls, vectors: np.ndarray, played: np.ndarray, factory: str = "Flat") -> KeyIndex:
        """Builds the index of M trajectories.

        Args:
            vectors: (M, T, D) float32, unit norm.
            played: (M, T) bool; only these get keys.
            factory: A FAISS index_factory string; `Flat` is exact. Search parameters may follow
                a semicolon: `IVF256,Flat;nprobe=16`. A step with few distinct keys is searched
                exactly where the index would have to be trained on them.

        Raises:
            UserError: FAISS is not installed, or can't make such an index.
        """
        rng = np.random.default_rng([0, Stream.KEY_ORDER])  # of those that share a key
        steps = []
        for t in range(vectors.shape[1]):
            keys, sizes, members = _grouped(vectors, played, t, rng)
            index = _make_index(keys, vectors.shape[2], factory)
            steps.append(_Step(index, np.concatenate([[0], sizes.cumsum()]), members))
        return cls(steps)

    def add(self, vectors: np.ndarray, played: np.ndarray, first: int) -> None:
        """Adds the keys of more trajectories, without building or training an index anew.

        A key that equals an older one is stored beside it. A copy made by `on_gpu` before does not
        know them.

        Args:
            vectors: (M, T, D) float32, unit norm.
            played: (M, T) bool; only these get keys.
            first: Number of the first of these trajectories; those that follow are numbered on.

        Raises:
            ValueError: the trajectories have another number of steps than the index, or it is on a
                GPU.
        """
        if vectors.shape[1] != len(self.steps):
            raise ValueError(f"keys of {vectors.shape[1]} steps, the index has {len(self.steps)}")
        if not all(hasattr(step.index, "add") for step in self.steps):
            raise ValueError("keys can't be added on a GPU: add them before `on_gpu`")
        rng = np.random.default_rng([0, Stream.KEY_ORDER])
        for t, step in enumerate(self.steps):
            keys, sizes, members = _grouped(vectors, played, t, rng)
            if len(keys):
                step.index.add(keys)
            offsets = np.concatenate([step.offsets, step.offsets[-1] + sizes.cumsum()])
            self.steps[t] = _Step(
                step.index, offsets, np.concatenate([step.members, first + members])
            )

    def search(self, step: int, queries: np.ndarray, n: int, tie: np.ndarray) -> Candidates:
        """Finds the `n` trajectories with the most similar keys at `step`, for each query.

        Example: three distinct keys a, b, c are shared by seven trajectories. `build` has drawn
        this order of those that share a key::

            key       a         b       c
            members   4  0  2   5  1    3  6
            offsets   0         3       5      7

        A query is nearest to b, then to a, then to c; n = 4 and its tie is 0.7::

            hits      b  a  c       distinct keys, nearest first
            sizes     2  3  2       trajectories that share each
            ends      2  5  7       running totals of the sizes

            slots     0  1  2  3    the n places to fill
            hit       0  0  1  1    the first hit whose end exceeds the slot: b b a a
            within    0  1  0  1    place among the trajectories of that hit
            turned    1  0  2  0    within + int(tie * size), modulo size
            item      1  5  2  4    the member of that hit at the turned place

        Args:
            queries: (Q, D) float32, unit norm.
            tie: (Q,) in [0, 1); decides among trajectories that share a key.

        Returns:
            Candidates (Q, n), most similar first; item -1 where there are fewer than n.
        """
        index, offsets, members = self.steps[step]
        queries = np.ascontiguousarray(queries, np.float32)
        n_keys = len(offsets) - 1
        if n_keys == 0:
            return Candidates(
                np.full((len(queries), n), -1), np.full((len(queries), n), -1.0, np.float32)
            )
        similarity, hits = index.search(queries, min(n, n_keys))  # (Q, U); hit -1 is none
        sizes = np.where(hits >= 0, np.diff(offsets)[hits], 0)
        ends = sizes.cumsum(1)
        slots = np.arange(n)
        row = np.arange(len(queries))[:, None] * (n + 1)  # how many ends are at each slot or before
        ended = np.bincount((row + np.minimum(ends, n)).ravel(), minlength=row.size * (n + 1))
        hit = ended.reshape(-1, n + 1)[:, :n].cumsum(1)  # (Q, n)
        exists = hit < hits.shape[1]
        hit = np.minimum(hit, hits.shape[1] - 1)

        def of_hit(values: np.ndarray) -> np.ndarray:
            return np.take_along_axis(values, hit, 1)  # (Q, U) -> (Q, n)

        size = np.maximum(of_hit(sizes), 1)
        within = slots - (of_hit(ends) - of_hit(sizes))
        turned = (within + (tie[:, None] * size).astype(np.int64)) % size
        item = members[np.minimum(offsets[of_hit(hits)] + turned, len(members) - 1)]
        return Candidates(
            np.where(exists, item, -1),
            np.where(exists, of_hit(similarity), -1.0).astype(np.float32),
        )

    def count(self, step: int) -> int:
        """Counts the trajectories that reached `step`."""
        return len(self.steps[step].members)

    def draw(self, step: int, draws: np.ndarray) -> np.ndarray:
        """Draws trajectories that reached `step`: draws (Q, K) in [0, 1) -> items (Q, K)."""
        members = self.steps[step].members
        if len(members) == 0:
            return np.full(draws.shape, -1)
        return members[(draws * len(members)).astype(np.int64)]

    def save(self, group: h5py.Group) -> None:
        """Writes the index into a group of an HDF5 file."""
        faiss = import_faiss()
        for t, step in enumerate(self.steps):
            part = group.create_group(str(t))
            index = faiss.serialize_index(step.index)
            arrays = {"index": index, "offsets": step.offsets, "members": step.members}
            for name, array in arrays.items():
                part.create_dataset(name, data=array, fletcher32=bool(array.size))  # checksums

    @classmethod
    def load(cls, group: h5py.Group) -> KeyIndex:
        """Reads an index that `save` has written."""
        faiss = import_faiss()
        steps = []
        for t in range(len(group)):
            part = group[str(t)]
            index = faiss.deserialize_index(part["index"][:])
            steps.append(_Step(index, part["offsets"][:], part["members"][:]))
        return cls(steps)

    def on_gpu(self, exact: Callable[[np.ndarray], Any]) -> KeyIndex:
        """A copy that searches on a GPU.

        Args:
            exact: Makes the search of an exact index from its keys (U, D), with the interface of
                FAISS. Another kind of index goes to the GPU where this FAISS can bring it there.
        """
        faiss = import_faiss()
        brings = hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0
        resources = faiss.StandardGpuResources() if brings else None

        def moved(index: Any) -> Any:
            if isinstance(index, faiss.IndexFlat):
                return exact(np.ascontiguousarray(index.reconstruct_n(0, index.ntotal)))
            return index if resources is None else faiss.index_cpu_to_gpu(resources, 0, index)

        return KeyIndex([step._replace(index=moved(step.index)) for step in self.steps])


def _grouped(
    vectors: np.ndarray, played: np.ndarray, t: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct keys (U, D) of step t, how many trajectories share each (U,), and these (M',)."""
    items = rng.permutation(np.flatnonzero(played[:, t]))
    keys = np.ascontiguousarray(vectors[items, t], np.float32)
    first, group = _equal_rows(keys)
    by_group = np.argsort(group, kind="stable")
    sizes = np.bincount(group, minlength=len(first)).astype(np.int64)
    return keys[first], sizes, items[by_group].astype(np.int64)


def distinct(keys: np.ndarray) -> np.ndarray:
    """Numbers of the rows of `keys` (M, D) that no row before them equals."""
    return _equal_rows(keys)[0]


def _equal_rows(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Groups equal rows of `keys` (M, D).

    Returns:
        The first row of each group, (U,), and the group of every row, (M,).
    """
    grid = np.round(keys / _GRID).astype(np.int64)
    multipliers = np.random.default_rng(0).integers(1, 2**62, keys.shape[1]) * 2 + 1
    _, first, group = np.unique(grid @ multipliers, return_index=True, return_inverse=True)
    return first, group


def empty_index(width: int, factory: str) -> Any:
    """Makes an empty index by a FAISS index_factory string; see `KeyIndex.build`.

    Raises:
        UserError: FAISS can't read the string.
    """
    faiss = import_faiss()
    kind, _, parameters = factory.partition(";")
    try:
        index = faiss.index_factory(width, kind, faiss.METRIC_INNER_PRODUCT)
        if parameters:
            faiss.ParameterSpace().set_index_parameters(index, parameters)
        if index.is_trained:  # some take no keys without numbers of the user's own
            index.add(np.zeros((1, width), np.float32))
            index.reset()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"index {factory!r} of width {width} can't be made: {reason}") from None
    return index


def _make_index(keys: np.ndarray, width: int, factory: str) -> Any:
    """Makes an index of `keys` (U, D)."""
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
