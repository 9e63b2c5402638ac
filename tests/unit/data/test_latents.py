"""Latents that are there: what a batch is, what is refused, which damage is named, and a run on them."""

import errno
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from latent_set import OPTIONS, SCALE, SHAPE, TOTAL, laws, write_latents

from dynamics.atomic import file_sha256
from dynamics.config import RunConfig
from dynamics.data import DataSource, Digits, Latents, LatentSet, batch_indices, latent_files
from dynamics.data.latent_files import LABELS, RECORD, Record, read_record, shard_path, verify
from dynamics.evaluation import EvaluationOptions, reference_for
from dynamics.flow.condition import ClassLabels
from dynamics.instruments import CellsOptions, DecompositionOptions, GapsOptions
from dynamics.models import DiTOptions
from dynamics.runner import evaluate_run, run
from dynamics.store import read_run
from dynamics.strict_json import seal
from dynamics.training import World
from dynamics.training import step as training_step
from dynamics.training.step import draw


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_latents(tmp_path / "a set")


@pytest.fixture
def data(folder: Path) -> DataSource:
    return Latents(path=folder, **OPTIONS).load()


def test_moments_are_those_of_the_rows_in_the_order_asked_for(data: LatentSet) -> None:
    rows, flips = torch.tensor([12, 0, 5, 4, 6, 5, 12]), torch.tensor([0, 1, 1, 0, 0, 0, 1])
    assert torch.equal(data.moments(rows, flips), laws()[rows, flips])
    assert torch.equal(data.moments(torch.arange(TOTAL), torch.zeros(TOTAL).long()), laws()[:, 0])


def test_a_batch_is_a_pure_function_of_seed_and_step(data: LatentSet, folder: Path) -> None:
    x, y = data.batch(3, 7, 8)
    data.batch(3, 8, 5)
    again, _ = Latents(path=folder, **OPTIONS).load().batch(3, 7, 8)
    assert torch.equal(x, again)
    assert torch.equal(y, batch_indices(TOTAL, 3, 7, 8) % 3)
    assert (x.shape, x.dtype, y.dtype) == ((8, *SHAPE), torch.float32, torch.long)
    assert not torch.equal(x, data.batch(3, 8, 8)[0])
    assert not torch.equal(x, data.batch(4, 7, 8)[0])


def test_a_rank_reads_and_draws_its_own_rows_alone(
    data: LatentSet, monkeypatch: pytest.MonkeyPatch, tiny: RunConfig
) -> None:
    x, y = data.batch(3, 7, 8)
    read: list[int] = []
    moments = LatentSet.moments
    monkeypatch.setattr(LatentSet, "moments", lambda self, rows, flips: read.extend(rows) or moments(self, rows, flips))
    mine, labels = data.batch(3, 7, 8, slice(1, None, 3))
    assert read == batch_indices(TOTAL, 3, 7, 8)[1::3].tolist()
    assert torch.equal(labels, y)
    assert torch.equal(mine[1::3], x[1::3])
    assert bool(mine[0::3].isnan().all() & mine[2::3].isnan().all())

    nine = tiny.training.model_copy(update={"batch_size": 9})
    recipe = tiny.model_copy(update={"seed": 3, "training": nine, "curricula": ()}).recipe(data)
    whole = draw(recipe, recipe.plan(0, []), 7)
    assert bool((whole.x.isfinite() & whole.e.isfinite()).all())
    assert whole.e[0].std() > 0.3
    for rank in range(3):
        monkeypatch.setattr(training_step, "world", lambda rank=rank: World(rank, 3))
        own, expected = draw(recipe, recipe.plan(0, []), 7).shard(rank, 3), whole.shard(rank, 3)
        for name in ("x", "e", "t", "r", "c", "dropped"):
            assert torch.equal(getattr(own, name), getattr(expected, name))


def test_x_follows_the_law_of_its_row_or_of_its_flip(data: LatentSet) -> None:
    flips, residuals = [], []
    for step in range(60):
        x, _ = data.batch(0, step, 26)
        mean, std = laws()[batch_indices(TOTAL, 0, step, 26)].float().unbind(2)
        e = (x.unsqueeze(1) / SCALE - mean) / std
        flips.append(e.flatten(2).square().sum(2).argmin(1))  # the other one's mean is 20 standard deviations away
        residuals.append(e[torch.arange(26), flips[-1]])
    assert float(torch.cat(flips).float().mean()) == pytest.approx(0.5, abs=0.04)
    rows = torch.cat(residuals).flatten(1)
    assert float(rows.mean(0).abs().max()) < 4 / len(rows) ** 0.5
    assert float((rows.T @ rows / len(rows) - torch.eye(16)).abs().max()) < 6 / len(rows) ** 0.5


