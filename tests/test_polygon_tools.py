"""LabelMe's and VIA's files become COCO files that train."""

import json
import math

import pytest
from PIL import Image
from test_cli import seglib

from seglib.data.coco import CocoInstances
from seglib.data.polygon_tools import polygons_to_coco, write_polygons_as_coco


def labelme(folder, name, *shapes, size=(40, 30), **save):
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(folder / f"{name}.jpg", **save)
    keys = ("label", "points", "shape_type", "group_id")
    rows = [dict(zip(keys, shape, strict=False)) for shape in shapes]
    (folder / f"{name}.json").write_text(json.dumps({"shapes": rows, "imagePath": f"..\\x\\{name}.jpg"}))


TRIANGLE = [[0, 0], [8, 0], [0, 8]]


def test_labelmes_shapes_become_objects(tmp_path):
    labelme(
        tmp_path,
        "a",
        ("cat", TRIANGLE, "polygon"),
        ("dog", [[10, 10], [20, 16]], "rectangle"),
        ("dog", [[20, 20], [20, 25]], "circle"),
        ("cat", [[30, 1], [35, 1], [35, 5], [30, 5]], "polygon", 1),
        ("cat", [[30, 9], [35, 9], [35, 12], [30, 12]], "polygon", 1),
        ("cat", [[1, 1]], "point"),
    )
    labelme(tmp_path / "sub", "b")
    done, warnings = write_polygons_as_coco(tmp_path, tmp_path / "out.json")
    assert done == {"images": 2, "annotations": 4, "categories": 2}
    assert warnings == ["left out 1 shape without a closed outline: 1 point (a.jpg)"]
    (tmp_path / "out.json").rename(tmp_path / "coco")
    data = CocoInstances(tmp_path / "coco", tmp_path)
    assert [c.name for c in data.categories] == ["cat", "dog"] and len(data[1].instances) == 0
    areas = data[0].instances.masks.flatten(1).sum(1).tolist()
    assert data[0].instances.labels.tolist() == [0, 1, 1, 0]
    assert areas[1] == 60 and areas[3] == 20 + 15 and areas[2] == pytest.approx(math.pi * 25, abs=6)
    content = polygons_to_coco(tmp_path)
    assert content["annotations"][0]["area"] == 32 and content["annotations"][1]["bbox"] == [10, 10, 10, 6]


