"""The gradient Gram against brute force: one ordinary backward pass per task, split or row, in float64."""

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from builders import CPU, LAW, Pieces, gradients, recipe, state_of
from torch import Tensor, nn

from dynamics.flow.progress import Progress
from dynamics.flow.rows import Rows
from dynamics.instruments.gram import GramOptions, GramProbe, parts_of, products, task_gram
from dynamics.instruments.group_gradients import Group, collect
from dynamics.instruments.row_gram import RowGramOptions, RowGramProbe
from dynamics.instruments.tasks import WHOLE, Task, binned_tasks, task_rows, velocity_task
from dynamics.models import DiTOptions, MLPOptions, ModelOptions, Network
from dynamics.objectives import Guidance, LossTerms, MeanFlow, Objective
from dynamics.training import TrainState, start

GUIDED = MeanFlow(guidance=Guidance(k=0.5))
RECIPE = recipe(GUIDED, seed=3)
DIT = DiTOptions(dim=16, depth=2, heads=2, patch_size=4)
SMALL = {"gap_edges": (0.1, 0.4, 0.9), "num_splits": 3, "rows_per_split": 5, "guidance": "off"}


def double(rows: Rows) -> Rows:
    return rows.to(CPU, torch.float64)


def brute_gradient(state: TrainState, rows: Rows, objective: Objective, weighted: bool) -> dict[str, Tensor]:
    terms = objective.loss(Network(state.model), double(rows), RECIPE.progress(state.step))
    return gradients(state.model, (terms.raw * (terms.adaptive if weighted else 1)).mean())


@pytest.mark.parametrize("model", [DIT, MLPOptions(dim=12, depth=2)], ids=["dit", "mlp"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"loss": "raw", "rows": "independent", "t_law": "uniform"},
        {"guidance": "run", "t_law": "matched"},
        {"precondition": "adam", "groups": "tensor"},
        {"rows_per_pass": 2},
        {"rows_per_pass": 7},
    ],
    ids=lambda c: ",".join(c.values() if all(isinstance(v, str) for v in c.values()) else map(str, c.values())),
)
def test_gram_is_one_backward_pass_per_task_and_split(model: ModelOptions, changes: dict[str, str]) -> None:
    state = state_of(RECIPE, model)
    options = GramOptions.model_validate({**SMALL, **changes})
    measured = GramProbe(RECIPE, options).measure(state)
    tasks = [velocity_task(options, LAW), *binned_tasks(options, LAW)]
    objective = GUIDED if options.guidance == "run" else MeanFlow()
    gradients = [
        brute_gradient(state, task_rows(task, s, options, RECIPE), objective, options.loss == "adaptive")
        for task in tasks
        for s in range(3)
    ]
    scale = {name: torch.ones_like(p) for name, p in state.model.named_parameters()}
    if options.precondition == "adam":
        for name, p in state.model.named_parameters():
            memory = state.optimizer.state[p]
            scale[name] = 1 / ((memory["exp_avg_sq"] / (1 - 0.95**2)).sqrt() + 1e-8)
    parts = parts_of(list(scale), options.groups)
    assert measured.group.values.tolist() == list(parts)
    for label, names in parts.items():
        rows = [torch.cat([(g[n] * scale[n].sqrt()).flatten() for n in names]) for g in gradients]
        expected = torch.stack(rows) @ torch.stack(rows).T
        got = measured.gram.sel(group=label).values.reshape(9, 9)
        np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-10 * float(expected.abs().max()))
    assert float(measured.product_error.max()) == 0


