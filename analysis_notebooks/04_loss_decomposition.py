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
# # What is the loss made of?
#
# The gradient of u's loss is the sum of two: trajectory flow matching and trajectory consistency. AlphaFlow (arXiv
# 2510.20771) reports a cosine below -0.4 between them for more than 95% of training.

# %%
from pathlib import Path

from IPython.display import Markdown, display

from dynamics import analysis, open_results
from dynamics.analysis import plots

RESULTS = Path("../results")

# %%
tree = open_results(RESULTS / "loss_decomposition" / "digits.nc")
found = analysis.findings(tree)
display(Markdown(f"**Question.** {tree.attrs['question']}"))

# %%
plots.effects(found)

# %%
display(Markdown(analysis.sentences(found)))

# %% [markdown]
# ## When do the two forces oppose each other?
#
# The dotted line is the published -0.4. At step 0 the network answers 0 everywhere, and consistency has no gradient.

# %%
plots.cosines_over_training(tree, "schedule", source="decomposition", line=-0.4)

# %% [markdown]
# ## Would a minibatch have said the same?

# %%
plots.naive_against_unbiased(tree, "schedule", "last", "decomposition")

# %% [markdown]
# ## What is left to learn?
#
# The loss of v is the variance of its target, which nothing can learn, and an excess. The error of u is what
# contradicts the network's own v, and what it inherits from that v; the two can partly cancel, so the measured error
# is marked as well.

# %%
plots.decomposition_by_arm(tree, "schedule")
