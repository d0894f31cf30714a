"""Regions and the label maps that they write equal nnU-Net's, whose label manager reads dataset.json."""

import json

import pytest
import torch
from nnunet_reference import nnunet

from seglib.data.nnunet_raw import _classes, _ids
from seglib.ops.labels import labels_of
from seglib.train import VolumeTask
from seglib.types import Category

DATASETS = {
    "BraTS": ({"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}, [1, 2, 3]),
    "small regions first": ({"background": 0, "enhancing": [3], "core": [2, 3], "whole": [1, 2, 3]}, [3, 2, 1]),
    "KiTS": ({"background": 0, "kidney": [1, 2, 3], "masses": [2, 3], "tumour": 2}, [1, 3, 2]),
    "ids that none writes, and void": ({"background": 0, "a": [1, 4], "b": [2, 4], "ignore": 5}, [1, 2]),
}


@pytest.mark.parametrize("name", DATASETS)
def test_a_label_map_is_written_as_nnunet_writes_it(tmp_path, name):
    labels, order = DATASETS[name]
    manager = nnunet("utilities.label_handling.label_handling").LabelManager(labels, order)
    ids, void = _ids(tmp_path, json.loads(json.dumps(labels)))
    classes, regions = _classes(tmp_path, ids, order)
    assert void == manager.ignore_label
    as_tuples = [r if isinstance(r, tuple) else (r,) for r in manager.foreground_regions]
    stored = {name: i for i, name in classes.items()}
    assert [tuple(stored[c] for c in members) for members in regions.values()] == as_tuples
    table = [Category(i, classes[id_], False, (i, i, i)) for i, id_ in enumerate(sorted(classes))]
    task = VolumeTask(table, regions=regions)
    logits = torch.randn(manager.num_segmentation_heads, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    mine = labels_of(logits > 0, task.written)
    in_file_ids = torch.tensor(sorted(classes))[mine.long()]
    assert in_file_ids.equal(torch.as_tensor(manager.convert_logits_to_segmentation(logits)).long())
