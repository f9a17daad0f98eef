"""A comparison as frame, object, terminal table, Markdown and LaTeX: the same numbers in all."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from dart.analysis.bootstrap import Interval
from dart.analysis.claims import LEGEND
from dart.analysis.statistics import Estimate
from dart.analysis.tables import COSTS
from dart.analysis.verdicts import Comparison, Effect, VariantVerdict
from dart.metrics import METRICS

Row = list[tuple[str, ...]]
"""A row of a table: each cell is one or more lines."""

SHOWN_COSTS = (
    "trainable_parameters",
    "total_parameters",
    "flops_per_image",
    "steps",
    "wall_seconds",
)
WIDE = 140
"""Columns of a terminal that shows all columns but the costs, which have a table of their own."""
NARROWER_BY = 3
"""Columns that a narrower one does without: the descriptive ones, which stand last."""
COLORS = {
    "better": "green",
    "worse": "red",
    "trade-off": "yellow",
    "equivalent": "cyan",
    "inconclusive": "",
}


def to_frame(comparison: Comparison) -> pd.DataFrame:
    """Return one row a variant and objective; what was not estimated is not a number."""
    rows = [
        {
            "study": comparison.study,
            "metric": comparison.metric,
            "variant": row.variant,
            "verdict": row.verdict,
            "objective": objective,
            **dict(_numbers(effect)),
            "on_front": row.on_front,
            **{name: row.costs.get(name, math.nan) for name in COSTS},
        }
        for row in comparison.verdicts
        for objective, effect in row.effects.items()
    ]
    names = [row.variant for row in comparison.verdicts if row.effects]
    frame = pd.DataFrame(rows)
    return frame.assign(variant=pd.Categorical(frame["variant"], names, ordered=True))


def _numbers(effect: Effect) -> Iterator[tuple[str, float]]:
    yield from _estimate("own", effect.own)
    yield from _estimate("difference", effect.difference)
    yield "p", effect.difference.p if effect.difference else math.nan
    yield "p_holm", effect.p_holm
    yield "bound", effect.bound
    yield from _estimate("relative", effect.relative)
    yield "effect_size", effect.effect_size
    wins = effect.wins or Interval(math.nan, math.nan, math.nan)
    yield from {"wins": wins.value, "wins_lower": wins.lower, "wins_upper": wins.upper}.items()
    for name in ("above", "within", "below"):
        yield f"p_{name}", getattr(effect.reading, name) if effect.reading else math.nan


def _estimate(name: str, estimate: Estimate | None) -> Iterator[tuple[str, float]]:
    yield name, estimate.value if estimate else math.nan
    yield f"{name}_lower", estimate.lower if estimate else math.nan
    yield f"{name}_upper", estimate.upper if estimate else math.nan


def to_dict(comparison: Comparison) -> dict[str, Any]:
    """Return the comparison as an object for JSON; what was not estimated is null."""
    content = _plain(asdict(comparison))
    content["legend"] = dict(LEGEND)
    content["higher_is_better"] = METRICS[comparison.metric].higher_is_better
    return content


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def describe(comparison: Comparison) -> list[str]:
    """Return what a reader of the table must know, one sentence each."""
    c = comparison
    sizes = ", ".join(
        f"{name} {c.images[name]} images"
        + (f" of {c.scenes[name]} scenes" if c.scenes[name] < c.images[name] else "")
        for name in c.images
    )
    better = "higher" if METRICS[c.metric].higher_is_better else "lower"
    level = 1 - c.alpha
    area = c.hypervolume
    return [
        f"{len(c.seeds)} seeds; {sizes}; {better} {c.metric} is better",
        f"adaptation: gain on the target, more is better; forgetting: loss on the sources, less is "
        f"better; [ ]: {level:.0%} interval; p: corrected for all variants (Holm)",
        f"declared: alpha {c.alpha:g}, margin of forgetting {c.margin:.4g}, practical equivalence "
        f"of adaptation {c.rope:.4g} ({c.metric})",
        f"area under the front of all variants: {area.value:.3f}{_range(area, '.3f')}",
    ]


def explain(comparison: Comparison) -> list[str]:
    """Return the reason of every verdict and the meaning of every word used."""
    used = {row.verdict for row in comparison.verdicts}
    reasons = [
        f"{row.variant}: {row.verdict}: {row.reason}"
        for row in comparison.verdicts
        if row.verdict in LEGEND
    ]
    return reasons + [f"{word} = {meaning}" for word, meaning in LEGEND.items() if word in used]


def _range(interval: Interval | Estimate, form: str) -> str:
    if math.isnan(interval.lower):
        return ""
    return f" [{interval.lower:{form}}, {interval.upper:{form}}]"


def headings() -> list[tuple[str, ...]]:
    """Return the headings of the table's columns."""
    return [
        ("variant",),
        ("verdict",),
        ("adaptation",),
        ("adaptation", "vs baseline"),
        ("p",),
        ("forgetting",),
        ("forgetting", "vs baseline"),
        ("p",),
        ("held-out", "vs baseline"),
        ("better on", "target"),
        ("on front",),
        ("trained", "parameters"),
        ("all", "parameters"),
        ("FLOPs", "per image"),
        ("steps",),
        ("time", "of a run"),
    ]


def text_rows(comparison: Comparison) -> list[Row]:
    """Return the table's cells as text; every printed form takes its numbers from here."""
    return [_row(row) for row in comparison.verdicts]