def test_the_reference_is_scaled_means_of_images_as_they_are(data: LatentSet, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = data.reference()
    assert torch.equal(x, SCALE * laws()[:, 0, 0].float())
    assert y.tolist() == [i % 3 for i in range(TOTAL)]
    monkeypatch.setattr("dynamics.data.latents.NUM_REFERENCE", 4)
    assert torch.equal(data.reference()[0], x[[0, 3, 6, 9]])
    assert torch.equal(data.quantise(x), x)


def test_what_results_say_about_latents(data: LatentSet, folder: Path) -> None:
    assert (data.name, data.shape, data.num_classes, data.condition) == ("latents-a_set", SHAPE, 3, ClassLabels(3))
    assert "tiny" in data.source
    other = data.record.model_copy(update={"vae_sha256": "0" * 64})
    assert LatentSet(folder, other, data.labels).sha256 != data.sha256


def test_dimensions_need_no_latents(folder: Path) -> None:
    assert Latents(image_size=512).dimensions() == ((4, 64, 64), ClassLabels(1000))
    assert Digits().dimensions() == ((1, 8, 8), ClassLabels(10))
    for file in (folder / "shards").iterdir():
        file.unlink()
    assert Latents(path=folder, **OPTIONS).dimensions() == (SHAPE, ClassLabels(3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vae": "other"}, r"data\.vae: received 'other'; allowed: 'tiny'"),
        ({"latent_scale": 0.18125}, r"data\.latent_scale: received 0\.18125; allowed: 0\.5"),
        ({"image_size": 32}, r"data\.image_size: received 32; allowed: 16"),
        ({"path": None}, r"data\.path: received None"),
    ],
)
def test_latents_of_another_making_are_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Latents(**({"path": folder} | OPTIONS | changes)).load()


def test_the_hash_of_the_weights_names_an_autoencoder_too(folder: Path) -> None:
    assert Latents(path=folder, **(OPTIONS | {"vae": "f" * 64})).load().num_classes == 3


def truncate(folder: Path) -> None:
    with shard_path(folder, 2).open("r+b") as file:
        file.truncate(100)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, r"00002\.f16 has 100 bytes instead of 896"),
        (lambda folder: shard_path(folder, 1).unlink(), r"00001\.f16 is missing"),
        (lambda folder: (folder / LABELS).write_bytes(b"half"), r"labels\.npy has sha256"),
        (lambda folder: (folder / LABELS).unlink(), r"labels\.npy is missing"),
        (lambda folder: (folder / RECORD).write_text("{}"), r"record\.json \("),
        (lambda folder: (folder / RECORD).unlink(), r"without record\.json"),
    ],
)
def test_damage_is_named(folder: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(folder)
    with pytest.raises(ValueError, match=message):
        Latents(path=folder, **OPTIONS).load()
    with pytest.raises(ValueError, match=message):
        verify(folder)


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "check", [verify, lambda folder: Latents(path=folder, **OPTIONS).load()], ids=["verb", "start"]
)
def test_changed_content_is_found_and_every_file_is_named(folder: Path, check: Callable[[Path], object]) -> None:
    check(folder)
    for i in (0, 2):
        flip(shard_path(folder, i), 40)
    for _ in range(2):
        message = r"00000\.f16 has sha256.*00002\.f16 has sha256.*dynamics encode"
        with pytest.raises(ValueError, match=message) as caught:
            check(folder)
        assert "00001.f16" not in str(caught.value)


def test_no_changed_byte_is_trained_on(folder: Path) -> None:
    for path in (*(shard_path(folder, i) for i in range(3)), folder / LABELS):
        content = path.read_bytes()
        for place in range(0, len(content), 37):
            flip(path, place)
            with pytest.raises(ValueError, match=rf"{path.name} has sha256"):
                Latents(path=folder, **OPTIONS).load()
            path.write_bytes(content)
    Latents(path=folder, **OPTIONS).load()


