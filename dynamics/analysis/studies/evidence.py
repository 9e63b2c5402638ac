"""From collected experiments to a table of findings: what a paper says, what came out, and what follows."""

import json
from collections.abc import Iterable

import pandas as pd
import xarray as xr

from dynamics.analysis.report.report_tables import markdown
from dynamics.analysis.studies.claims import CLAIMS
from dynamics.analysis.studies.study_regime import regime
from dynamics.analysis.studies.study_table import study
from dynamics.analysis.studies.verdicts import Finding, judge
from dynamics.options import invalid

VERDICTS = ("supported", "opposite", "no effect", "undecided")
"""Of claims that were measured."""
ROW = ("claim", "measured in", "effect [interval]", "p", "seeds", "verdict")
INTRODUCTION = """# Findings

What papers say, and what came out here. Every line is a **claim**: one comparison between the runs of an experiment,
written into the experiment's file before its runs began; a *second look* was not, and says so. This page is generated
from the committed files `results/*/*.nc` by `python -m experiments findings --write results/FINDINGS.md`; do not edit
it. What surprised us, and what did not work: [experiments/LOG.md](../experiments/LOG.md); the figures:
[analysis_notebooks](../analysis_notebooks).

How to read a line:

* **scale** is the size of the study: `digits` is a small residual MLP on a Gaussian mixture fitted to digits, whose
  exact velocities are known; `digits-dit` and `mnist5k` repeat some studies with a small transformer on finite data.
* **measured in** is the number that is compared. Exact errors (`v_error`, `u_error_<gaps>`, `one_step_error`, of
  u from (t, r) = (1, 0)) are squared errors as a share of the exact velocity's squared norm; `fd_u_nfe1` is the Frechet
  distance of samples made by one evaluation of u; `cosine_...` are unbiased cosines of the tasks' gradients; `_start`
  and `_end` are the first and the last measurement while training.
* **effect** is the mean over seeds, where both sides share initial weights, images, times and noise: -10% is a tenth
  less, x2 twice as much, +0.10 a difference of cosines (or the cosine itself, where it is compared with a number). In
  brackets is the 95% interval of this claim by itself, from the model arm + seed + noise, whose noise all arms of the
  experiment help to estimate as far as they agree. *Censored* seeds never reached what they were to reach.
* **p** is that of an effect among all claims of one question (of no effect, where that is the verdict). A question has
  one *primary* claim at most; the other claims are its components, which can have a direction only if the primary
  claim has one, and share their level by Holm's procedure. What a scale did not measure counts for nothing.
* **verdict**: *supported* (*reproduced*, if a paper says so) and *the opposite* have p at most 0.05; *no effect* has an
  interval inside the region of no effect (5% of an error or a length, 10% of a Frechet distance, 0.05 of a cosine);
  *undecided* says how many seeds would decide it in four cases of five, were the effect what was measured.

The claims of the studies below were written before the runs, but their families, primary claims and regions of no
effect afterwards, when the first way of judging them (Bonferroni over all claims) had left 66 of 98 undecided.
Some comparisons measure less than they say, and no verdict knows it. The lines above each table, read from the configs
of its runs, say in which **regime** they trained and of which artefacts to beware; the papers' is p = 1, guidance in
u's target, and a network far from convergence.

Small networks on small data: a verdict here is not one about ImageNet."""


def axes_of(tree: xr.DataTree) -> list[str]:
    """Return the names of an experiment's axes.

    Raises:
        ValueError: The tree is not the collected file of an experiment.
    """
    if "axes" not in tree.attrs:
        remedy = "python -m experiments NAME collect"
        raise invalid("results", sorted(map(str, tree.attrs)), "the collected file of an experiment", remedy)
    axes = tree.attrs["axes"]
    return [str(axis) for axis in ([axes] if isinstance(axes, str) else axes)]


