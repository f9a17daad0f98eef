"""What people see while a study runs."""

import io
import re
from pathlib import Path

from rich.console import Console

from dart.studies.execute import execute_study
from dart.studies.progress import LiveReporter, PlainReporter, describe_seconds
from dart.studies.runner import Options
from dart.studies.spec import load_spec
from tests.helpers.study_engine import FakeRun, own_registry, run_toy, write_study

STUDY = "variants: {tuned: {rank: [4, 8]}, broken: {}}\nbudget: {seeds: [0, 1]}\n"


def _lines(path: Path, results: Path) -> list[str]:
    stream = io.StringIO()
    with own_registry():
        execute_study(
            load_spec(path),
            results,
            reporter=PlainReporter(stream),
            options=Options(run=FakeRun(), track=False),
        )
    return stream.getvalue().splitlines()


def test_plain_lines_count_runs_and_failures_and_name_the_best_front(tmp_path: Path) -> None:
    path = write_study(tmp_path, STUDY)
    lines = _lines(path, tmp_path)
    ends = [line for line in lines if line.startswith("[")]
    assert [line.partition("]")[0] for line in ends] == [
        "[1/7 runs",
        "[2/7 runs",
        "[3/7 runs",
        "[4/7 runs",
        "[5/7 runs",
        "[6/7 runs, 1 failed",
        "[7/7 runs, 2 failed",
    ]
    assert ends[-1].endswith("FAILED: RuntimeError: the loss is not finite (0 s left)")
    fronts = [line for line in lines if line.startswith("best in validation")]
    # Seeds 0 and 1 of rank 4: a rank of 8 is no better on the target and forgets more.
    assert fronts[-1] == "best in validation (target, forgetting): tuned trial 0 0.3005 +0.0004"
    assert all("\r" not in line and "\x1b" not in line for line in lines)

    write_study(tmp_path, STUDY.replace("[0, 1]", "[0, 1, 2]"))
    more = [line.partition("]")[0] for line in _lines(path, tmp_path) if line.startswith("[")]
    # The failed ones of before are counted from the start.
    assert more == ["[8/10 runs, 2 failed", "[9/10 runs, 2 failed", "[10/10 runs, 3 failed"]


def test_the_live_line_counts_names_the_run_and_leaves_the_terminal_clean(tmp_path: Path) -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=140, color_system=None)
    path = write_study(tmp_path, STUDY)
    with own_registry():
        execute_study(
            load_spec(path),
            tmp_path,
            reporter=LiveReporter(console),
            options=Options(run=FakeRun(seconds=0.3), track=False),
        )
    shown = stream.getvalue()
    assert "6/7 runs, 1 failed" in shown
    assert re.search(r"tuned trial 1 seed 0: step \d/5, loss 0\.\d{4}", shown)
    assert re.search(r"\d+ s left", shown)
    assert "best in validation (target, forgetting): tuned trial 0" in shown
    assert shown.endswith("\x1b[1A\x1b[2K")  # the line is gone
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h")  # and the cursor is back


def test_a_duration_is_written_for_people() -> None:
    assert describe_seconds(None) == "unknown"
    assert describe_seconds(12.4) == "12 s"
    assert describe_seconds(200) == "3 min 20 s"
    assert describe_seconds(3900) == "1 h 05 min"


def test_a_run_that_is_tried_again_says_why(tmp_path: Path) -> None:
    class Tight(FakeRun):
        def __call__(self, recipe, folder, **options):
            if recipe.variant == "tuned" and len(self.calls) < 2:
                self._say("out of memory")
                raise MemoryError
            return super().__call__(recipe, folder, **options)

    from contextlib import redirect_stderr

    stream = io.StringIO()
    with redirect_stderr(stream):
        run_toy(write_study(tmp_path, "variants: {tuned: {}}"), tmp_path, Tight())
    assert (
        "tuned trial 0 seed 0: out of memory, attempt 1 of 2; it is run again" in stream.getvalue()
    )
