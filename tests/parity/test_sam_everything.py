"""Everything mode gives the masks of segment_anything's SamAutomaticMaskGenerator."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from colour_model import SIDE, ColourModel, patches
from PIL import Image
from scipy import ndimage
from torch import nn

from seglib.ops.rle import decode_rle
from seglib.postprocess.everything import EverythingSettings, segment_everything
from seglib.types import Prompts

PHOTO = Path(__file__).resolve().parents[3] / "shared" / "data" / "figures-photos" / "sam" / "dog.jpg"

reference = pytest.importorskip("segment_anything", reason="the comparison runs segment_anything itself")


class _Encoder(nn.Module):
    """The parts of the same model as segment_anything calls them: first the encoder …"""

    img_size = SIDE

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model.encode(images)


class _PromptEncoder(nn.Module):
    """… the prompt encoder, which passes the clicks on …"""

    def forward(self, points, boxes, masks):
        return points[0], None

    def get_dense_pe(self):
        return None


class _MaskDecoder(nn.Module):
    """… and the decoder."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, image_embeddings, image_pe, sparse_prompt_embeddings, dense_prompt_embeddings, multimask_output):
        points = sparse_prompt_embeddings.float()
        answers = self.model.decode(image_embeddings, Prompts(points, torch.ones(points.shape[:2]).long())).several
        return answers.logits, answers.iou


def reference_sam(model):
    from segment_anything.modeling import Sam

    return Sam(_Encoder(model), _PromptEncoder(), _MaskDecoder(model), pixel_mean=[0, 0, 0], pixel_std=[255] * 3)


def both(image, **settings):
    model = ColourModel()
    found = segment_everything(model, image, EverythingSettings(**settings))
    names = {
        "iou_threshold": "pred_iou_thresh",
        "stability_threshold": "stability_score_thresh",
        "stability_offset": "stability_score_offset",
        "box_nms": "box_nms_thresh",
        "crop_layers": "crop_n_layers",
        "crop_nms": "crop_nms_thresh",
        "crop_overlap": "crop_overlap_ratio",
        "crop_points_downscale": "crop_n_points_downscale_factor",
        "min_area": "min_mask_region_area",
    }
    arguments = {names.get(k, k): v for k, v in settings.items()}
    generator = reference.SamAutomaticMaskGenerator(reference_sam(model), output_mode="uncompressed_rle", **arguments)
    return found, generator.generate(image.permute(1, 2, 0).numpy())


def check_same(found, wanted):
    assert len(found.instances) == len(wanted)
    masks = decode_rle([entry["segmentation"] for entry in wanted])
    assert torch.equal(found.instances.masks, masks)
    assert found.instances.scores.tolist() == [entry["predicted_iou"] for entry in wanted]
    # of an empty mask segment_anything's is 0 / 0
    assert found.stability.tolist() == np.nan_to_num([entry["stability_score"] for entry in wanted]).tolist()
    np.testing.assert_allclose(found.points, [entry["point_coords"][0] for entry in wanted], atol=1e-4)
    corner_and_size = torch.cat([found.crops[:, :2], found.crops[:, 2:] - found.crops[:, :2]], 1)
    assert corner_and_size.tolist() == [entry["crop_box"] for entry in wanted]
    boxes = found.instances.boxes
    # segment_anything's width and height go from the first to the last pixel's index
    extent = (boxes[:, 2:] - boxes[:, :2] - 1).clamp(min=0)
    assert torch.cat([boxes[:, :2], extent], 1).tolist() == [entry["bbox"] for entry in wanted]


@pytest.fixture
def components(monkeypatch):
    """segment_anything removes small regions with OpenCV's components; without OpenCV, SciPy's stand in for them."""
    try:
        import cv2  # noqa: F401
    except ImportError:

        def with_stats(mask, connectivity):
            regions, count = ndimage.label(mask, np.ones((3, 3)))
            areas = np.bincount(regions.ravel(), minlength=count + 1)
            return count + 1, regions, np.tile(areas[:, None], 5), None  # the area is the last of five

        monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(connectedComponentsWithStats=with_stats))


SETTINGS = [
    {},
    {"iou_threshold": 0.0, "stability_threshold": 0.0, "box_nms": 1.0},
    {"crop_layers": 1, "crop_points_downscale": 2},
    {"crop_layers": 2, "crop_points_downscale": 2, "crop_overlap": 0.2, "crop_nms": 0.4, "stability_threshold": 0.6},
    {"min_area": 60, "iou_threshold": 0.7, "stability_threshold": 0.3},
    {"min_area": 60, "crop_layers": 1, "stability_offset": 0.3},
]
each_settings = pytest.mark.parametrize(
    "settings", SETTINGS, ids=lambda s: ", ".join(f"{k}={v}" for k, v in s.items()) or "defaults"
)


@each_settings
def test_the_masks_are_those_of_segment_anything(components, settings):
    found, wanted = both(patches(150, 210), points_per_side=8, points_per_batch=24, **settings)
    assert len(wanted) > 30
    check_same(found, wanted)


@each_settings
def test_the_masks_of_a_photo_are_those_of_segment_anything(components, settings):
    if not PHOTO.exists():
        pytest.skip("the photos (../shared/data/figures-photos) are not here")
    image = torch.from_numpy(np.array(Image.open(PHOTO).convert("RGB").crop((300, 100, 400, 260)))).permute(2, 0, 1)
    found, wanted = both(image, points_per_side=6, **settings)
    assert len(wanted) > 2
    check_same(found, wanted)