@pytest.mark.parametrize("model", [DIT, MLPOptions(dim=12, depth=2)], ids=["dit", "mlp"])
@pytest.mark.parametrize("rows_per_pass", [128, 7])
def test_gram_of_an_objective_that_asks_for_some_rows_at_a_time(model: ModelOptions, rows_per_pass: int) -> None:
    """Its gradients also pass through derivatives; of some splits it asks for no rows at all."""
    objective = Pieces()
    of_pieces = replace(RECIPE, objective=objective)
    state, options = state_of(of_pieces, model), GramOptions.model_validate({**SMALL, "rows_per_pass": rows_per_pass})
    probe = GramProbe(of_pieces, options)
    drawn = [task_rows(task, s, options, of_pieces) for task in probe.tasks for s in range(3)]
    late = [int((rows.t[rows.num_equal :] > objective.split).sum()) for rows in drawn]
    assert {0, 5} < set(late), "none, some and all"
    singles = [brute_gradient(state, rows, objective, weighted=True) for rows in drawn]
    table = torch.stack([torch.cat([g.flatten() for g in single.values()]) for single in singles])
    expected = table @ table.T
    found = probe.measure(state).gram.sel(group="model").values.reshape(9, 9)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10 * float(expected.abs().max()))
    rows_probe = RowGramProbe(of_pieces, RowGramOptions(num_rows=6))
    rows = rows_probe.rows()
    singles = [brute_gradient(state, rows.part(i, i + 1), objective, weighted=True) for i in range(6)]
    table = torch.stack([torch.cat([g.flatten() for g in single.values()]) for single in singles])
    np.testing.assert_allclose(rows_probe.measure(state).gram.sel(group="model"), table @ table.T, rtol=1e-9)


def test_an_objective_that_asks_for_all_rows_has_many_groups_in_one_pass() -> None:
    """Else the instrument would cost a pass a group."""
    state, passes = state_of(RECIPE, DIT), list[int]()

    def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if torch.is_grad_enabled():
            passes.append(len(inputs[0]))

    state.model.register_forward_pre_hook(note)
    GramProbe(RECIPE, GramOptions.model_validate(SMALL)).measure(state)
    assert passes == [9 * 5]
    passes.clear()
    of_pieces = replace(RECIPE, objective=Pieces())
    GramProbe(of_pieces, GramOptions.model_validate(SMALL)).measure(state)
    assert max(passes) == 5


