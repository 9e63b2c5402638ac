"""Instruments on anybody's network: against gradients taken one by one, and without a trace in the loop they watch."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dynamics.attach as da
from dynamics import open_results
from dynamics.data.vae import import_torchvision
from dynamics.flow.path import interpolate
from dynamics.instruments.gram import parts_of
from dynamics.objectives import TVM, FlowMatching, Guidance, MeanFlow, Shortcut

EDGES = (0.1, 0.5, 0.9)
SPLITS = 3


class Net(nn.Module):
    """What the fast path of our own runs does not cover: convolutions, norms with gains, a table, a lone scale."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 1, 1)
        self.norm, self.label, self.times = nn.GroupNorm(2, 4), nn.Embedding(3, 4), nn.Linear(2, 4)
        self.scale, self.unused = nn.Parameter(torch.tensor(0.7)), nn.Linear(2, 2)

    def forward(self, z: Tensor, t: Tensor, r: Tensor, y: Tensor) -> Tensor:
        h = self.first(z) + (self.label(y) + self.times(torch.stack([t, r], 1)))[:, :, None, None]
        out: Tensor = self.scale * self.last(torch.tanh(self.norm(h)))
        return out


def network() -> Net:
    torch.manual_seed(1)
    return Net().double()


def batches(num: int = SPLITS, rows: int = 5) -> Iterator[tuple[Tensor, Tensor]]:
    stream = torch.Generator().manual_seed(2)
    for _ in range(num):
        x = torch.randn(rows, 1, 4, 4, generator=stream, dtype=torch.float64)
        yield x, torch.randint(3, (rows,), generator=stream)


def test_it_equals_gradients_taken_one_by_one() -> None:
    net, tasks = network(), da.gap_tasks(EDGES)
    found = da.gram(net, tasks, batches(), num_splits=SPLITS, groups="tensor")
    vectors = []
    for task in tasks.values():
        for split, batch in enumerate(batches()):
            torch.manual_seed(split)
            net.zero_grad(set_to_none=False)
            task(net, batch).mean().backward()
            vectors.append(torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]))
    expected = (torch.stack(vectors) @ torch.stack(vectors).T).view(3, SPLITS, 3, SPLITS)
    np.testing.assert_allclose(found.gram.sel(group="model"), expected, rtol=1e-10)
    parts = found.gram.sel(group=[name for name, _ in net.named_parameters()]).sum("group")
    np.testing.assert_allclose(parts, expected, rtol=1e-10)
    assert found.attrs["unreached"] == ["unused.weight", "unused.bias"]
    assert list(found.task.values) == ["v", "u 0.1-0.5", "u 0.5-0.9"]
    assert list(found.gap_high.values) == [0, 0.5, 0.9]


def test_the_tasks_are_meanflows_losses() -> None:
    """Where u is a constant a, du/dt is 0 and every row's loss is ||a - v||^2 over itself + c; gaps keep to the bin."""
    seen = []

    def call(net: nn.Module, z: Tensor, t: Tensor, r: Tensor, y: Tensor) -> Tensor:
        seen.append((z.detach(), t.detach(), r.detach()))
        return net.scale * torch.ones_like(z)  # type: ignore[operator]

    net, (x, y) = network(), next(batches(rows=50))
    for name, task in da.gap_tasks(EDGES, call).items():
        seen.clear()
        torch.manual_seed(0)
        losses = task(net, (x, y))
        z, t, r = seen[-1]
        e = (z - (1 - t[:, None, None, None]) * x) / t[:, None, None, None]
        raw = (0.7 - interpolate(x, e, t)[1]).square().sum((1, 2, 3))
        torch.testing.assert_close(losses, raw / (raw + 0.01), rtol=1e-6, atol=0)
        low, high = {"v": (0, 0), "u 0.1-0.5": (0.1, 0.5), "u 0.5-0.9": (0.5, 0.9)}[name]
        assert bool(((t - r >= low - 1e-6) & (t - r <= high + 1e-6)).all())


