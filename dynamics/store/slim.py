"""A merged file small enough for a repository: what figures and findings need, in single precision."""

import numpy as np
import xarray as xr

EVERY = 20
"""Training steps of which one is kept."""
PICTURES = 2
"""Pictures kept of every class."""
SAID_ONCE = ("config_json", "versions", "host", "started", "seconds")
"""Coordinates on run that only the group training keeps."""


def slim(tree: xr.DataTree) -> xr.DataTree:
    """Return a merged tree without what takes room and no figure shows.

    Every twentieth training step and two pictures of each class stay; numbers become single precision (a relative
    error of 6e-8); configs and versions are said once, in the group training, not in every group. Nothing is averaged.

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
    single = {key: var.astype(np.float32, keep_attrs=True) for key, var in ds.data_vars.items() if var.dtype == float}
    return ds.assign(single)
