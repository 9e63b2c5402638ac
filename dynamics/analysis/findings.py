"""From collected experiments to a table of findings: what a paper says, what came out, and what follows."""

from collections.abc import Iterable
from pathlib import Path

import xarray as xr

from dynamics.analysis.claims import CLAIMS, Finding, judge
from dynamics.analysis.study import study
from dynamics.atomic import replacing
from dynamics.options import invalid

WORDS = {
    "reproduced": "**reproduced**",
    "opposite": "**the opposite**",
    "undecided": "not reproduced: undecided",
}


def axes_of(tree: xr.DataTree) -> list[str]:
    """Return the names of an experiment's axes.

    Raises:
        ValueError: The tree is not the collected file of an experiment.
    """
    if "axes" not in tree.attrs:
        remedy = "python -m experiments NAME collect"
        raise invalid("results", sorted(map(str, tree.attrs)), "the collected file of an experiment", remedy)
    axes = tree.attrs["axes"]
    return [str(axis) for axis in ([axes] if isinstance(axes, str) else axes)]


def findings(tree: xr.DataTree) -> list[Finding]:
    """Judge every claim that an experiment made before it was run.

    Args:
        tree: The collected file of an experiment (`dynamics.open_results`).

    Returns:
        One finding a claim, in the experiment's order; intervals are corrected for their number.

    Raises:
        ValueError: The tree is no such file.
    """
    axes = axes_of(tree)
    claims = CLAIMS.validate_json(tree.attrs.get("claims", "[]"))
    if not claims:
        return []
    table = study(tree, axes)
    if "one_step_error" not in table:  # latents have no exact errors: claims of them are not measured
        asked = filter(None, (column for claim in claims for column in (claim.metric, claim.relative_to)))
        table = table.reindex(columns=list(dict.fromkeys([*table, *asked])))
    return judge(table, claims, axes)


def findings_table(trees: Iterable[xr.DataTree]) -> str:
    """Return the findings of several experiments as a Markdown table.

    Args:
        trees: Collected files.

    Returns:
        A row a claim: experiment, scale, claim, metric, effect with its simultaneous 95% interval, seeds, verdict. An
        undecided row says which effect would have been found with a probability of 80%. Claims about arms that a
        scale leaves out have no row there.
    """
    rows = [
        "| experiment | scale | claim | measured in | effect [interval] | seeds | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    for tree in trees:
        name, scale = tree.attrs["experiment"], tree.attrs["scale"]
        for finding in findings(tree):
            if finding.verdict == "not measured":
                continue
            text = f"second look: {finding.claim.text}" if finding.claim.post_hoc else finding.claim.text
            rows.append(f"| {name} | {scale} | {text} | {finding.claim.metric} | {_measured(finding)} |")
    return "\n".join(rows)


def _measured(finding: Finding) -> str:
    verdict = WORDS[finding.verdict]
    if finding.verdict == "undecided":
        verdict += f" (80% power from {finding.detectable_text()})"
    return f"{finding.measured()} | {finding.num_seeds} | {verdict}"


def write_between(path: Path, name: str, text: str) -> None:
    """Put a text between the lines `<!-- name -->` and `<!-- end of name -->` of a file.

    Raises:
        ValueError: The file lacks those lines.
    """
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    content = path.read_text(encoding="utf-8")
    head, found, rest = content.partition(begin)
    _, closed, tail = rest.partition(end)
    if not (found and closed):
        raise invalid(str(path), "no such lines", f"{begin} and {end}", "add the two lines where the table should be")
    with replacing(path) as temporary:
        temporary.write_text(f"{head}{begin}\n{text}\n{end}{tail}", encoding="utf-8")
