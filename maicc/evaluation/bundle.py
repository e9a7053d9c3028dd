"""Bundle of a run: one file with a trained team and what it needs to act, to give away.

It holds no code and no pickle: weights and keys as .safetensors, episodes as HDF5, the rest as JSON
and text. `maicc.evaluation.run_folder.opened` reads it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import yaml

from maicc.baselines import method_of
from maicc.baselines.method import Trained
from maicc.baselines.trained import TrainedMAICC
from maicc.config import RunConfig
from maicc.data.dataset import EpisodeFile, write_episodes
from maicc.evaluation.archive import write_archive
from maicc.evaluation.markdown import markdown_table
from maicc.evaluation.run_folder import opened, read_results
from maicc.files import ModelFiles, read_json, require_writable
from maicc.training.checkpoints import export_weights
from maicc.training.offline_keys import GIVEN, content_hash, export_keys, offline_keys
from maicc.types import UserError


def bundle(folder: Path, out: Path) -> None:
    """Makes the bundle of a finished run; the same run gives the same bytes.

    Raises:
        UserError: the run is not finished, or one of its files is damaged.
    """
    for needed in ("config.json", "adapt/result.json"):
        if not (folder / needed).exists():
            raise UserError(
                f"{folder}: no {needed}, so this is no folder of a finished `maicc run`; the run "
                "goes on when the same command is given again"
            )
    require_writable(out)
    stored = read_json(folder / "config.json")
    results = read_results(folder)
    with opened(folder) as (config, files), TemporaryDirectory(prefix="maicc-") as name:
        method = method_of(config.method)
        models = method.load(config, files, None, "cpu")
        made = _export(config, files, models, Path(name))
        members: dict[str, Path | str] = {
            "card.md": _card(config, stored, models, results, EpisodeFile(files.episodes)),
            "config.json": folder / "config.json",
            "spec.json": json.dumps(asdict(models.spec), indent=1) + "\n",
            **{path.name: path for path in made},
        }
        write_archive(out, members)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB, with {', '.join(members)}")


def _export(config: Any, files: ModelFiles, models: Trained, folder: Path) -> list[Path]:
    """Writes weights, and what the team needs of the dataset; gives the paths of the files."""
    method = method_of(config.method)
    weights = [folder / f"{fit}.safetensors" for fit in method.acting(config)]
    for path in weights:
        export_weights(files[path.stem], path)
    dataset = EpisodeFile(files.episodes)
    if not method.looks_up(config):
        return [*weights, _smallest(dataset, folder / files.episodes.name)]
    assert isinstance(models, TrainedMAICC)
    assert models.embedding is not None
    index, home = config.decision.retrieval.index, files["embedding"].parent
    keys = offline_keys(models.embedding, dataset, home, index)
    export_keys(keys, content_hash(models.embedding, dataset, index), folder / GIVEN)
    return [*weights, folder / GIVEN, files.episodes]


def _smallest(dataset: EpisodeFile, path: Path) -> Path:
    """Writes a dataset of the best episode alone, whose return teams may measure themselves by."""
    returns = np.concatenate([part.returns for part in dataset.parts()])
    best = int(returns.argmax())
    write_episodes(
        path,
        dataset.read(slice(best, best + 1)),
        dataset.spec,
        dataset.tasks,
        dataset.behaviours,
        plan=dataset.plan,
        rosters=dataset.rosters,
    )
    return path


def _card(
    config: RunConfig,
    stored: Mapping[str, Any],
    models: Trained,
    results: Mapping[str, Mapping[str, Any]],
    dataset: EpisodeFile,
) -> str:
    """Writes what the team is, what it reached, and how it was made, as Markdown."""
    method, spec = method_of(config.method), models.spec
    low, high = spec.bounds
    about = [
        ("family", spec.family),
        ("agents", f"up to {spec.n_agents}"),
        ("method", config.method),
        ("seed", str(config.seed)),
        ("parameters", f"{models.parameters:,}"),
        ("trained on", method.trained_on(config)),
        ("and given", method.told(config, dataset)),
        ("looks up in the dataset", "yes" if method.looks_up(config) else "no"),
        ("maicc", str(stored.get("version", "0.1"))),
        ("fingerprint of the tasks", str(stored.get("tasks", "unknown"))),
    ]
    figures = [
        [
            label,
            str(len(result["runs"])),
            str(result["episodes"]),
            f"{result['summary']['first3']:.2f}",
            f"{result['summary']['first10']:.2f}",
            f"{result['summary']['last10']:.2f} ± {result['summary']['ci95']:.2f}",
        ]
        for label, result in results.items()
    ]
    runs = {label: len(result["runs"]) for label, result in results.items()}
    options = config.identity()
    options["adapt"] |= {
        "runs": runs["held-out tasks"],
        "training_runs": runs.get("training tasks", 0),
    }
    lines = [
        f"# A team for {spec.family}",
        "",
        "A team of agents that adapts to tasks it has never seen, trained by maicc.",
        "",
        "    maicc adapt team.maicc --out result.json",
        '    team = maicc.load_team("team.maicc")    # in Python',
        "",
        *markdown_table(("this team", ""), about),
        "",
        "## What it reached",
        "",
        f"Mean team return of adaptation episodes with frozen parameters, between {low:g} and "
        f"{high:g}. The interval of the last ten is the normal 95 % interval over runs.",
        "",
        *markdown_table(
            ("tasks", "runs", "episodes", "first 3", "first 10", "last 10"), figures
        ),
        "",
        "## How it was made",
        "",
        "By `maicc run FILE.yaml`, of the version above, with these options in FILE.yaml:",
        "",
        *("    " + line for line in yaml.safe_dump(options, sort_keys=False).splitlines()),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"
