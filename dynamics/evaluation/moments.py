"""Mean and covariance of very many features, and the file that keeps those of a reference."""

import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dynamics.atomic import file_sha256, replacing
from dynamics.data.image_files import IMAGE_SUFFIXES, read_image
from dynamics.evaluation.inception import Inception
from dynamics.options import invalid
from dynamics.progress_bar import ProgressBar

_DAMAGED = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean and scatter of rows, all that is needed of those seen so far.

    Args:
        count: Number of rows N.
        mean: [D] float64.
        scatter: Sum over rows of (row - mean)(row - mean)^T, [D, D] float64.

    Example:
        >>> rows = torch.tensor([[0.0], [2.0], [7.0]])
        >>> both = Moments.of(rows[:2]).merged(Moments.of(rows[2:]))
        >>> both.mean.tolist(), both.covariance.tolist()
        ([3.0], [[13.0]])
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, features: Tensor) -> "Moments":
        """Return the moments of features [N, D], N >= 1, wherever they lie."""
        rows = features.double().cpu()
        mean = rows.mean(0)
        return cls(len(rows), mean, (rows - mean).T @ (rows - mean))

    def merged(self, other: "Moments") -> "Moments":
        """Return the moments of both sets of rows, without the cancellation of raw sums (Chan, Golub, LeVeque 1983)."""
        count = self.count + other.count
        shift = other.mean - self.mean
        scatter = self.scatter + other.scatter + torch.outer(shift, shift) * (self.count * other.count / count)
        return Moments(count, self.mean + shift * (other.count / count), scatter)

    @property
    def covariance(self) -> Tensor:
        """The unbiased covariance [D, D]."""
        return self.scatter / (self.count - 1)


@dataclass(frozen=True, eq=False)
class Statistics:
    """A reference set as Inception sees it.

    Args:
        name: The file's name.
        sha256: Its hash.
        mu: Mean of the features [D] float64.
        sigma: Their covariance [D, D] float64.
        num_images: How many images, 0 where the file does not say.
        features: [N, D] float32, None where the file has none.
    """

    name: str
    sha256: str
    mu: Tensor
    sigma: Tensor
    num_images: int
    features: Tensor | None


def load_statistics(path: Path, inception: Inception) -> Statistics:
    """Load reference statistics, ADM's or those of `compute_statistics`; nothing is unpickled.

    Args:
        path: An npz file with `mu` [D] and `sigma` [D, D]; it may have `features` [N, D], `num_images` and
            `inception_sha256`; everything else is passed over.
        inception: The network whose features they must be.

    Raises:
        ValueError: The file is missing or damaged, lacks an array or has one of another shape, or says that it was made
            with other weights.
    """
    remedy = "take ADM's VIRTUAL_imagenet256_labeled.npz, or compute the statistics of a folder of images"
    if not path.is_file():
        raise invalid("reference", str(path), "an existing npz file", remedy)
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("a single array, not an archive")
        with archive:
            keys = ("mu", "sigma", "features", "num_images", "inception_sha256")
            arrays = {key: archive[key] for key in keys if key in archive}
    except _DAMAGED as error:
        raise invalid(
            "reference", f"{path} ({error})", "a readable npz file without pickled objects", remedy
        ) from error
    dim, shapes = inception.dim, {key: array.shape for key, array in arrays.items()}
    kinds = {array.dtype.kind for key, array in arrays.items() if key in ("mu", "sigma", "features")}
    if shapes.get("mu") != (dim,) or shapes.get("sigma") != (dim, dim) or kinds != {"f"}:
        received = f"{path} with {', '.join(f'{key} {list(shape)}' for key, shape in shapes.items()) or 'neither'}"
        raise invalid("reference", received, f"floating-point mu [{dim}] and sigma [{dim}, {dim}]", remedy)
    if "features" in arrays and (len(shapes["features"]) != 2 or shapes["features"][1] != dim):
        raise invalid("reference", f"{path} with features {list(shapes['features'])}", f"[N, {dim}]", remedy)
    made_with = str(arrays.get("inception_sha256", inception.sha256))
    if made_with != inception.sha256:
        received = f"{path}, made with weights of sha256 {made_with[:8]}..."
        raise invalid("reference", received, f"one made with {inception.sha256[:8]}...", "use one Inception for both")
    mu, sigma = (torch.from_numpy(arrays[key]).double() for key in ("mu", "sigma"))
    features = torch.from_numpy(arrays["features"]).float() if "features" in arrays else None
    return Statistics(path.name, file_sha256(path), mu, sigma, int(arrays.get("num_images", 0)), features)


def compute_statistics(
    images: Path,
    inception: Inception,
    out: Path,
    keep_features: bool = False,
    image_size: int | None = None,
    batch_size: int = 64,
    progress: bool = True,
) -> None:
    """Compute a reference from images and write it as an npz file that `load_statistics` and others read.

    Args:
        images: A folder; all images in it and in its subfolders count, in the order of their paths.
        inception: From `load_inception`.
        out: The npz file.
        keep_features: Keep each image's features, 8 kB, too: kernel distance, precision and recall need them.
        image_size: Cut the largest centred square and resize it to this side in pixels. Needed when sizes differ.
        batch_size: Images per network pass.
        progress: Show a bar.

    Raises:
        ValueError: Fewer than 2 images, one that cannot be read, or different sizes without `image_size`.
    """
    if out.suffix != ".npz":
        raise invalid("out", str(out), "a name that ends in .npz", "for example stats.npz")
    if not images.is_dir():
        raise invalid("images", str(images), "an existing folder", "check the path")
    found = (p for p in images.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith("."))
    files = sorted(found, key=lambda path: path.as_posix())
    if len(files) < 2:
        allowed = f"at least 2 files ending in {', '.join(IMAGE_SUFFIXES)}"
        raise invalid("images", f"{images} with {len(files)} images", allowed, "check the path")
    moments: Moments | None = None
    kept = []
    with ProgressBar("statistics", len(files), "image", show=progress) as bar:
        for batch in _batches(files, image_size, batch_size):
            features = inception.features(batch)
            moments = Moments.of(features) if moments is None else moments.merged(Moments.of(features))
            kept += [features] if keep_features else []
            bar.update(len(batch))
    assert moments is not None, "there are images"
    arrays = {
        "mu": moments.mean.numpy(),
        "sigma": moments.covariance.numpy(),
        "num_images": np.array(moments.count),
        "inception_sha256": np.array(inception.sha256),
    }
    if keep_features:
        arrays["features"] = torch.cat(kept).numpy()
    with replacing(out) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def _batches(files: list[Path], image_size: int | None, batch_size: int) -> Iterator[Tensor]:
    """Yield uint8 [B, 3, H, W], read by several threads."""
    size = None
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(files), batch_size):
            chunk = files[start : start + batch_size]
            images = list(pool.map(lambda path: read_image(path, image_size), chunk))
            for path, image in zip(chunk, images, strict=True):
                size = size or image.shape[:2]
                if image.shape[:2] != size:
                    received = f"{image.shape[:2]} in {path}, {size} in {files[0]}"
                    raise invalid("image sizes", received, "one (height, width)", "pass image_size to crop and resize")
            rgb = [image if image.shape[2] == 3 else image.repeat(3, axis=2) for image in images]
            yield torch.from_numpy(np.stack(rgb)).permute(0, 3, 1, 2).contiguous()
