"""The effect that a claim is about, over the seeds of a study.

Two arms that share a seed share initial weights, data, times and noise. A cell that an arm does not name (a bin, a
strength of guidance) is averaged over.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from dynamics.analysis.studies.claims import Claim, Label, SpeedUp, chosen_runs, is_ratio
from dynamics.estimators import CensoredEffect, Floats, SeedEffect, TwoWay, mean_effect

Cell = Mapping[str, Label]
"""A label on each axis but the seed."""


class StudyEffects:
    """Effects of the claims of one experiment; what all arms say of the noise of a metric is worked out once."""

    def __init__(self, table: pd.DataFrame, axes: Sequence[str]) -> None:
        """Keep a study.

        Args:
            table: From `study`.
            axes: The experiment's axes, `seed` among them.
        """
        self._table, self._axes = table, axes
        self._models: dict[str, tuple[TwoWay, Sequence[Cell]]] = {}

    def of(self, claim: Claim) -> SeedEffect | CensoredEffect:
        """Return a claim's effect: log of the ratio, or the difference where `is_ratio` says so.

        Two arms: contrast of the two-way model arm + seed. An arm against a number or its own start: mean over seeds.
        Lengths: mean over seeds of logs, censored at the shortest and the longest that were trained.
        """
        if isinstance(claim, SpeedUp):
            return _lengths(self._table, claim)
        if claim.than is not None or claim.relative_to is not None:
            return mean_effect(self._against_itself(claim))
        if claim.metric not in self._models:
            self._models[claim.metric] = self._model(claim.metric)
        model, cells = self._models[claim.metric]
        weights = _contrast(model.values, cells, claim)
        return model.effect(weights) if weights.any() else mean_effect(np.empty(0))

    def _model(self, metric: str) -> tuple[TwoWay, Sequence[Cell]]:
        """Return the values [seed, cell of all other axes] as they are compared, and the labels of the cells."""
        rest = [axis for axis in self._axes if axis != "seed"]
        keys = list(zip(*(self._table[axis] for axis in rest), strict=True)) or [()] * len(self._table)
        cells = list(dict.fromkeys(keys))
        seeds = sorted(self._table["seed"].unique())
        frame = pd.DataFrame({"value": _compared(self._table, metric), "seed": self._table["seed"].map(seeds.index)})
        frame["cell"] = [cells.index(key) for key in keys]
        values = frame.pivot_table("value", "seed", "cell").reindex(index=range(len(seeds)), columns=range(len(cells)))
        return TwoWay(values.to_numpy(float)), [dict(zip(rest, cell, strict=True)) for cell in cells]

    def _against_itself(self, claim: Claim) -> Floats:
        mine = self._table[chosen_runs(self._table, claim.arm)]
        values = _compared(mine, claim.metric)
        if claim.relative_to is not None:
            values = values - _compared(mine, claim.relative_to)
        elif claim.than is not None:
            values = values - (np.log(claim.than) if is_ratio(claim.metric) else claim.than)
        return np.asarray(values.dropna().groupby(mine["seed"]).mean(), dtype=np.float64)


def _compared(table: pd.DataFrame, metric: str) -> "pd.Series[float]":
    values = table[metric].astype(float)
    return pd.Series(np.log(values.where(values > 0)), table.index) if is_ratio(metric) else values


def _contrast(values: Floats, cells: Sequence[Cell], claim: Claim) -> Floats:
    """Return the weights of the cells: one side minus the other, over the cells that both sides measured."""
    named = {*claim.arm, *claim.against}
    mine, other = (_side(cells, labels, named) for labels in (claim.arm, {**claim.arm, **claim.against}))
    there = np.isfinite(values)
    shared = [key for key in mine if key in other and (there[:, mine[key]].any(1) & there[:, other[key]].any(1)).any()]
    weights = np.zeros(len(cells))
    for key in shared:
        weights[mine[key]] += 1 / len(shared) / len(mine[key])
        weights[other[key]] -= 1 / len(shared) / len(other[key])
    return weights


def _side(cells: Sequence[Cell], labels: Mapping[str, Label], named: set[str]) -> dict[tuple[Label, ...], list[int]]:
    """Return where the cells with these labels are, by their labels on the axes that the claim leaves out."""
    out: dict[tuple[Label, ...], list[int]] = {}
    for index, cell in enumerate(cells):
        if all(cell[axis] == str(label) for axis, label in labels.items()):
            out.setdefault(tuple(cell[axis] for axis in cell if axis not in named), []).append(index)
    return out


def _lengths(table: pd.DataFrame, claim: SpeedUp) -> SeedEffect | CensoredEffect:
    """Return the log of the ratio of steps, by log-log interpolation between the lengths that were trained."""
    curves = {}
    for seed, rows in table.groupby("seed"):
        mine, other = (_curve(rows, labels, claim) for labels in (claim.arm, {**claim.arm, **claim.against}))
        if len(mine) and claim.at in other.index:
            curves[seed] = mine, float(other[claim.at])
    most = max((len(mine) for mine, _ in curves.values()), default=0)
    values, ends = [], (np.nan, np.nan)
    for mine, target in (curve for curve in curves.values() if len(curve[0]) == most):
        steps = np.log(mine.index.to_numpy(float)) - np.log(claim.at)
        ends = float(steps[0]), float(steps[-1])
        best = np.minimum.accumulate(mine.to_numpy(float))
        # where the falling curve meets the target; beyond its ends the shortest or the longest run, which is censored
        values.append(np.interp(target, best[::-1], steps[::-1]))
    return CensoredEffect(np.array(values), *ends) if len(values) > 1 else mean_effect(np.array(values))


def _curve(rows: pd.DataFrame, labels: Mapping[str, Label], claim: SpeedUp) -> pd.Series:
    chosen = rows[chosen_runs(rows, labels)]
    values = pd.Series(_compared(chosen, claim.metric).to_numpy(float), chosen[claim.along].astype(float))
    return values.dropna().groupby(level=0).mean().sort_index()
