"""Runs keep their ids: those of presets, and those of every committed result."""

from pathlib import Path

import pytest

from dynamics import open_results
from dynamics.config import RunConfig
from dynamics.presets import PRESETS

IDS = {
    "digits-meanflow": "f366035e9384",
    "digits-improved": "5137042da5b5",
    "digits-gap-law": "df28d17129f2",
    "digits-flow-matching": "48451293589f",
    "mnist-meanflow": "6aa41b4e5cd5",
    "mixture-meanflow": "3a3dc11ba4c5",
    "b4-meanflow": "e866d3fcd2d0",
    "b4-improved-minsnr": "4a09e8afe9ab",
    "b4-improved-dtd": "3643310eb166",
    "b2-meanflow": "72fdb9235a1f",
    "b2-improved-minsnr": "51d0723731e0",
    "b2-improved-dtd": "c7195b057b04",
    "m2-meanflow": "396214279c11",
    "m2-improved-minsnr": "01cc5b4071c9",
    "m2-improved-dtd": "65a2c44c2cf4",
    "l2-meanflow": "e299da3dce4a",
    "l2-improved-minsnr": "626736ded15e",
    "l2-improved-dtd": "2866d3194419",
    "xl2-meanflow": "098d8dcc2ad6",
    "xl2-improved-minsnr": "94e630218e38",
    "xl2-improved-dtd": "4a46dab4bc03",
    "xl2plus-meanflow": "e6752b45ec4c",
    "xl2plus-improved-minsnr": "7c598d6bfb90",
    "xl2plus-improved-dtd": "2e7e703718f5",
}
"""Of version 0.1. A preset of a later version need not be here."""
OLDER = ("digits_demo", "naive_cosine")
"""Made before version 0.1 was, with fewer fields: their configs are read, but have other ids."""
RESULTS = sorted((Path(__file__).parents[2] / "results").glob("*/*.nc"))


@pytest.mark.parametrize(("name", "run_id"), IDS.items())
def test_presets_keep_their_ids(name: str, run_id: str) -> None:
    assert PRESETS[name].run_id == run_id


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_committed_runs_keep_their_ids(path: Path) -> None:
    tree = open_results(path)
    found = {str(tree.attrs.get("run_id")): str(tree.attrs.get("config_json"))}
    for group in tree.children.values():
        if "config_json" in group.coords:
            found = dict(zip(map(str, group["run_id"].values), map(str, group["config_json"].values), strict=True))
    for run_id, text in found.items():
        config = RunConfig.model_validate_json(text)
        assert path.parent.name in OLDER or config.run_id == run_id
