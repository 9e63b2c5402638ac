"""Samplers on a field whose answer is known."""

import pytest
import torch
from torch import Tensor

from dynamics.oracles import GaussianOracle
from dynamics.sampling import check_nfe, sample_u, sample_v

STD = 0.5
ORACLE = GaussianOracle(STD)
E = torch.randn(64, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.zeros(64, dtype=torch.long)


def error(samples: Tensor) -> float:
    """The exact flow maps noise e to std e."""
    return float((samples - STD * E).abs().max())


@pytest.mark.parametrize("nfe", [1, 2, 3, 8])
def test_exact_average_velocity_gives_exact_samples(nfe: int) -> None:
    assert error(sample_u(ORACLE.u, E, Y, nfe)) < 1e-12


def order(method: str) -> float:
    spend = 2 if method == "heun" else 1
    errors = [error(sample_v(ORACLE.u, E, Y, n * spend, method)) for n in (32, 64)]  # type: ignore[arg-type]
    return float(torch.tensor(errors[0] / errors[1]).log2())


def test_euler_converges_at_first_order() -> None:
    assert order("euler") == pytest.approx(1, abs=0.1)


def test_heun_converges_at_second_order() -> None:
    assert order("heun") == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize(("method", "nfe"), [("u", 5), ("euler", 5), ("heun", 6)])
def test_nfe_counts_network_evaluations(method: str, nfe: int) -> None:
    calls: list[tuple[float, float]] = []

    def counted(z: Tensor, t: Tensor, r: Tensor, y: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        calls.append((float(t[0]), float(r[0])))
        return ORACLE.u(z, t, r, y)

    if method == "u":
        sample_u(counted, E, Y, nfe)
        assert torch.tensor(calls).flatten().tolist() == pytest.approx([1, 0.8, 0.8, 0.6, 0.6, 0.4, 0.4, 0.2, 0.2, 0])
    else:
        sample_v(counted, E, Y, nfe, method)  # type: ignore[arg-type]
        assert all(t == r for t, r in calls)
    assert len(calls) == nfe
    assert calls[0][0] == 1


def test_labels_reach_the_network() -> None:
    def by_class(z: Tensor, t: Tensor, r: Tensor, y: Tensor) -> Tensor:
        return y[:, None].to(z.dtype).expand_as(z)

    y = torch.arange(64)
    torch.testing.assert_close(sample_u(by_class, E, y, 2), E - y[:, None])
    torch.testing.assert_close(sample_v(by_class, E, y, 2), E - y[:, None])


def test_samples_keep_shape_dtype_and_leave_the_noise_alone() -> None:
    e = E.float().reshape(64, 1, 3, 1)
    before = e.clone()
    out = sample_u(ORACLE.u, e, Y, 2)
    assert out.shape == e.shape
    assert out.dtype == torch.float32
    assert torch.equal(e, before)


@pytest.mark.parametrize("nfe", [0, -1])
def test_nfe_must_be_positive(nfe: int) -> None:
    for sample in (sample_u, sample_v):
        with pytest.raises(ValueError, match=rf"nfe: received \[{nfe}\]; allowed: positive .*; remedy: "):
            sample(ORACLE.u, E, Y, nfe)


def test_nfe_list_must_not_be_empty() -> None:
    with pytest.raises(ValueError, match=r"nfe: received \[\]"):
        check_nfe([])


def test_heun_takes_an_even_number() -> None:
    with pytest.raises(ValueError, match=r"nfe: received 3; allowed: an even number for Heun.*; remedy: "):
        sample_v(ORACLE.u, E, Y, 3, "heun")