def test_files_that_did_not_change_are_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def noted(path: Path) -> str:
        read.append(path.name)
        return file_sha256(path)

    monkeypatch.setattr(latent_files, "file_sha256", noted)
    load = Latents(path=folder, **OPTIONS).load
    load()
    load()
    assert read == ["00000.f16", "00001.f16", "00002.f16", "labels.npy"]
    shard_path(folder, 1).touch()
    load()
    assert read[4:] == ["00001.f16"], "another time, another look"
    verify(folder)
    assert len(read) == 9, "whoever asks gets all files read"
    (folder / latent_files.SEEN).write_text((folder / latent_files.SEEN).read_text().replace("1", "2"))
    load()
    assert len(read) == 13, "what it remembers is damaged"


def test_latents_that_cannot_be_written_to_are_loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(path: Path, *_: object) -> None:
        raise PermissionError(errno.EROFS, "read-only file system", str(path))

    monkeypatch.setattr(latent_files, "locked", read_only)
    monkeypatch.setattr(latent_files, "replacing", read_only)
    assert Latents(path=folder, **OPTIONS).load().num_classes == 3


def test_a_sealed_record_shows_every_change(folder: Path) -> None:
    path = folder / RECORD
    path.write_text(seal(read_record(folder).model_dump(mode="json")))
    before, content = read_record(folder), path.read_bytes()
    for place in range(0, len(content), 5):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with suppress(ValueError):
            assert read_record(folder) == before


def test_latents_and_labels_of_other_numbers_are_refused(folder: Path) -> None:
    record = Record.model_validate_json((folder / RECORD).read_text())
    short = record.model_copy(update={"classes": ("a", "b")})
    (folder / RECORD).write_text(short.model_dump_json())
    with pytest.raises(ValueError, match=r"labels 0\.\.2'; allowed: 13 of 2 classes"):
        Latents(path=folder, **OPTIONS).load()
    (folder / RECORD).write_text(record.model_copy(update={"num_images": 12}).model_dump_json())
    with pytest.raises(ValueError, match="another sum of counts"):
        Latents(path=folder, **OPTIONS).load()


def test_nobody_knows_what_is_exact_of_latents(data: LatentSet) -> None:
    assert (data.oracle(), data.features(), data.pictures, data.drawn_by_rank) == (None, None, False, True)


def test_a_run_records_losses_and_leaves_out_what_needs_exact_velocities(
    folder: Path, tmp_path: Path, tiny: RunConfig
) -> None:
    decomposition = DecompositionOptions(
        rows_per_bin=2, rows_per_split=2, num_splits=2, ode_steps=2, gap_edges=(0.1, 0.5), precondition="none"
    )
    config = tiny.model_copy(
        update={
            "data": Latents(path=folder, **OPTIONS),
            "model": DiTOptions(dim=16, depth=1, heads=2, patch_size=1),
            "curricula": (),
            "training": tiny.training.model_copy(update={"num_steps": 2, "batch_size": 8, "checkpoint_every": 2}),
            "observers": (GapsOptions(every=1, rows_per_bin=4, by_time=True), CellsOptions(every=1), decomposition),
        }
    )
    out = run(config, tmp_path / "run", progress=False)
    tree = read_run(out / "run.nc")
    gaps = tree["gaps"].to_dataset()
    assert {"v_loss", "u_loss", "u_du_dt_norm", "one_step_loss", "cell_loss"} <= set(gaps)
    needing = ("error", "scale", "covariance", "irreducible", "excess", "cross", "inherited")
    assert [name for name in gaps if any(word in str(name) for word in needing)] == []
    assert bool(gaps.u_loss.notnull().all())
    assert tree["cells"]["count"].isel(step=-1).sum() == 16
    parts = set(tree["decomposition"].to_dataset())
    assert {"gram", "v_loss", "u_inconsistency", "u_ode_error"} <= parts
    assert [name for name in parts if str(name).startswith(("u_error", "u_scale", "u_inherited"))] == []

    assert reference_for(config.data.load()).extractor is None
    evaluate_run(out, EvaluationOptions(nfe=(1,), num_samples=4), exact_rows=4, progress=False)
    evaluate_run(out, EvaluationOptions(nfe=(1, 2), num_samples=4), exact_rows=4, progress=False)
    evaluation = read_run(out / "run.nc")["evaluation"].to_dataset()
    assert evaluation.nfe.values.tolist() == [1, 2]
    assert "u_loss" in evaluation
    assert not {"samples", "accuracy", "u_error"} & set(evaluation)
