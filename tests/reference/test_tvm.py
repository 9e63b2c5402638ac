"""Terminal Velocity Matching against an independent transcription of the official formula, in float64.

The reference writes the displacement f = z + (s - t) F and its terminal velocity F + (s - t) dF/ds, as the official
code does, with all rows through every pass.
"""

from pathlib import Path

import pytest
import torch
from builders import LABELS, MODELS, NOW, batch, gradients, network, plain_torch, relative
from fixed_point import z_scores
from torch import Tensor, nn

import dynamics
from dynamics.config import RunConfig, with_values
from dynamics.curricula import plan_for
from dynamics.flow.gap_bins import within_gap_bin
from dynamics.flow.published_laws import GapThenEnd, LogitNormalTime
from dynamics.flow.rows import Rows
from dynamics.flow.times import UniformPair
from dynamics.models import Network
from dynamics.objectives import TVM, Adaptive, FlowMatching, Guidance
from dynamics.oracles import GaussianOracle
from dynamics.presets import PRESETS
from dynamics.runner import RunFolder, run
from dynamics.runner.measure.finished_run import network_at

NUM_ROWS, NUM_EQUAL = 12, 7
TOLERANCE = 1e-10
GUIDANCES = {
    "off": Guidance(label_drop_prob=0.3),
    "guided": Guidance(w=1.75, label_drop_prob=0.3),
    "no drop": Guidance(w=1.75, label_drop_prob=0.0),
}


def rows_of(guidance: Guidance, num_equal: int = NUM_EQUAL) -> Rows:
    return guidance.drop_conditions(batch(NUM_ROWS, NUM_ROWS - num_equal, law=UniformPair()), seed=0, step=0)


def official(net: nn.Module, teacher: nn.Module, rows: Rows, cfg: float) -> tuple[Tensor, Tensor]:
    """Squared errors and losses of the rows: the terminal loss where r < t, flow matching where r = t."""
    t, s, y, x, noise = rows.t, rows.r, rows.c, rows.x, rows.e
    beta = (rows.dropped + ~rows.dropped / torch.tensor(cfg).double())[:, None, None, None]
    tt, ss = t[:, None, None, None], s[:, None, None, None]
    z_t = (1 - tt) * x + tt * noise
    v = noise - x
    big_f, slope = torch.func.jvp(
        lambda z, a, b: net(z, a, b, y), (z_t, t, s), (0 * z_t, torch.zeros_like(t), torch.ones_like(s))
    )
    f_ts, df_ds = z_t + (ss - tt) * big_f, big_f + (ss - tt) * slope
    with torch.no_grad():
        end = teacher(f_ts, s, s, y)
        unconditional = teacher(z_t, t, t, torch.full_like(y, LABELS.num_classes))
    terminal = (df_ds - end) ** 2
    flow = (net(z_t, t, t, y) - (v / beta + (1 - 1 / beta) * unconditional)) ** 2
    error = torch.where(ss < tt, terminal, flow)
    return error.sum((1, 2, 3)), (error * beta**2).sum((1, 2, 3))


def ours(net: nn.Module, teacher: nn.Module, rows: Rows, objective: TVM) -> tuple[Tensor, Tensor]:
    terms = objective.loss(Network(net, {"0.99": teacher}), rows, NOW)
    return terms.raw, terms.adaptive * terms.raw


@pytest.mark.parametrize("num_equal", [0, NUM_EQUAL, NUM_ROWS])
@pytest.mark.parametrize("branch", GUIDANCES)
@pytest.mark.parametrize("kind", MODELS)
def test_it_equals_the_official_formula(kind: str, branch: str, num_equal: int) -> None:
    guidance = GUIDANCES[branch]
    net, teacher, rows = network(kind), network(kind, scale=0.3), rows_of(guidance, num_equal)
    if guidance.label_drop_prob:
        assert 0 < int(rows.dropped[NUM_EQUAL:].sum()) < NUM_ROWS - NUM_EQUAL
        assert 0 < int(rows.dropped[:NUM_EQUAL].sum()) < NUM_EQUAL
    with plain_torch():
        raw, loss = official(net, teacher, rows, guidance.w)
    expected = gradients(net, loss.mean())
    found_raw, found_loss = ours(net, teacher, rows, TVM(guidance=guidance, teacher="0.99"))
    assert relative(found_raw, raw) < TOLERANCE
    assert relative(found_loss, loss) < TOLERANCE
    largest = max(float(g.norm()) for g in expected.values())
    for name, gradient in gradients(net, found_loss.mean()).items():
        assert float((gradient - expected[name]).norm()) <= TOLERANCE * max(float(expected[name].norm()), largest), name


def test_the_teacher_is_the_one_that_is_named() -> None:
    net, teacher, rows = network(), network(scale=0.3), rows_of(GUIDANCES["guided"])
    losses = [ours(net, teacher, rows, TVM(teacher=name))[0] for name in ("0.99", "ema", "model")]
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(losses[0][:NUM_EQUAL], losses[2][:NUM_EQUAL]), "unguided v needs no teacher"
    assert not torch.isclose(losses[0][NUM_EQUAL:], losses[2][NUM_EQUAL:]).any()


