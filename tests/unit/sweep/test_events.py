import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from dynamics.sweep.events import FILE, alive, events, record


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
    record(tmp_path, "submitted")
    with (tmp_path / FILE).open("a") as file:
        file.write('{"kind": "started", "job')
    record(tmp_path, "failed", error="x")
    assert [event["kind"] for event in events(tmp_path)] == ["submitted", "failed"]


def test_a_process_is_known_by_number_and_birth(tmp_path: Path) -> None:
    code = "import sys, pathlib; from dynamics.sweep.events import record; record(pathlib.Path(sys.argv[1]), 'started')"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    record(tmp_path, "started")
    other, mine = events(tmp_path)
    assert alive(mine)
    assert not alive(other)
    assert not alive({**mine, "born": mine["born"] - 5}), "another process with the same number"


def test_a_process_that_nobody_waited_for_is_dead(tmp_path: Path) -> None:
    pid = os.fork()
    if pid == 0:
        record(tmp_path, "started")
        os._exit(0)
    while not events(tmp_path):
        time.sleep(0.01)
    time.sleep(0.1)
    assert not alive(events(tmp_path)[0])
    os.waitpid(pid, 0)


def test_another_host_has_the_benefit_of_the_doubt_for_a_while(tmp_path: Path) -> None:
    record(tmp_path, "started")
    far = {**events(tmp_path)[0], "host": socket.gethostname() + "x"}
    assert alive(far)
    assert not alive({**far, "time": far["time"] - 601})
