"""Lenses, the rays through their pixels, and the camera embedding built on the rays' angles."""

from dart.cameras.calibration import load_calibration
from dart.cameras.camera import Camera
from dart.cameras.controls import default_camera
from dart.cameras.distorted import Fisheye624, Mei, RadialTangential, ThinPrismFisheye
from dart.cameras.embedding import CameraEmbedder
from dart.cameras.files import camera_from_dict, load_camera
from dart.cameras.fisheyes import (
    EUCM,
    DoubleSphere,
    Equidistant,
    Equisolid,
    Orthographic,
    RadialPolynomial,
    Stereographic,
)
from dart.cameras.kinds import count_aliased_bands
from dart.cameras.lenses import KannalaBrandt, Pinhole
from dart.cameras.panorama import Equirectangular
from dart.cameras.rays import (
    embed_rays,
    generate_fourier_features,
    generate_rays,
    polar_azimuth,
)
from dart.cameras.table import LENSES
from dart.cameras.warp import warp_grid

__all__ = [
    "EUCM",
    "LENSES",
    "Camera",
    "CameraEmbedder",
    "DoubleSphere",
    "Equidistant",
    "Equirectangular",
    "Equisolid",
    "Fisheye624",
    "KannalaBrandt",
    "Mei",
    "Orthographic",
    "Pinhole",
    "RadialPolynomial",
    "RadialTangential",
    "Stereographic",
    "ThinPrismFisheye",
    "camera_from_dict",
    "count_aliased_bands",
    "default_camera",
    "embed_rays",
    "generate_fourier_features",
    "generate_rays",
    "load_calibration",
    "load_camera",
    "polar_azimuth",
    "warp_grid",
]
