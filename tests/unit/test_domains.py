import math
from itertools import combinations
from pathlib import Path

import pytest

from dart.domains import DOMAINS, FRAME_SIZE, check_domain, check_split, find_frames, fingerprint
from dart.errors import UserError


def all_splits() -> list[tuple[str, str]]:
    return [(name, split) for name, spec in DOMAINS.items() for split in spec.splits]


def test_no_scene_belongs_to_two_splits() -> None:
    ranges = [DOMAINS[name].splits[split].scenes for name, split in all_splits()]
    for one, other in combinations(ranges, 2):
        assert one.stop <= other.start or other.stop <= one.start


def test_shipped_frames_fit_their_split() -> None:
    for name, split in all_splits():
        spec = check_split(name, split)
        assert 0 <= spec.shipped <= spec.capacity


def test_frames_of_a_split_are_all_different() -> None:
    spec = check_split("rooms_pinhole", "train")
    places = [spec.locate(index) for index in range(30)]
    assert len(set(places)) == 30
    assert len({scene for scene, _ in places}) == 10


@pytest.mark.parametrize("fov", [50, 85])
def test_a_pinhole_focal_length_is_the_tangent_rule(fov: int) -> None:
    lens = DOMAINS["rooms_pinhole"].lens
    assert lens.focal(fov, 128) == pytest.approx(64 / math.tan(math.radians(fov / 2)))


def test_the_held_out_lens_is_stereographic() -> None:
    lens = DOMAINS["rooms_stereographic"].lens
    fov = lens.fov_degrees[0]
    focal = lens.focal(fov, 128)
    # r = 2 f tan(theta / 2): the Taylor series to the ninth power is off by 4e-4 at 85 degrees.
    assert 2 * focal * math.tan(math.radians(fov) / 4) == pytest.approx(64, rel=1e-3)


def test_wide_domains_see_at_least_150_degrees() -> None:
    for spec in DOMAINS.values():
        if spec.role != "source":
            assert min(spec.lens.fov_degrees) >= 150
        assert spec.size == FRAME_SIZE


def test_unknown_names_are_told_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"rooms_fishey'.*did you mean 'rooms_fisheye'"):
        check_domain("rooms_fishey")
    with pytest.raises(UserError, match=r"no split 'tset', allowed are .*did you mean 'test'"):
        check_split("rooms_fisheye", "tset")


def test_absent_frames_say_how_to_make_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DART_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="dart render rooms_stereographic --split train"):
        find_frames("rooms_stereographic", "train")
    with pytest.raises(UserError, match="nowhere: no frames"):
        fingerprint("rooms_stereographic", "train", folder=tmp_path / "nowhere")
