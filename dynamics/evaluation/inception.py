"""The Inception network that FID is defined by: torch-fidelity's, with weights from a file at hand."""

import hashlib
import io
import pickle
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dynamics.data.vae import import_torchvision
from dynamics.options import invalid

PUBLISHED = "6726825d"
"""How the sha256 of the published weights begins, as the name of their file says."""
SPLITS = 10
_SHUFFLE_SEED = 2020


@dataclass(frozen=True, eq=False)
class Inception:
    """A network from uint8 images to features, and the linear layer from features to classes.

    Args:
        network: Maps images uint8 [B, 3, H, W] to a tuple with the features [B, D]; it resizes them itself.
        head: Weights of the last layer [classes, D]. As in the Inception score's first code it has no bias.
        sha256: Hash of the weights file: distances compare only where it is the same.
        device: Where the network computes.
    """

    network: nn.Module
    head: Tensor
    sha256: str
    device: torch.device

    @property
    def dim(self) -> int:
        """Number of features D."""
        return self.head.shape[1]

    @property
    def name(self) -> str:
        """Whether these are the published weights."""
        return "inception-2015-12-05" if self.sha256.startswith(PUBLISHED) else "other weights"

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Return the features [B, D] float32, on the CPU, of images uint8 [B, 3, H, W]."""
        # TensorFloat-32, which cudnn takes by default, has 10 bits
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            features: Tensor = self.network(images.to(self.device))[0]
        return features.float().cpu()

    def logits(self, features: Tensor) -> Tensor:
        """Return the unnormalised class scores [B, classes] of features [B, D]."""
        return features @ self.head.T


def load_inception(path: Path, device: torch.device) -> Inception:
    """Load the weights into torch-fidelity's network; nothing is downloaded and no code in the file is run.

    Args:
        path: pt_inception-2015-12-05-6726825d.pth, or another state dict of that network.
        device: Where to compute.

    Raises:
        ValueError: torch-fidelity is missing, or the file is missing, damaged, holds anything but tensors, or tensors
            of another network.
    """
    remedy = "take pt_inception-2015-12-05-6726825d.pth of pytorch-fid, or torch-fidelity's weights file of that hash"
    if not path.is_file():
        raise invalid("inception", str(path), "an existing file with Inception's weights", remedy)
    content = path.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        received = f"{path} ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
        raise invalid("inception", received, "a state dict of tensors, saved by torch", remedy) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise invalid("inception", f"{path} with a {type(state).__name__}", "a dictionary of tensors", remedy)
    # its constructor loads the file without protection; so it gets what the protected reader has made of it
    checked = io.BytesIO()
    torch.save(state, checked)
    checked.seek(0)
    try:
        network = _extractor_class()("inception-v3-compat", ["2048"], feature_extractor_weights_path=checked)
    except RuntimeError as error:
        raise invalid("inception", f"{path}: {error}", "the weights of torch-fidelity's Inception", remedy) from error
    if not sha256.startswith(PUBLISHED):
        text = f"{path} has sha256 {sha256[:8]}..., not {PUBLISHED}... as the published Inception: no FID to compare"
        warnings.warn(text, stacklevel=2)
    return Inception(network.to(device), network.fc.weight.detach().clone().cpu(), sha256, device)


def inception_score(logits: Tensor, splits: int = SPLITS) -> tuple[float, float]:
    """exp(E KL(p(y|x) || p(y))), mean and standard deviation over splits (Salimans 2016, 1606.03498, section 4).

    The rows are shuffled first, in the order that torch-fidelity takes.

    Args:
        logits: [N, classes].
        splits: Number of parts, at most N.

    Raises:
        ValueError: Fewer rows than splits.

    Example:
        >>> score, spread = inception_score(1000 * torch.eye(4).repeat(10, 1), splits=1)
        >>> round(score, 9), spread  # four classes, each certain and equally frequent
        (4.0, 0.0)
    """
    if not 1 <= splits <= len(logits):
        raise invalid("splits", splits, f"1..{len(logits)} for {len(logits)} samples", "draw more samples")
    order = np.random.RandomState(_SHUFFLE_SEED).permutation(len(logits))
    scores = []
    for i in range(splits):
        rows = order[i * len(logits) // splits : (i + 1) * len(logits) // splits]
        log_p = logits[torch.from_numpy(rows)].double().log_softmax(1)
        p = log_p.exp()
        scores.append(float((p * log_p - torch.xlogy(p, p.mean(0))).sum(1).mean().exp()))
    return float(np.mean(scores)), float(np.std(scores))


def _extractor_class() -> Any:
    try:
        import_torchvision()
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ModuleNotFoundError as error:
        remedy = "pip install 'meanflow-dynamics[imagenet]'"
        raise invalid("torch-fidelity", str(error), "an installed package", remedy) from error
    return FeatureExtractorInceptionV3
