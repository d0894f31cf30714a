"""An installation without extras trains, evaluates and predicts with every model of the zoo."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
IMPORTED_AS = {"segmentation-models-pytorch": "segmentation_models_pytorch", "surface-distance": "surface_distance"}
IMPORTED_AS |= {"segment-anything": "segment_anything"}


def names(requirements):
    return {re.split(r"[\[>=<]", text)[0] for text in requirements}


EXTRAS = set().union(*(names(texts) for name, texts in PROJECT["optional-dependencies"].items() if name != "dev"))
BLOCKED = sorted(IMPORTED_AS.get(name, name) for name in EXTRAS - names(PROJECT["dependencies"]))

BEGIN = f"""
import sys
sys.modules.update(dict.fromkeys({BLOCKED}))  # imports of them fail, and whoever asks whether they are there hears no
import torch
torch.set_num_threads(1)
"""

RUN = (
    BEGIN
    + """
import sys
from pathlib import Path
from seglib import cli
from seglib.data import catalog
from seglib.data.images import write_png
few = {"train": 2, "val": 2, "test": 2}
catalog.SCENES_LENGTH, catalog.VOLUMES_LENGTH = few, few
model, folder = sys.argv[1], Path(sys.argv[2])

def run(*words):
    sys.argv = ["seglib", *map(str, words)]
    try:
        cli.main()
    except SystemExit as left:
        assert not left.code, f"{words[0]}: {left.code}"

if "3d" in model or "nnunet" in model:
    import nibabel, numpy
    voxels = numpy.random.default_rng(0).normal(size=(24, 24, 16)).astype("f4")
    nibabel.Nifti1Image(voxels, numpy.eye(4)).to_filename(folder / "a.nii.gz")
    data = ["--data", "volumes", "--patch", "16x32x32", "--batch-size", 1]
    photo, written = folder / "a.nii.gz", ["--out", folder / "o.nii.gz"]
else:
    data = ["--data", "scenes", "--size", "256x256" if model.startswith("sam") else "64x64", "--batch-size", 2]
    write_png(folder / "a.png", torch.randint(0, 256, (70, 90, 3), dtype=torch.uint8).numpy())
    photo, written = folder / "a.png", ["--out", folder / "o.png", "--labels", folder / "l.png"]
    written += ["--point", "30,40"] if model.startswith("sam") else []
run("train", model, *data, "--steps", 1, "--workers", 0, "--out", folder / "run", "--json")
run("eval", "--weights", folder / "run", "--json")
run("predict", photo, "--weights", folder / "run", *written)
"""
)

BUILD = (
    BEGIN
    + """
import inspect
from seglib.models.zoo import MODELS, build, find
for name in MODELS:
    taken = inspect.signature(find(name).builder()).parameters
    given = {key: 3 for key in ("num_classes", "num_things", "num_stuff") if key in taken}
    with torch.device("meta"):
        build(name, **given)
"""
)


def run(code, *arguments):
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-2000:]


def test_the_extras_that_are_blocked_are_none_of_the_dependencies():
    assert {"matplotlib", "timm", "onnxruntime", "transformers"} <= set(BLOCKED)
    assert not {"monai", "nibabel", "pycocotools", "torch"} & set(BLOCKED)


@pytest.mark.slow
def test_every_model_is_built():
    run(BUILD)


TINY = ("fcn", "unet", "deeplab", "mask_rcnn", "yolact", "condinst", "solov2", "panoptic_fpn", "mask2former", "sam")


@pytest.mark.slow
@pytest.mark.parametrize("model", [*(f"{name}_tiny" for name in TINY), "unet3d_tiny", "nnunet_tiny"])
def test_every_tiny_model_is_trained_scored_and_asked(tmp_path, model):
    run(RUN, model, tmp_path)
