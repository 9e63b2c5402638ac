"""The whole instrument against a known truth: a linear network on Gaussian data, every gradient in closed form.

u(z, t, r) = W z, x ~ N(0, q^2 I), z = (1 - t) x + t e, v = e - x, du/dt = W v. With D = W z - v + (t - r) W v the
gradient of a row is 2 D z^T; D and z are jointly Gaussian given the times, so that its mean and mean squared norm
follow from second moments (Isserlis), averaged over the law of times by quadrature.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from builders import recipe
from torch import Tensor, nn

from dynamics.analysis import affinity, noise_scale
from dynamics.flow.condition import ClassLabels
from dynamics.flow.times import TimeLaw
from dynamics.instruments.gram import GramOptions, GramProbe
from dynamics.models.linear import Linear
from dynamics.rng import generator
from dynamics.training import start

DIM, STD, REPETITIONS, ROWS, SPLITS = 4, 0.7, 250, 512, 8
NEIGHBOURS = torch.tensor([[0, 1, 0, 0], [1, 0, -1, 0], [0, -1, 0, 1], [0, 0, 1, 0]]).double()
W = 0.65 * torch.eye(DIM).double() + 0.1 * NEIGHBOURS  # between the tasks' minima: they pull in different directions


class LinearVelocity(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.map = Linear(DIM, DIM, bias=False)
        with torch.no_grad():
            self.map.weight.copy_(W)

    def forward(self, z: Tensor, t: Tensor, r: Tensor, c: Tensor) -> Tensor:
        out: Tensor = self.map(z.flatten(1)).view_as(z)
        return out


@dataclass(frozen=True)
class Gaussian:
    condition: ClassVar[ClassLabels] = ClassLabels(1)

    def batch(self, seed: int, step: int, batch_size: int) -> tuple[Tensor, Tensor]:
        x = STD * torch.randn(batch_size, 1, 1, DIM, generator=generator(seed, "x", step))
        return x, torch.zeros(batch_size, dtype=torch.long)


def moments(law: TimeLaw, equal: bool) -> tuple[Tensor, float]:
    """Mean gradient [DIM, DIM] and mean squared norm of a row's gradient."""
    eye, q2 = torch.eye(DIM, dtype=torch.float64), STD**2
    points = (torch.arange(256, dtype=torch.float64) + 0.5) / 256
    a, b = torch.meshgrid(points, points, indexing="ij")
    t, r = law.quantile(a.reshape(-1), b.reshape(-1))
    gap = torch.zeros_like(t) if equal else t - r
    alpha, beta = 1 - t, t
    of_x = (alpha - gap)[:, None, None] * W + eye  # D = of_x x + of_e e
    of_e = (beta + gap)[:, None, None] * W - eye
    cross = (q2 * alpha)[:, None, None] * of_x + beta[:, None, None] * of_e  # E[D z^T]
    square = q2 * of_x.square().sum((1, 2)) + of_e.square().sum((1, 2))
    norm = DIM * (alpha**2 * q2 + beta**2)
    return 2 * cross.mean(0), float(4 * (square * norm + 2 * cross.square().sum((1, 2))).mean())


def test_intervals_of_the_instrument_cover_the_truth() -> None:
    options = GramOptions.model_validate(
        {
            "gap_edges": (0.1, 0.3, 0.9),
            "num_splits": SPLITS,
            "rows_per_split": ROWS,
            "loss": "raw",
            "rows_per_pass": 8192,
        }
    )
    probes = [GramProbe(recipe(data=Gaussian(), seed=seed), options) for seed in range(REPETITIONS)]  # type: ignore[arg-type]
    state = start(LinearVelocity(), probes[0].recipe.training, ())
    known = [moments(task.law, task.equal) for task in probes[0].tasks]
    mean = torch.stack([gradient.flatten() for gradient, _ in known])
    gram = (mean @ mean.T).numpy()
    cosine = gram / np.sqrt(np.outer(gram.diagonal(), gram.diagonal()))
    noise = np.array([square for _, square in known]) / gram.diagonal() - 1
    np.testing.assert_allclose([cosine[0, 1], cosine[0, 2], cosine[1, 2]], [0.59, 0.97, 0.76], atol=0.01)
    assert (noise > ROWS / 5).all()  # so noisy that the naive cosine is far off

    measured = [probe.measure(state) for probe in probes]
    found = [affinity(ds) for ds in measured]
    pairs = [(0, 1), (0, 2), (1, 2)]
    for i, j in pairs:
        values = np.array([float(a.cosine[0, i, j]) for a in found])
        inside = [float(a.cosine_low[0, i, j]) <= cosine[i, j] <= float(a.cosine_high[0, i, j]) for a in found]
        assert 0.92 <= np.mean(inside) <= 0.98, (i, j, np.mean(inside))
        assert abs(np.mean(values) - cosine[i, j]) < 4 * np.std(values) / np.sqrt(REPETITIONS) + 0.02
        product = np.array([float(a["product"][0, i, j]) for a in found])
        assert abs(product.mean() - gram[i, j]) < 4 * product.std() / np.sqrt(REPETITIONS)
    naive = np.mean([a.naive_independent[0].values for a in found], axis=0)
    assert abs(naive[0, 1] - cosine[0, 1]) > 0.1
    scales = [noise_scale(ds) for ds in measured]
    for i in range(3):
        inside = [float(s.noise_scale_low[0, i]) <= noise[i] <= float(s.noise_scale_high[0, i]) for s in scales]
        assert 0.92 <= np.mean(inside) <= 0.98, (i, np.mean(inside))
