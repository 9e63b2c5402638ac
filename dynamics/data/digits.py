"""The 8x8 digits inside scikit-learn: the data set that needs no download."""

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from dynamics.data.imageset import ImageSet
from dynamics.data.source import Embedded
from dynamics.flow.condition import ClassLabels
from dynamics.flow.path import Shape


class Digits(Embedded):
    """The 1797 handwritten digits of scikit-learn, 8 x 8 pixels.

    Example:
        >>> x, y = Digits().load().batch(seed=0, step=10, batch_size=4)
        >>> x.shape, y.dtype
        (torch.Size([4, 1, 8, 8]), torch.int64)
    """

    name: Literal["digits"] = "digits"

    def load(self) -> ImageSet:
        return load_digits()

    def dimensions(self) -> tuple[Shape, ClassLabels]:
        return (1, 8, 8), ClassLabels(10)


@lru_cache(maxsize=1)
def load_digits() -> ImageSet:
    """Return the 1797 handwritten digits of scikit-learn: 1x8x8, levels 0..16, 10 classes.

    Example:
        >>> data = load_digits()
        >>> len(data.pixels), data.shape, data.num_classes
        (1797, (1, 8, 8), 10)
    """
    # the file that sklearn.datasets.load_digits reads; to import that would add over a second to the start of every run
    package = find_spec("sklearn")
    assert package is not None, "a dependency"
    assert package.origin is not None, "it has a file"
    file = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    table = torch.from_numpy(np.loadtxt(file, delimiter=",", dtype=np.uint8))
    return ImageSet(
        pixels=table[:, :-1].reshape(-1, 1, 8, 8).contiguous(),
        labels=table[:, -1].long(),
        levels=16,
        num_classes=10,
        name="digits",
        source="scikit-learn load_digits: test part of the UCI Optical Recognition of Handwritten Digits "
        "(Alpaydin and Kaynak 1998, doi:10.24432/C50P49)",
        licence="CC BY 4.0",
        classifier="digits",
    )
