"""What samples are worth, by how it was measured: a group holds one protocol, and others lie in groups beside it.

The first protocol of a run is the group `evaluation` (or `fid`), any other `evaluation_n500_seed0_ema`.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import xarray as xr

STEMS = ("evaluation", "fid")
"""Groups of which there may be several, one a protocol."""
USUAL = {"label_mode": "uniform", "method": "euler"}
USUAL_ROWS = 128
"""What a name does not say."""


def protocol_name(attrs: Mapping[Any, Any], last_step: int | None = None) -> str:
    """Return a short name of how a group was measured; what is usual is left out.

    Args:
        attrs: The group's attributes.
        last_step: Steps of the run; a checkpoint of another step is named.

    Example:
        >>> about = {"num_samples": 500, "evaluation_seed": 0, "weights": "ema", "method": "heun", "checkpoint": 200}
        >>> protocol_name(about, last_step=300)
        'n500_seed0_ema_heun_step200'
    """
    parts = [f"n{attrs.get('num_samples')}", f"seed{attrs.get('evaluation_seed')}", str(attrs.get("weights", "ema"))]
    parts += [str(attrs[name]) for name, usual in USUAL.items() if attrs.get(name, usual) != usual]
    if (scale := attrs.get("guidance_scale")) is not None:
        parts.append(f"guidance{scale:g}")
    if attrs.get("guidance_interval"):
        parts.append(f"within{attrs['guidance_interval']}")
    if attrs.get("exact_rows_per_bin", USUAL_ROWS) != USUAL_ROWS:
        parts.append(f"rows{attrs['exact_rows_per_bin']}")
    if last_step is not None and attrs.get("checkpoint", last_step) != last_step:
        parts.append(f"step{attrs['checkpoint']}")
    if attrs.get("reference_sha256"):
        parts.append(f"reference{attrs['reference_sha256'][:6]}")
    return "_".join(parts)


def protocol_groups(names: Sequence[str], stem: str) -> dict[str, str]:
    """Return the groups of one kind and what is appended to the names of their numbers: "" for the first protocol.

    Example:
        >>> protocol_groups(["gaps", "evaluation", "evaluation_n500_seed0_ema"], "evaluation")
        {'evaluation': '', 'evaluation_n500_seed0_ema': '@n500_seed0_ema'}
    """
    others = [name for name in sorted(names) if stem in STEMS and name.startswith(f"{stem}_")]  # gram_rows is no gram
    return {name: "" for name in names if name == stem} | {name: "@" + name.removeprefix(f"{stem}_") for name in others}


def group_of_protocol(groups: Mapping[str, xr.Dataset], stem: str, protocol: str, last_step: int | None) -> str:
    """Return the group of a run that holds a protocol, or the one to put it into."""
    for name in protocol_groups(list(groups), stem):
        if protocol_name(groups[name].attrs, last_step) == protocol:
            return name
    return stem if stem not in groups else f"{stem}_{protocol}"


def last_step_of(config_json: object) -> int | None:
    """Return the length of a run's training, None where its config does not say it."""
    try:
        steps = json.loads(str(config_json or "{}"))["training"]["num_steps"]
    except (ValueError, KeyError, TypeError):
        return None
    return steps if isinstance(steps, int) else None


def align_protocols(runs: Sequence[dict[str, xr.Dataset]], wanted: Sequence[str] = ()) -> None:
    """Rename the groups of runs so that runs are merged only with what was measured in the same way.

    Args:
        runs: The groups of each run by path, the root among them; changed in place.
        wanted: Protocols that come first, if they are there; else the one that most runs had first.
    """
    for stem in STEMS:
        named = []
        for groups in runs:
            last, paths = last_step_of(groups["/"].attrs.get("config_json")), [path[1:] for path in groups]
            named.append({n: protocol_name(groups[f"/{n}"].attrs, last) for n in protocol_groups(paths, stem)})
        there = {protocol for names in named for protocol in names.values()}
        if len(there) < 2:
            continue
        first = Counter(names[stem] for names in named if stem in names).most_common(1)[0][0]
        first = next((protocol for protocol in wanted if protocol in there), first)
        for groups, names in zip(runs, named, strict=True):
            moved = {protocol: groups.pop(f"/{name}") for name, protocol in names.items()}
            groups |= {f"/{stem}" if p == first else f"/{stem}_{p}": dataset for p, dataset in moved.items()}
