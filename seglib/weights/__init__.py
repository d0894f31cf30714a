"""Weights: saved and loaded as safetensors, converted from other codebases."""

from seglib.weights.convert import ORIGINS, convert, read_origin
from seglib.weights.load import load_model, load_weights, mismatch, read_metadata, save_weights
from seglib.weights.start import load_encoder, load_fitting

__all__ = [
    "ORIGINS",
    "convert",
    "load_encoder",
    "load_fitting",
    "load_model",
    "load_weights",
    "mismatch",
    "read_metadata",
    "read_origin",
    "save_weights",
]
