"""The networks: encoders, adapters, decoder and scale head."""

from dart.models import tinyvim as tinyvim
