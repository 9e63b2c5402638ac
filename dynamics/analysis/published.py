"""What papers report, as data with sources, and what came out here beside it.

Numbers are those of `published()`; nothing here is measured. A row without `experiment` has nothing to stand beside it.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr

from dynamics.analysis.claims import Claim, Finding, is_ratio, judge
from dynamics.analysis.findings import axes_of, findings
from dynamics.analysis.metrics import SEED_SPREAD_FRECHET
from dynamics.analysis.study import study
from dynamics.options import invalid

MF, UAI, AF, SEEDS = (
    ("Mean Flows", "2505.13447"),
    ("Understanding, Accelerating, and Improving MeanFlow Training", "2511.19065"),
    ("AlphaFlow", "2510.20771"),
    ("Retraining noise of FID", "2606.20536"),
)
FID1, FID2, FID32 = "FID, 1 evaluation of u", "FID, 2 evaluations of u", "FID, 32 evaluations of v = u(z, t, t)"
PARAMETERS, GFLOPS = "million parameters", "GFLOPs of a forward pass"
STEPS = "steps of vanilla / steps"
REPRODUCED, NOT_REPRODUCED, NOT_COMPARABLE = "reproduced", "not reproduced", "not comparable"
ABSOLUTE = "an absolute FID on images; ours are Frechet distances of features of 8x8 digits"
OURS = {FID1: "fd_u_nfe1", FID2: "fd_u_nfe2", FID32: "fd_v_nfe32"}
"""Our Frechet distance with as many evaluations."""
COLUMNS = [
    *("paper", "arxiv", "setting", "arm", "against", "measured_in", "value", "reference", "direction"),
    *("experiment", "claim", "our_arm", "our_against"),
]

# DiT, parameters in millions, GFLOPs of a forward pass, FID of 1 and of 2 evaluations after 240 epochs
SIZES = (
    ("B/4", 131.17, 5.6, 11.35, 7.85),
    ("B/2", 131.09, 23.1, 6.17, None),
    ("M/2", 308.02, 54.0, 5.01, None),
    ("L/2", 459.14, 80.9, 3.84, 3.35),
    ("XL/2", 676.44, 119.0, 3.43, 2.93),
)
# arm, FID of 1 and of 2 evaluations, our arm; DiT-B/4, vanilla first
COMPONENTS = (
    ("vanilla", 11.58, 7.85, "vanilla"),
    ("MinSNR", 10.57, 7.38, "minsnr v"),
    ("DTD", 10.96, 7.55, "dtd"),
    ("beta", 10.98, 7.58, "beta"),
    ("MinSNR + beta", 9.87, 7.08, "minsnr v + beta"),
    ("DTD + beta", 10.20, 7.31, "dtd + beta"),
)
LARGER = (("L/2", FID1, 3.84, 3.47), ("L/2", FID2, 3.35, 3.24), ("XL/2", FID1, 3.43, 2.87), ("XL/2", FID2, 2.93, 2.64))
FEWER = (("XL/2", 2.5), ("L/2", 2.3), ("M/2", 2.1))
# one row of section 3 each: study, which side is better, start of our claims, experiment
DIRECTIONS: tuple[tuple[str, str, str, str, str], ...] = (
    ("v-only for 0 to 20 epochs, then u-only for 60", "more v first, better u", FID1, "O1a", "velocity_prerequisite"),
    ("v-only, then u-only, 80 epochs in all", "v first pays at an equal budget", FID1, "O1b", "velocity_prerequisite"),
    ("noise of scale k||v|| on the target of v", "even k = 0.03 degrades u", FID1, "O1c", "velocity_corruption"),
    (
        "u-only over one bin of gaps, from random weights or from v",
        "small gaps build and refine v, large gaps fail or destroy it",
        FID32,
        "O2",
        "gap_ablation",
    ),
    (
        "affinity of the losses of v and u by gap and start",
        "learning v or small gaps first raises it; small gaps are best for large gaps",
        "TAS",
        "O3",
        "task_affinity",
    ),
)
NEIGHBOURS = (
    ("iMF, tangent only", "2512.02012", 2.99),
    ("SoFlow", "", 2.96),
    ("AlphaFlow", "2510.20771", 2.95),
    ("TEMF", "", 2.81),
    ("AlphaFlow, XL/2+", "2510.20771", 2.58),
    ("iMF-XL, other backbone", "2512.02012", 1.72),
)


def published() -> pd.DataFrame:
    """Return what the papers report.

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
    rows = [*_sizes(), *_components(), *_schedule(), *_directions(), *_neighbours()]
    table = pd.DataFrame(rows, columns=COLUMNS)
    texts = [name for name in COLUMNS if name not in ("value", "reference")]
    return table.astype(dict.fromkeys(("value", "reference"), float)).fillna(dict.fromkeys(texts, ""))


