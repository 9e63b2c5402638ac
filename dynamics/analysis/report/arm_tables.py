"""Tables of arms: means over seeds with their intervals, and differences from one of them, paired over seeds."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from dynamics.analysis.report.metrics import metric, metric_columns, metric_title
from dynamics.analysis.report.report_tables import markdown, number, plain, value_text
from dynamics.analysis.seed_arms import LEVEL, mean_over_seeds, spread_arms
from dynamics.analysis.studies.claims import Claim, is_ratio
from dynamics.analysis.studies.verdicts import judge

Arms = Mapping[str, Sequence[str]]
COLUMNS = 6
"""Arms that are columns of a table; more of them are rows."""
MAIN = ("v_error", "one_step_error", "fid_inception", "fd_", "energy_distance", "accuracy")
"""How the numbers begin that arms are compared by."""


def arm_means(table: pd.DataFrame, arms: Arms) -> pd.DataFrame:
    """Return a row an arm of a `summary`: means over its seeds, with `_low` and `_high`; a run alone stays as it is."""
    rows = {}
    for arm, runs in arms.items():
        own = table.loc[list(runs)]
        row: dict[str, object] = {str(name): own[name].iloc[0] for name in own}
        if len(own) > 1:
            row = {name: row[name] for name in row if not name.endswith(("_sem", "_low", "_high"))}
            for name in metric_columns(table):
                values = own[[name]].astype(float)
                logs = is_ratio(name) and bool((values.dropna() > 0).all(axis=None))
                mean = mean_over_seeds(values, logs).iloc[0]
                row |= {name: mean["mean"], f"{name}_low": mean["low"], f"{name}_high": mean["high"]}
            for name in ("protocol", "budget"):
                row[name] = "; ".join(dict.fromkeys(map(str, own[name])))
        rows[arm] = row
    out = pd.DataFrame.from_dict(rows, orient="index")
    out.index.name = "run"
    out.attrs = dict(table.attrs)
    return out


def numbers_by_arm(table: pd.DataFrame, names: Sequence[str]) -> str:
    """Return numbers of `arm_means`: a column an arm, or, of many arms, a row each and a table a kind of number."""
    if len(table) <= COLUMNS:
        values = {str(arm): [value_text(row, name) for name in names] for arm, row in table.iterrows()}
        return markdown(pd.DataFrame({"": [metric_title(name) for name in names], **values}))
    kinds: dict[tuple[str, str], list[str]] = {}
    for name in names:
        kinds.setdefault((metric(name).pattern.partition("_")[0], name.partition("@")[2]), []).append(name)
    parts = []
    for own in kinds.values():
        rows = [[arm, *(value_text(row, name) for name in own)] for arm, row in table.iterrows()]
        parts.append(markdown(pd.DataFrame(rows, columns=["", *map(metric_title, own)])))
    return "\n\n".join(parts)


def main_columns(table: pd.DataFrame) -> list[str]:
    """Return the numbers that arms are compared by, of the first protocol."""
    kinds = [name for name in metric_columns(table) if name.startswith(MAIN) and "@" not in name]
    kinds = [name for name in kinds if not name.startswith("v_error_")]
    return sorted(kinds, key=lambda name: [name.startswith(start) for start in MAIN].index(True))


def arms_compared(table: pd.DataFrame, arms: Arms, seeds: Mapping[str, float], baseline: str) -> str:
    """Say how each arm differs from the baseline in its main numbers, paired over the seeds that both have.

    Args:
        table: From `summary`, a row a run.
        arms: Runs by arm.
        seeds: Each run's seed.
        baseline: The arm that the others are compared with.
    """
    names = main_columns(table)
    arm_of = {run: arm for arm, runs in arms.items() for run in runs}
    frame = table.assign(arm=table.index.map(arm_of), seed=table.index.map(seeds))
    reference = frame[frame["arm"] == baseline].iloc[0]
    rows, otherwise = [], len(set(frame["budget"])) > 1
    for arm in (arm for arm in arms if arm != baseline):
        first = frame[frame["arm"] == arm].iloc[0]
        cells = [_effect(frame, arm, baseline, name) for name in names]
        if first["protocol"] != reference["protocol"]:
            cells = ["measured otherwise"] * len(names)
        rows.append([arm, *([first["budget"]] if otherwise else []), *cells])
    trained = [f"trained ({baseline}: {reference['budget']})"] if otherwise else []
    head = ["", *trained, *(f"{metric_title(name)} ({'-' if metric(name).lower_is_better else '+'})" for name in names)]
    text = (
        f"Changes from {plain(baseline)}, paired over the seeds that both have, with the {LEVEL:.0%} interval over "
        "these seeds; (-): lower is better, (+): higher is. Bold: the interval does not include zero. Each "
        "interval is for itself: one in twenty leaves out zero by chance. One seed has no interval, and shows nothing."
    )
    if otherwise:
        text += " Not all were trained as long, or on the same data: see the second column."
    return f"{text}\n\n{markdown(pd.DataFrame(rows, columns=head))}"


def _effect(frame: pd.DataFrame, arm: str, baseline: str, name: str) -> str:
    claim = Claim("", name, {"arm": arm}, "lower", {"arm": baseline})
    two = frame.loc[frame["arm"].isin([arm, baseline]), ["arm", "seed", name]]
    (found,) = judge(two.astype({name: float}), [claim], ["arm", "seed"])
    if not np.isfinite(found.effect):
        return "-"
    if found.verdict == "not measured":
        return f"{np.expm1(found.effect):+.0%}" if found.is_ratio else f"{found.effect:+.2f}"
    return f"**{found.effect_text()}**" if found.low > 0 or found.high < 0 else found.effect_text()


def shown_arms(table: pd.DataFrame, baseline: str, limit: int) -> list[str]:
    """Return the arms that figures show: all, or the baseline and others spread over the ranks of one number.

    Args:
        table: From `arm_means`.
        baseline: The arm that is always among them.
        limit: How many.
    """
    by = ranked_by(table)
    values = table[by].astype(float) if by else pd.Series(np.arange(len(table), dtype=float), table.index)
    return spread_arms(values, baseline, limit)


def ranked_by(table: pd.DataFrame) -> str:
    """Return the number by whose ranks arms are chosen, "" if there is none."""
    return next((name for start in MAIN[1:] + MAIN[:1] for name in main_columns(table) if name.startswith(start)), "")


def how_many(table: pd.DataFrame, arms: Arms, names: Sequence[str], one_seed: bool) -> str:
    """Say which arms and runs a figure shows where it does not show all."""
    parts = []
    if len(names) < len(arms):
        by = ranked_by(table)
        parts.append(f"{len(names)} of {len(arms)} arms, spread over the ranks of {metric_title(by) if by else 'all'}")
    if one_seed and any(len(runs) > 1 for runs in arms.values()):
        parts.append("the first seed of each arm")
    return f" Shown: {'; '.join(parts)}." if parts else ""


def seeds_of(about: Mapping[str, Mapping[str, object]]) -> dict[str, float]:
    """Return each run's seed, by what is known of it."""
    return {run: float(str(known.get("seed", "nan")) or "nan") for run, known in about.items()}


def arms_about(rows: pd.DataFrame, arms: Arms) -> pd.DataFrame:
    """Return a table of runs with one row an arm: what its runs agree on, their seeds, and mean seconds."""
    out = []
    for arm, runs in arms.items():
        own = rows[rows["run"].isin(list(runs))]
        row = {name: _together(own[name], name) for name in rows.columns if name not in ("run", "id")}
        out.append({"arm": arm, "runs": str(len(own)), **row})
    return pd.DataFrame(out)


def _together(values: pd.Series, name: str) -> str:
    if name in ("seconds", "peak MB"):
        numbers = pd.to_numeric(values, errors="coerce")
        return number(float(numbers.mean()))
    different = list(dict.fromkeys(map(str, values)))
    return ", ".join(different[:8]) + (f" and {len(different) - 8} more" if len(different) > 8 else "")