def test_a_network_of_diffusers() -> None:
    import_torchvision()
    from diffusers import DiTTransformer2DModel

    torch.manual_seed(0)
    net = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=4, in_channels=1, num_layers=1, sample_size=4, patch_size=2,
        num_embeds_ada_norm=3, norm_num_groups=1,
    )  # fmt: skip

    def call(net: nn.Module, z: Tensor, t: Tensor, r: Tensor, y: Tensor) -> Tensor:
        out: Tensor = net(z, timestep=1000 * t, class_labels=y).sample
        return out

    images = [(x.float(), y) for x, y in batches(4)]
    aff = da.affinity(da.gram(net.eval(), da.gap_tasks(EDGES, call), images, num_splits=4))
    assert np.isfinite(aff["product"]).all()
    figure = da.plots.affinity_heatmap(aff)
    assert "u 0.5-0.9" in [label.get_text() for label in figure.axes[0].get_yticklabels()]


def test_names_of_foreign_networks_have_parts() -> None:
    names = ["blocks.weight", "blocks.0.attention.qkv", "head"]
    assert list(parts_of(names, "block")) == ["model", "blocks", "blocks.0", "head", "blocks.*.attention"]


def test_nothing_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor are GPUs seeded that are not in use yet: that seed would come true later."""
    net, seeded = network(), list[int]()
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    net.scale.grad = torch.tensor(3.0, dtype=torch.float64)
    before, stream = {name: p.clone() for name, p in net.named_parameters()}, torch.get_rng_state()
    da.gram(net, da.gap_tasks(EDGES), batches(), num_splits=SPLITS)
    assert torch.equal(torch.get_rng_state(), stream)
    assert seeded == []
    assert float(net.scale.grad) == 3.0
    assert net.first.weight.grad is None
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())


def test_what_cannot_be_measured_is_refused() -> None:
    net, tasks = network(), da.gap_tasks(EDGES)
    for changes, message in (
        ({"tasks": {}}, "tasks: received 'none'"),
        ({"groups": "layer"}, "groups: received 'layer'"),
        ({"sketch_size": 0}, "sketch_size: received 0"),
        ({"num_splits": 1}, "num_splits: received 1"),
        ({"num_splits": 5}, "batches: received 3"),
        ({"tasks": {"a": lambda n, b: n.scale * torch.ones(())}}, r"task 'a': received 'a tensor \(\)'"),
        ({"tasks": {"a": lambda n, b: n.scale * torch.full((2,), torch.nan)}}, "not finite"),
        ({"tasks": {"a": lambda n, b: torch.ones(2)}}, "a loss without gradient"),
    ):
        with pytest.raises(ValueError, match=message):
            da.gram(net, **{"tasks": tasks, "batches": batches(), "num_splits": SPLITS, **changes})  # type: ignore[arg-type]
    noisy = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 1))
    numbers = np.random.default_rng(0)
    with pytest.raises(ValueError, match="task 'a': received 'a loss that differs from call to call: 0'"):
        da.gram(noisy, {"a": lambda n, b: n(torch.ones(6, 4))[:, 0] * numbers.random()}, batches(), SPLITS)
    moving = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 1))
    mean = moving[0].running_mean.clone()  # type: ignore[union-attr, operator]
    with pytest.raises(ValueError, match=r"buffers that change: 0'; .* call net.eval\(\)"):
        da.gram(moving, {"a": lambda n, b: n(torch.randn(6, 4)).square()[:, 0]}, batches(), SPLITS)
    assert torch.equal(moving[0].running_mean, mean)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="edges"):
        da.gap_tasks((0.5, 0.1))


def test_a_batch_may_be_images_alone() -> None:
    """And a guided target, which holds the answer to the null class, is refused where there is none."""
    net, objective = network(), MeanFlow(guidance=Guidance(w=0.5, k=0.2))

    def call(net: nn.Module, z: Tensor, t: Tensor, r: Tensor, y: Tensor | None) -> Tensor:
        out: Tensor = net(z, t, r, torch.zeros(len(z), dtype=torch.long) if y is None else y)
        return out

    images, tasks = [x for x, _ in batches()], da.gap_tasks(EDGES, call)
    found = da.gram(net, tasks, images, num_splits=SPLITS)
    labelled = da.gram(net, tasks, [(x, torch.zeros(len(x), dtype=torch.long)) for x in images], num_splits=SPLITS)
    np.testing.assert_array_equal(found.gram, labelled.gram)
    for given, num_classes in ((batches(), 0), (images, 2)):
        with pytest.raises(ValueError, match="num_classes: received 0"):
            da.gram(net, da.gap_tasks(EDGES, call, objective, num_classes), given, num_splits=SPLITS)
    da.gram(net, da.gap_tasks(EDGES, call, objective, num_classes=2), batches(), num_splits=SPLITS)


def test_objectives_that_ask_teachers_or_know_no_gaps_are_refused() -> None:
    for objective in (TVM(), Shortcut(), FlowMatching()):
        with pytest.raises(ValueError, match=f"objective: received '{objective.kind}'"):
            da.gap_tasks(EDGES, objective=objective)


def test_products_of_a_network_in_half_precision_are_not_rounded_to_half() -> None:
    net = nn.Linear(50, 1, bias=False).bfloat16()
    tasks = {"a": lambda n, b: n(b)[:, 0], "b": lambda n, b: n(b)[:, 0] * 0.5}
    given = [torch.randn(8, 50, generator=torch.Generator().manual_seed(k)).bfloat16() for k in range(SPLITS)]
    found = da.gram(net, tasks, given, num_splits=SPLITS).gram.sel(group="model", task="a", task2="a").values
    means = torch.stack([batch.float().mean(0) for batch in given])
    np.testing.assert_allclose(found, means.bfloat16().float() @ means.bfloat16().float().T, rtol=1e-5, atol=1e-7)


def test_rows_per_split_are_said_where_they_are_one_number() -> None:
    net, tasks = network(), da.gap_tasks(EDGES)
    assert da.gram(net, tasks, batches(), num_splits=SPLITS).attrs["rows_per_split"] == 5
    uneven = da.gram(net, tasks, [*batches(), *batches(1, rows=2)], num_splits=SPLITS + 1)
    assert np.isfinite(da.affinity(uneven)["product"]).all()
    with pytest.raises(ValueError, match="rows_per_split"):
        da.noise_scale(uneven)


def test_buffers_come_back_where_a_loss_is_refused() -> None:
    net = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 1))
    mean = net[0].running_mean.clone()  # type: ignore[union-attr, operator]
    with pytest.raises(ValueError, match="not finite"):
        da.gram(net, {"a": lambda n, b: n(b)[:, 0] * torch.inf}, [torch.randn(6, 4)] * SPLITS, SPLITS)
    assert torch.equal(net[0].running_mean, mean)  # type: ignore[arg-type]


def trained(watched: Path | None) -> Net:
    net = network()
    optimizer, other = torch.optim.AdamW(net.parameters(), 1e-2), torch.optim.SGD([torch.ones(1)], 0.1)
    tasks = da.gap_tasks(EDGES)

    def loop() -> None:
        for x, y in batches(4):
            optimizer.zero_grad()
            tasks["v"](net, (x, y)).mean().backward()
            optimizer.step()
            other.step()

    torch.manual_seed(5)
    if watched is None:
        loop()
    else:
        with da.watching(net, tasks, batches(), every=2, to=watched, num_splits=SPLITS):
            loop()
    return net


def test_a_watched_loop_trains_bitwise_as_an_unwatched_one(tmp_path: Path) -> None:
    alone, watched = trained(None), trained(tmp_path / "mine")
    assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), watched.parameters(), strict=True))
    tree = open_results(tmp_path / "mine")
    assert list(tree["gram"].step.values) == [0, 2, 4]
    last = da.gram(watched, da.gap_tasks(EDGES), batches(), num_splits=SPLITS)
    np.testing.assert_array_equal(tree["gram"].gram.sel(step=4), last.gram)
    assert da.affinity(tree).cosine.sizes["step"] == 3
    da.plots.affinity_over_training(da.affinity(tree), "v")
    with (
        pytest.raises(ValueError, match=r"to: .*a folder without run.nc"),
        da.watching(alone, da.gap_tasks(EDGES), batches(), 2, tmp_path / "mine"),
    ):
        pass
