"""Edges and errors of the objectives, what they ask of the network, and the compiled derivative."""

import math
from dataclasses import replace
from functools import partial
from typing import Literal

import pytest
import torch
from builders import LABELS, NOW, SHAPE, Counting, Pieces, batch, gradients, network

from dynamics.flow.condition import ClassLabels
from dynamics.flow.path import expand
from dynamics.flow.progress import Progress
from dynamics.flow.rows import Rows
from dynamics.models import DiTOptions, MLPOptions, Network, build, directional_derivative
from dynamics.objectives import Adaptive, FlowMatching, Guidance, LossTerms, MeanFlow, Objective
from dynamics.oracles import GuidedOracle, MixtureOracle

NO_DROP = Guidance(label_drop_prob=0)


def rows_of(num_rows: int, num_gap: int, guidance: Guidance = NO_DROP) -> Rows:
    return guidance.drop_conditions(batch(num_rows, num_gap), seed=0, step=0)


@pytest.mark.parametrize(
    ("guidance", "without"),
    [
        (Guidance(label_drop_prob=0), []),
        (Guidance(k=0.5, label_drop_prob=0), [16 + 4]),  # v_unc of all rows, v_con of r < t rows
        (Guidance(w=0.5, k=0.5, label_drop_prob=0), [4]),  # weight of v_unc is zero
        (Guidance(w=2.0, label_drop_prob=0), [16]),  # weight of v_con is zero
    ],
)
def test_an_objective_asks_only_for_what_it_needs(guidance: Guidance, without: list[int]) -> None:
    """One gradient pass of all rows, the derivative on r < t rows only, guidance in one pass."""
    counting = Counting(network())
    MeanFlow(guidance=guidance).loss(counting, rows_of(16, 4), NOW)
    assert counting.reached == {"gradient": [16], "jvp": [4], "jvp with gradient": [], "frozen": without}


def test_dropped_rows_ask_for_no_guidance() -> None:
    guidance = Guidance(k=0.5, label_drop_prob=0.5)
    rows, counting = rows_of(16, 4, guidance), Counting(network())
    MeanFlow(guidance=guidance).loss(counting, rows, NOW)
    kept = int((~rows.dropped).sum())
    assert counting.reached["frozen"] == [kept + int((~rows.dropped[12:]).sum())]
    assert 0 < kept < 16


@pytest.mark.parametrize("guidance", [Guidance(k=0.5), Guidance(w=0.5, k=0.5), Guidance(w=2.0), Guidance()])
def test_the_sequence_of_calls_never_depends_on_the_rows(guidance: Guidance) -> None:
    """Ranks that split the weights meet in every call, whichever rows each has: also none, or only dropped ones."""
    sequences = set()
    for num_gap, dropped in ((4, 0), (4, 16), (0, 0), (16, 0), (16, 16), (0, 16), (4, 12)):
        rows = batch(16, num_gap)
        rows, counting = rows.drop(torch.arange(16) < dropped), Counting(network())
        MeanFlow(guidance=guidance).loss(counting, rows, NOW)
        sequences.add(tuple(kind for kind, _ in counting.calls))
    expected = ("frozen", "jvp", "gradient") if guidance.active else ("jvp", "gradient")
    assert sequences == {expected}


def test_guidance_asks_once_even_if_every_label_was_dropped() -> None:
    guidance, counting = Guidance(k=0.5), Counting(network())
    rows = batch(4, 2).drop(torch.ones(4, dtype=torch.bool))
    v_unc, v_con = guidance.velocities(counting, rows, rows.x)
    assert counting.calls == [("frozen", 0)]
    assert not v_unc.any()
    assert not v_con.any()
    assert v_unc.shape == v_con.shape == rows.x.shape


def test_guidance_asks_for_the_velocities_of_its_rows() -> None:
    """v_unc of all rows whose label was kept, v_con of those with r < t; zero elsewhere."""
    net, rows = network(), batch(16, 4).drop(torch.arange(16) % 3 == 0)
    z, _ = rows.path()
    v_unc, v_con = Guidance(k=0.5).velocities(Network(net), rows, z)
    with torch.no_grad():
        null = torch.full_like(rows.c, LABELS.num_classes)
        of_null, of_label = net(z, rows.t, rows.t, null), net(z, rows.t, rows.t, rows.c)
    kept, is_gap = ~rows.dropped, torch.arange(16) >= 12
    for found, expected, where in ((v_unc, of_null, kept), (v_con, of_label, kept & is_gap)):
        torch.testing.assert_close(found[where], expected[where], rtol=1e-12, atol=1e-12)
        assert not found[~where].any()
        assert not found.requires_grad
        assert 0 < int(where.sum()) < 16


