"""Weights: saved and loaded as safetensors, converted from other codebases."""

from seglib.weights.convert import ORIGINS, convert, read_origin
from seglib.weights.load import load_encoder, load_model, load_weights, mismatch, read_metadata, save_weights

__all__ = [
    "ORIGINS",
    "convert",
    "load_encoder",
    "load_model",
    "load_weights",
    "mismatch",
    "read_metadata",
    "read_origin",
    "save_weights",
]
