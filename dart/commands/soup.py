"""``dart soup``: the mean of what the seeds of a trial trained."""

from argparse import Namespace

from rich.console import Console
from rich.table import Table

from dart.commands.common import make_folder, print_json, results_folder
from dart.commands.reading import check_device
from dart.errors import UserError, did_you_mean
from dart.recipe import Recipe
from dart.soup import make_soup
from dart.studies.records import check_folder
from dart.studies.summary import Written, read_study


def _choose_trial(study: Written, variant: str, trial: int | None) -> int:
    """Return the trial that was asked for, or the only one there is.

    Raises:
        UserError: There is no such variant or trial with an adapter, or several trials.
    """
    adapted = [
        (cell["variant"], cell["trial"])
        for cell, _ in study.committed()
        if (study.run_folder(cell["key"]) / "adapter.safetensors").exists()
    ]
    names = list(dict.fromkeys(name for name, _ in adapted))
    if variant not in names:
        raise UserError(
            f"study '{study.name}' has no finished run of '{variant}'; there are: "
            f"{', '.join(names) or 'none'}{did_you_mean(variant, names)}"
        )
    trials = sorted({number for name, number in adapted if name == variant})
    if trial is None and len(trials) == 1:
        return trials[0]
    if trial is None or trial not in trials:
        told = ", ".join(map(str, trials))
        given = "" if trial is None else f" {trial}"
        raise UserError(f"--trial{given}: '{variant}' has the trials {told}; name one of them")
    return trial


def soup(options: Namespace) -> int:
    """Average the seeds of one trial of a study, measure the mean and print it."""
    results = results_folder(options)
    check_folder(results)
    study = read_study(results, options.study)
    trial = _choose_trial(study, options.variant, options.trial)
    keys = [
        cell["key"]
        for cell, record in study.committed()
        if (cell["variant"], cell["trial"]) == (options.variant, trial)
        and record["status"] == "finished"
    ]
    runs = [study.run_folder(key) for key in keys]
    recipes = [Recipe.model_validate_json((run / "recipe.json").read_text()) for run in runs]
    folder = results / "soups" / f"{study.name}-{options.variant}-{trial}"
    make_folder(folder)
    result = make_soup(
        recipes,
        [run / "adapter.safetensors" for run in runs],
        folder,
        results=results,
        device=check_device(options),
    )
    if options.json:
        print_json(result)
        return 0
    metric = study.metric
    table = Table(
        title=f"{options.variant}, trial {trial}: {metric} of the mean of {len(runs)} seeds"
    )
    for column in ("domain", "role", "before", "seeds, mean", "soup"):
        table.add_column(column, justify="left" if column in ("domain", "role") else "right")
    for name, entry in result["domains"].items():
        seeds = [study.records[key]["domains"][name]["after"][metric] for key in keys]
        values = (entry["before"][metric], sum(seeds) / len(seeds), entry["after"][metric])
        table.add_row(name, entry["role"], *(f"{value:.4f}" for value in values))
    Console().print(table)
    Console(stderr=True).print(f"The record lies in {folder}")
    return 0