def test_without_gap_rows_nothing_is_differentiated() -> None:
    counting = Counting(network())
    terms = MeanFlow().loss(counting, rows_of(4, 0), NOW)
    assert counting.reached["jvp"] == []
    assert terms.du_dt is not None
    assert len(terms.du_dt) == 0
    assert terms.du_dt_norm.tolist() == [0] * 4
    assert terms.raw.shape == terms.target_norm.shape == (4,)


@pytest.mark.parametrize(("t", "r"), [(0.0, 0.0), (1.0, 1.0), (1.0, 0.0), (1e-6, 0.0)])
def test_edges_of_time_are_finite(t: float, r: float) -> None:
    net, rows = network(dtype=torch.float32), batch(4, 4, dtype=torch.float32)
    rows = replace(rows, t=torch.full((4,), t), r=torch.full((4,), r))
    terms = MeanFlow(guidance=Guidance(k=0.5)).loss(Network(net), rows, NOW)
    (terms.raw * terms.adaptive).mean().backward()
    assert all(bool(p.grad.isfinite().all()) for p in net.parameters() if p.grad is not None)


def test_losses_are_sums_over_channels_and_pixels() -> None:
    """At initialisation u = 0, so an r = t row's loss is ||e - x||^2."""
    model, rows = build(MLPOptions(dim=16, depth=1), SHAPE, LABELS, seed=0).double(), rows_of(6, 0)
    raw = MeanFlow().loss(Network(model), rows, NOW).raw
    torch.testing.assert_close(raw.detach(), (rows.e - rows.x).square().sum((1, 2, 3)))


@pytest.mark.parametrize(("p", "expected"), [(0.0, 1.0), (0.5, 0.5), (1.0, 0.25)])
def test_adaptive_weight(p: float, expected: float) -> None:
    raw = torch.tensor([3.99], dtype=torch.float64, requires_grad=True)
    weight = Adaptive(p=p).weight(raw)
    assert float(weight) == pytest.approx(expected)
    assert not weight.requires_grad


def test_a_full_adaptive_weight_hides_the_loss() -> None:
    raw = torch.tensor([0.5, 5.0, 500.0])
    assert bool(((raw * Adaptive(p=1.0).weight(raw) - 1).abs() < 0.02).all())


def test_flow_matching_refuses_gap_rows() -> None:
    with pytest.raises(ValueError, match=r"rows: received '2 rows with r < t'; allowed: .*; remedy: .*gap_share to 0"):
        FlowMatching().loss(Network(network()), rows_of(4, 2), NOW)


def test_guidance_errors() -> None:
    with pytest.raises(ValueError, match=r"guidance.t_start: received 0\.9; allowed: <= t_end=0\.5; remedy: "):
        Guidance(t_start=0.9, t_end=0.5)
    with pytest.raises(ValueError, match="less than 1"):
        Guidance(k=1.0)


def test_guidance_interval_includes_its_ends() -> None:
    t = torch.tensor([0.19, 0.2, 0.7, 0.71], dtype=torch.float64)
    one, zero = torch.ones(4, 1, dtype=torch.float64), torch.zeros(4, 1, dtype=torch.float64)
    found = Guidance(w=3.0, t_start=0.2, t_end=0.7).combine(one, zero, zero, t, torch.zeros(4, dtype=torch.bool))
    assert found.flatten().tolist() == [1.0, 3.0, 3.0, 1.0]


def test_a_broken_conditional_branch_does_not_hide() -> None:
    """A NaN of the network reaches the loss: nothing zeroes it on the way."""
    net = network()
    with torch.no_grad():
        net.final.bias[0] = math.nan
    terms = MeanFlow().loss(Network(net), rows_of(4, 2), NOW)
    assert bool(terms.raw.isnan().all())


