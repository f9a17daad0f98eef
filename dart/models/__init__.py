"""The networks: encoders, adapters, decoder and scale head, and the variants by name."""

from dart.conditioning import Conditioning
from dart.models import tinyvim as tinyvim
from dart.models.adapters import (
    DAA,
    Average,
    DynamicQueries,
    Gate,
    LowRankQueries,
    Reweighted,
    Stage,
    TokenGate,
    Tuner,
    default_projection,
    softmax_over_queries,
    softmax_over_tokens,
    zero_projection,
)
from dart.models.checkpoint import (
    load_adapter,
    load_checkpoint,
    load_pretrained,
    save_adapter,
    save_pretrained,
)
from dart.models.depth_net import DepthNet, Prediction
from dart.models.network_config import NetworkConfig
from dart.models.registry import create_model, list_variants, register_variant, variant_info
from dart.models.routing import Routed, line_bend, pinhole_gate

__all__ = [
    "DAA",
    "Average",
    "Conditioning",
    "DepthNet",
    "DynamicQueries",
    "Gate",
    "LowRankQueries",
    "NetworkConfig",
    "Prediction",
    "Reweighted",
    "Routed",
    "Stage",
    "TokenGate",
    "Tuner",
    "create_model",
    "default_projection",
    "line_bend",
    "list_variants",
    "load_adapter",
    "load_checkpoint",
    "load_pretrained",
    "pinhole_gate",
    "register_variant",
    "save_adapter",
    "save_pretrained",
    "softmax_over_queries",
    "softmax_over_tokens",
    "variant_info",
    "zero_projection",
]
