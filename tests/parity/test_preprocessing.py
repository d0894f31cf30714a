"""Preparation equals nnU-Net's DefaultPreprocessor and its way back to the grid of the case."""

import numpy as np
import pytest
import torch
from nnunet_reference import nnunet
from scipy import ndimage

from seglib.ops.intensity import AS_IS, Intensity
from seglib.ops.preparation import Preparation
from seglib.ops.resample import resample_labels, resample_linear

ROUNDING = 3e-6  # of float32, in normalised values up to about 4
CLASSES = 3
CT = {"percentile_00_5": -60.0, "percentile_99_5": 70.0, "mean": 3.0, "std": 30.0}
SCHEMES = {
    "CTNormalization": Intensity("ct", low=-60, high=70, mean=3, std=30),
    "ZScoreNormalization": Intensity("zscore"),
    "NoNormalization": AS_IS,
    "RescaleTo01Normalization": Intensity("unit"),
    "RGBTo01Normalization": Intensity("rgb"),
}


def case(shape, channels, seed=0):
    """Smooth noise in an ellipsoid, 0 outside, with labels up to its border and a hole."""
    generator = np.random.default_rng(seed)
    grids = np.ogrid[tuple(slice(n) for n in shape)]
    inside = sum(((grid - n / 2 + 0.5) / max(0.45 * n, 1)) ** 2 for grid, n in zip(grids, shape, strict=True)) < 1
    inside[tuple(slice(n // 2, n // 2 + 3) for n in shape)] = max(shape) < 20
    image = [ndimage.gaussian_filter(generator.standard_normal(shape), 1) * 200 for _ in range(channels)]
    smooth = np.abs(ndimage.gaussian_filter(generator.standard_normal(shape), 2))
    labels = np.digitize(smooth, np.quantile(smooth, [0.6, 0.9])) * inside
    return (np.stack(image) * inside).astype(np.float32), labels.astype(np.int16)


def plans(spacing, schemes, masked, transpose):
    """As much of nnUNetPlans.json as preprocessing reads."""

    def resampling(is_seg, order):
        return {"is_seg": is_seg, "order": order, "order_z": 0, "force_separate_z": None}

    names = [f"resampling_fn_{part}" for part in ("data", "seg", "probabilities")]
    keywords = [resampling(False, 3), resampling(True, 1), resampling(False, 1)]
    configuration = {
        "architecture": {"arch_kwargs": {}, "_kw_requires_import": []},  # without which nnU-Net warns
        "spacing": list(spacing),
        "normalization_schemes": list(schemes),
        "use_mask_for_norm": list(masked),
        **dict.fromkeys(names, "resample_data_or_seg_to_shape"),
        **{f"{name}_kwargs": k for name, k in zip(names, keywords, strict=True)},
    }
    return {
        "transpose_forward": list(transpose),
        "transpose_backward": [list(transpose).index(axis) for axis in range(3)],
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(i): CT for i in range(len(schemes))},
        "configurations": {"tested": configuration},
    }


@pytest.mark.parametrize(
    ("shape", "mm", "target", "schemes", "masked", "transpose"),
    [
        ((30, 36, 28), (1, 1, 1), (1.3, 0.8, 1.0), ["CT"], [False], (0, 1, 2)),
        ((24, 28, 22), (1, 1, 1), (0.6, 0.7, 0.65), ["ZScore"], [True], (0, 1, 2)),
        ((10, 36, 28), (5, 1, 1), (4, 0.8, 1.2), ["ZScore", "CT"], [True, False], (0, 1, 2)),  # separate there and back
        ((30, 10, 28), (1, 5, 1), (1, 1, 1), ["No", "ZScore"], [False, True], (1, 0, 2)),  # and transposed
        ((20, 36, 28), (1, 1, 1), (3.5, 1, 1.1), ["RescaleTo01"], [False], (2, 0, 1)),  # by its target
        ((10, 36, 28), (5, 1, 1), (0.7, 1.2), ["ZScore"], [False], (0, 1, 2)),  # 2D
        ((20, 26, 28), (1, 1, 1), (1.7, 2.1, 2.6), ["RGBTo01"], [False], (2, 1, 0)),
        ((1, 36, 28), (9, 1, 1), (3, 1.5, 0.7), ["ZScore"], [False], (0, 1, 2)),
        ((20, 26, 28), (1, 2, 1), (1, 2, 1), ["ZScore"], [True], (0, 1, 2)),  # as it is
    ],
)
def test_a_prepared_case_and_its_labels_are_nnunets(shape, mm, target, schemes, masked, transpose):
    preprocessors = nnunet("preprocessing.preprocessors.default_preprocessor")
    handler = nnunet("utilities.plans_handling.plans_handler")
    export = nnunet("inference.export_prediction")
    schemes = [f"{name}Normalization" for name in schemes]
    image, labels = case(shape, len(schemes))
    if "RGBTo01Normalization" in schemes:
        image = np.abs(image) / np.abs(image).max() * 255
    manager = handler.PlansManager(plans(target, schemes, masked, transpose))
    configuration = manager.get_configuration("tested")
    dataset = {
        "channel_names": {str(i): "any" for i in range(len(image))},
        "labels": {"background": 0, "organ": 1, "lesion": 2},
        "file_ending": ".nii.gz",
    }
    expected, expected_labels, properties = preprocessors.DefaultPreprocessor(verbose=False).run_case_npy(
        image.copy(), labels[None].copy(), {"spacing": list(mm)}, manager, configuration, dataset
    )
    preparation = Preparation(
        spacing=(*(None,) * (3 - len(target)), *target),
        intensities=tuple(SCHEMES[name] for name in schemes),
        masked=tuple(masked),
        transpose=transpose,
    )
    prepared = preparation(torch.from_numpy(image), mm, torch.from_numpy(labels))
    np.testing.assert_allclose(prepared.image, expected, rtol=ROUNDING, atol=ROUNDING)
    # nnU-Net marks background outside of the non-zero region -1, which its training turns to 0
    assert np.array_equal(prepared.labels, expected_labels[0].clip(0))

    logits = torch.randn(CLASSES, *prepared.image.shape[1:], generator=torch.Generator().manual_seed(0))
    back, probabilities = export.convert_predicted_logits_to_segmentation_with_correct_shape(
        logits.clone(), manager, configuration, manager.get_label_manager(dataset), properties, True, 1
    )
    assert np.array_equal(preparation.restore_argmax(logits, prepared), back)
    inside = (torch.from_numpy(image) != 0).any(0)
    found = preparation.restore(logits, prepared).softmax(0)
    # places of voxels in float32; outside of the box a probability is 1 there, and here what the surest logits give
    np.testing.assert_allclose(found[:, inside], probabilities[:, inside], rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(12, 13, 10), (36, 39, 30), (18, 20, 15), (31, 17, 21)])
def test_labels_differ_from_nnunets_only_where_two_shares_are_equal(size):
    resampling = nnunet("preprocessing.resampling.default_resampling")
    _, labels = case((24, 26, 20), 1)
    options = {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None}
    expected = resampling.resample_data_or_seg_to_shape(labels[None], size, (1, 1, 1), (1, 1, 1), **options)[0]
    found = resample_labels(torch.from_numpy(labels), size)
    differs = found != torch.from_numpy(expected)
    shares = resample_linear(torch.stack([torch.from_numpy(labels == label) for label in range(CLASSES)]), size)
    first, second = shares.topk(2, 0).values
    assert (first - second)[differs].le(1e-5).all()
    assert differs.float().mean() < 0.002  # 0.09 % at a ratio of 2:3, where many places lie halfway
