"""The rename tables of Mask2Former where they do more: old names, one matrix for three, the order of classes."""

import pytest
import torch

from seglib.weights.mask2former import convert_mask2former
from seglib.weights.mask2former_transformers import convert_mask2former as convert_transformers

HEAD = "sem_seg_head.predictor."


def checkpoint(classes, queries=2):
    """The keys that say how many classes and queries a model has; row i of the class head is i."""
    rows = torch.arange(classes + 1.0)
    return {
        f"{HEAD}query_feat.weight": torch.zeros(queries, 4),
        f"{HEAD}class_embed.weight": rows[:, None].expand(-1, 4),
        f"{HEAD}class_embed.bias": rows,
    }


def test_old_files_name_some_parts_otherwise():
    old = {
        f"{HEAD}static_query.weight": torch.ones(2, 4),
        "sem_seg_head.mask_features.bias": torch.ones(4),
        "sem_seg_head.transformer.encoder.layers.5.self_attn.value_proj.bias": torch.ones(4),
    }
    state = checkpoint(3)
    del state[f"{HEAD}query_feat.weight"]
    renamed = convert_mask2former(state | old, "semantic")[0]
    assert renamed["decoder.query_features"].equal(torch.ones(2, 4))
    assert {"pixel_decoder.mask_features.bias", "pixel_decoder.layers.5.attention.value_proj.bias"} <= renamed.keys()


def test_one_matrix_becomes_those_of_query_key_and_value():
    weight = torch.arange(6.0)[:, None].expand(-1, 2)  # (3C, C)
    for convert, key, classes in (
        (
            convert_mask2former,
            f"{HEAD}transformer_cross_attention_layers.4.multihead_attn.in_proj_weight",
            checkpoint(3),
        ),
        (
            convert_transformers,
            "model.transformer_module.decoder.layers.4.cross_attn.in_proj_weight",
            {
                "model.transformer_module.queries_features.weight": torch.zeros(2, 4),
                "class_predictor.weight": torch.zeros(4, 4),
                "class_predictor.bias": torch.zeros(4),
            },
        ),
    ):
        renamed = convert(classes | {key: weight}, "semantic")[0]
        for name, rows in (("query", [0, 1]), ("key", [2, 3]), ("value", [4, 5])):
            assert renamed[f"decoder.layers.4.cross_attention.{name}.weight"][:, 0].tolist() == rows


def test_classes_and_queries_are_counted():
    for task, classes, queries, things in (
        ("panoptic", 133, 200, {"num_things": 80}),  # COCO, Swin-L
        ("instance", 80, 100, {}),
        ("semantic", 150, 100, {}),  # ADE20K
    ):
        _, facts = convert_mask2former(checkpoint(classes, queries), task)
        assert facts["arguments"] == {"num_classes": classes, "task": task, "queries": queries, **things}
        assert facts["task"] == task and len(facts["categories"]) == classes


def test_classes_of_coco_have_their_names_and_ids():
    _, facts = convert_mask2former(checkpoint(133), "panoptic")
    names = [c["name"] for c in facts["categories"]]
    assert (names[0], names[79], names[80], names[132]) == ("person", "toothbrush", "banner", "rug-merged")
    assert [facts["file_ids"][i] for i in (0, 79, 80, 132)] == [1, 90, 92, 200]
    assert [c["name"] for c in convert_mask2former(checkpoint(80), "instance")[1]["categories"]] == names[:80]


@pytest.mark.parametrize("task", ["panoptic", "semantic"])
def test_classes_of_cityscapes_change_their_order(task):
    """The published models' first class is road, the things come last; here things come first."""
    renamed, facts = convert_mask2former(checkpoint(19), task)
    order = [*range(11, 19), *range(11), 19]  # the last is "no object"
    assert renamed["decoder.class_head.bias"].tolist() == order
    assert renamed["decoder.class_head.weight"][:, 0].tolist() == order
    assert [facts["categories"][i]["name"] for i in (0, 7, 8, 18)] == ["person", "bicycle", "road", "sky"]
    assert [facts["file_ids"][i] for i in (0, 7, 8, 18)] == [24, 33, 7, 23]
    assert facts["arguments"].get("num_things") == (8 if task == "panoptic" else None)


def test_things_of_cityscapes_keep_their_order():
    renamed, facts = convert_mask2former(checkpoint(8), "instance")
    assert renamed["decoder.class_head.bias"].tolist() == list(range(9))
    assert [c["name"] for c in facts["categories"]][::7] == ["person", "bicycle"]


def test_other_classes_have_numbers_for_names():
    for task, isthing in (("semantic", False), ("instance", True)):
        categories = convert_mask2former(checkpoint(2), task)[1]["categories"]
        assert [(c["name"], c["isthing"]) for c in categories] == [("class 0", isthing), ("class 1", isthing)]


def test_weights_of_something_else_are_refused():
    with pytest.raises(ValueError, match="which of 150 classes are things.*semantic"):
        convert_mask2former(checkpoint(150), "panoptic")
    with pytest.raises(ValueError, match="lack decoder.query_features; convert a whole checkpoint"):
        convert_mask2former({k: v for k, v in checkpoint(3).items() if "query" not in k}, "semantic")
    with pytest.raises(ValueError, match="'fc.weight' is unknown.*Mask2Former"):
        convert_mask2former(checkpoint(3) | {"fc.weight": torch.zeros(1)}, "semantic")
    with pytest.raises(ValueError, match="is unknown.*Transformers' Mask2Former"):
        convert_transformers(checkpoint(3), "semantic")
