"""In which regime the runs of a study trained, and what they measure less well than their claims say."""

import json
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from dynamics.analysis.run_groups import group

FINITE = ("digits", "mnist5k", "folder", "npz", "idx")
"""Data whose exact velocities are those of a finite set."""
LONGEST_DTD = 0.05
"""Share of training after which the denoising-difficulty curriculum is another one than as published, 0.6%."""

Config = dict[str, Any]


def regime(tree: xr.DataTree) -> str:
    """Say how the runs of a collected experiment trained, with a warning where that is an artefact of its claims.

    Args:
        tree: The collected file; "" follows from one whose runs have no whole configs.
    """
    if "training" not in tree.children or "config_json" not in tree["training"].coords:
        return ""
    ds = group(tree, "training")
    runs = pd.DataFrame({"config": [json.loads(str(text)) for text in ds.config_json.values]})
    if not all("objective" in config for config in runs.config):
        return ""
    runs["before"] = [str(role) == "before" for role in ds.role.values] if "role" in ds.coords else False
    own, before = list(runs.config[~runs.before]), list(runs.config[runs.before])
    said = [f"data {_several(c['data']['name'] for c in own)}", f"p = {_several(map(_p, own))}", _guided(own)]
    said.append(f"{_several(c['training']['num_steps'] for c in own)} steps")
    claims = json.loads(tree.attrs.get("claims", "[]"))
    metrics, compared = [str(claim["metric"]) for claim in claims], any(claim.get("relative_to") for claim in claims)
    known = dict(zip(map(str, ds.run.values), runs.config, strict=True))
    pairs = [(c, known[c["start"]["run"]]) for c in own if c["start"]["run"] in known]
    found = [*_starts(pairs, before, compared), *_late_dtd(ds)]
    if any(metric.startswith("cosine_v") for metric in metrics):
        found += _affinities(own)
    if any("error" in metric for metric in metrics) and (
        finite := sorted({c["data"]["name"] for c in own} & set(FINITE))
    ):
        found.append(f"exact errors on {', '.join(finite)} are those against a finite set, and measure memorising")
    warning = f" Beware: {'; '.join(found)}." if found else ""
    return f"{tree.attrs['scale']}: {', '.join(filter(None, said))}.{warning}"


def _p(config: Config) -> float:
    return float(config["objective"].get("adaptive", {}).get("p", 0.0))


def _guided(own: list[Config]) -> str:
    pairs = {(g.get("w", 1.0), g.get("k", 0.0)) for g in (c["objective"].get("guidance", {}) for c in own)}
    return "unguided" if pairs == {(1.0, 0.0)} else f"guided, k = {_several(k for _, k in pairs)}"


def _several(values: Any) -> str:
    """Return what differs between runs, in order; of more than five, the ends."""
    there = sorted(set(values))
    texts = [f"{v:g}" if isinstance(v, float) else str(v) for v in there]
    return ", ".join(texts) if len(texts) <= 5 else f"{texts[0]} to {texts[-1]}"


def _starts(pairs: list[tuple[Config, Config]], before: list[Config], compared: bool) -> list[str]:
    """Say what starting from another run does to a study, given such runs and those that they start from."""
    found = []
    if compared and any(c["start"].get("averages", "fresh") == "fresh" for c, _ in pairs):
        found.append("a start from another run is measured on raw weights, its end on averages, which are better")
    if any((c["seed"], c.get("streams", 0)) == (first["seed"], first.get("streams", 0)) for c, first in pairs):
        found.append("a run that starts from another sees the rows of that one again")
    alone = {_p(c) for c in before if c["times"]["gap_share"] == 0}
    if pairs and alone - {_p(c) for c, _ in pairs}:
        found.append(f"v alone trained with p = {_several(alone)}")
    return found


def _affinities(own: list[Config]) -> list[str]:
    grams = [(c, o) for c in own for o in c["observers"] if o["kind"] == "gram"]
    found = []
    if any(o["t_law"] != "matched" for _, o in grams):
        found.append("tasks of other gaps have other laws of t too")
    if any(c["start"]["run"] is None for c, _ in grams):
        found.append("at random weights u is 0 and all tasks are alike, so that a high affinity there says nothing")
    return found


def _late_dtd(ds: xr.Dataset) -> list[str]:
    """Say when the last stage of the denoising-difficulty curriculum begins, if that is late."""
    if "dtd_stage" not in ds:
        return []
    stages, steps = ds.dtd_stage.transpose("run", "step").values, ds.step.values
    shares = []
    for config, stage in zip(map(json.loads, map(str, ds.config_json.values)), stages, strict=True):
        for dtd in (c for c in config["curricula"] if c["kind"] == "dtd"):
            last = stage >= dtd["num_clusters"] - 1
            first = float(steps[last.argmax()]) if last.any() else np.inf
            shares.append(first / config["training"]["num_steps"])
    if not shares or max(shares) <= LONGEST_DTD:
        return []
    ends = [f"{share:.0%}" if np.isfinite(share) else "never" for share in (min(shares), max(shares))]
    return [f"DTD's last stage begins at {' to '.join(dict.fromkeys(ends))} of training (published: about 0.6%)"]
