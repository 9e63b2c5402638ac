"""The words and tables of a report."""

import json
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from dynamics.analysis.affinity import affinity
from dynamics.analysis.comparison import BEYOND, NOT_COMPARABLE, NOT_JUDGED, WITHIN
from dynamics.analysis.metrics import SEED_SPREAD_EXACT, SEED_SPREAD_FRECHET, metric_title
from dynamics.analysis.runs import REMEDIES, attribute, group, run_labels, sampled
from dynamics.analysis.summary import PROTOCOL, Evaluation, protocol
from dynamics.store.schema import PROVENANCE

NOT_KNOBS = {*PROVENANCE, "run", "peak_memory_mb", "device", "num_parameters"}
"""Coordinates on `run` that are no settings."""


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table.

    Example:
        >>> print(markdown(["run", "loss"], [["a", "0.5"]]))
        | run | loss |
        |---|---|
        | a | 0.5 |
    """
    lines = [_line(header), "|" + "---|" * len(header), *(_line(row) for row in rows)]
    return "\n".join(lines)


def number(value: object) -> str:
    """Return a number with three digits that count, a whole one with all of them, or a dash for none.

    Example:
        >>> [number(v) for v in (0.9, 0.012345, 356.2, 1234.5, 2000, float("nan"))]
        ['0.900', '0.0123', '356', '1234', '2000', '-']
    """
    if isinstance(value, str):
        return value or "-"
    x = float(value) if isinstance(value, int | float | np.number) else math.nan
    if math.isnan(x):
        return "-"
    if x.is_integer() or abs(x) >= 1000:
        return f"{x:.0f}"
    return f"{x:#.3g}".rstrip(".")


def run_tables(tree: xr.DataTree) -> str:
    """Return what was run: a table of the runs, and one of the settings in which they differ."""
    about = _about(tree)
    header = ["run", "id", "steps", "batch", "parameters", "seed", "revision", "host", "torch", "seconds", "peak MB"]
    rows = []
    for run, known in about.items():
        config = json.loads(str(known.get("config_json") or "{}")).get("training", {})
        sha = str(known.get("git_sha", ""))[:10]
        rows.append(
            [
                run,
                f"`{known.get('run_id', '-')}`",
                number(config.get("num_steps")),
                number(config.get("batch_size")),
                f"{int(known['num_parameters']):,}" if "num_parameters" in known else "-",
                str(known.get("seed", "-")),
                (sha or "-") + (" + uncommitted changes" if known.get("dirty") == 1 else ""),
                str(known.get("host", "-")),
                json.loads(str(known.get("versions") or "{}")).get("torch", "-"),
                number(known.get("seconds")),
                number(known.get("peak_memory_mb")),
            ]
        )
    text = markdown(*_without_empty(header, rows))
    knobs = list(dict.fromkeys(name for known in about.values() for name in known if name not in NOT_KNOBS))
    if len(about) > 1 and knobs:
        values = [[run, *(f"`{known[k]}`" if k in known else "-" for k in knobs)] for run, known in about.items()]
        text += "\n\nSettings in which they differ:\n\n" + markdown(["run", *knobs], values)
    return text


def _about(tree: xr.DataTree) -> dict[str, dict[str, Any]]:
    """Return what is known of each run; imported ones have no group training, and other groups say it then."""
    groups = [group(tree, name) for name in sorted(map(str, tree.children), key=lambda name: name != "training")]
    out: dict[str, dict[str, Any]] = {}
    for run in run_labels(tree):
        ds = next(ds for ds in groups if run in ds.run.values.astype(str))
        i = ds.run.values.astype(str).tolist().index(run)
        of_run = {str(k): c.values[i] for k, c in ds.coords.items() if c.dims == ("run",)}
        out[run] = {k: value for k, value in of_run.items() if "." not in k}  # those say how a group was measured
    return out


def results_tables(table: pd.DataFrame) -> str:
    """Return the final numbers of `summary`: one table of exact errors, if there are any, one of samples."""
    source = {"evaluation": "measured by the evaluation", "gaps": "at the last measurement while training"}
    exact = [name for name in _metrics(table) if "_error" in name]
    text = "Latents have no exact errors."
    if exact:
        text = (
            f"Exact errors, {source[table.attrs['exact']]}: squared error / squared norm of the exact velocity (1 is "
            "answering 0), with one standard error over rows; runs of one seed share their rows. On a finite data set "
            "the exact v memorises at small t; there its error does not measure quality.\n\n"
        )
        text += _results(table, exact)
    others = [name for name in _metrics(table) if name not in (*exact, "seconds", "peak_memory_mb")]
    if others:
        text += "\n\nSamples, by sampled field (u or v) and number of network evaluations (NFE); accuracy with its 95% "
        text += "Wilson interval:\n\n" + _results(table, others)
    return text


def sentences(table: pd.DataFrame, baseline: str) -> str:
    """Say how each run differs from the baseline, whichever way it goes.

    Args:
        table: From `differences`.
        baseline: The label of the run they are compared with.
    """
    parts = [
        "One run a setting has no interval over seeds. As a yardstick, seeds alone change exact errors by up to "
        f"{SEED_SPREAD_EXACT:.0%} and Frechet distances by up to {SEED_SPREAD_FRECHET:.0%} (four seeds of "
        "digits-meanflow); a difference inside that spread shows nothing, and one beyond it needs more seeds to be "
        "sure. Accuracy is judged by its 95% intervals, which cover the sampling only."
    ]
    for run in dict.fromkeys(table["run"]):
        mine = table[table["run"] == run]
        lines = [f"**{run}** against {baseline}:", ""]
        for direction in ("better", "worse"):
            found = mine[(mine["verdict"] == BEYOND) & (mine["direction"] == direction)]
            lines.append(f"- {direction.capitalize()}, {BEYOND}:" + ("" if len(found) else " nothing."))
            lines += [f"    - {difference}" for difference in _differences(found)]
        within = _differences(mine[mine["verdict"] == WITHIN])
        lines.append(f"- {WITHIN.capitalize()}: {'; '.join(within) or 'nothing'}.")
        for verdict in (NOT_JUDGED, NOT_COMPARABLE):
            for reason, found in mine[mine["verdict"] == verdict].groupby("reason", sort=False):
                lines.append(f"- {verdict.capitalize()}, {reason}: {'; '.join(_differences(found))}.")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def protocol_table(tree: xr.DataTree) -> str:
    """Return how the runs were evaluated: checkpoint, weights, samples, networks, data, with their sha256."""
    parts = [_protocol_of(tree, name) for name in PROTOCOL if name in tree.children]
    return "\n\n".join(parts) or "No run was evaluated: dynamics evaluate DIR."


REFERENCES = {
    "evaluation": "The reference is all images of the data set, seen by the extractor's features.",
    "fid": "FID compares Inception's features with the reference's. Published values are of 50000 samples, the "
    "published weights of Inception and ADM's reference of the data set.",
}


def _protocol_of(tree: xr.DataTree, of: Evaluation) -> str:
    ds, table = group(tree, of), protocol(tree, of)
    table["checkpoint_step"] = [number(step) for step in attribute(ds, of, "checkpoint")]
    table["ema_decay"] = [_ema(str(config)) for config in ds.config_json.values] if "config_json" in ds.coords else "-"
    rows = []
    for name in table.columns:
        values = [str(value) or "-" for value in table[name]]
        rows.append([str(name).replace("_", " "), *(values if len(set(values)) > 1 else values[:1])])
    if all(len(row) == 2 for row in rows):
        text = markdown(["setting", "value"], rows)
    else:
        full = [row if len(row) > 2 else row + row[1:] * (len(table) - 1) for row in rows]
        text = markdown(["setting", *table.index], full)
    missing = [run for run in run_labels(tree) if run not in table.index]
    if missing:
        text += f"\n\nNot evaluated: {', '.join(missing)} ({REMEDIES[of]})."
    return f"{text}\n\n{REFERENCES[of]}"


def how_to_repeat(
    tree: xr.DataTree, folders: Mapping[str, Path], out: Path, title: str | None, baseline: str | None
) -> str:
    """Return the commands that make the runs, their evaluation and this report again.

    Args:
        tree: The runs.
        folders: Each run's folder by its label.
        out: The report's folder.
        title: As given.
        baseline: As given.
    """
    about = _about(tree)
    lines = [_made(about[label], folder) for label, folder in folders.items()]
    for name in PROTOCOL:
        if name in tree.children:
            ds = group(tree, name)
            for i, run in enumerate(ds.run.values):
                lines += _evaluations(ds, name, i, folders[str(run)])
    last = ["report", *folders.values(), "--out", out]
    for option, value in (("--title", title), ("--baseline", baseline)):
        last += [option, value] if value is not None else []
    lines.append(_command(*last))
    text = "\n".join(lines)
    return f"A finished run is left alone; give another `--out` to train it anew.\n\n```\n{text}\n```"


def _made(known: Mapping[str, Any], folder: Path) -> str:
    """Return the command that trained or imported a run."""
    if not known.get("imported_from"):
        return _command("train", folder / "config.json", "--out", folder)
    source = known.get("imported_as") or known["imported_from"]
    which = ["--weights", known["imported_weights"]] if known.get("imported_weights") else []
    made = ["import", known["imported_file"], "--from", source, "--out", folder]
    return _command(*made, "--preset", folder / "config.json", *which)


def _evaluations(ds: xr.Dataset, name: str, run: int, folder: Path) -> list[str]:
    attributes = {"num_samples": "num_samples", "label_mode": "label_mode", "method": "method", "weights": "weights"}
    attributes |= {"seed": "evaluation_seed", "exact_rows": "exact_rows_per_bin"}
    known = {option: attribute(ds, name, key)[run] for option, key in attributes.items()}
    if name == "fid":
        known |= {"inception": "INCEPTION", "reference": attribute(ds, name, "reference")[run]}
        decoder = str(attribute(ds, name, "decoder")[run])
        known["vae"] = None if decoder == "none" else decoder.split()[0]
    given = {f"--{name.replace('_', '-')}": number(value) for name, value in known.items() if value is not None}
    options = [*(["--fid"] if name == "fid" else []), *(part for pair in given.items() for part in pair)]
    lines = []
    for field in ds.field.values:
        measured = ds.nfe.values[sampled(ds).isel(run=run).sel(field=field).values].tolist()
        if measured:
            lines.append(_command("evaluate", folder, "--field", str(field), "--nfe", *map(str, measured), *options))
    return lines


def _command(*parts: object) -> str:
    return shlex.join(["dynamics", *map(str, parts)])


def _ema(config_json: str) -> str:
    decays = json.loads(config_json or "{}").get("training", {}).get("ema_decays", [])
    return str(decays[0]) if decays else "-"


def _metrics(table: pd.DataFrame) -> list[str]:
    return [str(c) for c in table.columns if c != "protocol" and not str(c).endswith(("_sem", "_low", "_high"))]


def _results(table: pd.DataFrame, names: Sequence[str]) -> str:
    runs, by_run = [str(run) for run in table.index], table.T
    return markdown(["", *runs], ([metric_title(n), *(_value(by_run[run], n) for run in runs)] for n in names))


def _value(row: "pd.Series[Any]", name: str) -> str:
    text = number(float(row[name]))
    if text == "-":
        return text
    if f"{name}_sem" in row:
        text += f" ± {float(row[f'{name}_sem']):#.2g}".rstrip(".")
    if f"{name}_low" in row:
        text += f" [{number(row[f'{name}_low'])}, {number(row[f'{name}_high'])}]"
    return text


def _differences(found: pd.DataFrame) -> list[str]:
    """Say each difference in words: what, the value, the baseline's, the relative change and the direction."""
    lines = []
    for row in found.to_dict("records"):
        change = f"{row['change']:+.1%}, " if math.isfinite(row["change"]) else ""
        what = f"{metric_title(row['metric'])}: {number(row['value'])} instead of {number(row['reference'])}"
        lines.append(f"{what} ({change}{row['direction']})")
    return lines


def _without_empty(header: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """Drop the columns that no run has a value for."""
    kept = [i for i in range(len(header)) if any(row[i] != "-" for row in rows)]
    return [header[i] for i in kept], [[row[i] for i in kept] for row in rows]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def affinity_table(gram: xr.Dataset) -> str:
    """Return the cosines between the tasks' true gradients of one measurement, whole model, as text.

    Args:
        gram: Group gram of one checkpoint, without `run` and `step`.
    """
    found = affinity(gram).sel(group="model")
    tasks = [str(task) for task in found.task.values]
    lines = [["cosine of true gradients [95% interval]", *tasks]]
    for i, task in enumerate(tasks):
        cells = []
        for j in range(i + 1):
            cosine, low, high = (float(found[name][i, j]) for name in ("cosine", "cosine_low", "cosine_high"))
            cells.append("no signal" if math.isnan(cosine) else f"{cosine:.2f} [{low:.2f}, {high:.2f}]")
        lines.append([task, *cells, *[""] * (len(tasks) - i - 1)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(f"{cell:{w}}" for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)
