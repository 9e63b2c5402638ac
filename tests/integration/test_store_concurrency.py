"""Several processes write at once, and writers are killed: no row, group or file may be lost."""

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from itertools import count
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from dynamics.store import RunLog, open_results, read_run, update_run, write_run

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
ATTRS = {"units": "1", "long_name": "x"}
CONTEXT = multiprocessing.get_context("fork")


def dataset(value: float, size: int = 10) -> xr.Dataset:
    return xr.Dataset({"a": xr.Variable("step", np.full(size, value), ATTRS)}, {"step": np.arange(size)})


def start(target: Callable[..., None], *arguments: object) -> BaseProcess:
    process = CONTEXT.Process(target=target, args=arguments)
    process.start()
    return process


def finish(processes: list[BaseProcess]) -> None:
    for process in processes:
        process.join(60)
        assert process.exitcode == 0


def write_five(folder: Path, worker: int) -> None:
    for number in range(5):
        run_id = f"w{worker}-{number}"
        config = f'{{"worker": {worker}, "number": {number}}}'
        write_run(folder / run_id / "run.nc", {"training": dataset(worker)}, {"run_id": run_id, "config_json": config})


def test_four_processes_write_five_runs_each(tmp_path: Path) -> None:
    finish([start(write_five, tmp_path, worker) for worker in range(4)])
    merged = open_results(tmp_path)["training"].to_dataset()
    assert merged.sizes["run"] == 20
    np.testing.assert_array_equal(merged["a"].isel(step=0), merged["worker"])
    assert sorted(zip(merged["worker"].values, merged["number"].values, strict=True)) == [
        (worker, number) for worker in range(4) for number in range(5)
    ]


def update_three(path: Path, worker: int) -> None:
    for number in range(3):
        update_run(path, f"g{worker}_{number}", dataset(10 * worker + number), {f"by{worker}": number})
        update_run(path, f"own{worker}", dataset(number))


def test_concurrent_updates_of_one_file_all_survive(tmp_path: Path) -> None:
    path = tmp_path / "run.nc"
    write_run(path, {"training": dataset(7)}, {"run_id": "a"})
    finish([start(update_three, path, worker) for worker in range(4)])
    tree = read_run(path)
    expected = {f"g{worker}_{number}": 10.0 * worker + number for worker in range(4) for number in range(3)}
    expected |= {f"own{worker}": 2.0 for worker in range(4)} | {"training": 7.0}
    assert {name: node["a"].values[0].item() for name, node in tree.children.items()} == expected
    assert [tree.attrs[f"by{worker}"] for worker in range(4)] == [2, 2, 2, 2]
    assert sorted(os.listdir(tmp_path)) == [".run.nc.lock", "run.nc"]


def rewrite_for_ever(path: Path, first: int) -> None:
    for number in range(first, first + 1_000_000):
        write_run(path, {"training": dataset(number, 2000), "gaps": dataset(number)}, {"number": number})


def test_a_killed_writer_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "run.nc"
    write_run(path, {"training": dataset(0, 2000), "gaps": dataset(0)}, {"number": 0})
    random_state = random.Random(0)
    number, leftovers = 0, 0
    for attempt in count():
        if attempt >= 20 and number > 0 and leftovers > 0:  # a writer has finished, and a kill has hit a write
            break
        process = start(rewrite_for_ever, path, number + 1)
        time.sleep(random_state.uniform(0.02, 0.25) * (1 + attempt / 20))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        leftovers += sum(name.endswith(".tmp") for name in os.listdir(tmp_path))
        tree = read_run(path)
        assert tree.attrs["number"] >= number
        number = tree.attrs["number"]
        assert set(tree["training/a"].values) == set(tree["gaps/a"].values) == {float(number)}
    write_run(path, {}, {})
    assert sorted(os.listdir(tmp_path)) == [".run.nc.lock", "run.nc"]


def append_for_ever(path: Path) -> None:
    with RunLog(path) as log:
        step = len(log.read())
        while True:
            log.append({"group": "training", "step": step, "values": [step + 0.1] * 200})
            step += 1


def test_a_killed_log_keeps_every_step_in_order(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    random_state = random.Random(1)
    records: list[dict[str, object]] = []
    for attempt in count():
        if attempt >= 10 and len(records) > 20:
            break
        process = start(append_for_ever, path)
        time.sleep(random_state.uniform(0.02, 0.08) * (1 + attempt / 10))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        records = RunLog(path).read()
        assert [record["step"] for record in records] == list(range(len(records)))
        RunLog(path).rewind(len(records) // 2)
