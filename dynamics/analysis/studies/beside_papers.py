"""What papers report and what came out here, side by side, and findings in sentences."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from dynamics.analysis.report.metrics import SEED_SPREAD_FRECHET
from dynamics.analysis.studies.claims import Claim, chosen_runs, is_ratio
from dynamics.analysis.studies.evidence import axes_of, findings, looks_of
from dynamics.analysis.studies.study_table import study
from dynamics.analysis.studies.verdicts import Finding, judge
from dynamics.options import invalid

Ours = tuple[str, str, str, str]
OUR_COLUMNS = ("ours", "our change", "verdict", "reason")
PUBLISHED_FILE = Path(__file__).with_name("published.csv")
FID1, FID2, FID32 = "FID, 1 evaluation of u", "FID, 2 evaluations of u", "FID, 32 evaluations of v = u(z, t, t)"
PARAMETERS, GFLOPS = "million parameters", "GFLOPs of a forward pass"
RETRAINING = "2606.20536"
"""How much FID varies when the same training is repeated."""
REPRODUCED, NOT_REPRODUCED, NOT_COMPARABLE = "reproduced", "not reproduced", "not comparable"
UNDECIDED = "undecided"
ABSOLUTE = "an absolute FID on images; ours are Frechet distances of features of 8x8 digits"
OURS = {FID1: "fd_u_nfe1", FID2: "fd_u_nfe2", FID32: "fd_v_nfe32"}
"""Our Frechet distance with as many evaluations."""


def published() -> pd.DataFrame:
    """Return what the papers report, as published.csv holds it; nothing of it is measured here.

    Returns:
        A row a number or direction: paper, arxiv, setting, arm, against (the arm it is compared with, "" if it stands
        alone), measured_in, value and reference (the other arm's; NaN if not printed), direction in words; and what of
        ours stands beside it: experiment, claim (start of its claims' texts), our_arm and our_against (labels of the
        experiment's axis), all "" if there is nothing.

    Example:
        >>> table = published()
        >>> row = table[(table.arm == "MinSNR + beta") & (table.measured_in == FID1)].iloc[0]
        >>> float(row.value), float(row.reference), row.arxiv
        (9.87, 11.58, '2511.19065')
    """
    numbers = ("value", "reference")
    table = pd.read_csv(PUBLISHED_FILE, dtype=str, keep_default_na=False)
    return table.assign(**{name: pd.to_numeric(table[name]) for name in numbers})


def sentence(finding: Finding) -> str:
    """Return a finding in one sentence of Markdown, with its interval and its verdict.

    Example:
        >>> claim = Claim("b is better", "v_error", {"arm": "b"}, "lower", {"arm": "a"})
        >>> sentence(Finding(claim, 5, np.log(0.9), np.log(0.85), np.log(0.95), True, 0.01, 0.02))
        '**b is better**: supported; v_error of b against a: -10% [-15%, -5%], 5 seeds.'
    """
    claim = finding.claim
    text = f"**{claim.text}**" + (" (a second look)" if claim.post_hoc else "")
    if finding.verdict == "not measured":
        return f"{text}: not measured."
    other = ", ".join(map(str, claim.against.values())) or claim.relative_to or f"{claim.than:g}"
    what = f"{claim.metric} of {', '.join(map(str, claim.arm.values()))} against {other}"
    if claim.kind != "comparison":
        what = f"length of {', '.join(map(str, claim.arm.values()))} until {claim.metric} is that of {other}"
    return f"{text}: {finding.verdict_text()}; {what}: {finding.effect_text()}, {finding.seeds_text()} seeds."


def sentences(found: Sequence[Finding], starts: str = "") -> str:
    """Return a Markdown list of findings in words, those alone whose claim starts with a text.

    Raises:
        ValueError: No claim starts so.
    """
    chosen = [finding for finding in found if finding.claim.text.startswith(starts)]
    if not chosen:
        raise invalid("starts", starts, "; ".join(f.claim.text for f in found), "use the start of a claim's text")
    return "\n".join(f"* {sentence(finding)}" for finding in chosen)


def beside(trees: Mapping[str, xr.DataTree]) -> pd.DataFrame:
    """Return every published number with ours next to it, and whether it is reproduced.

    Absolute FIDs on ImageNet and our Frechet distances are different numbers; their relative changes and directions
    stand side by side. A comparison that the experiment claims has its verdict; the others are second looks, each
    judged by itself.

    Args:
        trees: Collected files by the experiment's name.

    Returns:
        A row a published row, or several where several claims belong to it: paper, arXiv, setting, published (arm
        against arm), measured in, value, change; ours, our change [interval], verdict (reproduced, not reproduced,
        undecided, not comparable) and reason; an experiment that is not among the trees is said to be missing.
    """
    table = published()
    there = set(table.experiment) & set(trees)
    judged = {name: _judged(trees[name], table[table.experiment == name]) for name in there}
    rows = []
    for index, row in table.iterrows():
        first = {
            "paper": row.paper,
            "arXiv": row.arxiv,
            "setting": row.setting,
            "published": f"{row.arm} against {row.against}" if row.against else row.arm,
            "measured in": row.measured_in,
            "value": "" if np.isnan(row.value) else f"{row.value:g}",
            "change": f"{row.value / row.reference - 1:+.0%}" if row.reference > 0 else row.direction,
        }
        own = judged.get(row.experiment, {}).get(index, [])
        if row.experiment and row.experiment not in trees:
            reason = f"the experiment {row.experiment} has not been collected"
            own = [("", "", NOT_COMPARABLE, reason)]
        rows += [{**first, **dict(zip(OUR_COLUMNS, each, strict=True))} for each in own or [_alone(row)]]
    return pd.DataFrame(rows)


def _judged(tree: xr.DataTree, rows: pd.DataFrame) -> dict[object, list[Ours]]:
    """Return what stands beside each published row of one experiment."""
    axes, claimed = axes_of(tree), findings(tree)
    table = study(tree, axes)
    asked = [(index, claim) for index, row in rows.iterrows() for claim in _second_looks(row, axes[0], claimed)]
    both = [f.claim for f in claimed] + [claim for _, claim in asked]
    looks = judge(table, both, axes, looks_of(tree))[len(claimed) :]
    out: dict[object, list[Ours]] = {}
    for index, row in rows.iterrows():
        own = [f for f in claimed if _belongs(f.claim, row)]
        own += [found for (asked_for, _), found in zip(asked, looks, strict=True) if asked_for == index]
        out[index] = [_beside(found, table) for found in own]
        if not own:
            metric = OURS[row.measured_in]
            value = f"{metric} {_mean(table, {axes[0]: row.our_arm}, metric)}"
            out[index] = [(value, "", NOT_COMPARABLE, ABSOLUTE)]
    return out


def _belongs(claim: Claim, row: pd.Series) -> bool:
    """Return whether a claim of the experiment is what a published row says."""
    if row.claim:
        return claim.text.startswith(row.claim)
    metrics = [OURS[row.measured_in], *(["one_step_error"] if row.measured_in == FID1 else [])]
    same = list(claim.arm.values()) == [row.our_arm] and list(claim.against.values()) == [row.our_against]
    return same and claim.metric in metrics


def _second_looks(row: pd.Series, axis: str, claimed: Sequence[Finding]) -> list[Claim]:
    """Return the comparison of Frechet distances that a row asks for, if the experiment does not claim it itself."""
    if row.claim or not row.our_against:
        return []
    metric = OURS[row.measured_in]
    if any(_belongs(found.claim, row) and found.claim.metric == metric for found in claimed):
        return []
    return [Claim(row.arm, metric, {axis: row.our_arm}, row.direction, {axis: row.our_against}, post_hoc=True)]


def _beside(found: Finding, table: pd.DataFrame) -> Ours:
    claim = found.claim
    verdict = {
        "supported": REPRODUCED,
        "opposite": NOT_REPRODUCED,
        "no effect": NOT_REPRODUCED,
        "undecided": UNDECIDED,
        "not measured": NOT_COMPARABLE,
    }[found.verdict]
    reason = {
        "supported": "the effect lies on the published side",
        "opposite": "the effect lies on the other side",
        "no effect": "the interval lies inside the region of no effect",
        "undecided": found.budget_text(),
        "not measured": "the runs are not there",
    }[found.verdict]
    if claim.post_hoc:
        reason += "; a second look, no claim of the experiment"
    is_text = claim.kind == "comparison" and claim.than is None
    ours = f"{claim.metric} {_mean(table, claim.arm, claim.metric)}" if is_text else claim.metric
    shown = "" if found.verdict == "not measured" else found.effect_text()
    return f"{', '.join(map(str, claim.arm.values()))}: {ours}", shown, verdict, reason


def _mean(table: pd.DataFrame, labels: Mapping[str, str | int | float], metric: str) -> str:
    """Return an arm's mean over seeds, of logs where `judge` takes logs."""
    values = table.loc[chosen_runs(table, labels), metric].astype(float)
    return f"{np.exp(np.log(values).mean()):.3g}" if is_ratio(metric) else f"{values.mean():.2f}"


def _alone(row: pd.Series) -> Ours:
    """Return why a published number has nothing of ours beside it."""
    if row.measured_in in (PARAMETERS, GFLOPS):
        reason = "tests/unit/models/test_models.py builds the network and counts"
        same = "the same" if row.measured_in == PARAMETERS else "within 2.5%"
        return same, "", REPRODUCED, reason
    reason = ABSOLUTE
    if row.against:
        reason = "no network of this size was trained here"
    elif row.arxiv == RETRAINING:
        reason = f"FID on ImageNet; over our seeds Frechet distances of digits vary by up to {SEED_SPREAD_FRECHET:.0%}"
    return "", "", NOT_COMPARABLE, reason
