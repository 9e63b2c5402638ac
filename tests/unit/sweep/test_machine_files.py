"""Files that only a machine knows: named once, remembered, and refused before anything is queued."""

from dataclasses import replace
from pathlib import Path

import pytest
from sweeps._sweep import Small

from dynamics.evaluation import EvaluationOptions
from dynamics.evaluation.fid import FidOptions
from dynamics.presets import preset
from dynamics.sweep.grid import Experiment, Planned, check_plan, experiment, plan
from dynamics.sweep.machine_files import EVALUATIONS, FidRequest, Files, remembered, requested, settled

FID = FidOptions(num_samples=20)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Three files that are there."""
    for name in ("inception.pth", "stats.npz"):
        (tmp_path / name).touch()
    (tmp_path / "vae").mkdir()
    return Files(
        latents=tmp_path / "latents",
        vae=str(tmp_path / "vae"),
        inception=tmp_path / "inception.pth",
        reference=tmp_path / "stats.npz",
    )


@pytest.fixture
def on_latents() -> Experiment:
    return replace(
        experiment("sweeps", "tiny"),
        base=lambda scale: preset("b4-meanflow"),
        axes=lambda scale: {"seed": {0: {"seed": 0}}},
        before=lambda config, knobs: (),
        evaluation=lambda scale: [FID],
    )


def test_what_is_named_is_remembered_and_can_be_changed(tiny_sweep: Small, tmp_path: Path) -> None:
    folder = tiny_sweep.folder
    assert settled(folder, Files(), None) == remembered(folder) == Files()
    assert not (folder.path / "files.json").exists()
    settled(folder, Files(latents=Path("a")), None)
    found = settled(folder, Files(vae="owner/model"), None)
    assert found == remembered(folder) == Files(latents=Path("a").absolute(), vae="owner/model")
    assert settled(folder, Files(latents=tmp_path), None).latents == tmp_path


def test_what_an_experiment_makes_itself_comes_last(tiny_sweep: Small, tmp_path: Path) -> None:
    def prepare(scale: str, folder: Path) -> Files:
        assert scale == "digits"
        return Files(latents=folder / "made", inception=folder / "made")

    found = settled(tiny_sweep.folder, Files(latents=tmp_path), prepare)
    made = (tiny_sweep.folder.path / "files" / "made").absolute()
    assert (found.latents, found.inception) == (tmp_path, made)


def test_a_plan_knows_the_files(on_latents: Experiment, files: Files) -> None:
    (run,) = plan(on_latents, "b4", files)
    assert run.config.data.path == files.latents
    wanted = FidRequest(fid=FID, inception=files.inception, reference=files.reference, vae=files.vae)
    assert run.evaluations == (wanted,)
    assert EVALUATIONS.validate_json(EVALUATIONS.dump_json(run.evaluations)) == run.evaluations
    assert requested(EvaluationOptions(), files, on_latents=False) == EvaluationOptions()
    # nobody has said yet where they are: the plan can be looked at all the same
    assert plan(on_latents, "b4")[0].config.data.path is None


def test_on_latents_fid_takes_the_place_of_other_distances(on_latents: Experiment, files: Files) -> None:
    study = replace(on_latents, evaluation=lambda scale: [EvaluationOptions(nfe=(32,), field="v", num_samples=100)])
    (wanted,) = plan(study, "b4", files)[0].evaluations
    assert isinstance(wanted, FidRequest)
    assert wanted.fid == FidOptions(nfe=(32,), field="v")
    assert wanted.fid.num_samples == 50_000


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("latents", "latents: received None; .*--latents FOLDER"),
        ("inception", "inception, reference: received 'not both named'.*--inception FILE"),
        ("reference", "inception, reference: received 'not both named'"),
        ("vae", "vae: received None.*--vae FOLDER"),
    ],
)
def test_what_is_not_named_is_refused(on_latents: Experiment, files: Files, missing: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_plan(plan(on_latents, "b4", files.model_copy(update={missing: None})))


def test_what_is_not_there_is_refused(on_latents: Experiment, files: Files) -> None:
    with pytest.raises(ValueError, match=r"reference: received '.*gone\.npz'; allowed: an existing file"):
        check_plan(plan(on_latents, "b4", files.model_copy(update={"reference": Path("gone.npz")})))
    with pytest.raises(ValueError, match=r"record\.json"):
        check_plan(plan(on_latents, "b4", files))


def test_old_diaries_still_know_their_evaluations(tiny_sweep: Small) -> None:
    run: Planned = tiny_sweep.runs[2]
    text = EVALUATIONS.dump_json(run.evaluations).decode()
    assert text.startswith('[{"nfe":[1],"num_samples":20')
