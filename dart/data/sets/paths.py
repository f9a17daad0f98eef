"""Paths of a data set stay inside its folder; torch-free, so that a plan can check them too."""

import os
from pathlib import Path

from dart.errors import UserError


class FilesInside:
    """Says whether files exist, and refuses those outside a folder; remembers folders."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._real = Path(os.path.realpath(folder))
        self._known: dict[Path, Path] = {}
        self._seen: dict[Path, bool] = {}

    def has(self, path: Path) -> bool:
        """Return whether the file exists.

        Raises:
            UserError: it lies, or a link leads, outside the folder.
        """
        if path not in self._seen:
            parent = path.parent
            if parent not in self._known:
                self._known[parent] = Path(os.path.realpath(parent))
            real = self._known[parent] / path.name
            if real.is_symlink():
                real = Path(os.path.realpath(real))
            if not real.is_relative_to(self._real):
                raise UserError(f"{path}: leaves the folder of the data set, {self.folder}")
            self._seen[path] = real.is_file()
        return self._seen[path]


def resolve_inside(root: Path, relative: str | Path, *, where: str = "") -> Path:
    """Return ``root / relative`` as long as it stays inside ``root``, links followed.

    Raises:
        UserError: the path is absolute, climbs out with ``..`` or follows a link out.
    """
    path = root / relative
    inside = not Path(relative).is_absolute() and Path(os.path.realpath(path)).is_relative_to(
        os.path.realpath(root)
    )
    if not inside:
        prefix = f"{where}: " if where else ""
        raise UserError(f"{prefix}{relative}: leaves the folder of the data set, {root}")
    return path
