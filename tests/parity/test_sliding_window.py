"""A sliding window gives what MONAI's sliding_window_inference gives."""

import pytest
import torch
from torch import nn

from seglib.postprocess.volume import sliding_window

inferers = pytest.importorskip("monai.inferers")

CASES = {
    "odd sizes": ((13, 17, 11), (6, 7, 8)),
    "windows that fit exactly": ((12, 12, 12), (6, 6, 6)),
    "one window": ((6, 7, 8), (6, 7, 8)),
    "larger than the case": ((5, 6, 7), (8, 9, 12)),
    "larger than the case along one axis": ((5, 17, 13), (8, 7, 6)),
    "one voxel along one axis": ((7, 9, 8), (1, 5, 4)),  # MONAI#906: half a voxel is a step of one
    "one slice": ((1, 17, 13), (1, 8, 8)),
}


@pytest.mark.parametrize("blend", ["gaussian", "constant"])
@pytest.mark.parametrize("overlap", [0.25, 0.5, 0.625])
@pytest.mark.parametrize("case", CASES)
def test_it_is_monais(case, overlap, blend):
    size, window = CASES[case]
    torch.manual_seed(0)
    predictor = nn.Sequential(nn.Conv3d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 3, 3, padding=1))
    image = torch.randn(2, *size)
    found = sliding_window(predictor, image, window, overlap=overlap, blend=blend, batch_size=3)
    with torch.no_grad():
        expected = inferers.sliding_window_inference(image[None], window, 3, predictor, overlap, blend)[0]
    # sums of some dozens of float32 terms, in another order
    torch.testing.assert_close(found, expected, rtol=0, atol=3e-6 * float(expected.abs().max()))
