"""Tasks own what differs: new kinds of models train, score and predict without a change of the training loop."""

import json
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from seglib.data.collate import collate
from seglib.layers.normalize import Normalize
from seglib.models.semantic import SemanticModel
from seglib.ops.geometry import Geometry
from seglib.ops.resize import crop_to, resize_image
from seglib.postprocess import predict_semantic, predict_tiled
from seglib.train import RegionTask, SemanticTask, Task, TrainConfig, evaluate, fit
from seglib.types import VOID, Category, DenseOutput, Sample, SegmentationModel, Semantic, Targets
from seglib.weights import read_metadata

CATEGORIES = (Category(0, "cell", True, (230, 159, 0)), Category(1, "dish", False, (0, 114, 178)))
CONFIG = TrainConfig(steps=25, batch_size=4, lr=0.05, precision="no")


# A prompted model: one click says which of two discs is meant.


class Clicked(nn.Module):
    """Scores each pixel by its brightness and by its distance to the click: 30 lines, as the loop must allow."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 1))

    def encode(self, images):
        return images

    def decode(self, embedding, points):
        height, width = embedding.shape[-2:]
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        away = ((x - points[:, 0, None, None]) ** 2 + (y - points[:, 1, None, None]) ** 2).sqrt() / 16  # (B, H, W)
        return self.layers(torch.cat([embedding, away[:, None]], 1))[:, 0]  # (B, H, W)

    def forward(self, images, targets=None, sizes=None, points=None):
        return self.decode(self.encode(images), points)

    def loss(self, out, targets):
        return {"mask": F.binary_cross_entropy_with_logits(out, targets.semantic.float())}

    def postprocess(self, out, sizes, output_sizes=None):
        return [crop_to(logits, size) > 0 for logits, size in zip(out, sizes, strict=True)]

    def predict(self, images, sizes=None, output_sizes=None, points=None):
        with torch.no_grad():
            return self.postprocess(self(images, points=points), sizes)


class ClickTask(Task):
    """The click is the centre of the wanted disc; the score is the mean IoU of the masks."""

    name, needs, score = "prompt", "semantic", "iou"

    def model_arguments(self):
        return {}

    def losses(self, model, batch):
        return model.loss(model(batch.images, points=clicks(batch)), batch.targets)

    def predict(self, model, batch):
        return model.predict(batch.images, batch.sizes, batch.output_sizes, points=clicks(batch))

    def evaluator(self):
        return MeanIoU()


def clicks(batch):
    """The centre of mass of each wanted mask, (B, 2) as (x, y)."""
    found = [mask.nonzero().float().mean(0).flip(0) + 0.5 for mask in batch.targets.semantic]
    return torch.stack(found)


@dataclass
class MeanIoU:
    total: float = 0.0
    count: int = 0

    def update(self, predictions, batch):
        for found, wanted in zip(predictions, batch.targets.semantic, strict=True):
            wanted = wanted.bool()
            self.total += float((found & wanted).sum() / (found | wanted).sum())
            self.count += 1

    def synchronize(self):
        """One process."""

    def compute(self):
        return {"iou": self.total / self.count}


class TwoDiscs(torch.utils.data.Dataset):
    """Two bright discs, of which the label map marks one."""

    def __init__(self, length, first=0):
        self.length, self.first = length, first

    def __len__(self):
        return self.length

    def __getitem__(self, i):
        g = torch.Generator().manual_seed(self.first + i)
        y, x = torch.meshgrid(torch.arange(16), torch.arange(32), indexing="ij")
        shift = torch.randint(-2, 3, (4,), generator=g)
        discs = [
            (x - 8 - shift[0]) ** 2 + (y - 8 - shift[1]) ** 2 < 16,
            (x - 24 - shift[2]) ** 2 + (y - 8 - shift[3]) ** 2 < 16,
        ]
        image = 0.2 + 0.6 * (discs[0] | discs[1]).float() + 0.05 * torch.randn(3, 16, 32, generator=g)
        return Sample(image, f"discs {i}", semantic=discs[i % 2].long())


def test_a_prompted_model_trains_scores_and_predicts_through_the_loop():
    torch.manual_seed(0)
    model, task = Clicked(), ClickTask(CATEGORIES)
    assert isinstance(model, SegmentationModel)
    before = evaluate(model, TwoDiscs(8, 100), task)["iou"]
    history = fit(model, TwoDiscs(24), TwoDiscs(8, 100), task=task, config=TrainConfig(steps=60, batch_size=8, lr=0.03))
    # both discs look alike: without the click no more than half of what is marked could be right
    assert before < 0.4 < 0.7 < history.best
    batch = collate([TwoDiscs(1)[0]])
    assert task.predict(model, batch)[0].shape == (16, 32)


# A volume


class VolumeNet(SemanticModel):
    """Two 3D convolutions over one channel in Hounsfield units, and an auxiliary output at half the resolution."""

    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.normalize = Normalize((40.0,), (60.0,), dims=3, value_range=None)
        self.layers = nn.Sequential(nn.Conv3d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv3d(6, num_classes, 1))

    def forward(self, images, targets=None, sizes=None):
        logits = self.layers(self.normalize(images, sizes))  # (B, K, D, H, W)
        return DenseOutput(logits, (F.avg_pool3d(logits, 2),))


class Volumes(torch.utils.data.Dataset):
    """A bright box in noise, in volumes of two sizes, with spacing."""

    categories = CATEGORIES

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, i):
        g = torch.Generator().manual_seed(i)
        size = (6, 10, 12) if i % 2 else (8, 8, 8)
        labels = torch.ones(size, dtype=torch.int64)
        labels[2:5, 2:6, 3:7] = 0
        labels[0, 0, 0] = VOID
        image = 20 + 120 * (labels == 0)[None] + 20 * torch.randn(1, *size, generator=g)
        return Sample(image, f"volume {i}", semantic=labels, spacing=(2.5, 0.8, 0.8))


def test_a_volume_model_trains_scores_and_predicts_through_the_loop():
    torch.manual_seed(0)
    model = VolumeNet(2)
    history = fit(model, Volumes(12), Volumes(6), task=SemanticTask(CATEGORIES), config=CONFIG)
    assert history.best > 0.9
    batch = collate([Volumes(2)[0], Volumes(2)[1]])
    assert batch.images.shape == (2, 1, 8, 10, 12) and batch.spacing == [(2.5, 0.8, 0.8)] * 2
    together = SemanticTask(CATEGORIES).predict(model, batch)
    for i, found in enumerate(together):
        alone = model.predict(Volumes(2)[i].image[None])[0]
        assert torch.equal(found.labels, alone.labels) and found.labels.shape == batch.sizes[i]


def test_a_volume_in_units_of_its_own_is_not_refused_and_one_with_nan_is():
    model = VolumeNet(2)
    model.predict(torch.full((1, 1, 4, 4, 4), -1000.0))
    with pytest.raises(ValueError, match="hold nan"):
        model.predict(torch.full((1, 1, 4, 4, 4), torch.nan))
    with pytest.raises(ValueError, match=r"expected images .B, 1, D, H, W., got shape .1, 1, 4, 4."):
        model.predict(torch.zeros(1, 1, 4, 4))


# One model, two tasks


class Layers(SemanticModel):
    """One 3×3 convolution and scores, with a softmax or with sigmoids."""

    def __init__(self, num_classes, overlapping=False):
        super().__init__(num_classes, overlapping=overlapping)
        self.normalize = Normalize((0.5,) * 3, (0.25,) * 3)
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, num_classes, 1))

    def forward(self, images, targets=None, sizes=None):
        return DenseOutput(self.layers(self.normalize(images, sizes)))


class Tumours(torch.utils.data.Dataset):
    """A core in a rim on ground, each of its own brightness."""

    categories = (
        Category(0, "core", True, (230, 159, 0)),
        Category(1, "rim", True, (86, 180, 233)),
        Category(2, "ground", False, (0, 114, 178)),
    )

    def __len__(self):
        return 8

    def __getitem__(self, i):
        labels = torch.full((12, 12), 2)
        labels[2:10, 2:10], labels[4:8, 4:8], labels[0, 0] = 1, 0, VOID
        values = torch.tensor([0.9, 0.5, 0.1])[labels.clamp(max=2)]
        noise = 0.05 * torch.randn(3, 12, 12, generator=torch.Generator().manual_seed(i))
        return Sample((values + noise).clamp(0, 1), f"tumour {i}", semantic=labels)


@pytest.mark.parametrize(
    "task",
    [SemanticTask(Tumours.categories), RegionTask(Tumours.categories, {"whole": ["core", "rim"], "core": ["core"]})],
    ids=["semantic", "regions"],
)
def test_one_model_serves_two_tasks(task):
    torch.manual_seed(0)
    model = Layers(**task.model_arguments())
    history = fit(model, Tumours(), Tumours(), task=task, config=TrainConfig(steps=60, batch_size=8, lr=0.05))
    assert history.best > 0.9


def test_overlapping_regions_come_from_the_label_map_and_void_stays_void():
    task = RegionTask(Tumours.categories, {"whole": ["core", "rim"], "core": ["core"]})
    assert task.model_arguments() == {"num_classes": 2, "overlapping": True}
    batch = task._with_regions(collate([Tumours()[0]]))
    regions = batch.targets.regions[0]  # (K, H, W)
    assert regions[0].eq(1).sum() == 64 and regions[1].eq(1).sum() == 16
    assert regions[:, 0, 0].tolist() == [VOID, VOID]


def test_one_class_alone_is_possible_with_a_sigmoid():
    task = RegionTask(CATEGORIES, {"cell": ["cell"]})
    model = Layers(**task.model_arguments())
    found = model.predict(torch.rand(1, 3, 6, 6))[0]
    assert found.masks.shape == found.probs.shape == (1, 6, 6) and torch.equal(found.masks, found.probs >= 0.5)


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        ({}, "needs at least one"),
        ({"a": ["liver"]}, r"region 'a' has the classes \['liver'\]; choose some of cell, dish"),
    ],
)
def test_regions_without_classes_are_refused(regions, message):
    with pytest.raises(ValueError, match=message):
        RegionTask(CATEGORIES, regions)


def test_a_tasks_arguments_make_it_again(tmp_path):
    task = RegionTask(Tumours.categories, {"whole": ["core", "rim"], "core": ["core"], "rim": ["rim"]})
    again = RegionTask(task.categories, **json.loads(json.dumps(task.arguments())))
    assert again.regions == {"whole": ["core", "rim"], "core": ["core"], "rim": ["rim"]}
    config = TrainConfig(steps=1, batch_size=2)
    fit(Layers(**task.model_arguments()), Tumours(), Tumours(), task=task, config=config, out=tmp_path)
    assert read_metadata(tmp_path / "weights.safetensors")["task_arguments"] == task.arguments()
    assert SemanticTask(CATEGORIES).arguments() == {}


def test_training_maps_both_splits_to_the_tasks_classes_by_name():
    core, rim, ground = Tumours.categories
    turned = (replace(rim, id=0), replace(core, id=1), ground)
    task = SemanticTask(turned)
    torch.manual_seed(0)
    model = Layers(**task.model_arguments())
    fit(model, Tumours(), Tumours(), task=task, config=TrainConfig(steps=60, batch_size=8, lr=0.05))
    labels = model.predict(Tumours()[0].image[None])[0].labels
    assert labels[6, 6] == 1 and labels[3, 3] == 0


def test_auxiliary_outputs_need_as_many_weights():
    model = Layers(2)
    with pytest.raises(ValueError, match="2 auxiliary outputs need as many weights, aux_weights has 1"):
        logits = torch.zeros(1, 2, 4, 4)
        model.loss(DenseOutput(logits, (logits, logits)), Targets(semantic=torch.zeros(1, 4, 4, dtype=torch.int64)))


def test_label_maps_of_photos_want_classes_that_exclude_each_other():
    with pytest.raises(ValueError, match="this predicts Regions; use predict"):
        predict_tiled(Layers(2, overlapping=True), torch.rand(3, 64, 64))


# Geometry


class Bright(SemanticModel):
    """Bright pixels are cells; remembers the sizes that it saw."""

    def __init__(self):
        super().__init__(2)
        self.normalize = Normalize((0.5,) * 3, (0.25,) * 3)
        self.weight = nn.Parameter(torch.tensor(10.0))
        self.seen = []

    def forward(self, images, targets=None, sizes=None):
        self.seen.append(tuple(images.shape[2:]))
        bright = self.normalize(images, sizes).mean(1) * self.weight
        return DenseOutput(torch.stack([bright, -bright], 1))


class Halves(torch.utils.data.Dataset):
    """Images of different sizes whose left half is bright."""

    sizes = ((20, 40), (40, 30), (20, 40))

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, i):
        height, width = self.sizes[i]
        labels = torch.ones(height, width, dtype=torch.int64)
        labels[:, : width // 2] = 0
        return Sample(torch.where(labels == 0, 0.9, 0.1).expand(3, -1, -1).clone(), str(i), semantic=labels)


def test_evaluation_shows_images_as_the_geometry_says_and_scores_at_the_size_of_the_labels():
    model = Bright()
    model.geometry = Geometry("shorter", 10)
    scores = evaluate(model, Halves(), SemanticTask(CATEGORIES), batch_size=3)
    assert sorted(model.seen) == [(10, 20), (13, 10)]
    assert scores["miou"] > 0.9
    model.geometry = Geometry()
    assert evaluate(model, Halves(), SemanticTask(CATEGORIES), batch_size=3)["miou"] == 1.0


@pytest.mark.parametrize("antialias", [True, False])
def test_a_photo_is_resized_for_the_model_as_evaluation_resizes_it(antialias):
    model = Bright()
    model.geometry = Geometry("shorter", 10, antialias=antialias)
    image = torch.rand(3, 40, 60)
    want = model.predict(model.geometry(image)[None], output_sizes=[(40, 60)])[0].labels
    assert torch.equal(predict_semantic(model, image, geometry=model.geometry).labels, want)
    tiled = predict_tiled(model, image, geometry=model.geometry)
    assert (tiled.long() != want).float().mean() < 1e-3  # its rows are summed in another order


def test_padding_is_not_taken_for_values_of_the_image():
    model = Bright()
    model.normalize = Normalize((1500.0,) * 3, (200.0,) * 3, value_range=(1000.0, 2000.0))
    batch = torch.zeros(2, 3, 8, 8)  # collate pads with 0, which no image of this range has
    batch[0], batch[1, :, :4, :4] = 1400.0, 1600.0
    assert len(model.predict(batch, [(8, 8), (4, 4)])) == 2
    with pytest.raises(ValueError, match=r"must lie in \[1000, 2000\], these span 0 to"):
        model.predict(batch)


def test_the_batch_size_changes_no_score_where_images_differ_in_size():
    torch.manual_seed(0)
    model = Layers(2)
    found = [evaluate(model, Halves(), SemanticTask(CATEGORIES), batch_size=n) for n in (1, 2, 3)]
    assert found[0] == found[1] == found[2]


def test_results_come_back_at_the_output_size():
    model = Bright()
    image = Halves()[0].image
    (found,) = model.predict(image[None], output_sizes=[(5, 8)])
    assert found.labels.shape == (5, 8) and found.probs.shape == (2, 5, 8)
    whole = model.predict(image[None])[0]
    assert isinstance(whole, Semantic)
    assert torch.equal(found.probs, resize_image(whole.probs, (5, 8), antialias=False))


@pytest.mark.parametrize(
    ("sizes", "output_sizes", "message"),
    [
        ([(8, 8)], None, "2 images need as many sizes, got 1"),
        ([(8, 8), (9, 8)], None, r"within that of the batch, .8, 8.; got .9, 8."),
        ([(8, 8), (0, 8)], None, r"got .0, 8."),
        (None, [(8, 8)], "2 images need as many sizes, got 2 and 1 output sizes"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes, output_sizes, message):
    with pytest.raises(ValueError, match=message):
        Bright().predict(torch.rand(2, 3, 8, 8), sizes, output_sizes)
