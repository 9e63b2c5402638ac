"""What training sees of a data set, and the options that name one."""

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from pydantic import model_validator
from torch import Tensor

from dynamics.features import Extractor
from dynamics.flow.condition import Condition
from dynamics.flow.path import Shape
from dynamics.options import Family, invalid
from dynamics.oracles import Oracle

WHOLE = slice(None)
"""All rows of a batch."""


class DataSource(Protocol):
    """Data by step: a pure function of (seed, step), whatever was asked before."""

    def __hash__(self) -> int:
        """By identity: what belongs to a data set is computed once."""

    @property
    def name(self) -> str:
        """What results call the data."""

    @property
    def source(self) -> str:
        """Where the data come from."""

    @property
    def licence(self) -> str:
        """Under which terms they may be used."""

    @property
    def sha256(self) -> str:
        """Hash of everything that decides the data."""

    @property
    def shape(self) -> Shape:
        """(C, H, W) of one x."""

    @property
    def condition(self) -> Condition:
        """What c is: class labels, or anything else that has rows."""

    @property
    def num_classes(self) -> int:
        """Number of classes, that of the condition."""

    @property
    def pictures(self) -> bool:
        """Whether x can be shown as images, [-1, 1] being the pixel range."""

    @property
    def drawn_by_rank(self) -> bool:
        """Whether x are large and drawn anew at each step, so that a rank draws its own rows alone and in advance."""

    def batch(self, seed: int, step: int, batch_size: int, share: slice = WHOLE) -> tuple[Tensor, Any]:
        """Return the global batch of a step: x [B, C, H, W] float32 and c.

        Rows of x outside `share` may be left NaN: a rank that never looks at them need not wait for them.
        """

    def reference(self) -> tuple[Tensor, Any]:
        """Return the x and c that samples are compared with."""

    def quantise(self, x: Tensor) -> Tensor:
        """Round and clamp x [B, C, H, W] to the values that the data themselves can take."""

    def oracle(self) -> Oracle | None:
        """Return the exact velocities; None where nobody knows them."""

    def features(self) -> Extractor | None:
        """Return the feature space in which samples are compared; None where there is none."""


class DataOptions(Family):
    """Which data to train on: each kind is a class of its own, in this folder or in another package (see `Family`).

    Example:
        >>> DataOptions.member("digits")().model_dump()
        {'name': 'digits', 'path': None, 'image_size': None}
    """

    TAG: ClassVar[str] = "name"
    name: str
    """Which kind of data."""

    @abstractmethod
    def load(self) -> DataSource:
        """Return the data; what is slow to build is built once per process.

        Raises:
            ValueError: Files that are missing, damaged or not what they should be.
        """

    def dimensions(self) -> tuple[Shape, Condition]:
        """Return the shape (C, H, W) and the condition of the data; overridden where big files need not be read."""
        data = self.load()
        return data.shape, data.condition


class Embedded(DataOptions):
    """Data that come from a package; the fields of files are empty, and in the JSON of earlier runs."""

    path: Path | None = None
    """None: these data lie in no file of yours."""
    image_size: int | None = None
    """None: these data have one size."""

    @model_validator(mode="after")
    def _no_files(self) -> Self:
        if self.path is not None:
            remedy = "leave path out, or choose a name among folder, npz, idx, latents"
            raise invalid("path", str(self.path), f"no path for name={self.name!r}", remedy)
        if self.image_size is not None:
            raise invalid("image_size", self.image_size, SIZED, "leave image_size out")
        return self


SIZED = "a size >= 1 for name='folder' or 'latents'"
"""Where an image size means something."""
