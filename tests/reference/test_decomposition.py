"""Decompositions: exact sums, and closed forms on a Gaussian."""

import numpy as np
import pytest
import torch
from builders import CPU, NOW, recipe, state_of
from test_gram import DIT, RECIPE, SMALL

from dynamics.instruments.decomposition import DecompositionOptions, DecompositionProbe, own_average
from dynamics.instruments.gaps import GapProbe, GapsOptions
from dynamics.models import Network
from dynamics.objectives import Guidance, MeanFlow
from dynamics.oracles import GaussianOracle

OPTIONS = DecompositionOptions.model_validate({**SMALL, "rows_per_bin": 4, "t_edges": (0.1, 0.5, 1.0)})
DATA = RECIPE.data


def test_parts_add_up() -> None:
    measured = DecompositionProbe(RECIPE, OPTIONS).measure(state_of(RECIPE, DIT, torch.float32))
    np.testing.assert_allclose(
        measured.v_loss, measured.v_irreducible + measured.v_excess + measured.v_cross, rtol=1e-6
    )
    for part in ("u", "one_step"):
        total = measured[f"{part}_inconsistency"] + measured[f"{part}_inherited"] + measured[f"{part}_error_cross"]
        np.testing.assert_allclose(measured[f"{part}_error"], total, rtol=1e-6)
    assert measured.task.values.tolist() == [
        f"{force} {low}-{high}" for force in ("matching", "consistency") for low, high in ((0.1, 0.4), (0.4, 0.9))
    ]


@pytest.mark.parametrize(("t", "r"), [(1.0, 0.0), (0.7, 0.4), (0.2, 0.1)])
def test_own_average_of_an_exact_v_is_the_exact_u(t: float, r: float) -> None:
    oracle = GaussianOracle(0.4)
    z = torch.randn(5, 1, 2, 2, dtype=torch.float64)
    times = [torch.full((5,), a, dtype=torch.float64) for a in (t, r)]
    y = torch.zeros(5, dtype=torch.long)

    def v_only(z: torch.Tensor, t: torch.Tensor, r: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        assert torch.equal(t, r), "only the instantaneous velocity may be asked for"
        return oracle.v(z, t)

    errors = [
        float((own_average(v_only, z, times[0], times[1], y, n) - oracle.u(z, *times)).abs().max()) for n in (8, 16, 32)
    ]
    assert errors[2] < 1e-5
    assert errors[0] > 8 * errors[1] > 64 * errors[2]  # order four, and at least three


def test_a_network_that_contradicts_itself_and_one_that_inherits() -> None:
    """Exact v, wrong u: all of the error is inconsistency. u that agrees with a wrong v: all of it is inherited."""
    probe = DecompositionProbe(recipe(), OPTIONS.model_copy(update={"ode_steps": 64}))
    oracle = DATA.oracle()

    def contradicts(z: torch.Tensor, t: torch.Tensor, r: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        exact = oracle.v(z, t, c) if torch.equal(t, r) else oracle.u(z, t, r, c)
        return exact + (t - r).view(-1, 1, 1, 1)

    wrong = probe.errors_of_u(Network(contradicts), CPU)
    np.testing.assert_allclose(wrong.one_step_error, 64.0, rtol=1e-4)
    np.testing.assert_allclose(wrong.u_inconsistency, wrong.u_error, rtol=0.05)
    assert float((wrong.u_inherited / wrong.u_error).max()) < 1e-3

    def inherits(z: torch.Tensor, t: torch.Tensor, r: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return torch.full_like(z, 0.3)

    consistent = probe.errors_of_u(Network(inherits), CPU)
    assert float(consistent.u_inconsistency.max()) < 1e-8
    np.testing.assert_allclose(consistent.u_inherited, consistent.u_error, rtol=1e-5)


def test_irreducible_part_of_a_guided_target_is_its_variance() -> None:
    """Over many draws of the target at one z: its variance is w^2 that of v, and the network's own terms add none."""
    objective = MeanFlow(guidance=Guidance(w=0.6, k=0.3, t_start=0.3, t_end=0.8))
    options = GapsOptions(rows_per_bin=300, t_edges=(0.0, 0.25, 0.35, 0.7, 0.9), gap_edges=(0.0, 1.0))
    net = Network(state_of(RECIPE, DIT, torch.float32).model)
    measured = GapProbe(recipe(objective), options).errors(net, NOW)
    assert np.abs(measured.v_cross / measured.v_cross_sem).max() < 4
    assert (measured.v_cross_sem / measured.v_loss).max() < 0.1
    free = GapProbe(recipe(), options).errors(net, NOW)
    ratio = (measured.v_irreducible / free.v_irreducible).values
    np.testing.assert_allclose(ratio[[0, 2]], [1.0, 0.36], rtol=1e-5)
    assert 0.36 < ratio[1] < 1
    np.testing.assert_allclose(free.v_excess, free.v_error, rtol=1e-5)


def test_cells_hold_rows_of_their_time_and_gap() -> None:
    options = GapsOptions(rows_per_bin=16, by_time=True, t_edges=(0.0, 0.3, 0.6, 1.0), gap_edges=(0.0, 0.2, 0.5, 1.0))
    probe = GapProbe(recipe(), options)
    assert options.cells == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)]
    where, _ = probe.parts["cell"]
    t, r = (a[where].view(-1, 16) for a in (probe.rows.t, probe.rows.r))
    for (i, j), t_row, r_row in zip(options.cells, t, r, strict=True):
        assert options.t_edges[i] <= float(t_row.min()) <= float(t_row.max()) <= options.t_edges[i + 1]
        gap = t_row - r_row
        assert options.gap_edges[j] - 1e-6 <= float(gap.min()) <= float(gap.max()) <= options.gap_edges[j + 1] + 1e-6
    net = state_of(RECIPE, DIT, torch.float32).network("model")
    measured = probe.errors(net, NOW)
    assert np.isnan(measured.cell_error.values).tolist() == [[False, False, True], [False] * 3, [False] * 3]
    plain = GapProbe(recipe(), options.model_copy(update={"by_time": False}))
    assert "cell_error" not in plain.errors(net, NOW)
