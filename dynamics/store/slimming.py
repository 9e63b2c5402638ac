"""A merged file small enough for a repository: what figures and findings need, in single precision."""

import numpy as np
import xarray as xr

EVERY = 20
"""Training steps of which one is kept."""
PICTURES = 1
"""Pictures kept of every class."""
_COST = ("seconds", "peak_memory_mb", "num_parameters", "device", "world_size", "parallel")
SAID_ONCE = ("config_json", "versions", "host", "started", "git_sha", "dirty", "diff_hash", *_COST)
"""Coordinates on run that only the group training keeps."""
EXACT = ("_error_sem", "_scale_sem")
"""Standard errors over batches that stay."""


def slim(tree: xr.DataTree) -> xr.DataTree:
    """Return a merged tree without what takes room and no figure shows.

    Every twentieth training step and one picture of each class stay; numbers become single precision (a relative
    error of 6e-8); where a run comes from is said once, in the group training, not in every group; of the standard
    errors over batches those of the exact errors stay (a study's intervals are over seeds). Nothing is averaged.

    Example:
        >>> loss = xr.Dataset({"loss": (("run", "step"), np.arange(40.0)[None])}, {"step": np.arange(1, 41)})
        >>> kept = slim(xr.DataTree.from_dict({"/training": loss}))["training"]
        >>> kept.step.values, kept.loss.dtype
        (array([20, 40]), dtype('float32'))
    """
    groups = {f"/{name}": _slim(str(name), child.to_dataset(inherit=False)) for name, child in tree.children.items()}
    out = xr.DataTree.from_dict({"/": tree.to_dataset(), **groups})
    out.attrs = {**tree.attrs, "slim": 1}
    return out


def _slim(name: str, ds: xr.Dataset) -> xr.Dataset:
    if name != "training":
        ds = ds.drop_vars(SAID_ONCE, errors="ignore")
    elif "step" in ds.dims:
        ds = ds.isel(step=slice(EVERY - 1, None, EVERY))
    if "row" in ds.dims and "samples" in ds:
        ds = ds.isel(row=slice(PICTURES))
    ds = ds.drop_vars([name for name in map(str, ds.data_vars) if name.endswith("_sem") and not name.endswith(EXACT)])
    single = {key: var.astype(np.float32, keep_attrs=True) for key, var in ds.data_vars.items() if var.dtype == float}
    return ds.assign(single)