def _row(row: VariantVerdict) -> Row:
    mark = " *" if row.verdict == "baseline" else ""
    trouble = [
        f"{getattr(row, what)} {what}" for what in ("failed", "missing") if getattr(row, what)
    ]
    name = [f"{row.variant}{mark}", *([row.settings] if row.settings else []), *trouble]
    cells: Row = [tuple(name), (row.verdict,)]
    for objective in ("adaptation", "forgetting"):
        effect = row.effects.get(objective)
        cells.append((f"{effect.own.value:+.4f}",) if effect else ("-",))
        cells += [_difference(effect), (_p(effect),)]
    cells.append(_difference(row.effects.get("held_out")))
    wins = row.effects["adaptation"].wins if row.effects else None
    cells.append((f"{wins.value:.0%}",) if wins else ("-",))
    cells.append(("-",) if math.isnan(row.on_front) else (f"{row.on_front:.0%}",))
    return [*cells, *((write_cost(name, row.costs.get(name)),) for name in SHOWN_COSTS)]


def write_cost(name: str, value: float | None) -> str:
    """Return a cost as a table shows it; a dash where it was not recorded."""
    if value is None or math.isnan(value):
        return "-"
    if name == "wall_seconds":
        return f"{value:.1f} s"
    return f"{value:.3g}" if name == "flops_per_image" else f"{value:,.0f}"


def _difference(effect: Effect | None) -> tuple[str, ...]:
    if effect is None or effect.difference is None:
        return ("-",)
    shown = _range(effect.difference, "+.4f").strip()
    return (f"{effect.difference.value:+.4f}", *([shown] if shown else []))


def _p(effect: Effect | None) -> str:
    if effect is None or math.isnan(effect.p_holm):
        return "-"
    return "<0.001" if effect.p_holm < 0.001 else f"{effect.p_holm:.3f}"


def title(comparison: Comparison) -> str:
    """Return the table's title."""
    return f"{comparison.study}: {comparison.metric} against {comparison.baseline}"


def print_comparison(comparison: Comparison, *, console: Console | None = None) -> None:
    """Print the verdicts, their reasons and what they rest on to the terminal."""
    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, 180)  # a file has no edge to wrap at
    every = len(headings()) - len(SHOWN_COSTS)
    shown = every if console.width >= WIDE else every - NARROWER_BY
    table = Table(title=title(comparison), box=box.SIMPLE_HEAD)
    for index, heading in enumerate(headings()[:shown]):
        side = "left" if index < 2 else "right"
        # The widest gives way first: a long name takes more lines, and numbers stay whole.
        table.add_column("\n".join(heading), justify=side, overflow="fold", no_wrap=index == 1)
    for row, verdict in zip(text_rows(comparison), comparison.verdicts, strict=True):
        name, word, *numbers = ("\n".join(cell) for cell in row[:shown])
        color = COLORS.get(verdict.verdict, "dim")
        marked = f"[{color}]{word}[/]" if color else word
        table.add_row(_escape(name), marked, *map(_escape, numbers))
    console.print(table)
    _print_costs(comparison, console)
    for line in (*describe(comparison), "", *explain(comparison)):
        console.print(line, markup=False, highlight=False)
    for note in comparison.notes:
        console.print(f"note: {note}", markup=False, highlight=False, style="yellow")


def _print_costs(comparison: Comparison, console: Console) -> None:
    if not any(row.costs for row in comparison.verdicts):
        return
    costs = Table(title="what a run took", box=box.SIMPLE_HEAD)
    costs.add_column("variant", overflow="fold")
    for heading in headings()[-len(SHOWN_COSTS) :]:
        costs.add_column("\n".join(heading), justify="right")
    for name, words in cost_rows(comparison):
        costs.add_row(name, *words)
    console.print(costs)


def cost_rows(comparison: Comparison) -> list[tuple[str, list[str]]]:
    """Return the name of each variant and what its run took, as text."""
    return [
        (row.variant, [write_cost(name, row.costs.get(name)) for name in SHOWN_COSTS])
        for row in comparison.verdicts
    ]


def _escape(text: str) -> str:
    return text.replace("[", r"\[")


def to_markdown(comparison: Comparison) -> str:
    """Return the table, its reasons and its notes as Markdown."""
    rows = [headings(), *text_rows(comparison)]
    lines = [
        "| " + " | ".join(" ".join(cell).replace("|", r"\|") for cell in row) + " |" for row in rows
    ]
    lines.insert(1, "|" + " --- |" * 2 + " ---: |" * (len(rows[0]) - 2))
    words = [*describe(comparison), *explain(comparison)]
    words += [f"note: {note}" for note in comparison.notes]
    return "\n".join([f"### {title(comparison)}", "", *lines, "", *(f"- {w}" for w in words)])


def to_latex(comparison: Comparison) -> str:
    """Return the table for a paper (booktabs), reasons and notes below as comments."""
    rows = [_latex_row(row) for row in (headings(), *text_rows(comparison))]
    words = [*describe(comparison), *explain(comparison)]
    words += [f"note: {note}" for note in comparison.notes]
    return "\n".join(
        [
            r"\begin{tabular}{ll" + "r" * (len(headings()) - 2) + "}",
            r"\toprule",
            rows[0],
            r"\midrule",
            *rows[1:],
            r"\bottomrule",
            r"\end{tabular}",
            *(f"% {word}" for word in (title(comparison), *words)),
        ]
    )


LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
LATEX |= {mark: f"\\{mark}" for mark in "&%$#_{}"}


def _latex_row(row: Sequence[tuple[str, ...]]) -> str:
    cells = ["".join(LATEX.get(letter, letter) for letter in " ".join(cell)) for cell in row]
    return " & ".join(cells) + r" \\"
