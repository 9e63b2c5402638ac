"""Where a schedule helps and where it harms: the ratio to a baseline by schedule and regime, one panel a metric."""

from collections.abc import Sequence
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter

from dynamics.analysis.figure_style import WIDEST, check_known, new_figure, plain_grid, styled
from dynamics.analysis.studies.claims import Claim, is_ratio
from dynamics.analysis.studies.seed_means import column_words
from dynamics.analysis.studies.verdicts import LEVEL, Finding, judge
from dynamics.options import invalid

MAPPED = ("one_step_error_end", "v_error_end", "excess_fd_u_nfe1", "excess_fd_u_nfe2", "excess_fd_v_nfe32")
"""What a map shows: the error of one step, that of v, and samples of 1, 2 and 32 evaluations."""
DOUBLED = float(np.log(2))
"""Colours end at half and at twice the baseline's value."""
COLOURS = colormaps["RdBu_r"]
SCALE = Normalize(-DOUBLED, DOUBLED, clip=True)
RATIOS = (0.5, 0.6, 0.7, 0.85, 1.0, 1.2, 1.4, 1.7, 2.0)
HATCHED: dict[str, Any] = {"fill": False, "hatch": "////", "linewidth": 0.0}
CELL = (0.5, 0.31)
"""Inches of a cell."""
MARGIN = 2.9
"""Inches beside the panels: names of the rows and the scale of colours."""


@styled
def schedule_map(
    table: pd.DataFrame,
    axes: Sequence[str],
    metrics: Sequence[str] = MAPPED,
    rows: str = "schedule",
    columns: str = "regime",
    baseline: str = "vanilla",
    looks: Sequence[int] = (),
) -> Figure:
    """Draw each schedule's ratio to the baseline in each regime, hatched where the interval over seeds does not decide.

    Regimes stand in the order of the baseline's own first metric, the farthest from convergence first; the baseline's
    own values are the first row of each panel. A cell is judged by itself (see `judge`): plain where it has a direction
    or surely no effect.

    Args:
        table: From `study`.
        axes: The experiment's axes, seed among them.
        metrics: Columns of the table that have a ratio; one that was measured by another protocol (`name@...`) is found
            by its name. Where there is no floor to subtract, the distance itself takes the place of `excess_...`;
            what was not measured has no panel.
        rows: The axis of the schedules.
        columns: The axis of the regimes.
        baseline: The label that the others are compared with.
        looks: Numbers of seeds at which the claims were looked at, see `judge`.

    Raises:
        ValueError: There is no such axis, label or metric, or nothing was measured.
    """
    for axis in (rows, columns):
        check_known("axis", axis, list(axes))
    arms = list(dict.fromkeys(table[rows]))
    check_known("baseline", baseline, arms)
    shown = [column for column in (_column(table, metric) for metric in metrics) if column]
    if not shown:
        raise invalid("metrics", list(metrics), "columns with values", "evaluate the runs, or name other metrics")
    own = {column: _own(table[table[rows] == baseline], columns, column) for column in shown}
    regimes = list(own[shown[0]].sort_values(ascending=False, na_position="last").index)
    arms = [arm for arm in arms if arm != baseline]
    of_panel = 0.25 + CELL[0] * len(regimes)
    across = min(len(shown), max(1, int((WIDEST - MARGIN) / of_panel)))
    down = -(-len(shown) // across)
    height = 1.3 + down * (0.4 + CELL[1] * (len(arms) + 1)) + 0.075 * max(map(len, regimes))
    title = f"Where does each schedule help or harm, beside {baseline}?"
    figure = new_figure(title, MARGIN + across * of_panel, max(height, 3.4))
    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    flat = grid.ravel().tolist()
    for ax, column in zip(flat, shown, strict=False):
        claims = [_claim(column, {rows: arm, columns: regime}, {rows: baseline}) for arm in arms for regime in regimes]
        found = judge(table, claims, axes, looks)
        cells = [found[i * len(regimes) : (i + 1) * len(regimes)] for i in range(len(arms))]
        _panel(ax, own[column].reindex(regimes), cells)
        ax.set_title(column_words(column.partition("@")[0]))
    _label(grid, len(shown), [f"{baseline}: own value", *(fill(arm, 27) for arm in arms)], regimes)
    _explain(figure, flat[: len(shown)], baseline)
    return figure


def _column(table: pd.DataFrame, metric: str) -> str:
    """Return the column of a metric, by whichever protocol it was measured; "" if it has no values."""
    for name in (metric, metric.removeprefix("excess_")):
        columns = [str(column) for column in table if str(column).partition("@")[0] == name]
        if not columns and name == metric:
            check_known("metric", metric, list(map(str, table.columns)))
        measured = [column for column in columns if table[column].notna().any()]
        if measured:
            return measured[0]
    return ""


def _own(mine: pd.DataFrame, columns: str, column: str) -> pd.Series:
    """Return the baseline's mean in each regime, of logs."""
    if not is_ratio(column):
        raise invalid("metric", column, "one with a ratio, such as an error or a distance", "see `grid_heatmap`")
    logs = mine[column].astype(float).map(np.log).groupby(mine[columns], sort=False).mean()
    return logs.map(np.exp)


def _claim(column: str, arm: dict[str, str], against: dict[str, str]) -> Claim:
    return Claim("", column, arm, "lower", against, post_hoc=True)


def _panel(ax: Axes, own: pd.Series, cells: Sequence[Sequence[Finding]]) -> None:
    """Draw the baseline's values and, below them, a row a schedule."""
    for x, value in enumerate(own):
        ax.text(x, 0, _short(value), ha="center", va="center", color="0.3", style="italic")
    for y, row in enumerate(cells, start=1):
        for x, finding in enumerate(row):
            if np.isnan(finding.effect):
                continue
            colour = to_rgb(COLOURS(SCALE(finding.effect)))
            ax.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, edgecolor="white", linewidth=1.5))
            dark = np.dot(colour, (0.3, 0.59, 0.11)) < 0.45
            undecided = finding.verdict not in ("supported", "opposite", "no effect")
            if undecided:
                hatching = "0.75" if dark else "0.55"
                ax.add_patch(Rectangle((x - 0.46, y - 0.42), 0.92, 0.84, **HATCHED, edgecolor=hatching))
            box = {"facecolor": colour, "edgecolor": "none", "boxstyle": "round,pad=0.12"} if undecided else None
            ratio = np.exp(finding.effect)
            text = f"{ratio:.2f}" if ratio < 9.95 else _short(ratio)
            ax.text(x, y, text, ha="center", va="center", fontsize=8.5, color="white" if dark else "0.1", bbox=box)
    ax.axhline(0.5, color="0.35", linewidth=0.8)
    ax.set(xlim=(-0.5, len(own) - 0.5), ylim=(len(cells) + 0.5, -0.5))
    plain_grid(ax)


