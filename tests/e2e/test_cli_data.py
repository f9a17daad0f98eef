"""``dart data check`` and ``dart evaluate --data`` as a user types them."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dart.cli import main
from dart.commands.common import write_whole
from dart.errors import UserError
from tests.helpers.triples import Triples, tilted_plane

SHARED = Path(os.environ.get("DART_SHARED_DATA", "../shared/data"))


@pytest.fixture
def triples(tmp_path: Path) -> Triples:
    made = Triples(tmp_path / "set")
    for number in range(3):
        made.add(f"room/desk_{number}", tilted_plane(1.5 + number))
    return made


def test_a_sound_set_is_checked_and_drawn(
    triples: Triples, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["data", "check", str(triples.root), "--as", "real_triples", "--out", str(out)]
    assert main([*command, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["opened"] == 3
    assert report["problems"] == []
    assert [path.name for path in out.iterdir()] == ["contact_sheet.png"]
    with Image.open(out / "contact_sheet.png") as sheet:
        assert sheet.size[0] > 300
    assert main(command) == 0
    assert "no problem found" in capsys.readouterr().out


def test_a_faulty_set_gives_status_one_and_names_the_file(
    triples: Triples, capsys: pytest.CaptureFixture[str]
) -> None:
    (triples.root / "room" / "desk_1_depth.png").write_bytes(b"\x89PNG")
    assert main(["data", "check", str(triples.root), "--as", "real_triples"]) == 1
    shown = capsys.readouterr().out
    assert "desk_1_depth.png" in shown
    assert "\n1 problem\n" in shown
    assert "depth in the files [m]" in shown
    assert "│ room " in shown


def test_an_unreadable_frame_ends_an_evaluation_in_one_line(
    triples: Triples, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (triples.root / "room" / "desk_1_depth.png").write_bytes(b"\x89PNG")
    command = ["evaluate", "rooms_small", "--data", str(triples.root), "--as", "real_triples"]
    assert main([*command, "--width", "64", "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: 1 of 3 frames cannot be read")
    assert told.err.count("\n") == 1
    assert not list((tmp_path / "out").iterdir())


def test_a_file_is_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    path.write_text("earlier")

    def fill(partial: Path) -> None:
        partial.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(UserError, match=r"cannot write .*sheet\.png: No space left on device"):
        write_whole(path, fill)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("sheet.png", "earlier")]


def test_evaluate_writes_its_tables_and_a_sheet(
    triples: Triples, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["evaluate", "rooms_small", "--data", str(triples.root), "--as", "real_triples"]
    options = ["--width", "64", "--cloud-points", "200", "--align", "none", "scale_median"]
    assert main([*command, *options, "--out", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["frames"] == 3
    assert "rho" in report["not_measured"]
    names = {"per_image.parquet", "per_angle.csv", "summary.csv", "summary.json", "summary.md"}
    assert {path.name for path in out.iterdir()} == names | {"contact_sheet.png"}
    assert report == json.loads((out / "summary.json").read_text())
    table = pd.read_parquet(out / "per_image.parquet")
    chosen = table[
        (table["predictor"] == "network")
        & (table["alignment"] == "none")
        & (table["metric"] == "rmse")
    ]
    (row,) = [
        r
        for r in report["results"]
        if (r["level"], r["predictor"], r["alignment"]) == ("group", "network", "none")
    ]
    assert row["mean_over"]["rmse"]["images"] == pytest.approx(chosen["value"].mean())
    assert np.isfinite(pd.read_csv(out / "per_angle.csv")["abs_rel"]).all()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["data", "check", "SET", "--as", "real_triple"], ["real_triples"]),
        (["data", "check", "nowhere", "--as", "homes"], ["nowhere"]),
        (["data", "check", "SET", "--as", "real_triples", "--sample", "0"], ["--sample"]),
        (["data", "check", "SET", "--as", "real_triples", "--split", "rom"], ["rom", "room"]),
        (["evaluate", "rooms_small", "--data", "SET"], ["--as"]),
        (["evaluate", "rooms_small", "--as", "homes"], ["--data"]),
        (["evaluate", "rooms_small", "--split", "tst"], ["tst", "test"]),
        (
            ["evaluate", "rooms_small", "--data", "SET", "--as", "real_triples", "--width", "3"],
            ["width", "3"],
        ),
        (
            ["evaluate", "rooms_small", "--data", "SET", "--as", "real_triples", "--align", "no"],
            ["'no'", "scale_median"],
        ),
        (
            [
                *("evaluate", "rooms_small", "--data", "SET", "--as", "real_triples"),
                *("--max-distance", "900"),
            ],
            ["--max-distance 900"],
        ),
    ],
)
def test_a_mistake_gets_one_line_and_status_two(
    arguments: list[str],
    named: list[str],
    triples: Triples,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([str(triples.root) if word == "SET" else word for word in arguments]) == 2
    shown = capsys.readouterr().err.strip()
    assert len(shown.splitlines()) == 1, shown
    for word in named:
        assert word in shown


@pytest.mark.data
def test_the_photographs_hold_what_they_declare(capsys: pytest.CaptureFixture[str]) -> None:
    if not (SHARED / "real").is_dir():
        pytest.skip(f"no photographs in {SHARED}")
    assert main(["data", "check", str(SHARED / "real"), "--as", "real_triples", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["opened"] == report["frames"] == 193
    # The one fault: two files of one photograph.
    (problem,) = report["problems"]
    assert problem["kind"] == "duplicate"
    for found in report["planarity"].values():
        assert found["fits_better"] == found["declared"]
