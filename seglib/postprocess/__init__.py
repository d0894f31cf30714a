"""From raw outputs to typed predictions, as pure functions."""

from seglib.postprocess.semantic import predict_semantic
from seglib.postprocess.tiles import predict_tiled

__all__ = ["predict_semantic", "predict_tiled"]
