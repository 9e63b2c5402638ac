from pathlib import Path

import pytest
from sweeps._sweep import Small, small


@pytest.fixture
def tiny_sweep(tmp_path: Path) -> Small:
    return small("tiny", tmp_path / "results")
