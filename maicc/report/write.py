"""Gathers the results in a run's folder and writes report.html.

Imports neither torch nor lightning.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, Template

from maicc.data.dataset import EpisodeFile
from maicc.data.episodes import EpisodeBatch, outcomes
from maicc.envs import get_family
from maicc.evaluation.run_folder import files_of, parse_config, read_results
from maicc.evaluation.traces import load_traces, traces_of
from maicc.files import ModelFiles, hdf5_to_read, mapped, read_json, read_metrics, write_text
from maicc.report.figures import (
    adaptation_curve,
    benchmark_curves,
    episode_boards,
    key_map,
    profile_curves,
    return_histogram,
    share_curves,
    training_curves,
)
from maicc.report.pictures import drawings
from maicc.report.table import COLUMNS, HEAD, RESAMPLED, FurtherTable, table_cells
from maicc.types import UserError

_POINTS = 1500  # keys in the map
_FEWEST, _DIGITS = 3, 4  # distinct keys of a map; digits to which they differ
_FEW = 0.05  # of the look-ups: too few to tell where they lead

Section = dict[str, str]  # title, text and figure


def write_report(folder: Path) -> Path:
    """Writes `folder`/report.html from whatever stages are finished, and returns its path.

    Raises:
        UserError: the folder holds no run.
    """
    if not (folder / "config.json").exists():
        raise UserError(f"{folder}: no config.json, so this is no folder of `maicc run`")
    values = read_json(folder / "config.json")
    config = parse_config(values, str(folder / "config.json"))
    dataset = EpisodeFile(folder / "episodes.h5")
    results = read_results(folder)
    sections = _results(results, dataset) if results else []
    sections += _boards(folder)
    sections += _training(files_of(folder, config))
    if dataset.path.exists():
        sections += _dataset(folder, dataset)
    stages = read_json(folder / "stages.json") if (folder / "stages.json").exists() else {}
    html = page("run.html").render(
        family=config.family,
        seed=config.seed,
        summaries={label: result["summary"] for label, result in results.items()},
        runs={label: len(result["runs"]) for label, result in results.items()},
        sections=sections,
        stages=stages,
        config=json.dumps(values, indent=2),
    )
    path = folder / "report.html"
    write_text(path, html)
    return path


def _results(results: Mapping[str, dict[str, Any]], dataset: EpisodeFile) -> list[Section]:
    """Sections on adaptation, by the label of each result."""
    curves = {label: _returns(result) for label, result in results.items()}
    # teams may beat a dataset that tells the bounds itself
    highest = max([dataset.spec.bounds[1], *(curve.max() for curve in curves.values())])
    sections = [
        {
            "title": "Adaptation",
            "text": "Mean team return of each adaptation episode, parameters frozen; the band "
            "is the 95 % confidence interval over runs.",
            "figure": adaptation_curve(curves, highest),
        }
    ]
    shares = results.get("held-out tasks", {}).get("retrieval")
    if shares:
        shown = {"asks the dataset": shares["offline"]}
        if "nearest_task" in shares:
            pairs = zip(shares["nearest_task"], shares["offline"], strict=True)
            shown["nearest training task"] = [x if y >= _FEW else None for x, y in pairs]
        sections.append(
            {
                "title": "Retrieval",
                "text": "On held-out tasks: look-ups that ask the dataset instead of the "
                "agent's own past, and, of the dataset's trajectories, those of the training "
                f"tasks nearest to the one that is played (where at least {_FEW:.0%} ask it).",
                "figure": share_curves(shown),
            }
        )
    return sections


def _training(files: ModelFiles) -> list[Section]:
    """Section on the fits that have logged anything; none if none has."""
    rows = {
        fit: read_metrics(path.with_suffix("") / "metrics.csv")
        for fit, path in files.checkpoints.items()
    }
    logged = {fit: of_fit for fit, of_fit in rows.items() if of_fit}
    if not logged:
        return []
    return [
        {
            "title": "Training",
            "text": "Loss and accuracy of each fit, on the batch of a step and on episodes that "
            "are held back from training. Where the second gets worse while the first gets "
            "better, a fit has learned its episodes by heart.",
            "figure": training_curves(logged),
        }
    ]


def _boards(folder: Path) -> list[Section]:
    """Section with pictures of a first and a last episode, or why there are none."""
    if not traces_of(folder).exists():
        return []
    text, figure = "", ""
    try:
        traces = load_traces(folder)
        family, returns = get_family(traces.family), traces.returns[0]
        if family.draw is None:
            return []
        boards = {
            f"episode {episode + 1}, return {returns[episode]:.2f}": drawings(
                family, traces, 0, episode
            )
            for episode in (0, len(returns) - 1)
        }
        text = (
            f"The team of the first run, on {traces.tasks[0].name}: where its agents went, and "
            "what they saw before their last action. replay.html shows every step."
        )
        figure = episode_boards(boards)
    except UserError as error:  # of traces that are damaged, or of a family that is not here
        text = f"No picture: {error}."
    return [{"title": "A first and a last episode", "text": text, "figure": figure}]


def _dataset(folder: Path, dataset: EpisodeFile) -> list[Section]:
    """Sections on the dataset and, if they exist, its keys."""
    episodes = dataset.mapped()
    sections = [
        {
            "title": "Dataset",
            "text": f"Returns of the {len(dataset)} offline episodes of {len(dataset.tasks)} "
            "tasks, by level of the behaviour policy.",
            "figure": return_histogram(episodes.returns, episodes.behaviour, dataset.behaviours),
        }
    ]
    keys = sorted(folder.glob("keys-*.h5"), key=lambda path: path.stat().st_mtime)
    if keys:
        sections.append(_keys(keys[-1], episodes, dataset))
    return sections


def _keys(path: Path, episodes: EpisodeBatch, dataset: EpisodeFile) -> Section:
    """Section on keys: a map, or why there is none."""
    text, figure = "", ""
    try:
        points, task = _map(path, episodes, dataset.spec.bounds)
        text = (
            "The last key of single agents in the best offline episodes, laid out by t-SNE and "
            "coloured by task. Apart means told apart."
        )
        figure = key_map(points, task, [t.name for t in dataset.tasks])
    except UserError as error:
        text = f"No map of the keys: {error}."
    return {"title": "Keys", "text": text, "figure": figure}


def write_benchmark(
    folder: Path,
    table: Mapping[str, Any],
    curves: Mapping[str, np.ndarray],
    flat: Collection[str],
    more: Sequence[FurtherTable] = (),
) -> Path:
    """Writes the page of a benchmark or comparison, and its figures as curves.svg and profiles.svg.

    Args:
        folder: Folder of these files.
        table: The results, as the page shows them.
        curves: Returns (runs, episodes) of each variant.
        flat: Names of the curves that do not adapt.
        more: Further tables of the page.
    """
    figure = benchmark_curves(curves, flat, table["return_max"])
    write_text(folder / "curves.svg", figure)
    shown = {row["variant"]: row["profile"] for row in table["rows"] if row["variant"] in curves}
    profiles = profile_curves(shown, table["thresholds"])
    write_text(folder / "profiles.svg", profiles)
    html = page("benchmark.html").render(
        table=table,
        head=HEAD,
        cells=table_cells,
        figure=figure,
        profiles=profiles,
        columns=COLUMNS,
        resampled=RESAMPLED,
        more=more,
    )
    path = folder / "report.html"
    write_text(path, html)
    return path


def page(name: str) -> Template:
    """Loads the template of a page."""
    return Environment(loader=PackageLoader("maicc.report", ""), autoescape=True).get_template(name)


def _returns(result: dict[str, Any]) -> np.ndarray:
    return np.array([run["returns"] for run in result["runs"]])


def _map(
    path: Path, episodes: EpisodeBatch, bounds: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Lays out the last keys of a sample of the best episodes: (P, 2), and their tasks (P,).

    Raises:
        UserError: too few keys differ, keys are not finite, or the file can't be read.
    """
    from sklearn.manifold import TSNE

    returns = episodes.returns
    best = np.flatnonzero(returns >= np.quantile(returns, 0.75))
    rng = np.random.default_rng(0)
    chosen = np.sort(rng.choice(best, min(_POINTS, len(best)), replace=False))
    size = episodes.agent_mask.sum(1)
    first = np.cumsum(size) - size  # number of an episode's first slice
    agent = rng.integers(size[chosen])
    alive = outcomes(episodes, bounds).alive[chosen, :, agent]  # (P, T)
    with hdf5_to_read(path, "remove it and it is made again") as file:
        vectors = mapped(file["vectors"])[first[chosen] + agent, alive.sum(1) - 1]  # (P, D)
    if not np.isfinite(vectors).all():
        raise UserError("keys are not finite")
    # equal keys have one place: t-SNE ends the process where all are equal
    _, distinct, place = np.unique(
        vectors.round(_DIGITS), axis=0, return_index=True, return_inverse=True
    )
    if len(distinct) < _FEWEST:
        raise UserError(f"{len(chosen)} keys have {len(distinct)} values, and {_FEWEST} are needed")
    points = TSNE(
        perplexity=min(30, (len(distinct) - 1) / 3), init="pca", random_state=0
    ).fit_transform(vectors[np.sort(distinct)])
    order = np.argsort(np.argsort(distinct))  # place among the sorted ones
    return points[order[place.ravel()]], episodes.task[chosen]