def test_at_r_equal_t_it_is_flow_matching() -> None:
    net, rows = network("dit"), rows_of(GUIDANCES["off"], NUM_ROWS)
    terms = TVM(adaptive=Adaptive(p=0.5)).loss(Network(net, {"ema": net}), rows, NOW)
    flow = FlowMatching(adaptive=Adaptive(p=0.5)).loss(Network(net), rows, NOW)
    assert torch.equal(terms.raw, flow.raw)
    assert torch.equal(terms.adaptive, flow.adaptive)


def test_calls_do_not_depend_on_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("__call__", "frozen", "jvp"):
        real = getattr(Network, name)
        monkeypatch.setattr(
            Network, name, lambda *a, _real=real, _name=name, **k: (calls.append(_name), _real(*a, **k))[1]
        )
    for num_equal in (0, NUM_EQUAL, NUM_ROWS):
        calls.clear()
        net = Network(GaussianOracle(0.7).u)
        TVM(guidance=GUIDANCES["guided"], teacher="model").loss(net, rows_of(GUIDANCES["guided"], num_equal), NOW)
        assert calls == ["frozen", "__call__", "jvp", "frozen"]


def sampled_times(num_rows: int) -> tuple[Tensor, Tensor]:
    """The official code's t and s: a gap, then s by the truncated normal."""
    torch.manual_seed(0)
    gap = (torch.randn(num_rows, dtype=torch.float64) - 0.8).sigmoid()
    most = torch.log((1 - gap) / gap)
    normal = torch.distributions.Normal(torch.full_like(gap, -0.4), torch.ones_like(gap))
    s = normal.icdf(torch.rand_like(gap) * normal.cdf(most)).sigmoid()
    return (s + gap).clamp(max=1), s


def test_times_have_the_official_law() -> None:
    (t, s), (ours_t, ours_r) = sampled_times(20_000), GapThenEnd().sample(20_000, torch.Generator().manual_seed(1))
    for theirs, ours in ((t, ours_t.double()), (s, ours_r.double()), (t - s, (ours_t - ours_r).double())):
        levels = torch.linspace(0.05, 0.95, 10, dtype=torch.float64)
        cdf = torch.stack([(ours <= edge).double().mean() for edge in theirs.quantile(levels)])
        assert float((cdf - levels).abs().max()) < 4.5 * (0.25 * 2 / 20_000) ** 0.5
    inside = within_gap_bin(GapThenEnd(), 0.3, 0.5)
    drawn_t, drawn_r = inside.sample(1000, torch.Generator().manual_seed(2))
    assert 0.3 - 1e-6 <= float((drawn_t - drawn_r).min()) < float((drawn_t - drawn_r).max()) <= 0.5 + 1e-6
    kept = (t - s >= 0.3) & (t - s <= 0.5)
    assert inside.expect(lambda t, r: t) == pytest.approx(float(t[kept].mean()), abs=0.01)
    with pytest.raises(ValueError, match="gap bin"):
        within_gap_bin(inside, 0.6, 0.9)


def test_the_law_of_r_equal_t_rows_is_its_own() -> None:
    config = PRESETS["digits-tvm"]
    plan = plan_for(config.times, (), NOW, [])
    assert (plan.equal_law, plan.gap_law, plan.gap_share) == (LogitNormalTime(), GapThenEnd(), 0.5)
    assert RunConfig.model_validate_json(config.to_json()) == config
    assert '"equal_law"' not in PRESETS["digits-meanflow"].to_json(), "ids of earlier runs stay"


def test_a_teacher_that_is_not_averaged_is_refused() -> None:
    with pytest.raises(ValueError, match=r"objective.teacher.*0\.9.*training.ema_decays"):
        with_values(PRESETS["digits-tvm"], {"objective.teacher": "0.9"})


def test_the_truth_is_its_fixed_point() -> None:
    """At the truth r < t rows have no error at all, and the gradient of r = t rows vanishes on the average."""
    objective = TVM()
    assert z_scores(objective, shift=0.0) < 4.5
    assert z_scores(objective, shift=0.1) > 10, "the test would see u that is wrong by a tenth of z"
    oracle, rows = GaussianOracle(0.7), rows_of(GUIDANCES["off"], 0)
    terms = objective.loss(Network(oracle.u, {"ema": oracle.u}), rows, NOW)
    assert float(terms.raw.max().detach()) < 1e-20


def test_a_finished_run_has_the_teacher_that_is_named(tmp_path: Path) -> None:
    """Here that is not the first of its averages."""
    training = {"num_steps": 2, "batch_size": 8, "num_threads": 1, "ema_decays": (0.995, 0.5)}
    of = {"model": MODELS["mlp"], "observers": (), **{f"training.{name}": value for name, value in training.items()}}
    config = with_values(PRESETS["digits-tvm"], {"objective.teacher": "0.5", **of})
    folder = RunFolder(run(config, tmp_path / "run", progress=False))
    z, t, c = torch.randn(2, 1, 8, 8), torch.full((2,), 0.5), torch.tensor([3, 4])
    (first, _), (other, _) = (network_at(folder, config, weights) for weights in ("ema", "0.5"))
    found = first.frozen(z, t, t, c, "0.5")
    assert torch.equal(found, other(z, t, t, c))
    assert not torch.equal(found, first(z, t, t, c))
    evaluated = dynamics.evaluate(folder.path, nfe=(1,), num_samples=4, exact_rows=2, progress=False)
    assert bool((evaluated.u_loss > 0).all())
