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
# # When does a schedule help?
#
# Every schedule beside plain MeanFlow, from far under-trained to converged. To find one's own place on the map: how
# far is the baseline from what it would reach with more steps?

# %%
from pathlib import Path

from IPython.display import Markdown, display

from dynamics import analysis, open_results
from dynamics.analysis import plots

tree = open_results(Path("../results") / "schedule_map" / "digits.nc")
axes = analysis.axes_of(tree)
table = analysis.study(tree, axes)
plots.schedule_map(table, axes, looks=analysis.looks_of(tree))

# %% [markdown]
# *How to read it.* Blue is better than vanilla, red worse, the number is the ratio; a hatched cell is undecided. The
# first row of each panel holds vanilla's own values. Exact errors are of the last measurement; of the Frechet distances
# that of the population's own samples is subtracted. A regime is p of the adaptive weight, the learning rate and the
# steps; w'=1 has guidance inside u's target, with an effective scale of 1.
#
# ## What was claimed before the runs

# %%
found = [finding for finding in analysis.findings(tree) if finding.num_seeds]
plots.effects(found)

# %%
display(Markdown(analysis.sentences(found)))
