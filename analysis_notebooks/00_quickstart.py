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
# # Quickstart
#
# Three runs with one seed each: the MeanFlow baseline, the paper's improved schedule, and a moving law of gaps. `make
# demo` trained them in a few minutes; the merged file is in the repository.

# %%
from pathlib import Path

from IPython.display import HTML, display

from dynamics import analysis, open_results
from dynamics.analysis import plots

RESULTS = Path("../results")

# %%
tree = open_results(RESULTS / "digits_demo" / "merged.nc")
print("groups:", ", ".join(tree.children))
print("runs:", ", ".join(analysis.run_labels(tree)))

# %% [markdown]
# ## What came out
#
# One row a number, one column a run. Errors are relative to the exact velocities; 1 is what answering 0 everywhere
# would get.

# %%
table = analysis.summary(tree)
display(HTML(table[analysis.metric_columns(table)].astype(float).T.to_html(float_format="{:.3g}".format)))

# %% [markdown]
# ## What do the samples look like?

# %%
plots.sample_grids(tree)

# %% [markdown]
# ## How far is u from the exact average velocity, by gap?

# %%
plots.error_by_gap(tree)

# %% [markdown]
# ## What did each schedule do while training?

# %%
plots.schedule(tree)

# %% [markdown]
# ## How do they differ?
#
# One seed each is a demonstration, not a study: these are numbers, and no verdict. The studies in the next notebooks
# have several seeds and intervals.

# %%
different = analysis.differences(table)
shown = different[different.metric.isin(["one_step_error", "v_error", "fd_digits_u_nfe1", "accuracy_u_nfe1"])]
display(HTML(shown[["run", "metric", "value", "reference", "change", "direction"]].to_html(index=False)))

# %% [markdown]
# ## Your own runs
#
#     import dynamics
#     tree = dynamics.open_results("runs")                              # a folder of runs, one run, or a merged file
#     tree = dynamics.open_results("results/gap_ablation/digits.nc")    # the collected file of an experiment
#     dynamics.analysis.study(tree, dynamics.analysis.axes_of(tree))    # its runs as a pandas table
#
# `tree["gaps"]`, `tree["gram"]` and so on are xarray datasets with units and long names; `README.md` lists the
# groups.
