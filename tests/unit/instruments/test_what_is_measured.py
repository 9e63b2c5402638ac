"""Which objective instruments measure, what they record of it, and what they refuse."""

from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
import pytest
import torch
from builders import CPU, NOW, Pieces, recipe, state_of

from dynamics.flow.progress import Progress
from dynamics.flow.rows import Rows
from dynamics.instruments import (
    DecompositionOptions,
    GapsOptions,
    GramOptions,
    InstrumentOptions,
    LookaheadOptions,
    RowGramOptions,
)
from dynamics.models import Network
from dynamics.objectives import (
    TVM,
    Adaptive,
    CorruptedMeanFlow,
    FlowMatching,
    Guidance,
    LossTerms,
    MeanFlow,
    Objective,
    Shortcut,
    SplitMeanFlow,
    squared_error,
)
from dynamics.oracles import Oracle

SMALL = {"num_splits": 2, "rows_per_split": 4, "gap_edges": (0.1, 0.4, 0.9)}
OF_GRADIENTS: dict[str, InstrumentOptions] = {
    "gram": GramOptions.model_validate(SMALL),
    "gram_rows": RowGramOptions(num_rows=6),
    "lookahead": LookaheadOptions.model_validate(SMALL),
    "decomposition": DecompositionOptions.model_validate({**SMALL, "rows_per_bin": 4, "ode_steps": 2}),
}
GAPS = GapsOptions(rows_per_bin=4, by_time=True, t_edges=(0.0, 0.5, 1.0), gap_edges=(0.0, 0.5, 1.0))


class OnlyVelocities(Objective):
    """It trains v, and stands for nothing else."""

    TAKES_GAPS: ClassVar[bool] = False

    kind: Literal["only_velocities_of_tests"] = "only_velocities_of_tests"

    def loss(self, net: Network, rows: Rows, now: Progress) -> LossTerms:
        assert rows.num_gap == 0, "no r < t row may come here"
        return FlowMatching().loss(net, rows, now)

    def truth(self, oracle: Oracle) -> Oracle:
        return oracle

    def measured(self, guidance: Literal["run", "off"]) -> Objective:
        return self


@pytest.mark.parametrize("instrument", OF_GRADIENTS)
def test_gradients_by_gap_need_a_loss_of_gaps(instrument: str) -> None:
    """The refusal comes when the observer is made, before any work, and names what was trained."""
    message = (
        r"instrument of gradients: received 'only_velocities_of_tests'; "
        r"allowed: an objective with a loss for r < t rows.*; remedy: measure its exact errors by gaps"
    )
    with pytest.raises(ValueError, match=message):
        OF_GRADIENTS[instrument].observer(recipe(OnlyVelocities()))


@pytest.mark.parametrize("objective", [Shortcut(), SplitMeanFlow(), TVM()])
def test_parts_are_taken_of_losses_that_have_some(objective: Objective) -> None:
    """The refusal comes when the observer is made, and not at the first measurement."""
    with pytest.raises(ValueError, match=rf"'flow_matching of {objective.kind}'; allowed: an objective whose loss has"):
        OF_GRADIENTS["decomposition"].observer(recipe(objective))


