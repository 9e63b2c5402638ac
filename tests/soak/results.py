"""What commands have made, as short digests by name: two results are equal if these are."""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
import xarray as xr

import dynamics
from soak.warm import Work, ended

Digests = dict[str, str]
OF_THE_ATTEMPT = (
    "started",
    "seconds",
    "host",
    "versions",
    "git_sha",
    "dirty",
    "diff_hash",
    "peak_memory_mb",
    "missing",
)
"""Attributes and columns that differ from one undisturbed run to the next, or while the source is being changed."""
STATE = ("step", "parts", "emas", "curricula", "cells", "optimizer")


def of(place: Path, *names: str) -> Digests:
    """Return digests of results below a folder, read as a user reads them and in a process that may die of it.

    Args:
        place: The folder.
        names: What is there, relative: files of results, `RUN/checkpoints` (the newest one counts), other files,
            folders, or `RUN?` for what a user gets of a run: its results and what its network answers.
    """
    found = ended(lambda: print(json.dumps({k: v for name in names for k, v in _of(Path(name)).items()})), place)
    if found.code:
        return {"unreadable": f"{found.code}: {found.said[-300:]}"}
    out: Digests = json.loads(found.said.splitlines()[-1])
    return out


def differences(a: Digests, b: Digests, all_of_both: bool = True) -> list[str]:
    """Return names at which two results differ; `all_of_both` False passes over what only the second has."""
    names = {*a, *b} if all_of_both else a
    return sorted(name for name in names if a.get(name) != b.get(name))


def user_sees(run: str) -> Work:
    """Return the work of a notebook that opens a run."""

    def work() -> None:
        with dynamics.cli.exits.explained():
            print(json.dumps(_of(Path(f"{run}?"))))

    return work


def _of(path: Path) -> Digests:
    if path.name.endswith("?"):
        run = path.with_name(path.name[:-1])
        u, stream = dynamics.load_model(run), torch.Generator().manual_seed(0)
        z, t = torch.randn(2, 1, 8, 8, generator=stream), torch.ones(2)
        with torch.no_grad():
            answer = u(z, t, 0 * t, torch.tensor([3, 4]))
        return {**_tree(dynamics.open_results(run), str(run), exact=True), "answer": _sha(answer.numpy().tobytes())}
    if path.name == "checkpoints":
        steps = sorted(step for step in path.iterdir() if not step.name.startswith("."))
        if not steps:
            return {}
        state = json.loads((steps[-1] / "state.json").read_text())
        out = {f"{path}/{name}": _sha(json.dumps(state.get(name)).encode()) for name in STATE}
        return out | {f"{path}/{file.name}": _sha(file.read_bytes()) for file in steps[-1].glob("*.safetensors")}
    if path.suffix == ".nc":
        return _tree(dynamics.open_results(path), str(path)) if path.exists() else {}
    if path.is_dir():
        files = (file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
        return {str(file): _sha(file.read_bytes()) for file in files}
    return {str(path): _sha(path.read_bytes())} if path.exists() else {}


def _tree(tree: xr.DataTree, name: str, exact: bool = False) -> Digests:
    out = {}
    for group, dataset in tree.to_dict().items():
        parts = {"": dataset}
        if "run" in dataset.dims:
            parts = {f"[{one.item()}]": dataset.isel(run=i) for i, one in enumerate(dataset["run"])}
        for part, content in parts.items():
            for key, variable in content.variables.items():
                if exact or str(key) not in ("step_seconds", "evaluation_seconds", *OF_THE_ATTEMPT):
                    out[f"{name}{group}/{key}{part}"] = _variable(variable)
        for key, value in dataset.attrs.items():
            if exact or key not in OF_THE_ATTEMPT:
                out[f"{name}{group}@{key}"] = str(value) if len(str(value)) < 40 else _sha(str(value).encode())
    return out


def _variable(variable: xr.Variable) -> str:
    values = np.asarray(variable.values)
    content = repr(values.tolist()).encode() if values.dtype.kind in "OUT" else values.tobytes()
    about = (variable.dims, values.dtype.kind, variable.shape, sorted(map(str, variable.attrs.items())))
    return _sha(content + repr(about).encode())


def files(place: Path) -> Digests:
    """Return digests of all files that mean something."""
    there = (path for path in place.rglob("*") if path.is_file() and not path.name.startswith("."))
    kept = (path for path in there if path.name not in ("heartbeat.json", "events.jsonl"))
    return {str(path.relative_to(place)): _sha(path.read_bytes()) for path in kept}


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
