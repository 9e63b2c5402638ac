"""Draw the picture of the README: python docs/picture.py [FILE]."""

import io
import sys
from pathlib import Path

from PIL import Image

from dynamics import analysis, open_results
from dynamics.analysis import plots

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "assets" / "affinity.png"
DPI, GUTTER = 120, 40


def picture() -> Image.Image:
    """Return the affinities of a trained network beside what minibatches would say of two of its tasks."""
    results = open_results(ROOT / "results" / "naive_cosine" / "run.nc")
    results = analysis.label_runs(results, {str(results.attrs["run_id"]): "digits-meanflow"})
    figures = (
        plots.affinity_heatmap(analysis.affinity(results)),
        plots.cosine_by_batch_size(analysis.cosine_by_batch(results, "v", "u 0.5-0.7")),
    )
    parts = []
    for figure in figures:
        data = io.BytesIO()
        figure.savefig(data, format="png", dpi=DPI)
        parts.append(Image.open(data).convert("RGB"))
    whole = Image.new("RGB", (sum(part.width + GUTTER for part in parts), max(part.height for part in parts)), "white")
    left = 0
    for part in parts:
        whole.paste(part, (left, (whole.height - part.height) // 2))
        left += part.width + GUTTER
    return whole


if __name__ == "__main__":
    picture().save(sys.argv[1] if len(sys.argv) > 1 else PICTURE, optimize=True)
