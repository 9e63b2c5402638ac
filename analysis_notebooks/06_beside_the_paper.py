# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Ours beside the papers
#
# Every published number and direction, with what came out here in the same row. Absolute FIDs on ImageNet and Frechet
# distances of features of 8x8 digits are different numbers, and no network of the papers' sizes was trained: what can
# stand side by side are relative changes and directions. `not reproduced` means that there is no effect, or the
# opposite one; `undecided`, that the seeds are too few to tell.
#
# One published number can have several rows: the exact error of u beside the Frechet distance. A comparison that is
# no claim of its experiment is a second look, and says so.

# %%
from pathlib import Path

from IPython.display import HTML, Markdown, display

from dynamics import analysis, open_results
from dynamics.analysis import plots

RESULTS = Path("../results")

# %%
names = sorted(path.parent.name for path in RESULTS.glob("*/digits.nc"))
trees = {name: open_results(RESULTS / name / "digits.nc") for name in names}
table = analysis.beside(trees)
compared = table[table["our change"] != ""]
once = compared.drop_duplicates(["ours", "our change"])
counts = "; ".join(f"**{verdict}**: {count}" for verdict, count in once.verdict.value_counts().items())
display(Markdown(f"{len(once)} comparisons of ours stand beside published ones. {counts}."))

# %% [markdown]
# ## Numbers and directions of the papers' studies

# %%
display(HTML(compared.drop(columns="paper").to_html(index=False)))

# %% [markdown]
# ## The components of the improved schedule, as effects

# %%
plots.effects(analysis.findings(trees["component_ablation"]))

# %% [markdown]
# ## Everything else that is published
#
# Sizes are held to the papers by the tests; absolute values are listed with the reason why nothing stands beside
# them.

# %%
display(HTML(table[table["our change"] == ""].drop(columns="our change").to_html(index=False)))
