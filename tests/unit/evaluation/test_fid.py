"""FID's moments, reference files and sampling, with a network of a few features in place of Inception."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image
from torch import Tensor, nn

from dynamics.evaluation import fid
from dynamics.evaluation.distances import frechet_distance, frechet_from_moments, kernel_distance, precision_recall
from dynamics.evaluation.fid import FidOptions, ImageSource, Parts, evaluate_fid, pixels_to_images
from dynamics.evaluation.inception import Inception, import_torchvision, inception_score
from dynamics.evaluation.moments import Moments, Statistics, compute_statistics, load_statistics
from dynamics.evaluation.sample_quality import draw_conditions
from dynamics.flow.condition import ClassLabels
from dynamics.rng import generator

CPU = torch.device("cpu")
DIM = 5


class SmallNetwork(nn.Module):
    """Maps images to tanh of random projections, like Inception in a tuple; notes what it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = torch.randn(48, DIM, generator=generator(0, "projections")) / 7
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> tuple[Tensor]:
        assert images.dtype == torch.uint8
        self.seen.append(images)
        return (torch.tanh((images.flatten(1).float() / 128 - 1) @ self.matrix),)


@pytest.fixture
def inception() -> Inception:
    return Inception(SmallNetwork(), torch.randn(9, DIM, generator=generator(0, "head")), "ab" * 32, CPU)


@pytest.fixture
def reference(inception: Inception, tmp_path: Path) -> Statistics:
    rows = torch.randn(40, DIM, generator=generator(0, "reference")).float()
    path = tmp_path / "reference.npz"
    np.savez(path, mu=rows.double().mean(0), sigma=np.cov(rows.double().T), features=rows, num_images=40)
    return load_statistics(path, inception)


def u(z: Tensor, t: Tensor, r: Tensor, y: Tensor) -> Tensor:
    """A network that shrinks the noise towards a level per class, by more with every evaluation."""
    return 0.8 * z - (y / 4 - 0.5).view(-1, 1, 1, 1) * t.view(-1, 1, 1, 1)


def source(velocity: Any = u, channels: int = 3) -> ImageSource:
    return ImageSource(velocity, (channels, 4, 4), ClassLabels(4), CPU)


def options(**changes: Any) -> FidOptions:
    return FidOptions(**{"num_samples": 30, "batch_size": 8, "neighbour_rows": 20, **changes})


def test_merged_moments_are_those_of_all_rows_also_far_from_the_origin() -> None:
    rows = 1e6 + torch.randn(100, 4, generator=generator(0, "rows"), dtype=torch.float64)
    parts = [Moments.of(part) for part in torch.split(rows, [1, 40, 3, 56])]
    merged = parts[0].merged(parts[1]).merged(parts[2].merged(parts[3]))
    assert merged.count == 100
    np.testing.assert_allclose(merged.mean, rows.mean(0), rtol=1e-15)
    np.testing.assert_allclose(merged.covariance, np.cov(rows.T), rtol=1e-9)


def test_moments_of_float32_are_summed_in_float64() -> None:
    rows = 100 + torch.rand(2000, 3, generator=generator(0, "rows"))
    moments = Moments.of(rows)
    np.testing.assert_allclose(moments.covariance, np.cov(rows.double().T), rtol=1e-12)


def test_frechet_distance_is_that_of_torch_fidelity_and_torchmetrics() -> None:
    import_torchvision()
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torchmetrics.image.fid import _compute_fid

    a = torch.randn(500, 40, generator=generator(0, "a"), dtype=torch.float64)
    b = a.flip(0)[:300] @ torch.diag(torch.linspace(0.2, 2, 40, dtype=torch.float64)).roll(3, 1) + 0.3
    merged = [Moments.of(rows[:100]).merged(Moments.of(rows[100:])) for rows in (a, b)]
    ours = frechet_from_moments(merged[0].mean, merged[0].covariance, merged[1].mean, merged[1].covariance)
    theirs = fid_statistics_to_metric(*(fid_features_to_statistics(rows) for rows in (a, b)), verbose=False)
    assert ours == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)
    assert ours == pytest.approx(float(_compute_fid(a.mean(0), a.T.cov(), b.mean(0), b.T.cov())), rel=1e-6)


