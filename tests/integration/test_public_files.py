"""Files that are damaged, or hold other things than public weights, are refused with one line that says so."""

from pathlib import Path

import pytest
import torch
from published import checkpoint
from safetensors.torch import save_file

from dynamics.exchange.public_files import read_tensors


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated_files(suffix: str, share: float, tmp_path: Path) -> None:
    """.pth stands for the format before zip files."""
    state, path = checkpoint("sit", dtype=torch.float32, channels=1), tmp_path / f"whole{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=suffix == ".pt")
    tensors, name = read_tensors(path)
    assert name == ""
    assert all(torch.equal(tensors[key], tensor) for key, tensor in state.items())
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"checkpoint: received .*whole.*allowed: an undamaged.*download it again"):
        read_tensors(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([torch.ones(2)], "with a list"),
        (torch.ones(2), "with a Tensor"),
        ({"ema": {"a": torch.ones(2), "step": 3}}, "other things than tensors: step"),
        ({"a": torch.ones(2, 2).to_sparse()}, "other things than tensors: a"),
        ({1: torch.ones(2)}, "other things than tensors: 1"),
    ],
)
def test_files_of_other_things(content: object, words: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=words):
        read_tensors(tmp_path / "a.pt")


def test_files_of_other_kinds(tmp_path: Path) -> None:
    (tmp_path / "a.ckpt").write_bytes(b"")
    for name, words in (("a.ckpt", "ends in .pt, .pth, .safetensors"), ("b.pt", "b.pt, which is no file")):
        with pytest.raises(ValueError, match=words):
            read_tensors(tmp_path / name)


def test_there_is_nothing_to_choose_in_one_set_of_weights(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"weights: received 'model of .*one set of weights.*leave --weights out"):
        read_tensors(tmp_path / "a.pt", "model")
