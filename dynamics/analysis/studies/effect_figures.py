"""What was claimed and what came out, as a figure."""

from collections.abc import Sequence
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from dynamics.analysis.figure_style import PAGE_WIDTH, Colour, new_figure, styled
from dynamics.analysis.studies.verdicts import LEVEL, Finding
from dynamics.options import invalid

MARKS = {
    "supported": ("#029e73", "o"),
    "opposite": ("#d55e00", "X"),
    "no effect": ("#0173b2", "s"),
    "undecided": ("0.45", "D"),
}
EXPECTED = "#56b4e9"


@styled
def effects(findings: Sequence[Finding]) -> Figure:
    """Draw the effect of every claim with its interval, shaded on the expected side, darker where there is no effect.

    Args:
        findings: From `findings` or `judge`. Ratios have a logarithmic axis; differences of cosines, and cosines that
            are compared with a number, a panel of their own.

    Raises:
        ValueError: There are no findings.
    """
    if not findings:
        raise invalid("findings", [], "one finding or more", "pass the findings of an experiment that makes claims")
    kinds = [(f.is_ratio, not f.is_ratio and f.claim.than is not None) for f in findings]
    parts = [[f for f, own in zip(findings, kinds, strict=True) if own == kind] for kind in sorted(set(kinds))[::-1]]
    figure = new_figure("Does each claim come out as it was stated?", PAGE_WIDTH, 1.5 + 0.42 * len(findings))
    grid = figure.subplots(len(parts), 1, squeeze=False, height_ratios=[len(part) + 0.8 for part in parts])[:, 0]
    for ax, part in zip(grid, parts, strict=True):
        _forest(ax, part)
    handles: list[Any] = [
        Line2D([], [], color=colour, marker=marker, label=verdict)
        for verdict, (colour, marker) in MARKS.items()
        if any(finding.verdict == verdict for finding in findings)
    ]
    handles.append(Patch(color=EXPECTED, alpha=0.15, label="the expected side"))
    handles.append(Patch(color="0.5", alpha=0.25, label="no effect"))
    note = f"bar: {LEVEL:.0%} interval of each claim; colour: verdict among all claims of the question"
    figure.legend(handles=handles, loc="outside lower center", ncols=4, title=note)
    return figure


def _forest(ax: Axes, part: Sequence[Finding]) -> None:
    """Draw findings of one kind; the line is no difference, or for a cosine the number that it is compared with."""
    is_ratio, shifts = part[0].is_ratio, [0.0 if f.is_ratio else f.claim.than or 0.0 for f in part]
    rows = [np.add(shift, (0.0, f.effect, f.low, f.high)) for f, shift in zip(part, shifts, strict=True)]
    ends = np.array([*rows, [-0.05] * 4, [0.05] * 4])
    low, high = np.nanmin(ends[np.isfinite(ends)]), np.nanmax(ends[np.isfinite(ends)])
    low, high = low - 0.06 * (high - low), high + 0.06 * (high - low)
    for place, (finding, (reference, mean, first, last)) in enumerate(zip(part, rows, strict=True)):
        start, end = (low, reference) if finding.claim.expected == "lower" else (reference, high)
        ax.add_patch(Rectangle((start, place - 0.4), end - start, 0.8, color=EXPECTED, alpha=0.08, linewidth=0))
        width = finding.claim.equivalence
        ax.add_patch(Rectangle((reference - width, place - 0.4), 2 * width, 0.8, color="0.5", alpha=0.2, linewidth=0))
        ax.plot([reference] * 2, [place - 0.5, place + 0.5], color="0.35", linewidth=1)
        text = finding.effect_text() if finding.verdict in MARKS else "not measured"
        ax.text(1.02, place, text, transform=ax.get_yaxis_transform(), va="center", fontsize=8.5)
        if finding.verdict in MARKS:
            bar = pd.Series({"mean": mean, "low": first, "high": last}).clip(low, high)  # censored: beyond the frame
            interval_bar(ax, bar, place, *MARKS[finding.verdict], flat=True)
    texts = [("second look: " if f.claim.post_hoc else "") + f.claim.text for f in part]
    ax.set(xlim=(low, high), ylim=(len(part) - 0.4, -0.6), yticks=range(len(part)))
    ax.set_yticklabels([fill(text, 48) for text in texts], fontsize=8.5)
    ax.grid(axis="y", visible=False)
    if not is_ratio:
        ax.set_xlabel("difference of cosines" if part[0].claim.than is None else "cosine")
    elif max(-low, high) > np.log(3):
        numbers = (1, 2, 5) if high - low < 3.5 else (1, 3) if high - low < 6 else (1,)
        ratios = [10.0**k * number for k in range(-4, 5) for number in numbers]
        ax.xaxis.set_major_locator(FixedLocator(np.log(ratios).tolist()))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"x{np.exp(x):.2g}"))
        ax.set_xlabel("ratio")
    else:
        percents = MaxNLocator(7).tick_values(100 * np.expm1(low), 100 * np.expm1(high))
        ax.xaxis.set_major_locator(FixedLocator([np.log1p(p / 100) for p in percents if p > -100]))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * np.expm1(x):+.0f}%" if abs(x) > 1e-9 else "0"))
        ax.set_xlabel("effect")


def interval_bar(ax: Axes, row: pd.Series, place: float, colour: Colour, marker: str, flat: bool = False) -> None:
    """Draw a mean and its interval at a place on the x axis, or, flat, on the y axis."""
    ends = np.nan_to_num([[row["mean"] - row["low"]], [row["high"] - row["mean"]]]).clip(0)  # several looks share less
    style: dict[str, Any] = {"color": colour, "capsize": 2.5, "elinewidth": 1.4}
    if flat:
        ax.errorbar(row["mean"], place, xerr=ends, fmt=marker, **style)
    else:
        ax.errorbar(place, row["mean"], yerr=ends, fmt=marker, **style)
