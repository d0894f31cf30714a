"""From raw outputs to typed predictions, as pure functions."""

from seglib.postprocess.semantic import predict_semantic

__all__ = ["predict_semantic"]