def test_sizes_are_those_of_the_upright_photo(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    labelme(tmp_path, "a", ("cat", TRIANGLE), size=(40, 30), exif=exif)
    content = polygons_to_coco(tmp_path)
    assert (content["images"][0]["height"], content["images"][0]["width"]) == (40, 30)


def via(folder, regions, project=False):
    Image.new("RGB", (40, 30)).save(folder / "a.png")
    entries = {"a.png123": {"filename": "a.png", "size": 123, "regions": regions}}
    (folder / "via.json").write_text(json.dumps({"_via_img_metadata": entries} if project else entries))
    return folder / "via.json"


RECT = {"name": "rect", "x": 1, "y": 2, "width": 10, "height": 5}
POLYGON = {"name": "polygon", "all_points_x": [0, 8, 0], "all_points_y": [0, 0, 8]}
ELLIPSE = {"name": "ellipse", "cx": 20, "cy": 15, "rx": 8, "ry": 4, "theta": math.pi / 2}


@pytest.mark.parametrize("project", [False, True])
@pytest.mark.parametrize("numbered", [False, True])
def test_vias_regions_become_objects(tmp_path, project, numbered):
    shapes = (RECT, POLYGON, ELLIPSE, {"name": "point", "cx": 1, "cy": 1})
    regions = [{"shape_attributes": s, "region_attributes": {"type": "balloon"}} for s in shapes]
    file = via(tmp_path, {str(i): r for i, r in enumerate(regions)} if numbered else regions, project)
    write_polygons_as_coco(file, tmp_path / "coco.json")
    data = CocoInstances(tmp_path / "coco.json", tmp_path)
    assert [c.name for c in data.categories] == ["balloon"]
    boxes = data[0].instances.boxes.tolist()
    assert len(boxes) == 3 and boxes[0] == [1, 2, 11, 7] and boxes[2] == pytest.approx([16, 7, 24, 23], abs=1)


def test_the_attribute_that_is_the_class_must_be_clear(tmp_path):
    file = via(tmp_path, [{"shape_attributes": RECT, "region_attributes": {"type": "a", "colour": "red"}}])
    with pytest.raises(ValueError, match="attributes type, colour; say which is the class with --attribute"):
        polygons_to_coco(file)
    assert polygons_to_coco(file, attribute="colour")["categories"] == [{"id": 1, "name": "red"}]
    with pytest.raises(ValueError, match="a region without the attribute 'name', only type, colour"):
        polygons_to_coco(file, attribute="name")
    plain = via(tmp_path, [{"shape_attributes": RECT, "region_attributes": {}}])
    assert polygons_to_coco(plain)["categories"] == [{"id": 1, "name": "object"}]


def test_what_is_neither_tools_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist; pass a folder of LabelMe"):
        polygons_to_coco(tmp_path / "no")
    with pytest.raises(FileNotFoundError, match="has no JSON files of LabelMe"):
        polygons_to_coco(tmp_path)
    (tmp_path / "x.json").write_text('{"a": 1}')
    with pytest.raises(ValueError, match="is no file of LabelMe"):
        polygons_to_coco(tmp_path)
    with pytest.raises(ValueError, match="is no file of VIA"):
        polygons_to_coco(tmp_path / "x.json")
    labelme(tmp_path, "x", ("cat", [[1, 1]], "point"))
    with pytest.raises(ValueError, match="has no polygon, rectangle or circle"):
        polygons_to_coco(tmp_path)
    (tmp_path / "x.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"the image x\.jpg is not in .*; pass its folder with --images"):
        polygons_to_coco(tmp_path)


def test_the_command_writes_a_file_and_says_what_is_in_it(tmp_path, capsys):
    labelme(tmp_path / "photos", "a", ("cat", TRIANGLE))
    code, printed = seglib("coco", tmp_path / "photos", tmp_path / "coco.json", capsys=capsys)
    assert code == 0 and "1 image, 1 object, 1 class" in printed.out.replace("\n", " ")
    assert len(CocoInstances(tmp_path / "coco.json", tmp_path / "photos")[0].instances) == 1
    code, printed = seglib("coco", tmp_path / "none", tmp_path / "b.json", capsys=capsys)
    assert code == 2 and "does not exist" in printed.err and not (tmp_path / "b.json").exists()


def test_shapes_without_a_closed_outline_are_counted_and_lost_classes_named(tmp_path, capsys):
    labelme(tmp_path, "a", ("cat", TRIANGLE), ("cat", [[1, 1]], "point"), ("scratch", TRIANGLE, "linestrip"))
    labelme(tmp_path, "b", ("cat", TRIANGLE), ("dent", [[1, 1], [5, 5]], "line"), ("cat", [[2, 2]], "point"))
    for _ in range(2):  # the COCO file of the first call lies in the folder that the second reads
        code, printed = seglib("coco", tmp_path, tmp_path / "coco.json", capsys=capsys)
        assert code == 0 and "2 images, 2 objects, 1 class" in printed.out.replace("\n", " ")
        assert (
            "warning: left out 4 shapes without a closed outline: 2 point (a.jpg), 1 linestrip (a.jpg), 1 line (b.jpg);"
            " no other shape has the class 'dent' or 'scratch'"
        ) in printed.err.replace("\n", " ")


def test_vias_points_are_counted_too(tmp_path):
    regions = [{"shape_attributes": s, "region_attributes": {}} for s in (RECT, {"name": "point", "cx": 1, "cy": 1})]
    warnings = write_polygons_as_coco(via(tmp_path, regions), tmp_path / "coco.json")[1]
    assert warnings == ["left out 1 shape without a closed outline: 1 point (a.png)"]