def test_gaps_of_an_objective_without_a_loss_of_gaps() -> None:
    """v has losses and errors; u of r < t rows has errors, and nothing that was never computed."""
    of = recipe(OnlyVelocities())
    state = state_of(of, dtype=torch.float32)
    found = GAPS.observer(of).measure(state)
    names = {str(name).removesuffix("_sem") for name in found.data_vars}
    of_v = {"v_loss", "v_weighted", "v_error", "v_scale", "v_target_norm", "v_irreducible", "v_excess", "v_cross"}
    of_u = {f"{part}_{what}" for part in ("u", "cell", "one_step") for what in ("error", "scale")}
    assert names == of_v | of_u | {"v_covariance", "u_covariance", "one_step_covariance"}
    assert all(bool(np.isfinite(values).any()) for values in found.data_vars.values())
    # the errors are those that any other objective with the same truth would have
    usual = GAPS.observer(recipe()).measure(state)
    for name in [*sorted(of_u), "v_error", "v_scale"]:
        np.testing.assert_allclose(found[name], usual[name], rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(found.v_loss, usual.v_loss, rtol=1e-5)


def test_flow_matching_is_measured_as_the_meanflow_that_it_stands_for() -> None:
    """Its own losses on r = t rows; on the others what u would learn from here."""
    trained = recipe(FlowMatching(adaptive=Adaptive(p=0.5), guidance=Guidance(w=0.5, k=0.3)))
    stands_for, state = recipe(MeanFlow(adaptive=Adaptive(p=0.5))), state_of(trained, dtype=torch.float32)
    for options in (*OF_GRADIENTS.values(), GAPS):
        found, expected = (options.observer(of).measure(state) for of in (trained, stands_for))
        assert found.identical(expected), options.kind
    gram = OF_GRADIENTS["gram"].observer(trained).measure(state)
    assert gram.task_loss.values.tolist() == ["meanflow"] * 3
    assert "u_loss" in GAPS.observer(trained).measure(state)


@pytest.mark.parametrize("guidance", ["run", "off"])
def test_gradients_are_those_of_the_guidance_that_is_asked_for(guidance: str) -> None:
    """Also of a corrupted run: its noise is not measured."""
    guided = Guidance(w=0.5, k=0.4)
    options = GramOptions.model_validate({**SMALL, "guidance": guidance})
    expected_of = recipe(MeanFlow(guidance=guided if guidance == "run" else Guidance()))
    state = state_of(expected_of, dtype=torch.float64)
    expected = GramOptions.model_validate(SMALL).observer(expected_of).measure(state)
    for trained in (MeanFlow(guidance=guided), CorruptedMeanFlow(guidance=guided, level=1.0)):
        found = options.observer(recipe(trained)).measure(state)
        np.testing.assert_allclose(found.gram, expected.gram, rtol=1e-12)


def test_errors_are_measured_of_u_whatever_is_regressed() -> None:
    """A loss that does not hand over u costs a pass of its own; here the regressed is not u."""
    of, plain = recipe(Pieces()), recipe()
    net = state_of(plain, dtype=torch.float32).network("model")
    found, expected = (GAPS.observer(r).errors(net, NOW, CPU) for r in (of, plain))  # type: ignore[attr-defined]
    for name in ("v_error", "u_error", "cell_error", "one_step_error", "v_loss"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, err_msg=name)
    assert not np.allclose(found.u_loss, expected.u_loss)
    assert not found.u_du_dt_norm.any(), "nobody computed one"


def test_an_objective_without_parts_cannot_be_decomposed() -> None:
    of = replace(recipe(), objective=Pieces())
    message = (
        "part of the loss: received 'flow_matching of pieces_of_tests'; allowed: an objective whose loss has parts"
    )
    with pytest.raises(ValueError, match=message):
        OF_GRADIENTS["decomposition"].observer(of).measure(state_of(of, dtype=torch.float32))


class ThroughDerivative(OnlyVelocities):
    """It goes back through a derivative, whose value is u."""

    TAKES_GAPS: ClassVar[bool] = True

    kind: Literal["through_derivative_of_tests"] = "through_derivative_of_tests"  # type: ignore[assignment]

    def loss(self, net: Network, rows: Rows, now: Progress) -> LossTerms:
        z, v = rows.path()
        u, slope = net.jvp(z, rows.t, rows.r, rows.c, dz=v, differentiable=True)
        raw = squared_error(u + slope, v)
        return LossTerms(raw, torch.ones_like(raw.detach()), u + slope, v, u=u)


def test_an_objective_that_goes_back_through_a_derivative_is_measured_without_a_graph() -> None:
    of, options = recipe(ThroughDerivative()), GAPS.model_copy(update={"weights": "model"})
    state = state_of(of, dtype=torch.float32)
    found, expected = (options.observer(each).measure(state) for each in (of, recipe()))
    np.testing.assert_allclose(found.u_error, expected.u_error, rtol=1e-5)
    assert bool(np.isfinite(found.u_loss).all())
    assert all(p.grad is None for p in state.model.parameters())


@pytest.mark.parametrize("weights", ["model", "ema"])
def test_a_measurement_is_of_the_weights_that_are_asked_for(weights: str) -> None:
    of = recipe()
    state = state_of(of, dtype=torch.float32)
    options = GAPS.model_copy(update={"weights": weights})
    probe = options.observer(of)
    expected = probe.errors(state.network(weights), of.progress(state.step))  # type: ignore[attr-defined]
    assert probe.measure(state).identical(expected)
    other = GAPS.model_copy(update={"weights": {"model": "ema", "ema": "model"}[weights]}).observer(of).measure(state)
    assert not np.allclose(other.v_loss, expected.v_loss)
