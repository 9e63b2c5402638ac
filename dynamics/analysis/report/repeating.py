"""The commands that make runs, their evaluation and their report again."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xarray as xr

from dynamics.analysis.report.report_tables import number, runs_about
from dynamics.analysis.report.summary_table import sample_group, sampled_groups
from dynamics.analysis.run_groups import attribute, group, sampled_settings


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
    about = runs_about(tree)
    lines = [_made(about[label], folder) for label, folder in folders.items()]
    for name in sampled_groups(tree):
        ds = group(tree, name)
        for i, run in enumerate(ds.run.values):
            lines += _evaluations(ds.isel(run=[i]), name, folders[str(run)])
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
    which = ["--weights", known["imported_weights"]] if known.get("imported_weights") else []
    source = known.get("imported_as") or known["imported_from"]
    made = ["import", known["imported_file"], "--from", source, "--out", folder]
    return _command(*made, "--preset", folder / "config.json", *which)


def _evaluations(ds: xr.Dataset, name: str, folder: Path) -> list[str]:
    attributes = {"num_samples": "num_samples", "label_mode": "label_mode", "method": "method", "weights": "weights"}
    attributes |= {"seed": "evaluation_seed", "exact_rows": "exact_rows_per_bin"}
    known = {option: attribute(ds, name, key)[0] for option, key in attributes.items()}
    known["checkpoint"] = attribute(ds, name, "checkpoint")[0] if "_step" in name else None
    if sample_group(name) == "fid":
        known |= {"inception": "INCEPTION", "reference": attribute(ds, name, "reference")[0]}
        decoder = str(attribute(ds, name, "decoder")[0])
        known["vae"] = None if decoder == "none" else decoder.split()[0]
    known["guidance_scale"] = attribute(ds, name, "guidance_scale")[0]
    given = {f"--{name.replace('_', '-')}": number(value) for name, value in known.items() if value is not None}
    options = [*(["--fid"] if sample_group(name) == "fid" else []), *(part for pair in given.items() for part in pair)]
    if interval := attribute(ds, name, "guidance_interval")[0]:
        options += ["--guidance-interval", *str(interval).split("-")]
    lines, sampled = [], sampled_settings(ds).isel(run=0)
    for field in ds.field.values:
        nfe = ds.nfe.values[sampled.sel(field=field).values].tolist()
        if nfe:
            lines.append(_command("evaluate", folder, "--field", str(field), "--nfe", *map(str, nfe), *options))
    return lines


def _command(*parts: object) -> str:
    return shlex.join(["dynamics", *map(str, parts)])
