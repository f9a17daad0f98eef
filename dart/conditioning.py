"""What the adapters are shown of a camera: the choices by name, readable without torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Literal, get_args

from dart.errors import UserError, did_you_mean

CameraControl = Literal["real", "none", "constant", "shuffled", "mismatched"]
EmbeddingKind = Literal["fourier", "band_limited", "periodic", "ray", "harmonics"]


@dataclass(frozen=True)
class Conditioning:
    """What adapters see of the camera; the pretrained scale head always sees the real one.

    Another embedding or a false camera in front of the scale head would damage what it learnt
    before any adapter did anything, and the damage would be counted as the adapter's.
    """

    camera: CameraControl = "real"
    """The lens of the image, or one of the controls of ``dart.cameras.controls``."""
    embedding: EmbeddingKind = "fourier"
    """How rays become channels: one of ``dart.cameras.kinds``."""

    def to_dict(self) -> dict[str, str]:
        """Return the fields as a checkpoint's header keeps them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: object, *, where: str) -> "Conditioning":
        """Return what ``to_dict`` gave.

        Raises:
            UserError: A key is unknown or a value is not allowed.
        """
        allowed = [field.name for field in fields(cls)]
        if not isinstance(content, Mapping) or not content.keys() <= set(allowed):
            raise UserError(f"{where}: the conditioning must map some of {', '.join(allowed)}")
        for name, value in content.items():
            choices = get_args({"camera": CameraControl, "embedding": EmbeddingKind}[name])
            if value not in choices:
                raise UserError(
                    f"{where}: {name}={value!r}: must be one of {', '.join(choices)}"
                    f"{did_you_mean(str(value), choices)}"
                )
        return cls(**content)
