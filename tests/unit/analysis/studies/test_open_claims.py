from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from dynamics.analysis import Claim, SpeedUp, judge
from dynamics.analysis.studies.open_claims import open_claims, runs_compared

AXES = ["arm", "seed"]
CLEAR, NOTHING, UNSURE = -0.3, 0.0, 0.06
"""True effects; the noise below leaves the last one undecided."""


def claim(arm: str, *, primary: bool = False, post_hoc: bool = False, metric: str = "v_error") -> Claim:
    return Claim(arm, metric, {"arm": arm}, "lower", {"arm": "base"}, primary=primary, post_hoc=post_hoc)


def still_open(primary: float | None, component: float, *more: Claim) -> list[str]:
    """Return the open claims of a family after five of fifteen seeds."""
    steps = np.array([-1.0, 1.0, 0.0, 1.0, -1.0])
    effects = {"base": 0.0, "whole": primary or 0.0, "part": component}
    noise = {arm: 0.05 * (effect == UNSURE) for arm, effect in effects.items()}
    rows = [
        (arm, seed, np.exp(effect + noise[arm] * steps[seed] + 0.001 * ((seed * 7 + len(arm)) % 5)), np.nan)
        for arm, effect in effects.items()
        for seed in range(5)
    ]
    claims = [*([claim("whole", primary=True)] if primary is not None else []), claim("part"), *more]
    table = pd.DataFrame(rows, columns=[*AXES, "v_error", "one_step_error"])
    return [finding.claim.text for finding in open_claims(judge(table, claims, AXES, looks=(5, 10, 15)))]


@pytest.mark.parametrize(
    ("primary", "component", "left"),
    [
        (None, CLEAR, []),
        (None, NOTHING, []),
        (None, UNSURE, ["part"]),
        (CLEAR, CLEAR, []),
        (CLEAR, UNSURE, ["part"]),
        (UNSURE, CLEAR, ["whole", "part"]),  # it waits for the primary claim, and its runs go on
        (UNSURE, NOTHING, ["whole"]),
        (NOTHING, UNSURE, ["part"]),  # it may still have no effect
        (NOTHING, CLEAR, []),  # and this one has one, which nobody will ever be allowed to say
    ],
)
def test_what_more_seeds_may_decide_is_open(primary: float | None, component: float, left: list[str]) -> None:
    assert still_open(primary, component) == left


def test_second_looks_and_what_was_not_measured_hold_up_nothing() -> None:
    look, missing = claim("part", post_hoc=True), claim("part", metric="one_step_error")
    assert still_open(None, UNSURE, look, missing) == ["part"]
    assert still_open(None, CLEAR, claim("gone")) == []


def test_a_claim_of_a_size_does_not_wait_for_a_direction_that_will_not_come() -> None:
    sized = replace(claim("part"), text="sized", by=0.02)
    assert still_open(NOTHING, UNSURE, sized) == ["part"], "it has no region of no effect either"
    assert still_open(UNSURE, UNSURE, sized) == ["whole", "part", "sized"]


def test_both_sides_of_a_comparison_go_on() -> None:
    rows = [(f"{arm}{steps:g}", arm, f"{steps:g}") for arm in "abc" for steps in (100.0, 200.0)]
    labels = pd.DataFrame(rows, columns=["run", "arm", "steps"]).set_index("run")
    arm, other = {"arm": "b"}, {"arm": "a"}
    assert runs_compared(labels, Claim("", "v_error", arm, "lower", other)) == ["a100", "a200", "b100", "b200"]
    assert runs_compared(labels, Claim("", "v_error", arm | {"steps": 100}, "lower", other)) == ["a100", "b100"]
    assert runs_compared(labels, Claim("", "v_error", arm, "lower", relative_to="v_error_start")) == ["b100", "b200"]
    assert runs_compared(labels, Claim("", "v_error", arm, "lower", than=1.0)) == ["b100", "b200"]
    assert runs_compared(labels, SpeedUp("", "v_error", arm, "lower", other, at=200)) == ["a200", "b100", "b200"]