def test_compiled_derivative_agrees() -> None:
    """The tracer takes other branches in our linear layer and attention; the numbers must stay."""
    net = network(DiTOptions(patch_size=2, dim=8, depth=1, heads=2), dtype=torch.float32)
    rows = batch(6, 2, dtype=torch.float32)
    z, v = rows.path()
    n = rows.num_equal
    t = rows.t[n:].clone()
    arguments = [z[n:].clone(), t, rows.r[n:].clone(), rows.c[n:].clone(), v[n:].clone(), 0 * t + 1, 0 * t]
    with torch.no_grad():
        eager = directional_derivative(net, *arguments)
        compiled = torch.compile(partial(directional_derivative, net), backend="aot_eager")(*arguments)
    for found, expected in zip(compiled, eager, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert float(eager[1].abs().max()) > 1e-2


# ---- what the toolkit has to know of an objective --------------------------------------------------------------------

MEMBERS = {
    kind: member
    for kind, member in Objective.members().items()
    if member.__module__.startswith("dynamics.") and "guidance" in member.model_fields
}
STEADY: dict[str, dict[str, object]] = {
    **{kind: {"alpha": {"path": "constant", "first": 0.002, "clamp": 0.0}} for kind in ("alphaflow", "soflow")},
    "tvm": {"teacher": "model"},
}
"""What makes those that move with training the same at all steps, and near enough to the end to have its truth; and
what needs no averages."""


@pytest.mark.parametrize("kind", MEMBERS)
def test_parts_add_up_to_the_gradient_of_the_raw_loss(kind: str) -> None:
    """For r = t and r < t rows alike, whatever the guidance; an objective without parts says so."""
    net = network("dit")
    for guidance in (Guidance(), Guidance(w=0.5, k=0.4, t_start=0.3)):
        objective = MEMBERS[kind].model_validate({"guidance": guidance, **STEADY.get(kind, {})})
        rows = objective.prepare(batch(8, 4 if objective.TAKES_GAPS else 0), seed=0, step=0)
        terms = objective.loss(Network(net), rows, NOW)
        if not objective.PARTS:
            assert kind in ("flow_matching", "split_meanflow", "tvm")
            continue
        parts = objective.parts(terms, rows)
        assert tuple(parts) == objective.PARTS
        assert all(part.shape == (8,) for part in parts.values())
        weight = torch.rand(8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        whole = torch.autograd.grad((weight * terms.raw).sum(), list(net.parameters()), retain_graph=True)
        each = [
            torch.autograd.grad((weight * p).sum(), list(net.parameters()), retain_graph=True) for p in parts.values()
        ]
        for gradient, *shares in zip(whole, *each, strict=True):
            torch.testing.assert_close(gradient, sum(shares), rtol=1e-9, atol=1e-9 * float(gradient.abs().max()))
        assert bool((parts["consistency"][4:] != 0).all())
        assert not parts["consistency"][:4].any(), "r = t rows have no gap to be consistent over"


@pytest.mark.parametrize(
    "guidance",
    [
        Guidance(label_drop_prob=0.25),
        Guidance(k=0.5, label_drop_prob=0.25),
        Guidance(w=0.5, k=0.5, label_drop_prob=0.25),
        Guidance(w=2.0, label_drop_prob=0.25),
    ],
)
@pytest.mark.parametrize("kind", MEMBERS)
def test_forwards_per_row_are_those_that_are_made(kind: str, guidance: Guidance) -> None:
    """A pass with gradient counts three, a derivative two, one with gradient six; the share of labels is exact."""
    objective = MEMBERS[kind].model_validate({"guidance": guidance, **STEADY.get(kind, {})})
    for num_gap in (4, 8, 12) if objective.TAKES_GAPS else (0,):
        rows, counting = batch(16, num_gap).drop(torch.arange(16) % 4 == 1), Counting(network())
        objective.loss(counting, rows, NOW)
        made = {name: sum(of_call) for name, of_call in counting.reached.items()}
        expected = (3 * made["gradient"] + 2 * made["jvp"] + 6 * made["jvp with gradient"] + made["frozen"]) / 16
        assert objective.forwards_per_row(num_gap / 16) == pytest.approx(expected)


GUIDANCES = {
    "none": Guidance(),
    "everywhere": Guidance(w=0.6, k=0.3),
    "of the network by itself": Guidance(w=0.25, k=0.75),
    "inside an interval": Guidance(w=0.5, k=0.6, t_start=0.3, t_end=0.8),
}


def known(oracle: MixtureOracle, at_mean: bool) -> Rows:
    """Rows of two classes, half of them with r = t; `at_mean` gives each the mean of v at its z_t in place of its v."""
    rows = batch(16, 8, shape=(2, 1, 1), condition=ClassLabels(2))
    if not at_mean:
        return rows
    z, t = rows.path()[0], expand(rows.t, rows.x)
    v = oracle.v(z, rows.t, rows.c)
    return replace(rows, x=z - t * v, e=z + (1 - t) * v)


@pytest.fixture
def oracle() -> MixtureOracle:
    """Two classes in the plane, of two Gaussians each."""
    means = torch.tensor([[1.0, 0.2], [-0.5, 1.0], [-1.0, -0.3], [0.4, -1.1]])
    spread = torch.eye(2).expand(4, 2, 2) * torch.tensor([0.3, 0.2, 0.25, 0.4])[:, None, None]
    return MixtureOracle(means, spread, torch.full((4,), 0.25), torch.tensor([0, 0, 1, 1]), num_steps=8)


@pytest.mark.parametrize("guidance", GUIDANCES.values(), ids=list(GUIDANCES))
@pytest.mark.parametrize("kind", MEMBERS)
def test_the_truth_is_where_the_loss_is_least(kind: str, guidance: Guidance, oracle: MixtureOracle) -> None:
    """Targets are linear in v; at v's mean given z_t they are what u has to be, if u is the truth."""
    objective = MEMBERS[kind].model_validate({"guidance": guidance, **STEADY.get(kind, {})})
    truth, rows = objective.truth(oracle), known(oracle, at_mean=True)
    rows = rows if objective.TAKES_GAPS else rows.part(0, 8)
    terms = objective.loss(Network(truth.u), rows, NOW)
    assert float(terms.raw.max()) < 1e-6
    assert float(terms.target.flatten(1).norm(dim=1).min()) > 0.05
    if kind != "flow_matching" and guidance.w + guidance.k != 1:  # where w' = 1 the truth is that of the data
        assert isinstance(truth, GuidedOracle)
        assert float(objective.loss(Network(oracle.u), rows, NOW).raw.max()) > 1e-2, "the data's own are not it"
    else:
        assert truth is oracle


@pytest.mark.parametrize("guidance", GUIDANCES.values(), ids=list(GUIDANCES))
@pytest.mark.parametrize("kind", MEMBERS)
def test_noise_of_a_target_is_what_it_has_beyond_its_mean(kind: str, guidance: Guidance, oracle: MixtureOracle) -> None:
    objective, net = (
        MEMBERS[kind].model_validate({"guidance": guidance, **STEADY.get(kind, {})}),
        network("mlp", (2, 1, 1), ClassLabels(2)),
    )
    drawn, mean = (known(oracle, at_mean).part(0, 8) for at_mean in (False, True))
    targets = [objective.loss(Network(net), rows, NOW).target for rows in (drawn, mean)]
    noise = objective.target_noise(drawn.path()[1] - mean.path()[1], drawn)
    torch.testing.assert_close(noise, targets[0] - targets[1], rtol=1e-9, atol=1e-12)
    assert float(noise.abs().max()) > 0.1


@pytest.mark.parametrize("kind", MEMBERS)
def test_what_instruments_measure(kind: str, oracle: MixtureOracle) -> None:
    """The clean loss that is trained, or the same with unguided targets; of gaps too, also where none train."""
    guidance, adaptive = Guidance(w=0.5, k=0.4), Adaptive(p=0.7, c=0.3)
    objective = MEMBERS[kind].model_validate({"guidance": guidance, "adaptive": adaptive, **STEADY.get(kind, {})})
    run, off = objective.measured("run"), objective.measured("off")
    clean = MeanFlow if kind in ("flow_matching", "corrupted_meanflow") else type(objective)
    values = {"adaptive": adaptive, **STEADY.get(kind, {})}
    unguided = MeanFlow if kind == "temf" else clean
    assert run == clean.model_validate(values | ({"guidance": guidance} if objective.TAKES_GAPS else {}))
    assert off == unguided.model_validate(values)
    assert type(run.truth(oracle)) is type(objective.truth(oracle)), "what is measured ends where training does"
    assert run.measured("run") == run
    assert off.measured("run") == off == off.measured("off") == run.measured("off")
    rows, net = batch(8, 4 if objective.TAKES_GAPS else 0), Network(network())
    trained, measured = (o.loss(net, rows, NOW) for o in (objective, run))
    torch.testing.assert_close(measured.raw, trained.raw, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(measured.adaptive, trained.adaptive, rtol=1e-12, atol=1e-12)


class Doubled(MeanFlow):
    """What others derive from MeanFlow has a loss of its own."""

    kind: Literal["doubled_of_tests"] = "doubled_of_tests"  # type: ignore[assignment]

    def loss(self, net: Network, rows: Rows, now: Progress) -> LossTerms:
        terms = super().loss(net, rows, now)
        return replace(terms, raw=2 * terms.raw)


def test_what_derives_from_meanflow_is_measured_itself() -> None:
    trained = Doubled(guidance=Guidance(k=0.5))
    assert trained.measured("run") == trained
    assert trained.measured("off") == Doubled()


@pytest.mark.parametrize("late", ["none", "some", "all"])
def test_an_objective_may_ask_for_rows_by_what_they_are(late: str) -> None:
    """Each row gets the gradient that it has alone, whichever others there are; of no rows there is none."""
    net = network("dit")
    rows = batch(8, 5)
    objective = Pieces(split={"none": 1.0, "some": float(rows.t[3:].median()), "all": 0.0}[late])
    whole = gradients(net, objective.loss(Network(net), rows, NOW).raw.sum())
    single = [gradients(net, objective.loss(Network(net), rows.part(i, i + 1), NOW).raw.sum()) for i in range(8)]
    for name, gradient in whole.items():
        torch.testing.assert_close(gradient, sum(g[name] for g in single), rtol=1e-9, atol=1e-10)