class Gained(nn.Module):
    """A network with weights outside of linear and embedding layers."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.gain = inner, nn.Parameter(torch.full((8, 8), 1.3, dtype=torch.float64))

    def forward(self, z: Tensor, t: Tensor, r: Tensor, c: Tensor) -> Tensor:
        out: Tensor = self.gain * self.inner(z, t, r, c)
        return out


def test_weights_of_any_layer_are_measured() -> None:
    state, options = state_of(RECIPE, DIT), GramOptions.model_validate({**SMALL, "groups": "tensor"})
    state = start(Gained(state.model), RECIPE.training, ())
    probe = GramProbe(RECIPE, options)
    measured = probe.measure(state)
    drawn = [task_rows(task, s, options, RECIPE) for task in probe.tasks for s in range(3)]
    singles = [brute_gradient(state, rows, MeanFlow(), weighted=True) for rows in drawn]
    for name in ("gain", "inner.embed.weight"):
        table = torch.stack([single[name].flatten() for single in singles])
        found = measured.gram.sel(group=name).values.reshape(9, 9)
        np.testing.assert_allclose(found, table @ table.T, rtol=1e-9)


def test_weights_that_layers_share_are_measured_as_a_whole() -> None:
    state, options = state_of(RECIPE, DIT), GramOptions.model_validate({**SMALL, "groups": "tensor"})
    first, second = state.model.blocks
    second.mlp_in.weight = first.mlp_in.weight
    state = start(state.model, RECIPE.training, ())
    probe = GramProbe(RECIPE, options)
    drawn = [task_rows(task, s, options, RECIPE) for task in probe.tasks for s in range(3)]
    name = "blocks.0.mlp_in.weight"
    singles = [brute_gradient(state, rows, MeanFlow(), weighted=True)[name].flatten() for rows in drawn]
    found = probe.measure(state).gram.sel(group=name).values.reshape(9, 9)
    np.testing.assert_allclose(found, torch.stack(singles) @ torch.stack(singles).T, rtol=1e-9)


class SecondPass(MeanFlow):
    """Inherits what it must not say of itself: it asks for some rows again."""

    kind: Literal["second_pass_of_tests"] = "second_pass_of_tests"  # type: ignore[assignment]

    def loss(self, net: Network, rows: Rows, now: Progress) -> LossTerms:
        (z, _), terms = rows.path(), super().loss(net, rows, now)
        again = net.velocity(z[:3], rows.t[:3], rows.c[:3])
        return replace(terms, raw=terms.raw + again.square().sum())

    def measured(self, guidance: Literal["run", "off"]) -> Objective:
        return self


class WithSlope(MeanFlow):
    """Inherits what it must not say of itself: it goes back through a derivative of all rows."""

    kind: Literal["with_slope_of_tests"] = "with_slope_of_tests"  # type: ignore[assignment]

    def loss(self, net: Network, rows: Rows, now: Progress) -> LossTerms:
        (z, v), terms = rows.path(), super().loss(net, rows, now)
        _, slope = net.jvp(z, rows.t, rows.r, rows.c, dz=v, differentiable=True)
        return replace(terms, raw=terms.raw + slope.flatten(1).square().sum(1))

    def measured(self, guidance: Literal["run", "off"]) -> Objective:
        return self


@pytest.mark.parametrize(
    ("objective", "received"), [(SecondPass(), "'3 rows'"), (WithSlope(), "'a derivative with gradient'")]
)
def test_an_objective_that_claims_to_ask_for_all_rows_once_is_caught(objective: Objective, received: str) -> None:
    with pytest.raises(
        ValueError, match=rf"pass: received {received}; allowed: .* all 45 rows.*; remedy: leave ONE_PASS"
    ):
        GramProbe(replace(RECIPE, objective=objective), GramOptions.model_validate(SMALL)).measure(
            state_of(RECIPE, DIT)
        )


def test_average_weights_are_another_measurement() -> None:
    state = state_of(RECIPE, DIT)
    raw, ema = (
        GramProbe(RECIPE, GramOptions.model_validate({**SMALL, "weights": w})).measure(state) for w in ("model", "ema")
    )
    assert not np.allclose(raw.gram, ema.gram)
    state.model.load_state_dict(state.emas["0.5"])
    np.testing.assert_allclose(
        GramProbe(RECIPE, GramOptions.model_validate(SMALL)).measure(state).gram, ema.gram, rtol=1e-12
    )


def test_flow_matching_and_consistency_gradients_add_up_to_meanflow() -> None:
    """grad ||u - u_tgt||^2 = grad ||u - v||^2 + grad 2 (t - r) <u, sg du/dt>, for every tensor."""
    state, options = state_of(RECIPE, DIT), GramOptions.model_validate(SMALL)
    task = binned_tasks(options, LAW)[1]
    rows = task_rows(task, 0, options, RECIPE)
    for guidance in ("off", "run"):
        o = options.model_copy(update={"guidance": guidance})
        groups = [Group(rows, loss) for loss in (WHOLE, "flow_matching", "consistency")]
        gradients, losses = collect(state, groups, RECIPE, o)
        for name, (whole, matching, consistency) in gradients.tensors.items():
            difference = float((whole - matching - consistency).abs().max())
            assert difference < 1e-10 * max(1.0, float(whole.abs().max())), name
        assert float(gradients.tensors["final.weight"][2].abs().max()) > 1e-6
        terms = o.objective(GUIDED).loss(Network(state.model), double(rows), RECIPE.progress(state.step))
        gap = (double(rows).t - double(rows).r).view(-1, 1, 1, 1)
        by_hand = 2 * (gap * terms.prediction * terms.du_dt).flatten(1).sum(1).mean()
        assert losses[2] == pytest.approx(by_hand.item(), rel=1e-10)
        v = terms.target + gap * terms.du_dt
        assert losses[1] == pytest.approx((terms.prediction - v).flatten(1).square().sum(1).mean().item(), rel=1e-10)


@pytest.mark.parametrize("t_law", ["training", "uniform"])
def test_row_gram_is_one_backward_pass_per_row(t_law: str) -> None:
    state = state_of(RECIPE, DIT)
    probe = RowGramProbe(RECIPE, RowGramOptions.model_validate({"num_rows": 9, "t_law": t_law, "guidance": "off"}))
    measured, rows = probe.measure(state), probe.rows()
    singles = [brute_gradient(state, rows.part(i, i + 1), MeanFlow(), weighted=True) for i in range(9)]
    table = torch.stack([torch.cat([g.flatten() for g in single.values()]) for single in singles])
    expected = table @ table.T
    np.testing.assert_allclose(
        measured.gram.sel(group="model"), expected, rtol=1e-10, atol=1e-10 * float(expected.abs().max())
    )
    assert (measured.t == measured.r).values.tolist() == [True] * 2 + [False] * 7


def test_sketch_agrees_within_its_stated_error() -> None:
    """Over 40 seeds the squared deviation is the stated variance on average, and never far beyond it."""
    state, options = state_of(RECIPE, MLPOptions(dim=32, depth=2), torch.float32), GramOptions.model_validate(SMALL)
    tasks = [velocity_task(options, LAW), *binned_tasks(options, LAW)]
    exact = task_gram(state, tasks, RECIPE, options, options)

    def product(gram: np.ndarray) -> np.ndarray:  # mean over pairs of different splits
        return (gram.sum((-3, -1)) - np.einsum("...iaja->...ij", gram)) / 6

    sketched = options.model_copy(update={"backend": "sketch", "sketch_size": 128})
    groups = [Group(task_rows(t, s, options, RECIPE), t.loss) for t in tasks for s in range(3)]
    scores = []
    for seed in range(40):
        collected, _ = collect(state, groups, replace(RECIPE, seed=seed), sketched)
        _, gram, error = products(collected, "model", len(tasks))
        deviation = product(gram.reshape(1, 3, 3, 3, 3)) - product(exact.gram.sel(group=["model"]).values)
        scores.append((deviation / error)[0])
    assert np.abs(np.mean(scores)) < 0.3
    assert 0.6 < np.sqrt(np.mean(np.square(scores))) < 1.15
    assert np.max(np.abs(scores)) < 4.5


def test_sketched_rows_state_their_error() -> None:
    state = state_of(RECIPE, MLPOptions(dim=32, depth=2), torch.float32)
    base = {"num_rows": 8, "groups": "model"}
    exact, *sketched = (
        RowGramProbe(RECIPE, RowGramOptions.model_validate({**base, **changes})).measure(state)
        for changes in ({}, {"backend": "sketch", "sketch_size": 128}, {"backend": "sketch", "sketch_size": 512})
    )
    assert float(exact.product_error.max()) == 0
    scores = [((ds.gram - exact.gram) / ds.product_error).values for ds in sketched]
    for score in scores:
        assert np.abs(score).max() < 5
        assert 0.2 < np.sqrt(np.mean(score**2)) < 1.6
    assert float(sketched[1].product_error.mean()) < float(sketched[0].product_error.mean())


def test_any_law_and_loss_can_be_a_task() -> None:
    state, options = state_of(RECIPE, DIT), GramOptions.model_validate(SMALL)
    tasks = [
        velocity_task(options, LAW),
        Task("all gaps", LAW, False, 0.0, 1.0),
        Task("pull", LAW, False, loss="consistency"),
    ]
    measured = task_gram(state, tasks, RECIPE, options, options)
    assert measured.task.values.tolist() == ["v", "all gaps", "pull"]


def test_measuring_leaves_the_state_alone() -> None:
    state = state_of(RECIPE, DIT, torch.float32)
    before = {n: p.detach().clone() for n, p in state.model.named_parameters()}
    torch.manual_seed(0)
    number = torch.get_rng_state()
    GramProbe(RECIPE, GramOptions.model_validate(SMALL)).measure(state)
    assert torch.equal(number, torch.get_rng_state())
    for name, p in state.model.named_parameters():
        assert torch.equal(p, before[name])
        assert p.requires_grad
        assert p.grad is None
    assert not any(m._forward_hooks for m in state.model.modules())
