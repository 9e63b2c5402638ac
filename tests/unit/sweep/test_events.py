import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dynamics.sweep.events import FILE, alive, events, read_diary, record


def test_events_come_back_in_order_with_who_wrote_them(tmp_path: Path) -> None:
    record(tmp_path / "run", "submitted", cluster="local")
    record(tmp_path / "run", "failed", error="a\nb", path=tmp_path)
    first, second = events(tmp_path / "run")
    assert (first["kind"], first["cluster"], second["error"], second["path"]) == (
        "submitted",
        "local",
        "a\nb",
        str(tmp_path),
    )
    assert first["pid"] == os.getpid()
    assert first["time"] <= second["time"] <= time.time()
    assert events(tmp_path / "nothing") == []


def test_half_a_line_costs_only_itself(tmp_path: Path) -> None:
    record(tmp_path, "submitted", cluster="local")
    with (tmp_path / FILE).open("a") as file:
        file.write('{"kind": "started", "job')
    record(tmp_path, "failed", error="x")
    assert [event["kind"] for event in events(tmp_path)] == ["submitted", "failed"]
    assert read_diary(tmp_path)[1] == ""
    with (tmp_path / FILE).open("a") as file:
        file.write('\n{"kind": "started", "job')
    assert [event["kind"] for event in events(tmp_path)] == ["submitted", "failed"]
    assert read_diary(tmp_path)[1] == "", "nothing has been said since the writer was killed"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"kind": "failed"', b'"kind": "fXiled"'),
        (b'"error"', b'"eXror"'),
        (b"lost", b"l\xffst"),
        (b'"pid": ', b'"pid": "3", "x": '),
        (b'"time": ', b'"time": 1e200, "x": '),
        (b'"host": ', b'"host": 3, "x": '),
        (b'"error": "lost"', b'"error": ' + b"[" * 100_000 + b"]" * 100_000),
        (b'{"kind"', b'["kind"'),
    ],
)
def test_damage_is_named_and_costs_only_its_line(tmp_path: Path, old: bytes, new: bytes) -> None:
    record(tmp_path, "failed", error="lost")
    record(tmp_path, "cancelled")
    path = tmp_path / FILE
    content = path.read_bytes()
    assert content.count(old) >= 1
    path.write_bytes(content.replace(old, new, 1))
    found, damage = read_diary(tmp_path)
    assert [event["kind"] for event in found] == ["cancelled"]
    assert damage.startswith(f"{path}, line 2: received ")


def test_a_diary_that_cannot_be_read_is_damaged(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    assert read_diary(tmp_path) == ([], f"{tmp_path / FILE}: Is a directory")
    assert read_diary(tmp_path / "nothing") == ([], "")


def test_a_submission_to_slurm_has_its_place_in_the_queue(tmp_path: Path) -> None:
    record(tmp_path, "submitted", cluster="slurm", token="t")
    assert events(tmp_path) == []


def test_a_process_is_known_by_number_and_birth(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from dynamics.sweep.events import record; record(pathlib.Path(sys.argv[1]), 'cancelled')"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    record(tmp_path, "cancelled")
    other, mine = events(tmp_path)
    assert alive(mine)
    assert not alive(other)
    assert not alive({**mine, "born": mine["born"] - 5}), "another process with the same number"


def test_a_process_that_nobody_waited_for_is_dead(tmp_path: Path) -> None:
    pid = os.fork()
    if pid == 0:
        record(tmp_path, "cancelled")
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays a zombie
    assert not alive(events(tmp_path)[0])
    os.waitpid(pid, 0)


def test_another_host_has_the_benefit_of_the_doubt_for_a_while(tmp_path: Path) -> None:
    record(tmp_path, "cancelled")
    far = {**events(tmp_path)[0], "host": socket.gethostname() + "x"}
    assert alive(far)
    assert not alive({**far, "time": far["time"] - 601})
    assert not alive({**far, "time": far["time"] + 86_400}), "its clock was wrong"
