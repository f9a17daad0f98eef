"""A/A: one variant under nine names, with real runs. How many differences are claimed?

The names share code, data, order and heads; the first weights of the adapters differ, as they do
between seeds. Whatever is claimed is a false claim: at most one of eight is expected.

    python benchmarks/aa_study.py --results results/aa --seeds 5 --steps 40
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import yaml

from dart.analysis.verdict_tables import to_frame
from dart.analysis.verdicts import compare_study

ROOT = Path(__file__).resolve().parents[1]
STUDY = "aa"
MODULE = '''"""``daa_query_softmax`` under other names."""

import torch
from torch import nn

from dart.models import DAA, LowRankQueries, Stage, register_variant, softmax_over_queries


def build(stage: Stage, skipped: int) -> nn.Module:
    """Return the adapter; its first weights come ``skipped`` numbers later in the stream."""
    torch.rand(skipped)
    queries = LowRankQueries(stage.channels, num_queries=64, rank=8, std=0.5)
    return DAA(stage, queries=queries, attend=softmax_over_queries)
'''
VARIANT = '''

@register_variant(hypothesis="It is daa_query_softmax, so it differs in nothing.")
def {name}(stage: Stage) -> nn.Module:
    """Name number {index}."""
    return build(stage, {index})
'''


def write_package(folder: Path, names: list[str]) -> None:
    """Write a distribution that registers the variants, as a third party's would."""
    text = MODULE + "".join(
        VARIANT.format(name=name, index=index) for index, name in enumerate(names)
    )
    (folder / "aa_variants.py").write_text(text)
    info = folder / "aa_variants-1.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: aa-variants\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[dart.variants]\naa = aa_variants\n")


def write_study(path: Path, names: list[str], *, seeds: int, steps: int) -> None:
    """Write the study file: the quickstart's protocol, the first name as baseline."""
    study = yaml.safe_load((ROOT / "studies" / "quickstart.yaml").read_text())
    study |= {
        "question": "How many differences are claimed where there is none?",
        "baseline": names[0],
        "variants": {name: {} for name in names},
        "budget": {"seeds": list(range(seeds))},
    }
    study["training"]["steps"] = steps
    path.write_text(yaml.safe_dump(study, sort_keys=False))


def main() -> int:
    """Run the study, or what is missing of it, and print every verdict."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--results", type=Path, default=Path("results/aa"))
    parser.add_argument("--names", type=int, default=8, help="names besides the baseline")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    package = options.results.resolve() / "package"
    package.mkdir(parents=True, exist_ok=True)
    names = [f"again_{index}" for index in range(options.names + 1)]
    write_package(package, names)
    study = package / f"{STUDY}.yaml"
    write_study(study, names, seeds=options.seeds, steps=options.steps)
    paths = [str(package), str(ROOT), os.environ.get("PYTHONPATH", "")]
    command = [sys.executable, ROOT / "run_study.py", study, "--results", options.results]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    status = subprocess.run(command, env=environment, check=False).returncode
    if status:
        return status
    table = to_frame(compare_study(STUDY, results=options.results))
    print(table.to_string())
    claims = table["verdict"].isin(["better", "worse", "trade-off"]).sum()
    print(f"{claims} of {options.names} names are claimed to differ; at most 1 is expected")
    return 0


if __name__ == "__main__":
    sys.exit(main())
