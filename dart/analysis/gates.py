"""What gates learned: how far an adapter trusts the camera's attention over the image's."""

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load_file

from dart.analysis.records import Cell, Study, open_study, refuse
from dart.analysis.tables import Location, read_records

LOGITS = ("mix.logit", "mix.weigh.bias")
"""Parameters of a gate; of one that depends on the token, the part that does not."""


def load_gates(study: Location, *, results: Location | None = None) -> pd.DataFrame:
    """Return the weight that each gate gives the camera's attention, after training.

    0 trusts the image alone, 1 the camera alone. Read from the checkpoints, without torch.

    Returns:
        ``variant, trial, seed, stage, head, trust``; no row where no variant has a gate.

    Raises:
        UserError: If the study is unknown or a checkpoint cannot be read.
    """
    opened = open_study(study, results=results)
    rows = [
        row
        for cell, run in read_records(opened)
        if run and run.status == "finished"
        for row in _gates(opened, cell)
    ]
    return pd.DataFrame(rows, columns=["variant", "trial", "seed", "stage", "head", "trust"])


def _gates(study: Study, cell: Cell) -> list[dict[str, object]]:
    path = study.run_folder(cell) / "adapter.safetensors"
    if not path.is_file():
        return []
    try:
        weights = load_file(path)
    except (OSError, ValueError, SafetensorError) as error:
        refuse(path, error)
    rows = []
    for name, values in weights.items():
        part, _, rest = name.removeprefix("adapters.").partition(".")
        if name.startswith("adapters.") and rest in LOGITS:
            trust = 1 / (1 + np.exp(-values.astype(np.float64).ravel()))
            keys = {"variant": cell.variant, "trial": cell.trial, "seed": cell.seed}
            rows += [
                {**keys, "stage": int(part), "head": head, "trust": float(value)}
                for head, value in enumerate(trust)
            ]
    return rows
