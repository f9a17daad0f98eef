"""Every lens by the name that a calibration file gives it."""

from collections.abc import Mapping

from dart.cameras.camera import Camera
from dart.cameras.distorted import Fisheye624, Mei, RadialTangential, ThinPrismFisheye
from dart.cameras.fisheyes import (
    EUCM,
    DoubleSphere,
    Equidistant,
    Equisolid,
    Orthographic,
    RadialPolynomial,
    Stereographic,
)
from dart.cameras.lenses import KannalaBrandt, Pinhole
from dart.cameras.panorama import Equirectangular

LENSES: Mapping[str, type[Camera]] = {
    lens.model: lens
    for lens in (
        Pinhole,
        KannalaBrandt,
        RadialTangential,
        Fisheye624,
        ThinPrismFisheye,
        Mei,
        EUCM,
        DoubleSphere,
        RadialPolynomial,
        Equidistant,
        Equisolid,
        Stereographic,
        Orthographic,
        Equirectangular,
    )
}
