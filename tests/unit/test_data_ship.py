import zipfile
from pathlib import Path

from dart.data.ship import ship_packs, shipped_splits
from dart.domains import pack_path


def test_frames_that_are_there_become_the_packs_that_ship(tmp_path: Path) -> None:
    """Every pack, from loose frames as a rendering leaves them: the same bytes, the same recipe."""
    for name, split in shipped_splits():
        with zipfile.ZipFile(pack_path(name, split)) as pack:
            pack.extractall(tmp_path / "work" / f"{name}-{split}")
    told = []
    packs = ship_packs(
        tmp_path / "work", packs=tmp_path, on_frame=lambda *progress: told.append(progress)
    )
    assert len(packs) == len(shipped_splits()) == len(told)
    standard = pack_path("rooms_pinhole", "test").parent
    for pack in (*packs, tmp_path / "recipe.json"):
        assert pack.read_bytes() == (standard / pack.name).read_bytes()
    before = packs[0].stat().st_mtime_ns
    ship_packs(tmp_path / "work", packs=tmp_path)
    assert packs[0].stat().st_mtime_ns == before
