import math
from itertools import combinations
from pathlib import Path

import pytest

from dart.domains import (
    DOMAINS,
    FRAME_SIZE,
    cache_folder,
    check_domain,
    check_split,
    find_frames,
    fingerprint,
)
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


def test_an_equisolid_focal_length_is_the_sine_rule() -> None:
    lens = DOMAINS["rooms_equisolid"].lens
    focal = lens.focal(170, 128)
    assert 2 * focal * math.sin(math.radians(170) / 4) == pytest.approx(64)


def test_a_panorama_spans_the_sphere() -> None:
    domain = DOMAINS["rooms_panorama"]
    height, width = domain.size
    assert domain.lens.focal(360, width) == pytest.approx(width / (2 * math.pi))
    assert width == 2 * height


def test_domains_differ_in_one_thing_at_a_time() -> None:
    pinhole, narrow, wide, equisolid = (
        DOMAINS[f"rooms_{name}"].lens
        for name in ("pinhole", "fisheye_narrow", "fisheye", "equisolid")
    )
    assert narrow.fov_degrees == pinhole.fov_degrees
    assert not narrow.circle
    assert (narrow.model, narrow.distortion) == (wide.model, wide.distortion)
    assert equisolid.fov_degrees == wide.fov_degrees
    for style in ("streets", "warehouse"):
        assert DOMAINS[f"{style}_pinhole"].lens == pinhole
        assert DOMAINS[f"{style}_fisheye"].lens == wide


@pytest.mark.parametrize("name", sorted(DOMAINS))
def test_the_range_picture_holds_every_range_of_the_domain(name: str) -> None:
    spec = DOMAINS[name]
    near, far = spec.distances
    # The rounding error, half a unit, is at most half a percent of the nearest range.
    assert 0 < 0.5 / spec.range_scale <= near / 200
    assert far * spec.range_scale <= 65535


def test_every_domain_ships_a_test_pack_of_its_size() -> None:
    for spec in DOMAINS.values():
        assert spec.splits["test"].shipped >= 16
        assert spec.size == FRAME_SIZE or spec.lens.model == "equirectangular"


def test_another_size_lies_in_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DART_CACHE", str(tmp_path))
    own = cache_folder("rooms_pinhole", "val")
    assert own == tmp_path / "frames" / "rooms_pinhole-val"
    assert cache_folder("rooms_pinhole", "val", FRAME_SIZE) == own
    assert cache_folder("rooms_pinhole", "val", (192, 256)).name == "rooms_pinhole-val-192x256"


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
