"""Lenses, the rays through their pixels, and the camera embedding built on the rays' angles."""

from dart.cameras.camera import Camera
from dart.cameras.lenses import KannalaBrandt, Pinhole
from dart.cameras.rays import (
    embed_rays,
    generate_fourier_features,
    generate_rays,
    polar_azimuth,
)

__all__ = [
    "Camera",
    "KannalaBrandt",
    "Pinhole",
    "embed_rays",
    "generate_fourier_features",
    "generate_rays",
    "polar_azimuth",
]