def _short(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.0f}" if value >= 99.5 else f"{value:.2g}"


def _label(grid: np.ndarray, count: int, names: Sequence[str], regimes: Sequence[str]) -> None:
    """Name the rows at the left, and the columns below all; where no panel is left for a place, in that place."""
    for index, ax in enumerate(grid.ravel()):
        ax.set_xticks(range(len(regimes)), regimes, rotation=90)
        ax.set_yticks(range(len(names)), names)
        ax.tick_params(labelbottom=index < count and index + grid.shape[1] >= grid.size)
        if index >= count:
            for place, regime in enumerate(regimes):
                ax.text(place, -0.4, regime, rotation=90, ha="center", va="top")
            ax.tick_params(labelleft=False)
            plain_grid(ax)
    grid[-1, 0].set_xlabel("far from convergence \N{RIGHTWARDS ARROW} near it")


def _explain(figure: Figure, panels: Sequence[Axes], baseline: str) -> None:
    scale = figure.colorbar(ScalarMappable(SCALE, COLOURS), ax=list(panels), fraction=0.025, pad=0.01, extend="both")
    scale.set_label(f"ratio to {baseline}, below 1 is better")
    scale.ax.yaxis.set_major_locator(FixedLocator(np.log(RATIOS).tolist()))
    scale.ax.yaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{np.exp(x):.2g}"))
    scale.ax.grid(visible=False)
    undecided = Patch(**HATCHED, edgecolor="0.4", label=f"undecided by this cell's own {LEVEL:.0%} interval over seeds")
    figure.legend(handles=[undecided], loc="outside lower center")
