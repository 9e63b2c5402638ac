"""Solutions on disk: found again, never mixed up, and never believed when damaged."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from dynamics.instruments import kept_solutions
from dynamics.instruments.kept_solutions import kept

Z, T = torch.arange(6.0).reshape(3, 2), torch.ones(3)


def test_a_solution_is_kept_by_all_that_decides_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNAMICS_CACHE", str(tmp_path))
    calls: list[int] = []

    def solve() -> Tensor:
        calls.append(1)
        return Z + len(calls)

    assert torch.equal(kept(lambda: "a", (Z, T), solve), Z + 1)
    assert torch.equal(kept(lambda: "a", (Z, T), solve), Z + 2), "small ones are solved for"
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(kept_solutions, "WORTH", 1)
    assert [float(kept(lambda: "a", (Z, T), solve)[0, 0]) for _ in range(2)] == [3, 3]
    others = [
        kept(lambda: "b", (Z, T), solve),
        kept(lambda: "a", (Z + 1, T), solve),
        kept(lambda: "a", (Z, T.double()), solve),
    ]
    assert [float(other[0, 0]) for other in others] == [4, 5, 6]
    for path in (tmp_path / "exact").iterdir():
        content = bytearray(path.read_bytes())
        content[-1] ^= 255
        path.write_bytes(content)
    assert [float(kept(lambda: "a", (Z, T), solve)[0, 0]) for _ in range(2)] == [7, 7]
