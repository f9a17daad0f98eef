"""What the network needs of an encoder: four stages that run one after the other.

Axis letters: ``b`` batch, ``c`` channels (``d`` after a change of them), ``h w`` cells or pixels.
"""

from abc import ABC, abstractmethod

from torch import nn


class Encoder(nn.Module, ABC):
    """Base of encoders whose stages run one by one, so that adapters can enter between them.

    A map may have more rows than the image has cells: tokens that belong to no cell travel in
    them from stage to stage, and neither adapters nor the decoder see them.
    """

    channels: tuple[int, ...]
    """Channels of each stage's map."""
    strides: tuple[int, ...]
    """Pixels a cell of each stage; the sides of images are padded to multiples of the last."""

    @abstractmethod
    def stage_layers(self, index: int) -> nn.Module:
        """Return what makes the map of stage ``index`` from the map before, or the image.

        The layers are the encoder's own, not copies.
        """
