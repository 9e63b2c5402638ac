"""What a run is worth by the length of its average: so that no comparison hangs on one length.

Runs with snapshots of their averages are evaluated at several lengths (`dynamics evaluate --ema-length`), and arms are
compared at each one's best length and at equal length. The length is the standard deviation of the average's profile as
a share of training (2312.02696).
"""

from collections.abc import Iterator, Sequence
from textwrap import fill

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from dynamics.analysis.figure_style import (
    PAGE_WIDTH,
    band,
    check_known,
    line_legend,
    log_axis,
    log_places,
    new_figure,
    palette,
    styled,
)
from dynamics.analysis.report.summary_table import sample_group, sampled_groups
from dynamics.analysis.run_groups import attribute, group
from dynamics.analysis.seed_arms import SEEDS_NOTE
from dynamics.analysis.studies.claims import is_ratio
from dynamics.analysis.studies.seed_means import Names, arm_names, column_words, over_seeds
from dynamics.analysis.studies.study_table import study
from dynamics.options import invalid

HIGHER_IS_BETTER = ("accuracy", "precision", "recall", "is_")
"""How the names of metrics begin that are better when higher."""


def by_ema_length(tree: xr.DataTree, axes: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
    """Return a row a run, length of its average and metric.

    Args:
        tree: Merged runs that were evaluated with `ema_length` (`dynamics.open_results`).
        axes: Names of the experiment's axes, seed among them.
        metrics: Columns of `study` that an evaluation has, such as one_step_error and fd_u_nfe1.

    Returns:
        Columns run, the axes, protocol (how it was measured apart from the length), ema_length, metric, value; what a
        run lacks is left out.

    Raises:
        ValueError: Nothing was evaluated at a length, or there is no such axis or metric.
    """
    parts, known = [], set[str]()
    for name in sampled_groups(tree):
        ds = group(tree, name)
        about = pd.DataFrame(
            {key: attribute(ds, name, key) for key in ("ema_length", "protocol")},
            pd.Index([str(run) for run in ds.run.values], name="run"),
        )
        if about.ema_length.isna().all():
            continue
        alone = xr.DataTree.from_dict({"/": xr.Dataset(attrs=tree.attrs), f"/{sample_group(name)}": ds})
        table = study(alone, axes).join(about.rename(columns={"protocol": "said"}))
        table["protocol"] = [
            str(text).replace(f"_length{length}", "") for text, length in zip(table.said, table.ema_length, strict=True)
        ]
        keys, there = [*axes, "protocol", "ema_length"], [metric for metric in metrics if metric in table]
        known |= {column for column in map(str, table) if column not in (*keys, "said")}
        parts.append(table.reset_index().melt(["run", *keys], there, "metric", "value"))
    if not parts:
        remedy = "dynamics evaluate DIR --ema-length 0.03 0.05 0.1, of runs with --training.ema-lengths"
        raise invalid("groups", sorted(tree.children), "evaluations with an ema_length", remedy)
    out = pd.concat(parts, ignore_index=True).dropna(subset=["ema_length", "value"])
    for metric in metrics:
        check_known("metric", metric, sorted(known))
    return out


def at_best_length(frame: pd.DataFrame, axes: Sequence[str]) -> pd.DataFrame:
    """Return each metric of every run at its arm's best length, as `study` has them.

    The length is chosen on the arm's other seeds, so that a run's own luck does not choose it; a single seed chooses
    its own. All are measured on the same rows: what is peculiar to these can still favour a length, for every arm.

    Args:
        frame: From `by_ema_length`.
        axes: Names of the experiment's axes, seed among them.

    Returns:
        Index run; the axes, each metric, and its length as `<metric>_ema_length`.

    Raises:
        ValueError: The frame holds several protocols.
    """
    chosen = []
    for _, own in _arms(frame, axes):
        for seed in dict.fromkeys(own.seed):
            others = own[own.seed != seed] if len(set(own.seed)) > 1 else own
            chosen.append(own[(own.seed == seed) & (own.ema_length == best_length(others))])
    return _as_study(pd.concat(chosen), axes)


def at_equal_length(frame: pd.DataFrame, axes: Sequence[str], length: float | None = None) -> pd.DataFrame:
    """Return each metric of every run at one length for all arms, as `at_best_length` does.

    Args:
        frame: From `by_ema_length`.
        axes: Names of the experiment's axes, seed among them.
        length: One that was measured; None takes for each metric that of the best mean over all runs.

    Raises:
        ValueError: The length was not measured, or the frame holds several protocols.
    """
    _one_protocol(frame)
    if length is not None:
        check_known("length", length, sorted(set(frame.ema_length)))
    parts = [own[own.ema_length == (length or best_length(own))] for _, own in frame.groupby("metric", sort=False)]
    return _as_study(pd.concat(parts), axes)


def best_length(own: pd.DataFrame) -> float:
    """Return the length of the best mean over runs, of logs where `is_ratio` says so.

    Args:
        own: Rows of `by_ema_length` of one metric; lengths that some of its runs lack do not count.
    """
    metric = str(own.metric.iloc[0])
    values = own.pivot_table("value", "run", "ema_length").dropna(axis=1)
    if values.empty:
        received = sorted(set(own.ema_length))
        raise invalid("ema_length", received, "a length at which all runs of an arm were measured", "measure it")
    means = (np.log(values) if is_ratio(metric) else values).mean()
    best = means.argmax() if metric.startswith(HIGHER_IS_BETTER) else means.argmin()
    return float(values.columns.to_numpy(float)[int(best)])


@styled
def errors_by_ema_length(frame: pd.DataFrame, metrics: Sequence[str], by: Names) -> Figure:
    """Draw each metric against the length of the average, a line an arm, each arm's best length marked.

    Args:
        frame: From `by_ema_length`.
        metrics: Of the frame, a panel each.
        by: The axis, or several, whose labels are the arms.

    Raises:
        ValueError: There is no such metric or axis, or the frame holds several protocols.
    """
    _one_protocol(frame)
    for metric in metrics:
        check_known("metric", metric, sorted(set(frame.metric)))
    rows = frame.assign(arm=arm_names(frame, by))
    colours = palette(list(dict.fromkeys(rows.arm)))
    figure = new_figure("Does the verdict hang on the length of the average?", PAGE_WIDTH, 4.0)
    for ax, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
        own = rows[rows.metric == metric]
        means = over_seeds(own, ["arm", "ema_length"], is_ratio(metric))
        for arm in dict.fromkeys(own.arm):
            colour = colours[arm]
            line, best = means.loc[arm].sort_index(), best_length(own[own.arm == arm])
            band(ax, line.index, line["mean"], line["low"], line["high"], colour)
            at_end = best in (line.index[0], line.index[-1])  # a better one may lie beyond
            face = "white" if at_end else colour
            ax.plot(best, line["mean"].loc[best], "*", color=colour, markerfacecolor=face, markersize=13, zorder=5)
        ax.set(xlabel="length of the average, share of training", title=fill(column_words(metric), 34))
        log_places(ax, sorted(set(own.ema_length)))
        if is_ratio(metric):
            log_axis(ax)
    line_legend(figure, colours, f"star: best length (hollow: at the end of those measured); band: {SEEDS_NOTE}")
    return figure


def _arms(frame: pd.DataFrame, axes: Sequence[str]) -> Iterator[tuple[object, pd.DataFrame]]:
    """Yield the rows of each metric of each arm."""
    _one_protocol(frame)
    yield from frame.groupby([*(axis for axis in axes if axis != "seed"), "metric"], sort=False)


def _one_protocol(frame: pd.DataFrame) -> None:
    if len(set(frame.protocol)) != 1:
        received = sorted(set(frame.protocol))
        raise invalid("protocol", received, "rows of one", "choose one: frame[frame.protocol == ...]")


def _as_study(chosen: pd.DataFrame, axes: Sequence[str]) -> pd.DataFrame:
    wide = chosen.pivot_table(["value", "ema_length"], ["run", *axes], "metric", sort=False)
    metrics = list(dict.fromkeys(chosen.metric))
    columns = {metric: wide["value", metric] for metric in metrics}
    columns |= {f"{metric}_ema_length": wide["ema_length", metric] for metric in metrics}
    return pd.DataFrame(columns).reset_index([*axes])
