"""``dart replay`` and ``dart export``: what one does with single runs of a study."""

import sys
from argparse import Namespace

from dart.commands.common import print_json, results_folder
from dart.stores import check_store
from dart.studies.champion import export_champion, find_champion
from dart.studies.records import check_folder
from dart.studies.summary import read_study


def replay(options: Namespace) -> int:
    """Repeat a run from its recipe; 0 if it came out identical, 1 if a number differs."""
    # torch takes seconds to import.
    from dart.studies.replay import find_run  # noqa: PLC0415
    from dart.studies.replay import replay as repeat  # noqa: PLC0415
    from dart.studies.worker import load_run_function  # noqa: PLC0415

    folder = find_run(results_folder(options), options.run)
    load_run_function(options.device)
    outcome = repeat(folder, device=options.device)
    if options.json:
        print_json(outcome)
        return 0 if outcome["identical"] else 1
    for change in outcome["changed"]:
        sys.stdout.write(f"changed since: {change}\n")
    for difference in outcome["differences"]:
        values = ", ".join(f"{k} {v}" for k, v in difference.items() if k != "name")
        sys.stdout.write(f"differs: {difference['name']}: {values}\n")
    count = len(outcome["differences"])
    word = f"{count} numbers differ, an error by {outcome['largest']:.1g} of its value at most"
    word = "identical" if outcome["identical"] else word
    sys.stdout.write(f"{folder}: {word}\n")
    return 0 if outcome["identical"] else 1


def export(options: Namespace) -> int:
    """Write a study's champion into a folder, and name it in MLflow's registry."""
    results = results_folder(options)
    check_folder(results)
    uri = options.tracking_uri
    if uri is not None:
        uri = check_store("--tracking-uri", uri, servers=True)
    study = read_study(results, options.study)
    champion = find_champion(study, max_forgetting=options.max_forgetting)
    folder = export_champion(champion, options.out or results / "exports" / study.name)
    # MLflow takes two seconds to import.
    from dart.tracking import register_champion  # noqa: PLC0415

    version = register_champion(results, study.name, champion.cell["key"], uri=uri)
    content = {
        "study": study.name,
        "run": champion.cell["key"],
        "variant": champion.cell["variant"],
        "rule": champion.rule,
        "folder": str(folder),
        "model": f"dart-{study.name}",
        "version": version,
        "alias": "champion",
    }
    if options.json:
        print_json(content)
    else:
        sys.stdout.write(
            f"{folder}: {content['variant']}, run {content['run'][:16]}; {champion.rule}\n"
            f"MLflow: models:/{content['model']}@champion is version {version}\n"
        )
    return 0
