"""`python -m dynamics.evaluation.train_classifier --data digits --out FILE`: a feature extractor, as safetensors."""

from pathlib import Path

import tyro

from dynamics.data import DataOptions
from dynamics.features.classifier import save_classifier, train_classifier
from dynamics.options import Options


class ClassifierOptions(Options):
    """Train the classifier whose features measure distances, and write it as safetensors."""

    out: Path
    """The file to write."""
    data: str = "digits"
    """The data, as in training."""
    path: Path | None = None
    """Where the images lie, for folder, npz and idx."""
    image_size: int | None = None
    """Side in pixels that the images of a folder are cropped and resized to."""
    seed: int = 0
    """Decides the split, the initial weights, the order and the augmentation."""
    num_steps: int = 1000
    """Number of training steps."""


def main(args: list[str] | None = None) -> None:
    """Run the command line."""
    options = tyro.cli(ClassifierOptions, args=args, prog="python -m dynamics.evaluation.train_classifier")
    given = options.model_dump(include={"path", "image_size"}, exclude_none=True)
    data = DataOptions.member(options.data).model_validate(given).load()
    x, y = data.reference()
    trained = train_classifier(x, y, options.seed, num_classes=data.num_classes, num_steps=options.num_steps)
    save_classifier(options.out, trained, data, options.seed)
    print(f"{options.out}: held-out accuracy {trained.accuracy:.4f}, {options.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
