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
# # Where does it forget?
#
# Forgetting is a mean over images. Here it is taken apart: by domain, by the angle from the optical
# axis at which a pixel looks, and by image.

# %% tags=["parameters"]
import os

STUDY = "quickstart"
RESULTS = os.environ.get("DART_RESULTS", "../results")

# %%
import seaborn as sns

from dart.analysis import load_runs, load_study
from dart.analysis.details import load_angles
from dart.analysis.figures import error_by_angle, forgetting_by_domain, show_predictions
from dart.metrics import METRICS

sns.set_theme(context="notebook", style="ticks")

# %%
metric = load_runs(STUDY, results=RESULTS)["metric"].iloc[0]
images = load_study(STUDY, results=RESULTS, metrics=[metric], splits=["test"])
ax = forgetting_by_domain(images, metric=metric)

# %% [markdown]
# Rings around the optical axis. A lens that sees wide errs most at the rim; an adapter that knows
# the lens should gain most there, and should cost the source least at its centre.

# %%
angles = load_angles(STUDY, metric=metric, results=RESULTS)
target = angles.query("role == 'target'")["domain"].iloc[0]
ax = error_by_angle(angles, metric=metric, domain=target)

# %%
source = angles.query("role == 'source'")["domain"].iloc[0]
ax = error_by_angle(angles, metric=metric, domain=source)

# %% [markdown]
# The ten source images that lost most, mean over seeds: the same ones for every variant, or others?

# %%
trained = images.query("role == 'source' and variant != 'zero_shot'")
change = (trained["after"] - trained["before"]) * (-1 if METRICS[metric].higher_is_better else 1)
by_image = trained.assign(change=change).pivot_table(
    index="image", columns="variant", values="change", observed=True
)
by_image.loc[by_image.mean(axis=1).nlargest(10).index].round(4)

# %% [markdown]
# What that looks like, in the first run of the variant that forgets most.

# %%
ax = show_predictions(STUDY, str(by_image.mean().idxmax()), results=RESULTS)