def findings(tree: xr.DataTree) -> list[Finding]:
    """Judge every claim that an experiment made before it was run.

    Args:
        tree: The collected file of an experiment (`dynamics.open_results`).

    Returns:
        One finding a claim, in the experiment's order.

    Raises:
        ValueError: The tree is no such file.
    """
    axes = axes_of(tree)
    claims = CLAIMS.validate_json(tree.attrs.get("claims", "[]"))
    if not claims:
        return []
    table = study(tree, axes)
    if "one_step_error" not in table:  # latents have no exact errors: claims of them are not measured
        asked = filter(None, (column for claim in claims for column in (claim.metric, claim.relative_to)))
        table = table.reindex(columns=list(dict.fromkeys([*table, *asked])))
    return judge(table, claims, axes, looks_of(tree))


def looks_of(tree: xr.DataTree) -> list[int]:
    """Return the numbers of seeds at which one looks at an experiment; none where their number was fixed."""
    looks: list[int] = json.loads(tree.attrs.get("looks", "[]"))
    return looks


def findings_table(trees: Iterable[xr.DataTree]) -> str:
    """Return the findings of several experiments as a Markdown table.

    Args:
        trees: Collected files.

    Returns:
        A row a claim: experiment, scale, claim, metric, effect with its 95% interval, p-value among its family, seeds,
        verdict. An undecided row says how many seeds would decide it. Claims about arms that a scale leaves out have
        no row there.
    """
    return markdown(_findings_frame(trees).drop(columns="kind"))


def findings_page(trees: Iterable[xr.DataTree]) -> str:
    """Return a page of Markdown: how to read findings, how many there are of each verdict, and a table an experiment.

    Args:
        trees: Collected files of experiments.
    """
    by_name: dict[str, list[xr.DataTree]] = {}
    for tree in trees:
        by_name.setdefault(str(tree.attrs["experiment"]), []).append(tree)
    frames = {name: _findings_frame(own) for name, own in by_name.items()}
    table = pd.concat(frames.values())
    counts = pd.crosstab(table["experiment"], table["kind"]).reindex(columns=list(VERDICTS), fill_value=0)
    counts = pd.concat([counts, counts.sum().to_frame("all").T]).astype(str)
    counts.insert(0, "experiment", [f"[{name}](#{name})" if name in frames else name for name in counts.index])
    parts = [INTRODUCTION, markdown(counts)]
    for name, frame in ((name, frame) for name, frame in frames.items() if len(frame)):
        regimes = "\n".join(f"* {text}" for text in filter(None, map(regime, by_name[name])))
        shown = markdown(frame.drop(columns=["experiment", "kind"]))
        parts += [f"## {name}", by_name[name][0].attrs["question"], *filter(None, [regimes]), shown]
    return "\n\n".join(parts) + "\n"


def claims_table(found: Iterable[Finding]) -> str:
    """Return the findings of one experiment as a Markdown table, those that were not measured among them."""
    rows = [_row(f) for f in found]
    return markdown(pd.DataFrame(rows, columns=list(ROW)))


def _row(found: Finding) -> list[str]:
    """Return a finding as texts."""
    claim, measured = found.claim, found.verdict != "not measured"
    kind = "second look: " if claim.post_hoc else "primary: " if claim.primary else ""
    p_value = found.p_no_effect if found.verdict == "no effect" else found.adjusted
    shown = found.effect_text() if measured else "-"
    p_text = "-" if not measured else f"{p_value:.2g}" if p_value > 1e-6 else "0"
    verdict = found.verdict_text()
    verdict = verdict if found.verdict in ("undecided", "not measured") else f"**{verdict}**"
    return [kind + claim.text, claim.metric, shown, p_text, found.seeds_text(), verdict]


def _findings_frame(trees: Iterable[xr.DataTree]) -> pd.DataFrame:
    """Return the findings as texts, and the verdicts that count."""
    rows = [
        [tree.attrs["experiment"], tree.attrs["scale"], *_row(found), "look" if found.claim.post_hoc else found.verdict]
        for tree in trees
        for found in findings(tree)
        if found.verdict != "not measured"
    ]
    return pd.DataFrame(rows, columns=["experiment", "scale", *ROW, "kind"])
