"""Where the pixels of one camera's image lie in another's."""

from jaxtyping import Bool, Float
from torch import Tensor

from dart.cameras.camera import Camera


def warp_grid(
    source: Camera, target: Camera, rotation: Float[Tensor, "3 3"] | None = None
) -> tuple[Float[Tensor, "*b h w 2"], Bool[Tensor, "*b h w"]]:
    """Return where each of the target's pixels lies in the source's image, and whether it does.

    Both cameras stand at the same point, so a pixel's distance along its ray is kept whatever the
    lenses.

    Args:
        source: The camera of the image at hand, one, or a batch as large as the target's.
        target: The camera of the image wanted.
        rotation: Turns the target's rays into the source's axes; by default they share axes.

    Returns:
        Pixels (u, v) of the source, and where they are true: the target's ray is in its field of
        view, the source sees it, and its pixel lies inside the source's image.
    """
    rays, seen = target.unproject(target._pixel_grid().double())
    if rotation is not None:
        rays = rays @ rotation.to(rays).mT
    pixels, visible = source.project(rays)
    side = pixels.new_tensor([source.size[1], source.size[0]])
    inside = ((pixels >= 0) & (pixels <= side)).all(-1)
    return pixels.to(target.params.dtype), seen & visible & inside
