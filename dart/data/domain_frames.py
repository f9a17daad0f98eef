"""The frames of a domain that a user brought, cut to one size and kept in memory."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from hashlib import sha256
from typing import overload

from jaxtyping import Float, UInt8
from torch import Tensor

from dart.cameras import Camera
from dart.cameras.calibration.load import load_calibration
from dart.data.domain_file import FileDomain, SplitRule, fingerprint
from dart.data.sample import Sample
from dart.data.sets import open_dataset
from dart.data.sets.base import DepthDataset
from dart.data.transforms import fit
from dart.data.warping import Warper
from dart.errors import UserError, did_you_mean

_Frame = tuple[UInt8[Tensor, "3 h w"], Float[Tensor, "h w"], Camera]


# Not Sequence[Sample]: a run-time checker would then decode a frame wherever a set is passed.
class DomainFrames(Sequence):
    """One split of a domain file.

    Frames are warped into the domain's lens if it has one, then resized and padded to its size;
    they stay in memory, 8 bits a colour, as far as ``cache_mib`` allows.

    Args:
        domain: The checked file.
        split: ``train``, ``val`` or ``test``.

    Raises:
        UserError: the data set cannot be listed, a split would be empty, or two splits share a
            scene.
    """

    def __init__(self, domain: FileDomain, split: str) -> None:
        domain.rule(split)
        self.domain = domain
        self.split = split
        self._sets: dict[str | None, DepthDataset] = {}
        scenes = choose_scenes(domain, self._scenes_of)
        _refuse_shared(domain, scenes)
        self.data = self._set(domain.rule(split).of)
        own = set(scenes[split])
        self._positions = [
            position for position, entry in enumerate(self.data.entries) if entry.scene in own
        ]
        self._scene_numbers = {scene: number for number, scene in enumerate(self.data.scenes)}
        self._kept: dict[int, _Frame] = {}
        self._room = int(domain.spec.cache_mib * 2**20)

    def _set(self, of: str | None) -> DepthDataset:
        spec = self.domain.spec
        if of not in self._sets:
            try:
                self._sets[of] = open_dataset(
                    self.domain.path, spec.format, split=of, **spec.options
                )
            except UserError as error:
                raise UserError(f"{self.domain.file}: {error}") from None
        return self._sets[of]

    def _scenes_of(self, of: str | None) -> tuple[str, ...]:
        return self._set(of).scenes

    @property
    def fingerprint(self) -> str:
        """Text that changes whenever a file of the data set or the domain file does."""
        return fingerprint(str(self.domain.file), self.split)

    @cached_property
    def _warper(self) -> Warper | None:
        if self.domain.camera is None:
            return None
        lens, size = load_calibration(self.domain.camera), self.domain.spec.size
        if size is None or size == lens.size:
            return Warper(lens)
        if size[0] * lens.size[1] != size[1] * lens.size[0]:
            raise UserError(
                f"{self.domain.file}: camera: {self.domain.camera} is of {lens.size[1]} x "
                f"{lens.size[0]} pixels, which 'size' {list(size)} would stretch"
            )
        return Warper(lens.resize(size))

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self._positions)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        """Return one frame, or several.

        Raises:
            UserError: a file is damaged, or no pixel of the frame is valid after all changes.
        """
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        position = self._positions[index]
        frame = self._kept.get(position) or self._make(position)
        pixels, distance, camera = frame
        entry = self.data.entries[position]
        return Sample(
            image=pixels.float() / 255,
            distance=distance.clone(),
            valid=distance > 0,
            camera=camera,
            key=f"{self.domain.name}/{entry.key}",
            scene=self._scene_numbers[entry.scene],
        )

    def _make(self, position: int) -> _Frame:
        sample = self.data[position]
        if self._warper is not None:
            sample = self._warper(sample)
        if self.domain.spec.size is not None:
            sample = fit(sample, self.domain.spec.size)
        if not sample.valid.any():
            raise UserError(
                f"{self.domain.file}: frame {sample.key} has no valid distance at size "
                f"{list(sample.distance.shape)}"
            )
        pixels = (sample.image * 255).round().clamp(0, 255).byte()
        frame = (pixels, sample.distance, sample.camera)
        size = pixels.nbytes + sample.distance.nbytes
        # Frames come in random order, so those that came first are as good to keep as the last.
        if size <= self._room:
            self._room -= size
            self._kept[position] = frame
        return frame

    def __getstate__(self) -> dict[str, object]:
        """Leave the decoded frames behind: a worker fills its own memory."""
        return {**self.__dict__, "_kept": {}}


def choose_scenes(
    domain: FileDomain, scenes_of: Callable[[str | None], Sequence[str]]
) -> dict[str, tuple[str, ...]]:
    """Return split -> scenes.

    Shares are of the scenes that no list names; the order of their names' hashes decides, so that
    the same scenes give the same splits everywhere.

    Raises:
        UserError: an unknown scene, shares of more than all, or a split without a scene.
    """
    rules = {str(name): rule for name, rule in domain.spec.splits.items()}
    chosen: dict[str, tuple[str, ...]] = {}
    for of in dict.fromkeys(rule.of for rule in rules.values()):
        members = {name: rule for name, rule in rules.items() if rule.of == of}
        chosen |= _share_out(domain, members, scenes_of(of))
    return {name: chosen[name] for name in rules}


def _share_out(
    domain: FileDomain, rules: Mapping[str, SplitRule], known: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    where = f"{domain.file}: splits"
    listed = {scene for rule in rules.values() for scene in rule.scenes or ()}
    for scene in sorted(listed):
        if scene not in known:
            raise UserError(
                f"{where}: no scene '{scene}', there are {len(known)}: {', '.join(known[:8])}"
                f"{', ...' if len(known) > 8 else ''}{did_you_mean(scene, known)}"
            )
    free = sorted(
        (scene for scene in known if scene not in listed),
        key=lambda scene: sha256(scene.encode()).digest(),
    )
    total = sum(rule.fraction or 0 for rule in rules.values())
    if total > 1 + 1e-9:
        raise UserError(f"{where}: the shares add up to {total:g}, at most 1 can be given away")
    chosen, before = {}, 0.0
    for name, rule in rules.items():
        if rule.fraction is None:
            chosen[name] = tuple(known) if rule.scenes is None else rule.scenes
            continue
        first, last = (round(part * len(free)) for part in (before, before + rule.fraction))
        before += rule.fraction
        chosen[name] = tuple(free[first:last])
        if first == last:
            raise UserError(
                f"{where}: {name}: a share of {rule.fraction:g} of {len(free)} scenes is none; a "
                "scene is never divided, so give a larger share or name more scenes"
            )
    return chosen


def _refuse_shared(domain: FileDomain, scenes: Mapping[str, Sequence[str]]) -> None:
    owner: dict[str, str] = {}
    for name, own in scenes.items():
        for scene in own:
            if owner.setdefault(scene, name) != name:
                raise UserError(
                    f"{domain.file}: splits: scene '{scene}' is in {owner[scene]} and {name}; what "
                    "is learnt from a scene must not be tested on it"
                )
