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
# # Does the improved schedule help?
#
# The paper (arXiv 2511.19065) weighs the rows: alpha(t) on v (MinSNR, or a curriculum DTD), beta on u, which moves
# from small gaps to all. Every open choice has a name here, and each component has a control that keeps its average
# weight and takes away the order.

# %%
from pathlib import Path

from IPython.display import Markdown, display

from dynamics import analysis, open_results
from dynamics.analysis import plots

RESULTS = Path("../results")

# %% [markdown]
# ## Components and controls

# %%
tree = open_results(RESULTS / "component_ablation" / "digits.nc")
table = analysis.study(tree, analysis.axes_of(tree))
found = analysis.findings(tree)
display(Markdown(f"**Question.** {tree.attrs['question']}"))

# %%
plots.effects(found)

# %%
display(Markdown(analysis.sentences(found)))

# %%
plots.arms(table, "arm", ["one_step_error", "fd_u_nfe1", "fd_v_nfe32"], baseline="vanilla", order="value")