def sentence(finding: Finding) -> str:
    """Return a finding in one sentence of Markdown, with its interval and its verdict.

    Example:
        >>> claim = Claim("b is better", "v_error", {"arm": "b"}, "lower", {"arm": "a"})
        >>> sentence(Finding(claim, 5, np.log(0.9), np.log(0.85), np.log(0.95), True, 0.01, 0.02))
        '**b is better**: reproduced; v_error of b against a: -10% [-15%, -5%], 5 seeds.'
    """
    claim = finding.claim
    text = f"**{claim.text}**" + (" (a second look)" if claim.post_hoc else "")
    if finding.verdict == "not measured":
        return f"{text}: not measured."
    verdict = {"opposite": "the opposite"}.get(finding.verdict, finding.verdict)
    if finding.verdict == "undecided":
        verdict += f" (80% power from {finding.detectable_text()})"
    other = ", ".join(map(str, claim.against.values())) or claim.relative_to or f"{claim.than:g}"
    what = f"{claim.metric} of {', '.join(map(str, claim.arm.values()))} against {other}"
    if claim.kind != "comparison":
        what = f"length of {', '.join(map(str, claim.arm.values()))} until {claim.metric} is that of {other}"
    return f"{text}: {verdict}; {what}: {finding.measured()}, {finding.num_seeds} seeds."


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
    stand side by side. A comparison that the experiment claims has its verdict; the others are second looks, whose
    intervals are corrected for all comparisons of the experiment together.

    Args:
        trees: Collected files by the experiment's name.

    Returns:
        A row a published row, or several where several claims belong to it: paper, arXiv, setting, published (arm
        against arm), measured in, value, change; ours, our change [interval], verdict (reproduced, not reproduced, not
        comparable) and reason; an experiment that is not among the trees is said to be missing.
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
            own = [{"ours": "", "our change": "", "verdict": NOT_COMPARABLE, "reason": reason}]
        rows += [{**first, **each} for each in own] or [{**first, **_alone(row)}]
    return pd.DataFrame(rows)


def _row(paper: tuple[str, str], setting: str, arm: str, measured_in: str, **more: object) -> dict[str, object]:
    return {"paper": paper[0], "arxiv": paper[1], "setting": setting, "arm": arm, "measured_in": measured_in, **more}


def _sizes() -> list[dict[str, object]]:
    out = []
    for size, parameters, gflops, *fids in SIZES:
        out.append(_row(MF, f"DiT-{size}", size, PARAMETERS, value=parameters))
        out.append(_row(MF, f"DiT-{size}", size, GFLOPS, value=gflops))
        for measured_in, value in zip((FID1, FID2), fids, strict=True):
            if value is not None:
                out.append(_row(MF, f"DiT-{size}, ImageNet-256, 240 epochs", "vanilla", measured_in, value=value))
    out.append(_row(MF, "DiT-XL/2, ImageNet-256, 1000 epochs", "vanilla", FID2, value=2.20))
    out.append(_row(MF, "CIFAR-10, unconditional", "vanilla", FID1, value=2.92))
    return out


def _components() -> list[dict[str, object]]:
    setting, name = "DiT-B/4, ImageNet-256, 240 epochs", "component_ablation"
    vanilla = COMPONENTS[0]
    out = []
    for arm, one, two, ours in COMPONENTS:
        for measured_in, value, reference in ((FID1, one, vanilla[1]), (FID2, two, vanilla[2])):
            pair = {"against": "vanilla", "reference": reference, "direction": "lower", "our_against": "vanilla"}
            more = {} if arm == "vanilla" else pair
            out.append(_row(UAI, setting, arm, measured_in, value=value, experiment=name, our_arm=ours, **more))
    return out


def _schedule() -> list[dict[str, object]]:
    better = {"against": "vanilla", "direction": "lower"}
    improved, exponents = "improved schedule", "DiT-B/4, ImageNet-256, DTD + beta"
    out = [
        _row(UAI, f"DiT-{size}, ImageNet-256", improved, measured_in, value=value, reference=reference, **better)
        for size, measured_in, reference, value in LARGER
    ]
    for other, reference in ((0.5, 11.16), (2.0, 11.44)):
        pair = {"our_arm": "dtd, k=1", "our_against": f"dtd, k={other:g}", "experiment": "schedule_exponent"}
        more = {"against": f"k = {other:g}", "reference": reference, "direction": "lower", **pair}
        out.append(_row(UAI, exponents, "k = 1", FID1, value=10.20, **more))
    ours = {"experiment": "component_ablation", "our_arm": "minsnr v + beta", "our_against": "vanilla"}
    out.append(_row(UAI, "ImageNet-256", improved, FID32, value=7.09, reference=7.61, **better, **ours))
    for size, times in FEWER:
        text = {"against": "vanilla", "direction": f"{times:g} times fewer steps", "experiment": "convergence"}
        claim = "MinSNR + beta reach vanilla's final 1-NFE samples"
        setting = f"DiT-{size}, ImageNet-256, to vanilla's FID at 240 epochs"
        out.append(_row(UAI, setting, improved, STEPS, value=times, claim=claim, **text))
    return out


