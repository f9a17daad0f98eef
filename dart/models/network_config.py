"""What decides a network's shape and what its output means."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from dart.errors import UserError, did_you_mean
from dart.models.scale_head import ScaleActivation

Inversion = Literal["bounded", "max_over_disparity"]


@dataclass(frozen=True)
class NetworkConfig:
    """Everything that decides the network's shape and the meaning of its output."""

    encoder: str = "tinyvim_s"
    """Size of TinyViM, or ``timm/NAME`` for a pyramid or a plain vision transformer of timm."""
    decoder_channels: int = 64
    """Channels of the DPT head."""
    camera_dim: int = 256
    """Channels of the camera embedding at every stage."""
    scale_dim: int = 128
    """Width of the scale head."""
    min_distance: float = 0.1
    """Nearest distance that the network can give, in metres."""
    max_distance: float = 20.0
    """Farthest distance that the network can give, in metres."""
    scale_activation: ScaleActivation = "exp"
    """``exp`` starts at exactly 1; ``sigmoid`` is the notes' scale below 1."""
    inversion: Inversion = "bounded"
    """``bounded`` stays within the two distances; ``max_over_disparity`` is the notes' own."""

    def __post_init__(self) -> None:
        if not 0 < self.min_distance < self.max_distance:
            raise UserError(
                f"min_distance={self.min_distance}, max_distance={self.max_distance}: "
                "must be 0 < min_distance < max_distance (metres)"
            )
        for name in ("decoder_channels", "camera_dim", "scale_dim"):
            value = getattr(self, name)
            if value < 4 or value % 4:
                raise UserError(f"{name}={value}: must be a positive multiple of 4")
        _check_choices(asdict(self))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a checkpoint's header keeps them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: object, *, where: str) -> "NetworkConfig":
        """Return the configuration that ``to_dict`` gave.

        Raises:
            UserError: A key is unknown or a value is not allowed.
        """
        if not isinstance(content, dict):
            raise UserError(f"{where}: the network's config must be a mapping, got {content!r}")
        allowed = [field.name for field in fields(cls)]
        for key in content:
            if key not in allowed:
                raise UserError(
                    f"{where}: unknown key '{key}' of the network; allowed: {', '.join(allowed)}"
                    f"{did_you_mean(key, allowed)}"
                )
        try:
            _check_choices(content)
            return cls(**content)
        except (TypeError, UserError) as error:
            raise UserError(f"{where}: {error}") from None


def _check_choices(content: Mapping[str, Any]) -> None:
    choices = {"scale_activation": get_args(ScaleActivation), "inversion": get_args(Inversion)}
    for name in choices.keys() & content.keys():
        if content[name] not in choices[name]:
            raise UserError(
                f"{name}={content[name]!r}: must be one of {', '.join(choices[name])}"
                f"{did_you_mean(str(content[name]), choices[name])}"
            )
