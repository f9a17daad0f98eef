"""What every lens owes: pixels to rays and back, and the edits of an image that move pixels.

Axis letters: ``*b`` the batch of the parameters, ``p`` parameters, ``h w`` pixels. x points
right, y down, z forward. Pixel coordinates are (u, v) with the first pixel's centre at (0.5, 0.5),
so an image's corner is (0, 0).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dart.cameras.rays import check_size, pixel_centres
from dart.errors import UserError

_SMALLEST_SQUARE = 1e-200
_NUM_PIXEL_PARAMS = 4
_QUARTERS = 4

# Not typing.Self: beartype refuses it on a method of a class that it has not decorated itself.
_Lens = TypeVar("_Lens", bound="Camera")


@dataclass(frozen=True, eq=False)
class Camera(ABC):
    """One lens and the image it fills, or a batch of the same lens model.

    The first four parameters are fx, fy, cx and cy in pixels. Where ``params`` has batch
    dimensions, they align with the leading dimensions of points and pixels. Formulas are
    evaluated in float64 and returned in the dtype of what was asked about.
    """

    model: ClassVar[str]
    param_names: ClassVar[tuple[str, ...]]
    param_ranges: ClassVar[Mapping[str, tuple[float, float]]] = {}
    """Lowest and highest value of a parameter, both allowed; fx and fy need not be named."""

    vector_params: ClassVar[tuple[tuple[str, str], ...]] = ()
    """Pairs of parameters that are the x and y of a vector in the image: they turn with it."""

    params: Float[Tensor, "*b p"]
    size: tuple[int, int]
    """Height and width in pixels."""

    def __post_init__(self) -> None:
        check_size(self.size, self.model)
        self._check_params()

    def _check_params(self) -> None:
        names = self.param_names
        if self.params.shape[-1] != len(names):
            raise UserError(
                f"{self.model}: got {self.params.shape[-1]} parameters; "
                f"it takes {len(names)}: {', '.join(names)}"
            )
        for name, values in zip(names, self.params.detach().unbind(-1), strict=True):
            wrong = ~values.isfinite()
            if name in ("fx", "fy"):
                wrong |= values <= 0
            low, high = self.param_ranges.get(name, (-math.inf, math.inf))
            wrong |= (values < low) | (values > high)
            if wrong.any():
                allowed = "positive and finite (pixels)" if name[0] == "f" else "finite"
                if name in self.param_ranges:
                    allowed = f"finite and within {low:g}..{high:g}"
                raise UserError(
                    f"{self.model}: {name} = {values[wrong].flatten()[0].item():g}; "
                    f"it must be {allowed}"
                )

    def project(
        self, points: Float[Tensor, "*n 3"]
    ) -> tuple[Float[Tensor, "*m 2"], Bool[Tensor, "*m"]]:
        """Return the pixel of each point and whether the lens sees it.

        A point outside the field of view gets a finite pixel and False; a pixel may be True and
        yet lie outside the image. Points need no unit length.
        """
        params = self._aligned_params(points)
        wide = points.double()
        usable = wide.isfinite().all(-1) & (wide.square().sum(-1) > _SMALLEST_SQUARE)
        usable &= wide.square().sum(-1).isfinite()
        forward = wide.new_tensor([0.0, 0.0, 1.0])
        safe = torch.where(usable[..., None], wide, forward)
        unit = safe / torch.linalg.vector_norm(safe, dim=-1, keepdim=True)
        pixels, seen = self._project_unit(unit, params)
        return pixels.to(points.dtype), seen & usable

    def unproject(
        self, pixels: Float[Tensor, "*n 2"]
    ) -> tuple[Float[Tensor, "*m 3"], Bool[Tensor, "*m"]]:
        """Return the unit ray of each pixel and whether it lies in the field of view.

        A pixel beyond the field of view gets the ray at its edge, in the same direction from the
        centre; a pixel that is not finite gets the optical axis.
        """
        params = self._aligned_params(pixels)
        wide = pixels.double()
        usable = wide.square().sum(-1).isfinite()
        fx, fy, cx, cy = params[:_NUM_PIXEL_PARAMS]
        u, v = wide.unbind(-1)
        x = (torch.where(usable, u, cx) - cx) / fx
        y = (torch.where(usable, v, cy) - cy) / fy
        rays, seen = self._unproject_plane(torch.stack([x, y], dim=-1), params)
        return rays.to(pixels.dtype), seen & usable

    @cached_property
    @abstractmethod
    def polar_limit(self) -> Float[Tensor, "*b"]:
        """Half the field of view in radians, one a camera; float64, no gradient."""

    @abstractmethod
    def _project_unit(
        self, unit: Float[Tensor, "*n 3"], params: tuple[Tensor, ...]
    ) -> tuple[Float[Tensor, "*m 2"], Bool[Tensor, "*m"]]:
        """Project unit vectors in float64; never NaN, value or gradient."""

    @abstractmethod
    def _unproject_plane(
        self, plane: Float[Tensor, "*m 2"], params: tuple[Tensor, ...]
    ) -> tuple[Float[Tensor, "*m 3"], Bool[Tensor, "*m"]]:
        """Return rays of points (u - cx) / fx, (v - cy) / fy in float64; never NaN."""

    def _aligned_params(self, points: Tensor) -> tuple[Tensor, ...]:
        """Return the parameters, one tensor each, with the dimensions of ``points[..., 0]``."""
        return tuple(self._aligned(value, points) for value in self.params.double().unbind(-1))

    def _aligned(self, value: Float[Tensor, "*b"], points: Tensor) -> Tensor:
        missing = points.ndim - 1 - value.ndim
        return value.reshape(value.shape + (1,) * missing) if missing > 0 else value

    def _pixel_grid(self) -> Float[Tensor, "*b h w 2"]:
        grid = pixel_centres(self.size, dtype=self.params.dtype, device=self.params.device)
        return grid.expand(*self.params.shape[:-1], *grid.shape)

    def rays(self) -> Float[Tensor, "*b h w 3"]:
        """Return the unit ray through every pixel's centre, finite everywhere."""
        return self.rays_and_valid()[0]

    def valid(self) -> Bool[Tensor, "*b h w"]:
        """Return which pixels lie in the lens's field of view (the image circle)."""
        return self.rays_and_valid()[1]

    def rays_and_valid(self) -> tuple[Float[Tensor, "*b h w 3"], Bool[Tensor, "*b h w"]]:
        """Return ``rays`` and ``valid`` at the cost of one: inverting some lenses is slow."""
        return self.unproject(self._pixel_grid())

    def resize(self: _Lens, size: tuple[int, int]) -> _Lens:
        """Return the camera of the image resized to ``size`` (height, width)."""
        check_size(size, "resize")
        down, right = size[0] / self.size[0], size[1] / self.size[1]
        factors = [right, down, right, down] + [1.0] * (len(self.param_names) - _NUM_PIXEL_PARAMS)
        return replace(self, params=self.params * self.params.new_tensor(factors), size=size)

    def crop(self: _Lens, top: int, left: int, height: int, width: int) -> _Lens:
        """Return the camera of a window of the image.

        Raises:
            UserError: If the window is empty or leaves the image.
        """
        check_size((height, width), "crop")
        if top < 0 or left < 0 or top + height > self.size[0] or left + width > self.size[1]:
            raise UserError(
                f"crop: rows {top}..{top + height}, columns {left}..{left + width} leave the "
                f"image of {self.size[0]} rows, {self.size[1]} columns; pad() extends it"
            )
        return self._moved(-left, -top, (height, width))

    def pad(self: _Lens, left: int, top: int, right: int, bottom: int) -> _Lens:
        """Return the camera of the image with pixels added on its sides; rays extend naturally.

        Raises:
            UserError: If a side is negative.
        """
        if min(left, top, right, bottom) < 0:
            raise UserError(
                f"pad: left {left}, top {top}, right {right}, bottom {bottom}; "
                "all must be at least 0"
            )
        height, width = self.size
        return self._moved(left, top, (height + top + bottom, width + left + right))

    def _moved(self: _Lens, right: int, down: int, size: tuple[int, int]) -> _Lens:
        offsets = [0.0, 0.0, right, down] + [0.0] * (len(self.param_names) - _NUM_PIXEL_PARAMS)
        return replace(self, params=self.params + self.params.new_tensor(offsets), size=size)

    def flip(self: _Lens) -> _Lens:
        """Return the camera of the image mirrored left to right (the scene mirrors with it)."""
        turned = {name: -self._param(name) for name, _ in self.vector_params}
        return self._replaced({"cx": self.size[1] - self._param("cx"), **turned}, self.size)

    def rotate90(self: _Lens, turns: int = 1) -> _Lens:
        """Return the camera of the image turned counter-clockwise, as ``np.rot90`` turns it.

        Args:
            turns: Quarter turns, any whole number; the rays turn with the pixels.

        Raises:
            UserError: If the lens has no form for the turned image.
        """
        camera = self
        for _ in range(turns % _QUARTERS):
            camera = camera._quarter_turned()
        return camera

    def _quarter_turned(self: _Lens) -> _Lens:
        fx, fy, cx, cy, *_ = self.params.unbind(-1)
        values = {"fx": fy, "fy": fx, "cx": cy, "cy": self.size[1] - cx}
        for right, down in self.vector_params:
            values |= {right: self._param(down), down: -self._param(right)}
        return self._replaced(values, (self.size[1], self.size[0]))

    def _param(self, name: str) -> Float[Tensor, "*b"]:
        return self.params[..., self.param_names.index(name)]

    def _replaced(self: _Lens, values: Mapping[str, Tensor], size: tuple[int, int]) -> _Lens:
        columns = [values.get(name, self._param(name)) for name in self.param_names]
        return replace(self, params=torch.stack(columns, dim=-1), size=size)

    def to(
        self: _Lens, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> _Lens:
        """Return the camera with its parameters on ``device`` and in ``dtype``."""
        return replace(self, params=self.params.to(device=device, dtype=dtype))

    @cached_property
    def key(self) -> str:
        """Stable text that two cameras share exactly when all their numbers agree."""
        height, width = self.size
        return f"{self.model} {height}x{width} {self.params.detach().tolist()}{self._bounds}"

    @property
    def _bounds(self) -> str:
        """What else than the parameters tells two cameras apart, for ``key``."""
        return ""

    def to_dict(self) -> dict[str, Any]:
        """Return the camera as a calibration file has it (``camera_from_dict`` reads it back).

        Raises:
            ValueError: If the camera is a batch.
        """
        if self.params.ndim != 1:
            raise ValueError(f"to_dict takes one camera, not a batch of {self.params.shape[:-1]}")
        params = dict(zip(self.param_names, self.params.detach().tolist(), strict=True))
        height, width = self.size
        return {"model": self.model, "params": params, "width": width, "height": height}


def degrees(radians: float) -> float:
    """Return ``radians`` in degrees, to twelve digits: 1.5707963267948966 is 90.0."""
    return float(f"{math.degrees(radians):.12g}")