def _directions() -> list[dict[str, object]]:
    out = [
        _row(UAI, "DiT-B/4, ImageNet-256", arm, measured_in, direction=text, claim=claim, experiment=experiment)
        for arm, text, measured_in, claim, experiment in DIRECTIONS
    ]
    text = {"direction": "below -0.4 for more than 95% of training", "claim": "aF", "experiment": "loss_decomposition"}
    out.append(_row(AF, "ImageNet-256", "flow matching and consistency", "cosine of gradients", value=-0.4, **text))
    return out


def _neighbours() -> list[dict[str, object]]:
    setting = "DiT-XL/2, ImageNet-256"
    out = [_row((arm, arxiv), setting, arm, FID1, value=value) for arm, arxiv, value in NEIGHBOURS]
    out.append(_row(SEEDS, "ImageNet-256", "the same training again", "coefficient of variation of FID", value=0.013))
    return out


def _judged(tree: xr.DataTree, rows: pd.DataFrame) -> dict[object, list[dict[str, str]]]:
    """Return what stands beside each published row of one experiment."""
    axes, claimed = axes_of(tree), findings(tree)
    table = study(tree, axes)
    asked = [(index, claim) for index, row in rows.iterrows() for claim in _second_looks(row, axes[0], claimed)]
    looks = judge(table, [f.claim for f in claimed] + [claim for _, claim in asked], axes)[len(claimed) :]
    out: dict[object, list[dict[str, str]]] = {}
    for index, row in rows.iterrows():
        own = [f for f in claimed if _belongs(f.claim, row)]
        own += [found for (asked_for, _), found in zip(asked, looks, strict=True) if asked_for == index]
        out[index] = [_beside(found, table) for found in own]
        if not own:
            metric = OURS[row.measured_in]
            value = f"{metric} {_mean(table, {axes[0]: row.our_arm}, metric)}"
            out[index] = [{"ours": value, "our change": "", "verdict": NOT_COMPARABLE, "reason": ABSOLUTE}]
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


def _beside(found: Finding, table: pd.DataFrame) -> dict[str, str]:
    claim = found.claim
    verdict = {"reproduced": REPRODUCED, "not measured": NOT_COMPARABLE}.get(found.verdict, NOT_REPRODUCED)
    reason = {
        "reproduced": "the interval lies on the published side",
        "opposite": "the interval lies on the other side",
        "undecided": f"the interval includes no effect; 80% power from {found.detectable_text()}",
        "not measured": "the runs are not there",
    }[found.verdict]
    if claim.post_hoc:
        reason += "; a second look, no claim of the experiment"
    is_text = claim.kind == "comparison" and claim.than is None
    ours = f"{claim.metric} {_mean(table, claim.arm, claim.metric)}" if is_text else claim.metric
    shown = "" if found.verdict == "not measured" else found.measured()
    return {
        "ours": f"{', '.join(map(str, claim.arm.values()))}: {ours}",
        "our change": shown,
        "verdict": verdict,
        "reason": reason,
    }


def _mean(table: pd.DataFrame, labels: Mapping[str, str | int | float], metric: str) -> str:
    """Return an arm's mean over seeds, of logs where `judge` takes logs."""
    chosen = table
    for axis, label in labels.items():
        chosen = chosen[chosen[axis] == str(label)]
    values = chosen[metric].astype(float)
    return f"{np.exp(np.log(values).mean()):.3g}" if is_ratio(metric) else f"{values.mean():.2f}"


def _alone(row: pd.Series) -> dict[str, str]:
    """Return why a published number has nothing of ours beside it."""
    if row.measured_in in (PARAMETERS, GFLOPS):
        reason = "tests/unit/models/test_models.py builds the network and counts"
        same = "the same" if row.measured_in == PARAMETERS else "within 2.5%"
        return {"ours": same, "our change": "", "verdict": REPRODUCED, "reason": reason}
    reason = ABSOLUTE
    if row.against:
        reason = "no network of this size was trained here"
    elif row.arxiv == SEEDS[1]:
        reason = f"FID on ImageNet; over our seeds Frechet distances of digits vary by up to {SEED_SPREAD_FRECHET:.0%}"
    return {"ours": "", "our change": "", "verdict": NOT_COMPARABLE, "reason": reason}
