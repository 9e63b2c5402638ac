"""Do 95% intervals cover the truth in 95 of 100 measurements? Linear regression, where the truth is known exactly.

Loss of task j on a row: (theta.x - w_j.x - sigma eps)^2 with x ~ N(0, I_d), eps ~ N(0, 1). With delta = theta - w_j the
true gradient is 2 delta, and the covariance of a row's gradient has the trace 4 ((d + 1) |delta|^2 + d sigma^2). Every
repetition is one entry of the dimension `group`.
"""

from dataclasses import dataclass

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from dynamics.analysis import affinity, affinity_of_rows, cosine_by_batch, noise_scale

DIM, REPETITIONS = 30, 500
COSINES = (0.0, 0.5, 0.9)
"""Of the first task with each other one."""
NORMS = np.array([1.0, 1.2, 0.8, 1.0])
TASKS = ["v", "a", "b", "c"]


def deltas() -> np.ndarray:
    """Return theta - w of each task, [task, dim]."""
    out = np.zeros((len(TASKS), DIM))
    out[0, 0] = 1
    for j, cosine in enumerate(COSINES, 1):
        out[j, 0], out[j, j] = cosine, np.sqrt(1 - cosine**2)
    return out * NORMS[:, None]


@dataclass(frozen=True)
class Setting:
    """How noisy the gradients are."""

    shared: bool
    splits: int
    sigma: float
    rows: int = 48
    bootstrap_at_most: float = 0.98

    @property
    def noise_scale(self) -> np.ndarray:
        return DIM + 1 + DIM * self.sigma**2 / NORMS**2

    def dataset(self) -> xr.Dataset:
        rng = np.random.default_rng(self.splits)
        gram = []
        for _ in range(REPETITIONS):
            own = 1 if self.shared else len(TASKS)
            x = rng.standard_normal((own, self.splits, self.rows, DIM))
            eps = rng.standard_normal((own, self.splits, self.rows))
            residual = (x @ deltas()[:, None, :, None])[..., 0] - self.sigma * eps  # [task, split, row]
            g = 2 / self.rows * (residual[..., None, :] @ x)[..., 0, :]
            gram.append(np.einsum("iad,jbd->iajb", g, g, optimize=True))
        content = {
            "gram": (("group", "task", "split", "task2", "split2"), np.stack(gram)),
            "product_error": (("group", "task", "task2"), np.zeros((REPETITIONS, len(TASKS), len(TASKS)))),
        }
        labels = {"group": np.arange(REPETITIONS), "task": TASKS, "task2": TASKS}
        return xr.Dataset(content, labels, {"rows_per_split": self.rows})


SETTINGS = {
    # noise B / n from 2.4 to 4.6: shared noise makes tasks look alike
    "shared, K = 8": Setting(shared=True, splits=8, sigma=2.0),
    "shared, K = 16": Setting(shared=True, splits=16, sigma=2.0),
    # noise B / n from 0.8 to 0.9: it makes tasks look unrelated, and the bootstrap too careful
    "independent, K = 8": Setting(shared=False, splits=8, sigma=0.5, bootstrap_at_most=1.0),
    "independent, K = 16": Setting(shared=False, splits=16, sigma=0.5, bootstrap_at_most=1.0),
}


def coverage(low: xr.DataArray, high: xr.DataArray, truth: float) -> float:
    known = np.isfinite(low)
    assert known.mean() > 0.98
    return float(((low <= truth) & (truth <= high)).sum() / known.sum())


@pytest.fixture(scope="module", params=SETTINGS)
def measured(request: pytest.FixtureRequest) -> tuple[Setting, xr.Dataset]:
    setting = SETTINGS[request.param]
    return setting, setting.dataset()


def test_cosine(measured: tuple[Setting, xr.Dataset]) -> None:
    setting, data = measured
    found = affinity(data)
    again = affinity(data, interval="bootstrap")
    for task, truth in zip(TASKS[1:], COSINES, strict=True):
        here, there = (ds.sel(task="v", task2=task) for ds in (found, again))
        assert 0.92 <= coverage(here.cosine_low, here.cosine_high, truth) <= 0.98, f"jackknife, cosine {truth}"
        limit = setting.bootstrap_at_most
        assert 0.92 <= coverage(there.cosine_low, there.cosine_high, truth) <= limit, f"bootstrap, cosine {truth}"
        assert float(here.cosine.median()) == pytest.approx(truth, abs=0.04)
        # the naive cosine with the interval that its spread over splits suggests
        naive = cosine_by_batch(data, "v", task).sel(merged=1)
        half = stats.t.ppf(0.975, setting.splits - 1) * naive.naive_sem
        if truth or setting.shared:
            assert coverage(naive.naive - half, naive.naive + half, truth) < 0.3, f"naive, cosine {truth}"
            assert (float(naive.naive.mean()) > truth) == setting.shared
        assert float(here.naive_independent.mean()) <= 0.75 * truth + 0.01


def test_products_and_self_cosine(measured: tuple[Setting, xr.Dataset]) -> None:
    _, data = measured
    found = affinity(data)
    product = found["product"]
    error = product.std("group") / REPETITIONS**0.5
    truth = 4 * deltas() @ deltas().T
    assert (abs(product.mean("group") - truth) < 4 * error).all()
    assert (abs(found.self_cosine.median("group") - 1) < 0.12).all()


def test_noise_scale(measured: tuple[Setting, xr.Dataset]) -> None:
    setting, data = measured
    found = noise_scale(data)
    for j, task in enumerate(TASKS):
        here = found.sel(task=task)
        assert 0.92 <= coverage(here.noise_scale_low, here.noise_scale_high, setting.noise_scale[j]) <= 0.98, task
    trace = found.covariance_trace
    truth = 4 * setting.noise_scale * NORMS**2
    assert (abs(trace.mean("group") - truth) < 4 * trace.std("group") / REPETITIONS**0.5).all()


def test_cosine_of_rows() -> None:
    each, repetitions, sigma = 48, 300, 0.5
    rng = np.random.default_rng(5)
    x = rng.standard_normal((repetitions, each * len(TASKS), DIM))
    residual = (x * np.repeat(deltas(), each, 0)).sum(-1) - sigma * rng.standard_normal(x.shape[:-1])
    g = 2 * x * residual[..., None]
    gap = np.repeat([0.0, 0.2, 0.4, 0.6], each)
    content = {
        "gram": (("group", "row", "row2"), g @ g.swapaxes(1, 2)),
        "t": ("row", np.full(len(gap), 0.9)),
        "r": ("row", 0.9 - gap),
    }
    found = affinity_of_rows(xr.Dataset(content, {"group": np.arange(repetitions)}), (0.1, 0.3, 0.5, 0.7))
    for j, truth in enumerate(COSINES, 1):
        here = found.isel(task=0, task2=j)
        assert coverage(here.cosine_low, here.cosine_high, truth) >= 0.93, f"cosine {truth}"
        assert float(here.cosine.median()) == pytest.approx(truth, abs=0.1)
        assert float(here.naive_cosine.mean()) <= 0.7 * truth + 0.01
