"""The tables and sentences of a report."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from dynamics.analysis.report.metrics import metric_columns, metric_title
from dynamics.analysis.report.summary_table import protocol, sample_group, sampled_groups
from dynamics.analysis.run_groups import REMEDIES, attribute, group, run_labels
from dynamics.store.schema import PROVENANCE

NOT_KNOBS = {*PROVENANCE, "run", "role", "peak_memory_mb", "device", "num_parameters", "started_from_sha256"}
"""Coordinates on `run` that are no settings."""


def markdown(table: pd.DataFrame) -> str:
    """Return a table of texts without its index.

    Example:
        >>> print(markdown(pd.DataFrame({"run": ["a"], "loss": ["0.5"]})))
        | run | loss |
        |-------|--------|
        | a | 0.5 |
    """
    headers = [_cell(name) for name in table.columns]
    cells = table.map(_cell)
    return str(cells.to_markdown(index=False, tablefmt="github", headers=headers, stralign=None, disable_numparse=True))


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


def plain(content: object) -> str:
    """Return a name or title as text on one line that no reader of Markdown takes for HTML.

    Example:
        >>> plain("a <b>\\nc")
        'a &lt;b> c'
    """
    return " ".join(str(content).split()).replace("<", "&lt;")


def runs_table(tree: xr.DataTree) -> pd.DataFrame:
    """Return what was run, a row a run."""
    about = runs_about(tree)
    rows = []
    for run, known in about.items():
        config = json.loads(str(known.get("config_json") or "{}")).get("training", {})
        sha = str(known.get("git_sha", ""))[:10] or "-"
        rows.append(
            {
                "run": run,
                "id": f"`{known.get('run_id', '-')}`",
                "steps": number(config.get("num_steps")),
                "batch": number(config.get("batch_size")),
                "parameters": f"{int(known['num_parameters']):,}" if "num_parameters" in known else "-",
                "seed": str(known.get("seed", "-")),
                "revision": sha + (" + uncommitted changes" if known.get("dirty") == 1 else ""),
                "host": str(known.get("host", "-")),
                "torch": json.loads(str(known.get("versions") or "{}")).get("torch", "-"),
                "seconds": number(known.get("seconds")),
                "peak MB": number(known.get("peak_memory_mb")),
            }
        )
    table = pd.DataFrame(rows)
    return table.loc[:, (table != "-").any()]


def knobs_table(tree: xr.DataTree, first: Mapping[str, str]) -> str:
    """Return the settings in which runs differ.

    Args:
        tree: The runs.
        first: Name of a row by the run whose settings it shows; a row an arm leaves the seed out.
    """
    about = {row: runs_about(tree)[run] for run, row in first.items()}
    left_out = NOT_KNOBS if len(first) == len(run_labels(tree)) else {*NOT_KNOBS, "seed"}
    knobs = list(dict.fromkeys(name for known in about.values() for name in known if name not in left_out))
    if len(about) < 2 or not knobs:
        return ""
    rows = {run: [_setting(known.get(k)) for k in knobs] for run, known in about.items()}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=knobs)
    table = table.loc[:, [len(set(table[name])) > 1 for name in table]]
    return (
        "\n\nSettings in which they differ:\n\n" + markdown(table.reset_index(names="")) if len(table.columns) else ""
    )


def _setting(value: object) -> str:
    return "-" if value is None or str(value) in ("", "nan") else f"`{value}`"


def runs_about(tree: xr.DataTree) -> dict[str, dict[str, Any]]:
    """Return what is known of each run; imported ones have no group training, and other groups say it then."""
    groups = [group(tree, name) for name in sorted(map(str, tree.children), key=lambda name: name != "training")]
    out: dict[str, dict[str, Any]] = {}
    for run in run_labels(tree):
        ds = next(ds for ds in groups if run in ds.run.values.astype(str))
        i = ds.run.values.astype(str).tolist().index(run)
        of_run = {str(k): c.values[i] for k, c in ds.coords.items() if c.dims == ("run",)}
        out[run] = {k: value for k, value in of_run.items() if "." not in k}  # those say how a group was measured
    return out


def results_tables(table: pd.DataFrame, shown: Callable[[pd.DataFrame, Sequence[str]], str]) -> str:
    """Return the final numbers: exact errors, if there are any, and samples.

    Args:
        table: A row a run or arm, as of `summary`.
        shown: Makes a table of some of its numbers.
    """
    source = {"evaluation": "measured by the evaluation", "gaps": "at the last measurement while training"}
    exact = [name for name in metric_columns(table) if "_error" in name]
    text = "Latents have no exact errors."
    if exact:
        text = (
            f"Exact errors, {source[table.attrs['exact']]}: squared error / squared norm of the exact velocity (1 is "
            "answering 0), with one standard error over rows; runs of one seed share their rows. On a finite data set "
            "exact velocities memorise, v most at small t: a smaller error is not a better network.\n\n"
        )
        text += shown(table, exact)
    others = [name for name in metric_columns(table) if name not in (*exact, "seconds", "peak_memory_mb")]
    if others:
        text += "\n\nSamples, by sampled field (u or v) and number of network evaluations (NFE); accuracy with its 95% "
        text += "Wilson interval:\n\n" + shown(table, others)
    return text


def difference_sentences(table: pd.DataFrame, baseline: str) -> str:
    """Say how each run differs from the baseline, whichever way it goes.

    Args:
        table: From `differences`.
        baseline: The label of the run they are compared with.
    """
    parts = [
        "One seed a setting: numbers, no verdict. What seeds alone would change is not known from these runs; a study "
        "of several seeds says what is more than that."
    ]
    for run in dict.fromkeys(table["run"]):
        mine = table[table["run"] == run]
        lines = [f"**{plain(run)}** against {plain(baseline)}:", ""]
        for reason, found in mine.groupby("reason", sort=False):
            if reason:
                lines.append(f"- Not comparable, {reason}: {'; '.join(_differences(found))}.")
            else:
                lines += [f"- {difference}" for difference in _differences(found)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def protocol_table(tree: xr.DataTree) -> str:
    """Return how the runs were evaluated: checkpoint, weights, samples, networks, data, with their sha256."""
    parts = [_protocol_of(tree, name) for name in sampled_groups(tree)]
    return "\n\n".join(parts) or "No run was evaluated: dynamics evaluate DIR."


REFERENCES = {
    "evaluation": "The reference is all images of the data set, seen by the extractor's features.",
    "fid": "FID compares Inception's features with the reference's. Published values are of 50000 samples, the "
    "published weights of Inception and ADM's reference of the data set.",
}


def _protocol_of(tree: xr.DataTree, of: str) -> str:
    ds, table = group(tree, of), protocol(tree, of)
    table["checkpoint_step"] = [number(step) for step in attribute(ds, of, "checkpoint")]
    table["ema_decay"] = [_ema(str(config)) for config in ds.config_json.values] if "config_json" in ds.coords else "-"
    alike = table.replace("", "-").groupby(list(table.columns), sort=False, dropna=False)
    shown = pd.DataFrame({_runs(list(own.index)): own.iloc[0] for _, own in alike})
    if len(shown.columns) == 1:
        shown.columns = pd.Index(["value"])
    shown.insert(0, "setting", [str(name).replace("_", " ") for name in shown.index])
    text = markdown(shown)
    missing = [run for run in run_labels(tree) if run not in table.index]
    if missing:
        text += f"\n\nNot evaluated so: {', '.join(missing)} ({REMEDIES[sample_group(of)]})."
    return f"Group `{of}`:\n\n{text}\n\n{REFERENCES[sample_group(of)]}"


def _runs(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{len(names)} runs such as {names[0]}"


def _ema(config_json: str) -> str:
    decays = json.loads(config_json or "{}").get("training", {}).get("ema_decays", [])
    return str(decays[0]) if decays else "-"


def value_text(row: "pd.Series[Any]", name: str) -> str:
    """Return a number of a summary with what is known of its error."""
    text = number(float(row[name]))
    if text == "-":
        return text
    if np.isfinite(row.get(f"{name}_sem", np.nan)):
        text += f" ± {float(row[f'{name}_sem']):#.2g}".rstrip(".")
    if np.isfinite(row.get(f"{name}_low", np.nan)):
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


def _cell(content: object) -> str:
    return plain(content).replace("|", "\\|")
