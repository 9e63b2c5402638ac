"""What `open_results` prints: what was run, what was swept and what was measured, in lines that a person reads."""

from pathlib import Path

import xarray as xr

from dynamics import open_results

RESULTS = Path(__file__).parents[3] / "results"


def test_a_study_prints_its_question_its_axes_and_its_groups() -> None:
    tree = open_results(RESULTS / "gap_ablation" / "digits.nc")
    assert isinstance(tree, xr.DataTree)
    text = str(tree)
    assert text == repr(tree)
    assert text.startswith("Results of gap_ablation at scale digits: 85 runs\n")
    assert "question  Which gaps" in text
    assert "swept     seed: 0, 1, 2, 3, 4" in text
    assert "u_error" in text or "and 23 more   [step 3, t_bin 6, gap_bin 6]" in text
    assert len(text.splitlines()) < 12
    assert text.splitlines()[0] in tree._repr_html_()
    assert set(tree.children) == {"training", "gaps", "gram", "evaluation"}