def write(path: Path, **changes: Any) -> Path:
    arrays = {"mu": np.zeros(DIM), "sigma": np.eye(DIM), **changes}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def test_a_file_like_adms(inception: Inception, tmp_path: Path) -> None:
    path = write(tmp_path / "adm.npz", mu_s=np.zeros(3), sigma_s=np.eye(3), arr_0=np.zeros((2, 4, 4, 3), np.uint8))
    loaded = load_statistics(path, inception)
    assert torch.equal(loaded.sigma, torch.eye(DIM, dtype=torch.float64))
    assert (loaded.name, loaded.num_images, loaded.features) == ("adm.npz", 0, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mu": None}, r"floating-point mu \[5\] and sigma \[5, 5\]"),
        ({"sigma": np.eye(4)}, r"sigma \[4, 4\]'; allowed"),
        ({"mu": np.zeros(DIM, dtype=int)}, "floating-point"),
        ({"mu": np.array([None] * DIM)}, "without pickled objects"),
        ({"features": np.zeros((7, 4))}, r"features \[7, 4\]"),
        ({"inception_sha256": "cd" * 32}, r"weights of sha256 cdcdcdcd.*allowed: one made with abababab"),
    ],
)
def test_bad_references_are_refused(
    changes: dict[str, Any], message: str, inception: Inception, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        load_statistics(write(tmp_path / "bad.npz", **changes), inception)


def test_files_that_are_no_archives_are_refused(inception: Inception, tmp_path: Path) -> None:
    path = tmp_path / "bad.npz"
    with pytest.raises(ValueError, match="an existing npz file"):
        load_statistics(path, inception)
    write(path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match="a readable npz file"):
        load_statistics(path, inception)
    with path.open("wb") as file:
        np.save(file, np.zeros(DIM))
    with pytest.raises(ValueError, match="a single array"):
        load_statistics(path, inception)


def test_statistics_of_a_folder(inception: Inception, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    (folder / "b").mkdir(parents=True)
    pixels = torch.randint(0, 256, (9, 3, 4, 4), dtype=torch.uint8, generator=generator(0, "pixels"))
    pixels[0] = pixels[0, :1]
    for i, image in enumerate(pixels.permute(0, 2, 3, 1).numpy()):
        Image.fromarray(image[..., 0] if i == 0 else image).save(folder / ("b" if i > 3 else ".") / f"{i}.png")
    Image.new("RGB", (4, 4)).save(folder / "._0.png")
    compute_statistics(folder, inception, tmp_path / "kept.npz", keep_features=True, batch_size=4, progress=False)
    compute_statistics(folder, inception, tmp_path / "bare.npz", progress=False)
    features = inception.features(pixels)
    kept, bare = (load_statistics(tmp_path / name, inception) for name in ("kept.npz", "bare.npz"))
    assert kept.features is not None
    assert torch.equal(kept.features, features)
    assert bare.features is None
    for statistics in (kept, bare):
        assert statistics.num_images == 9
        np.testing.assert_allclose(statistics.mu, features.double().mean(0), rtol=1e-12)
        np.testing.assert_allclose(statistics.sigma, features.double().T.cov(), rtol=1e-12)

    Image.new("L", (6, 4)).save(folder / "z.png")
    with pytest.raises(ValueError, match=r"\(4, 6\) in .*z.png"):
        compute_statistics(folder, inception, tmp_path / "sizes.npz", progress=False)
    compute_statistics(folder, inception, tmp_path / "sizes.npz", image_size=4, progress=False)
    with pytest.raises(ValueError, match=r"ends in \.npz"):
        compute_statistics(folder, inception, tmp_path / "stats", progress=False)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="at least 2 files"):
        compute_statistics(tmp_path / "empty", inception, tmp_path / "empty.npz", progress=False)


def test_numbers_are_those_of_the_features(inception: Inception, reference: Statistics, tmp_path: Path) -> None:
    measured = evaluate_fid(source(), options(), inception, reference, Parts(tmp_path / "parts"))
    labels, real = draw_conditions(options(), ClassLabels(4)), reference.features
    assert real is not None
    for nfe in (1, 2):
        images = source().images(0, labels, options())[nfe]
        features = inception.features(images)
        score, spread = inception_score(inception.logits(features))
        kernel = kernel_distance(real, features)
        row = measured.sel(field="u", nfe=nfe)
        assert float(row.fid_inception) == pytest.approx(frechet_distance(real, features), rel=1e-9)
        assert float(row.is_inception) == pytest.approx(score, rel=1e-6)
        assert float(row.is_inception_std) == pytest.approx(spread, rel=1e-4)
        assert float(row.kd_inception) == pytest.approx(kernel.value, rel=1e-9)
        assert float(row.kd_inception_sem) == pytest.approx(kernel.standard_error, rel=1e-9)
    assert measured.fid_inception.sizes == {"field": 1, "nfe": 2}
    assert float(measured.fid_inception[0, 0]) != float(measured.fid_inception[0, 1])
    assert measured.attrs["neighbour_rows"] == 20
    assert measured.attrs["left_out"] == ""


def test_pictures_are_of_every_class_and_of_noise_that_counts_for_nothing_else(
    inception: Inception, reference: Statistics, tmp_path: Path
) -> None:
    measured = evaluate_fid(source(), options(), inception, reference, Parts(tmp_path / "parts"))
    labels = torch.arange(4).repeat_interleave(3)
    for nfe in (1, 2):
        shown = measured.samples.sel(field="u", nfe=nfe).values
        expected = source().images(30, labels, options())[nfe]
        assert np.array_equal(shown, expected.reshape(4, 3, *expected.shape[1:]).numpy())
    images = source().images(0, draw_conditions(options(), ClassLabels(4)), options())[1]
    counted = {image.numpy().tobytes() for image in images}
    assert not counted & {image.tobytes() for image in measured.samples.values[0, 0].reshape(12, 3, 4, 4)}


def test_precision_and_recall_compare_equal_counts(inception: Inception, reference: Statistics, tmp_path: Path) -> None:
    assert reference.features is not None
    measured = evaluate_fid(
        source(), options(num_samples=40, neighbour_rows=100), inception, reference, Parts(tmp_path / "parts")
    )
    images = source().images(0, draw_conditions(options(num_samples=40), ClassLabels(4)), options())[1]
    inside = precision_recall(reference.features, inception.features(images))
    assert 0 < inside.precision < 1 or 0 < inside.recall < 1
    assert float(measured.precision_inception[0, 0]) == inside.precision
    assert float(measured.recall_inception[0, 0]) == inside.recall
    assert measured.attrs["neighbour_rows"] == 40


def test_many_rows_take_kernel_subsets(
    inception: Inception, reference: Statistics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fid, "KERNEL_ROWS", 30)
    monkeypatch.setattr(fid, "KERNEL_SUBSET", 10)
    measured = evaluate_fid(source(), options(nfe=(1,)), inception, reference, Parts(tmp_path / "parts"))
    images = source().images(0, draw_conditions(options(), ClassLabels(4)), options())[1]
    assert reference.features is not None
    kernel = kernel_distance(reference.features, inception.features(images), 10)
    assert float(measured.kd_inception[0, 0]) == pytest.approx(kernel.value, rel=1e-9)
    assert measured.attrs["kernel_subset"] == 10


def test_without_features_in_the_reference(inception: Inception, tmp_path: Path) -> None:
    bare = load_statistics(write(tmp_path / "bare.npz"), inception)
    measured = evaluate_fid(source(), options(), inception, bare, Parts(tmp_path / "parts"))
    assert set(measured.data_vars) == {"fid_inception", "is_inception", "is_inception_std", "samples"}
    assert "need a reference with features" in measured.attrs["left_out"]


def test_batches_do_not_change_what_is_drawn(inception: Inception, reference: Statistics, tmp_path: Path) -> None:
    measured = [
        evaluate_fid(source(), options(batch_size=size), inception, reference, Parts(tmp_path / str(size)))
        for size in (8, 30, 7)
    ]
    for other in measured[1:]:
        xr.testing.assert_allclose(measured[0], other, rtol=1e-5)  # features of other batches round otherwise
    network = inception.network
    assert isinstance(network, SmallNetwork)
    by_eight, at_once = torch.cat(network.seen[0:8:2]), network.seen[8]
    assert torch.equal(by_eight, at_once)
    assert len({image.numpy().tobytes() for image in at_once}) == 30


def test_all_settings_share_noise_and_labels(inception: Inception, reference: Statistics, tmp_path: Path) -> None:
    starts: dict[int, list[Tensor]] = {1: [], 2: [], 4: []}
    asked = []

    def spy(z: Tensor, t: Tensor, r: Tensor, y: Tensor) -> Tensor:
        if float(t[0]) == 1:
            starts[round(1 / float(t[0] - r[0]))].append(z)
            asked.append(y)
        return u(z, t, r, y)

    evaluate_fid(source(spy), options(nfe=(1, 2, 4)), inception, reference, Parts(tmp_path / "parts"))
    noise = {nfe: torch.cat(parts) for nfe, parts in starts.items()}
    assert torch.equal(noise[1], noise[2])
    assert torch.equal(noise[1], noise[4])
    assert torch.equal(torch.cat(asked[0::3])[:30], draw_conditions(options(), ClassLabels(4)))
    assert abs(float(noise[1].mean())) < 0.1
    assert abs(float(noise[1].std()) - 1) < 0.1
    other = source().images(0, torch.zeros(3, dtype=torch.long), options(seed=1))[1]
    assert not torch.equal(other, source().images(0, torch.zeros(3, dtype=torch.long), options())[1])


def test_the_field_v(inception: Inception, reference: Statistics, tmp_path: Path) -> None:
    times = []

    def spy(z: Tensor, t: Tensor, r: Tensor, y: Tensor) -> Tensor:
        times.append((float(t[0]), float(r[0])))
        return u(z, t, r, y)

    chosen = options(field="v", method="heun", nfe=(2,))
    measured = evaluate_fid(source(spy), chosen, inception, reference, Parts(tmp_path / "parts"))
    assert times[:2] == [(1, 1), (0, 0)]
    assert measured["field"].values.tolist() == ["v"]
    assert measured.attrs["method"] == "heun"
    with pytest.raises(ValueError, match="even numbers for Heun"):
        evaluate_fid(source(), chosen.model_copy(update={"nfe": (3,)}), inception, reference, Parts(tmp_path / "parts"))


def test_pixels_are_rounded_not_cut() -> None:
    levels = torch.tensor([-1.2, -1, 100.4 / 127.5 - 1, 100.6 / 127.5 - 1, 1, 1.7])
    images = pixels_to_images(levels.view(6, 1, 1, 1))
    assert images.shape == (6, 3, 1, 1)
    assert images.dtype == torch.uint8
    assert images[:, 0, 0, 0].tolist() == [0, 0, 100, 101, 255, 255]
    assert torch.equal(images[:, 0], images[:, 2])
    colour = torch.rand(2, 3, 4, 4, generator=generator(0, "colour"))
    assert torch.equal(pixels_to_images(colour), ((colour + 1) * 127.5).round().to(torch.uint8))


def test_samples_that_are_not_finite_are_refused(inception: Inception, reference: Statistics, tmp_path: Path) -> None:
    def broken(z: Tensor, t: Tensor, r: Tensor, y: Tensor) -> Tensor:
        return torch.where(t.view(-1, 1, 1, 1) < 1, torch.nan, z)

    with pytest.raises(ValueError, match="nan or inf at nfe 2"):
        evaluate_fid(source(broken), options(), inception, reference, Parts(tmp_path / "parts"))


def test_parts_that_are_there_are_used_and_others_drawn(
    inception: Inception, reference: Statistics, tmp_path: Path
) -> None:
    parts = Parts(tmp_path / "evaluation" / "parts")
    first = evaluate_fid(source(), options(), inception, reference, parts)
    network = inception.network
    assert isinstance(network, SmallNetwork)
    parts.path(1).unlink()
    damaged = bytearray(parts.path(2).read_bytes())
    damaged[-3] ^= 1
    parts.path(2).write_bytes(damaged)
    parts.path(3).write_bytes(b"short")
    network.seen.clear()
    with pytest.warns(UserWarning, match=r"part_00000[23].safetensors is damaged"):
        again = evaluate_fid(source(), options(), inception, reference, parts)
    assert again.identical(first)
    assert [len(images) for images in network.seen] == [8, 8, 8, 8, 6, 6]
    network.seen.clear()
    more = evaluate_fid(source(), options(nfe=(1, 4)), inception, reference, parts)
    assert len(network.seen) == 8  # a part without nfe 4 is no part
    assert float(more.fid_inception.sel(nfe=1, field="u")) == float(first.fid_inception.sel(nfe=1, field="u"))
    parts.drop()
    assert not (tmp_path / "evaluation").exists()


def test_a_part_that_another_rank_kept_elsewhere_is_missed(
    inception: Inception, reference: Statistics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = Parts(tmp_path / "parts")
    kept = Parts.write
    monkeypatch.setattr(Parts, "write", lambda self, i, features: kept(self, i, features) if i != 2 else None)
    with pytest.raises(ValueError, match="3 of 4 files"):
        evaluate_fid(source(), options(), inception, reference, parts)


def test_it_says_how_long_the_average_was(inception: Inception, reference: Statistics) -> None:
    about = fid.protocol(options(ema_length=0.05), inception, reference)
    assert (about["ema_length"], about["weights"], about["num_samples"]) == (0.05, "length0.05", 30)
    assert "ema_length" not in fid.protocol(options(), inception, reference)
