"""The monitor is quiet while nothing happens and speaks before a run is lost."""

import json
import math
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from dynamics.record import RowTable, StepRecord, no_rows
from dynamics.training.monitor import PATIENCE, WARM_UP, Alarm, Monitor, remembering

NOBODY = RowTable(torch.zeros(0, dtype=torch.bool), *torch.zeros(7, 0, dtype=torch.float64))


@dataclass
class Shown(StepRecord):
    """A step whose means by gap are given, not computed."""

    values: dict[str, float] = field(default_factory=dict)

    @property
    def by_gap(self) -> dict[str, float]:
        return self.values


def record(step: int, values: dict[str, float], grad_norm: float = 1.0) -> StepRecord:
    nothing = dict.fromkeys(
        ("loss", "raw_v", "raw_u", "weighted_v", "weighted_u", "total_v_weight", "total_u_weight", "du_dt_norm"), 0.0
    )
    table = {"gap_count": [], "rows": NOBODY, "cells": no_rows()}
    return Shown(step=step, **nothing, **table, grad_norm=grad_norm, values=values)


def alarms(values: np.ndarray, monitor: Monitor | None = None, first: int = 0) -> list[Alarm]:
    """Show a monitor a series (or several, [step, series])."""
    monitor = monitor or Monitor(10.0)
    table = values.reshape(len(values), -1).tolist()
    shown = (record(first + i, {f"series {j}": x for j, x in enumerate(row)}) for i, row in enumerate(table))
    return [alarm for r in shown for alarm in monitor.observe(r)]


@pytest.mark.parametrize("noise", ["laplace", "one row of chi-square", "gauss"])
def test_quiet_on_twenty_thousand_stationary_steps(noise: str) -> None:
    """Fourteen series, so noisy that single values exceed the factor again and again."""
    draw, size = np.random.default_rng(0), (20_000, 14)
    log = {
        "laplace": lambda: draw.laplace(0, 1.0, size),
        "one row of chi-square": lambda: np.log(draw.chisquare(1, size)),
        "gauss": lambda: draw.normal(0, 1.5, size),
    }[noise]()
    if noise != "one row of chi-square":
        assert (log > math.log(10)).sum() > 1000
    assert alarms(np.exp(log)) == []


@pytest.mark.parametrize("growth", [1.01, 1.1, 2.0, 1e4])
def test_an_explosion_is_seen_long_before_it_overflows(growth: float) -> None:
    draw = np.random.default_rng(1)
    log = draw.normal(0, 0.3, 12_000)
    log[2000:] += math.log(growth) * np.arange(10_000)
    overflow = 2000 + math.ceil(math.log(3e38) / math.log(growth))
    (found, *_) = alarms(np.exp(np.minimum(log, 600)))
    assert 2000 < found.step < 2000 + (overflow - 2000) * (0.6 if growth > 1000 else 0.15)
    assert found.usual == pytest.approx(1, rel=1.0 if growth < 1.05 else 0.2)


def test_what_falls_or_rises_a_little_is_no_alarm() -> None:
    steps = np.arange(5000)
    assert alarms(np.exp(5 - steps / 200)) == []
    assert alarms(np.where(steps < 2000, 1.0, 9.0)) == []
    assert len(alarms(np.where(steps < 2000, 1.0, 11.0))) == 1


def test_a_network_that_starts_at_zero_is_no_alarm() -> None:
    steps = np.arange(3000)
    rise = np.where(steps == 0, 0.0, np.minimum(1e-3 * np.exp(steps / 10), 1.0))
    assert rise.max() / rise[1] > 900
    assert alarms(rise) == []


def test_only_what_lasts_and_once_until_it_has_come_back() -> None:
    def bump(length: int) -> list[float]:
        return [1.0] * 300 + [100.0] * length

    assert alarms(np.array([*bump(PATIENCE - 1), 1.0])) == []
    found = alarms(np.array([*bump(50), *bump(50)]))
    assert [alarm.step for alarm in found] == [300 + PATIENCE - 1, 650 + PATIENCE - 1]
    assert found[0].value == 100
    assert "series 0 is 100, " in str(found[0])
    assert alarms(np.array([1.0] * (WARM_UP - 20) + [100.0] * 20 + [1.0] * 200)) == []


def test_the_gradient_is_watched_too() -> None:
    monitor = Monitor(10.0)
    found = [a for i in range(400) for a in monitor.observe(record(i, {}, grad_norm=1.0 if i < 300 else 1e3))]
    assert [(a.step, a.series) for a in found] == [(300 + PATIENCE - 1, "gradient norm")]


def test_a_monitor_goes_on_bitwise_where_another_left_off() -> None:
    draw = np.random.default_rng(2)
    values = np.exp(draw.normal(0, 0.5, (1200, 2)))
    values[700:710] *= 1e3
    values[900:] *= 1e6
    whole = alarms(values)
    assert len(whole) == 4
    for at in (1, 699, 702, 705, 903, 1000):
        first = Monitor(10.0)
        before = alarms(values[:at], first)
        second = remembering(10.0, json.loads(json.dumps(first.remembered())))
        assert before + alarms(values[at:], second, first=at) == whole
