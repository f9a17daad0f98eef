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
# # Which parameters decide?
#
# Of a search: the importance of each parameter, the area under the front as trials were made, and
# the objectives over two parameters. Of a designed study: the share of the variation that each
# factor explains. What a study cannot tell is said in one line.

# %% tags=["parameters"]
import os

STUDY = "quickstart"
RESULTS = os.environ.get("DART_RESULTS", "../results")

# %%
from contextlib import suppress

import seaborn as sns
from IPython import display as screen

from dart.analysis import load_runs, summarize
from dart.analysis.factors import factor_effects, parameter_importance
from dart.analysis.figures import contour, factor_bars, hypervolume_history, importance_bars
from dart.analysis.figures.search import numeric_parameters
from dart.analysis.search import search_history
from dart.errors import UserError

sns.set_theme(context="notebook", style="ticks")
runs = load_runs(STUDY, results=RESULTS)
columns = ["settings", "runs", "failed", "adaptation", "forgetting"]
summarize(runs, every_trial=True).set_index("variant")[columns]

# %%
try:
    hypervolume_history(search_history(STUDY, results=RESULTS))
except UserError as reason:
    screen.display(screen.Markdown(f"No history of a search: {reason}."))

# %%
importance = None
try:
    importance = parameter_importance(STUDY, results=RESULTS)
    importance_bars(importance)
except UserError as reason:
    screen.display(screen.Markdown(f"No importance of parameters: {reason}."))

# %% [markdown]
# Both objectives over the two numeric parameters that decide most, for each variant that has them.

# %%
for variant, shares in [] if importance is None else importance.groupby("variant"):
    ranked = shares.groupby("parameter")["importance"].sum().sort_values(ascending=False)
    numbers = numeric_parameters(runs, variant, list(ranked.index))[:2]
    for objective in ("adaptation", "forgetting") if len(numbers) == 2 else ():
        with suppress(UserError):  # too few trials for a surface
            contour(runs, variant, tuple(numbers), objective=objective)

# %% [markdown]
# Of a factorial study: what each factor explains of the difference between runs, other factors and
# seeds set aside.

# %%
try:
    effects = factor_effects(STUDY, results=RESULTS)
    factor_bars(effects)
    screen.display(effects.round(4))
except UserError as reason:
    screen.display(screen.Markdown(f"No factors: {reason}."))
