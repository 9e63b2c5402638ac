"""What options say of data without loading them is what the loaded data are."""

import pytest

from dynamics.data import DataOptions
from dynamics.data.source import Embedded


@pytest.mark.parametrize("name", [name for name, kind in DataOptions.members().items() if issubclass(kind, Embedded)])
def test_dimensions_are_those_of_the_data(name: str) -> None:
    options = DataOptions.member(name)()
    data = options.load()
    assert options.dimensions() == (data.shape, data.condition)
    x, c = data.batch(0, 0, 2)
    assert tuple(x.shape[1:]) == data.shape
    assert len(data.condition.null(c)) == 2
