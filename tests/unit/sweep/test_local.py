import json
import os

import pytest
import torch
from sweeps._sweep import Small

from dynamics.planning.resources import Resources
from dynamics.sweep import local
from dynamics.sweep.events import record
from dynamics.sweep.local import places
from dynamics.sweep.submit import ClusterOptions


def test_cores_are_shared_out(tiny_sweep: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    none = ClusterOptions()
    assert places(none, Resources(), tiny_sweep.runs) == [()] * 8
    assert places(none, Resources(tasks=2, cpus=2), tiny_sweep.runs) == [()] * 2
    assert places(none, Resources(tasks=9), tiny_sweep.runs) == [()]
    assert places(ClusterOptions(parallelism=3), Resources(), tiny_sweep.runs) == [()] * 3


def test_no_two_runs_get_the_same_gpu(tiny_sweep: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 5)
    assert places(ClusterOptions(), Resources(gpus=2), tiny_sweep.runs) == [(0, 1), (2, 3)]
    assert places(ClusterOptions(parallelism=1), Resources(gpus=2), tiny_sweep.runs) == [(0, 1)]
    with pytest.raises(ValueError, match="gpus: received 6; allowed: up to the 5 of this machine"):
        places(ClusterOptions(), Resources(gpus=6), tiny_sweep.runs)


def test_what_is_asked_for_replaces_the_scales() -> None:
    scale = Resources(nodes=4, tasks=8, gpus=8, timeout_min=60)
    assert ClusterOptions(cluster="slurm").resources(scale) == scale
    asked = ClusterOptions(gpus=2, nodes=1, timeout=5).resources(scale)
    assert (asked.nodes, asked.tasks, asked.gpus, asked.timeout_min, asked.devices) == (1, 2, 2, 5, 2)
    assert ClusterOptions(cluster="slurm", gpus=2, tasks=4).resources(scale).tasks == 4


def test_more_options_of_sbatch_have_a_value() -> None:
    assert ClusterOptions(sbatch=("--constraint=h100", "exclude=a,b")).additional() == {
        "constraint": "h100",
        "exclude": "a,b",
    }
    with pytest.raises(ValueError, match="sbatch: received 'exclusive'; allowed: option=value"):
        ClusterOptions(sbatch=("exclusive",)).additional()


def test_lines_say_how_far_runs_are_where_there_is_no_terminal(
    tiny_sweep: Small, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, now = tiny_sweep.runs[2], [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    folder = tiny_sweep.folder.run(run.run_id)
    record(folder.path, "started", job_id="1", log="", out="", step=0, time=1e9)
    folder.log.write_text(json.dumps({"group": "training", "step": 4, "raw_v": 1.0}) + "\n")
    os.utime(folder.log, (1e9 + 40, 1e9 + 40))
    monkeypatch.setattr("time.time", lambda: 1e9 + 40)
    with local._Display(tiny_sweep.folder, 10, 3) as display:
        for now[0] in (1001.0, 1059.0, 1061.0, 1062.0, 1122.0):
            display.refresh([run])
    assert capsys.readouterr().err.splitlines() == [
        f"3 of 10 runs done; {run.run_id} at step 4 of 12, 0:01:20 left",
        f"3 of 10 runs done; {run.run_id} at step 4 of 12, 0:01:20 left",
    ]


def test_only_what_is_cancelled_meanwhile_is_left_out(tiny_sweep: Small) -> None:
    before, now = tiny_sweep.runs[2:4]
    far = 86_400.0
    record(tiny_sweep.folder.run(before.run_id).path, "cancelled", time=4e9 + far)  # of a wrong clock
    pool = local._Pool(tiny_sweep.folder, [before, now], ClusterOptions(cluster="local"), Resources())
    record(tiny_sweep.folder.run(now.run_id).path, "cancelled", time=far)
    assert not pool._cancelled(before)
    assert pool._cancelled(now)
