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
# # Why?
#
# What the adapters did: how the errors moved during training, how far each group of parameters
# moved, what the gates learned, and where in the image the adapters act.

# %% tags=["parameters"]
import os

STUDY = "quickstart"
RESULTS = os.environ.get("DART_RESULTS", "../results")
VARIANT = None  # the last one with an adapter that was watched

# %%
import matplotlib.pyplot as plt
import seaborn as sns
from IPython.display import Markdown

from dart.analysis import load_runs
from dart.analysis.details import load_curves, load_updates
from dart.analysis.figures import adapter_maps, learning_curves, update_sizes
from dart.analysis.figures.adapter_maps import list_maps
from dart.analysis.gates import load_gates

sns.set_theme(context="notebook", style="ticks")
metric = load_runs(STUDY, results=RESULTS)["metric"].iloc[0]

# %%
curves = load_curves(STUDY, metric=metric, results=RESULTS)
figure, axes = plt.subplots(2, 1, figsize=(8, 8), layout="constrained")
for ax, role in zip(axes, ("target", "source"), strict=True):
    learning_curves(curves, role=role, metric=metric, ax=ax)

# %% [markdown]
# An adapter that is inert stands out here: its parameters moved a thousand times less than those
# of its neighbours, and then the variant is no test of its idea.

# %%
ax = update_sizes(load_updates(STUDY, results=RESULTS))

# %% [markdown]
# Gates: 0 trusts the image's attention alone, 1 the camera's alone. Of a gate that depends on the
# token this is the part that does not. A study without gates has an empty table.

# %%
gates = load_gates(STUDY, results=RESULTS)
gates.pivot_table(index=["variant", "seed"], columns=["stage", "head"], values="trust").round(3)

# %% [markdown]
# Over the image: the size of the residual over that of the features, and how far one query has a
# place to itself. Where the latter is one over the number of queries everywhere, the adapter tells
# no places apart.

# %%
known = list_maps(STUDY, results=RESULTS)
variant = VARIANT or (known[-1] if known else None)
Markdown(f"Maps of `{variant}`." if variant else "No run kept maps of its adapters.")

# %%
figure = adapter_maps(STUDY, variant, results=RESULTS) if variant else None

# %%
with_attention = list_maps(STUDY, quantity="attention", results=RESULTS)
if variant in with_attention:
    adapter_maps(STUDY, variant, quantity="attention", results=RESULTS)

# %%
with_gates = list_maps(STUDY, quantity="gate", results=RESULTS)
if with_gates:
    adapter_maps(STUDY, with_gates[0], quantity="gate", results=RESULTS)
