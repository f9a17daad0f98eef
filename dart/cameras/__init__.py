"""Lenses, the rays through their pixels, and the camera embedding built on the rays' angles."""

from dart.cameras.camera import Camera
from dart.cameras.embedding import CameraEmbedder, default_camera
from dart.cameras.files import camera_from_dict, load_camera
from dart.cameras.lenses import KannalaBrandt, Pinhole
from dart.cameras.rays import (
    embed_rays,
    generate_fourier_features,
    generate_rays,
    polar_azimuth,
)

__all__ = [
    "Camera",
    "CameraEmbedder",
    "KannalaBrandt",
    "Pinhole",
    "camera_from_dict",
    "default_camera",
    "embed_rays",
    "generate_fourier_features",
    "generate_rays",
    "load_camera",
    "polar_azimuth",
]
