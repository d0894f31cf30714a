"""The planner equals nnU-Net's own on data sets of all forms, and each reads the other's files."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from nnunet_reference import nnunet
from planning_cases import LARGE, Volumes, as_nnunet_2_0_wrote_it

from seglib.data.nifti import VoxelFrame, write_volume
from seglib.data.nnunet_raw import write_nnunet_raw
from seglib.planning.fingerprint import fingerprint
from seglib.planning.memory import PLANNERS
from seglib.planning.plan import plan
from seglib.planning.plans_json import plan_to_json, read_fingerprint, read_plans, write_plans
from seglib.types import Category, Sample

STATISTICS = {"mean": 80.0, "median": 90.0, "std": 40.0, "min": -500.0, "max": 900.0}
STATISTICS |= {"percentile_00_5": -60.0, "percentile_99_5": 250.0}


def alike(spacing, size, cases, **more):
    """A data set whose cases are all the same."""
    return {"spacings": [spacing] * cases, "sizes": [size] * cases} | more


def varied(spacing, size, cases, seed, *, finer=1.0, **more):
    """A data set whose cases differ by a fifth, and whose first axis has spacings down to ``spacing / finer``."""
    random = np.random.default_rng(seed)
    factor = random.uniform(0.8, 1.25, (cases, 3))
    factor[:, 0] /= random.uniform(1, finer, cases)
    sizes = np.maximum(1, np.round(np.array(size) * random.uniform(0.8, 1.25, (cases, 3)))).astype(int)
    return {"spacings": (np.array(spacing) * factor).tolist(), "sizes": sizes.tolist()} | more


REAL = {
    "hippocampus MR": varied((1, 1, 1), (36, 50, 35), 208, 1),
    "brain tumour MR": alike((1, 1, 1), (138, 170, 138), 484, modalities=["T1", "T1ce", "T2", "FLAIR"], kept=0.15),
    "liver CT": varied((1.0, 0.77, 0.77), (432, 512, 512), 105, 2, finer=1.4, modalities=["CT"]),
    "lung CT": varied((1.25, 0.78, 0.78), (252, 512, 512), 51, 3, modalities=["CT"]),
    "pancreas CT": varied((2.5, 0.8, 0.8), (93, 512, 512), 225, 4, modalities=["CT"]),
    "thick abdominal CT": varied((5.0, 0.78, 0.78), (49, 512, 512), 242, 5, finer=5.0, modalities=["CT"]),
    "colon CT, 16 GB": varied((5.0, 0.78, 0.78), (95, 512, 512), 100, 6, finer=3.0, modalities=["CT"], memory=16),
    "whole-body CT": alike((1.5, 1.5, 1.5), (400, 333, 333), 1000, modalities=["CT"], classes=105),
    "prostate MR": varied((3.6, 0.61, 0.61), (20, 320, 320), 25, 7, modalities=["T2", "ADC"]),
    "heart MR, thick slices": varied((10.0, 1.56, 1.56), (9, 237, 208), 200, 8),
    "heart MR": varied((1.25, 1.25, 1.37), (115, 320, 232), 20, 9),
    "PET and CT": alike((3.0, 2.04, 2.04), (326, 400, 400), 1014, modalities=["CT", "PET"], kept=0.74),
    "electron microscopy": alike((50, 4, 4), (20, 512, 512), 1),
    "light sheet": alike((0.004, 0.001, 0.001), (100, 700, 900), 3, modalities=["noNorm"]),
    "colour images": varied((999, 1, 1), (1, 512, 640), 500, 10, modalities=["rgb_to_0_1"] * 3),
    "large images": alike((999, 1, 1), (1, 3000, 2500), 40, modalities=["rescale_to_0_1"]),
}

ODD = {
    "one voxel in the middle": alike((5.0, 1.0, 1.0), (20, 1, 300), 100),
    "one voxel in the middle, huge": alike((1.0, 1.0, 1.0), (1024, 1, 1024), 100),
    "one voxel along the last axis": alike((1.0, 1.0, 1.0), (200, 300, 1), 100),
    "slices along the last axis": varied((0.8, 0.8, 5.0), (512, 512, 60), 31, 11),
    "slices along the middle axis": varied((0.8, 5.0, 0.8), (512, 60, 512), 30, 12),
    "images along the last axis": alike((1.0, 1.0, 999.0), (512, 600, 1), 30),
    "one case": alike((1.0, 1.0, 1.0), (120, 140, 130), 1),
    "two small cases": alike((1.0, 1.0, 1.0), (17, 23, 40), 2),
    "an axis alone with 12 voxels": alike((1.0, 1.0, 1.0), (24, 12, 7), 20),
    "medians that end in a half": {"spacings": [[1, 1, 1]] * 2, "sizes": [[33, 50, 61], [34, 57, 70]]},
    "half a voxel too few to halve": {"spacings": [[9.5, 1, 0.7]] * 2, "sizes": [[7, 210, 93], [8, 210, 93]]},
    "as many voxels along all axes": alike((1.0, 1.0, 1.0), (300, 300, 300), 50),
    "spacings apart by exactly 2": alike((2.0, 1.0, 1.0), (64, 128, 128), 50),
    "spacings apart by exactly 3": alike((3.0, 1.0, 1.0), (20, 100, 100), 50),
    "coarse, but with a third of the voxels": varied((4.0, 1.0, 1.0), (40, 120, 120), 50, 13, finer=4.0),
    "coarse, the 10th percentile below the others": varied((3.3, 1.0, 1.0), (20, 120, 120), 50, 14, finer=9.0),
    "1 GB": varied((1.0, 0.8, 0.8), (200, 300, 300), 30, 15, memory=1),
    "80 GB": varied((1.0, 0.8, 0.8), (500, 512, 512), 300, 16, memory=80),
    "very long": alike((1.0, 1.0, 1.0), (1500, 40, 40), 30),
    "cropping keeps three quarters": alike((1.0, 1.0, 1.0), (64, 64, 64), 10, kept=0.75, modalities=["MRI", "CT"]),
    "cropping keeps less": alike((1.0, 1.0, 1.0), (64, 64, 64), 10, kept=0.7499, modalities=["MRI", "ct", "nonorm"]),
}


def random_sets():
    """Data sets without a pattern: any spacing, size, number of cases and classes, and memory."""
    random = np.random.default_rng(0)
    for seed in range(28):
        spacing = np.exp(random.uniform(np.log(0.3), np.log(6.0), 3))
        size = np.exp(random.uniform(np.log(12.0), np.log(400.0), 3))
        cases, classes = int(np.exp(random.uniform(0, 6))), int(random.integers(2, 30))
        memory = [None, None, 4, 11, 24][int(random.integers(5))]
        yield f"random {seed}", varied(spacing, size, cases, seed, finer=3.0, classes=classes, memory=memory)


DEFAULTS = {"modalities": ["MRI"], "kept": 1.0, "memory": None, "classes": 3}
DATA_SETS = {name: DEFAULTS | facts for name, facts in (REAL | ODD | dict(random_sets())).items()}
FLAT = {
    "nothing to halve": alike((1.0, 1.0, 1.0), (7, 7, 7), 9),
    "nothing to halve in slices": alike((1.0, 1.0, 1.0), (12, 7, 7), 9),
}
"""Data sets for which nnU-Net plans networks of one level."""

ASKED = [("plain", name) for name in DATA_SETS] + [
    (list(PLANNERS)[1 + i // 2 % 3], name) for i, name in enumerate(DATA_SETS) if i % 2
]
"""Every data set goes to nnU-Net's first planner, and every other one to a planner of residual encoders, too."""


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_data_set(root, name, facts):
    """What nnU-Net's planners read of a data set: two JSON files, and an image file that they try to open."""
    image = str(root / "a.nii.gz")
    write_volume(image, torch.zeros(1, 2, 2, 2), VoxelFrame.of_spacing((2, 2, 2), (1, 1, 1)))
    channels = {str(c): modality for c, modality in enumerate(facts["modalities"])}
    described = {
        "channel_names": channels,
        "labels": {"background": 0} | {f"class {c}": c for c in range(1, facts["classes"])},
        "numTraining": len(facts["sizes"]),
        "file_ending": ".nii.gz",
        "dataset": {"a": {"images": [image], "label": image}},
    }
    write_json(root / "raw" / name / "dataset.json", described)
    content = {
        "spacings": facts["spacings"],
        "shapes_after_crop": facts["sizes"],
        "foreground_intensity_properties_per_channel": {c: STATISTICS for c in channels},
        "median_relative_size_after_cropping": facts["kept"],
    }
    write_json(root / "preprocessed" / name / "dataset_fingerprint.json", content)


@pytest.fixture(scope="module")
def ask(tmp_path_factory):
    """Let nnU-Net plan: the facts of a data set and the name of a planner → the folder with its files."""
    found = {p.reference: None for p in PLANNERS.values()}
    base = "experiment_planning.experiment_planners"
    for name in (f"{base}.default_experiment_planner", f"{base}.residual_unets.residual_encoder_unet_planners"):
        module = nnunet(name)
        found |= {known: getattr(module, known) for known in found if hasattr(module, known)}
    root = tmp_path_factory.mktemp("nnunet")
    numbers = iter(range(1000))

    def answer(facts, planner):
        name = f"Dataset{next(numbers):03d}_Set"
        write_data_set(root, name, facts)
        asked = {} if facts["memory"] is None else {"gpu_memory_target_in_gb": facts["memory"]}
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")
            for part in ("raw", "preprocessed", "results"):
                patch.setenv(f"nnUNet_{part}", str(root / part))
            # networks are only counted, so their weights need no values
            patch.setattr(torch.nn.modules.conv._ConvNd, "reset_parameters", lambda self: None)
            found[PLANNERS[planner].reference](name, **asked).plan_experiment()
        return root / "preprocessed" / name

    return answer


def our_plan(folder, facts, planner):
    """Our plan for a data set, made from nnU-Net's fingerprint."""
    found = read_fingerprint(folder / "dataset_fingerprint.json", folder / "dataset.json")
    return plan(found, planner=planner, memory=facts["memory"])


def by_nnunet(made):
    """What nnU-Net's file keeps of a plan."""
    return replace(made, memory=None, reasons=())


@pytest.mark.slow
@pytest.mark.parametrize(("planner", "name"), ASKED)
def test_the_plan_is_that_of_nnunets_planner(ask, planner, name):
    folder = ask(DATA_SETS[name], planner)
    made = our_plan(folder, DATA_SETS[name], planner)
    path = folder / f"{PLANNERS[planner].plans_name}.json"
    assert read_plans(path) == by_nnunet(made)
    own = plan_to_json(made)
    assert own.pop("seglib")["memory"] == made.memory
    assert own == json.loads(path.read_text())


@pytest.mark.parametrize("name", FLAT)
def test_networks_of_one_level_which_nnunet_plans_and_cannot_run_are_left_out(ask, name):
    facts = DEFAULTS | FLAT[name]
    folder = ask(facts, "plain")
    path = folder / "nnUNetPlans.json"
    flat = {name: entry for name, entry in read_plans(path).configurations.items() if not entry.strides}
    build = nnunet("utilities.get_network_from_plans").get_network_from_plans
    for name, entry in flat.items():
        network = json.loads(path.read_text())["configurations"][name]["architecture"]
        made = build(network["network_class_name"], network["arch_kwargs"], network["_kw_requires_import"], 1, 2)
        made.decoder.deep_supervision = False
        with pytest.raises(IndexError):
            made(torch.zeros(1, 1, *entry.patch))
    rest = {name: entry for name, entry in read_plans(path).configurations.items() if name not in flat}
    if rest:
        assert by_nnunet(our_plan(folder, facts, "plain")) == replace(read_plans(path), configurations=rest)
    else:
        with pytest.raises(ValueError, match="no axis of the median case can be halved"):
            our_plan(folder, facts, "plain")


def configurations_of(content):
    """What nnU-Net itself reads in a file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the old form
        manager = nnunet("utilities.plans_handling.plans_handler").PlansManager(content)
        return {name: manager.get_configuration(name) for name in manager.available_configurations}


@pytest.mark.parametrize("planner", ["plain", "resenc_m"])
@pytest.mark.parametrize("form", [dict, as_nnunet_2_0_wrote_it])
def test_nnunet_reads_the_same_networks_in_our_file(tmp_path, planner, form):
    made = plan(LARGE, planner=planner)
    write_plans(made, tmp_path / "plan.json")
    content = form(json.loads((tmp_path / "plan.json").read_text()))
    (tmp_path / "plan.json").write_text(json.dumps(content))
    found = configurations_of(str(tmp_path / "plan.json"))
    assert sorted(found) == sorted(made.configurations)
    for name, entry in read_plans(tmp_path / "plan.json").configurations.items():
        network = found[name].network_arch_init_kwargs
        blocks = network["n_blocks_per_stage" if entry.residual else "n_conv_per_stage"]
        kernels, strides = (list(map(tuple, network[key])) for key in ("kernel_sizes", "strides"))
        assert ("Residual" in found[name].network_arch_class_name) == entry.residual
        assert tuple(network["features_per_stage"]) == entry.widths
        assert (tuple(kernels), tuple(strides[1:])) == (entry.kernels, entry.strides)
        assert tuple(blocks) == entry.blocks
        assert tuple(network["n_conv_per_stage_decoder"]) == entry.decoder_blocks
        assert (found[name].batch_size, tuple(found[name].patch_size)) == (entry.batch_size, entry.patch)
        assert (found[name].batch_dice, found[name].previous_stage_name) == (entry.batch_dice, entry.previous)


def test_the_fingerprint_is_nnunets(tmp_path):
    random = np.random.default_rng(0)
    samples = []
    for i, (size, border) in enumerate((((9, 20, 24), 2), ((12, 31, 17), 0), ((7, 16, 16), 3))):
        image, labels = torch.zeros(2, *size), torch.zeros(size, dtype=torch.int64)
        inside = (slice(None), *(slice(border, n - border // 2) for n in size))
        image[inside] = torch.from_numpy(random.normal(100 * i, 30, image[inside].shape)).float()
        labels[inside[1:]] = torch.from_numpy(random.integers(0, 3, labels[inside[1:]].shape))
        samples.append(Sample(image, f"case{i}", semantic=labels, spacing=(2.5, 0.8, 0.9 + i / 10)))
    classes = tuple(Category(i, name, False, (i, 0, 0)) for i, name in enumerate(("background", "a", "b")))
    write_nnunet_raw(samples, tmp_path, classes, modalities=("T1", "T2"), name="Set")
    extract = nnunet("experiment_planning.dataset_fingerprint.fingerprint_extractor").DatasetFingerprintExtractor
    reader = nnunet("imageio.simpleitk_reader_writer").SimpleITKIO
    drawn = 100_000
    cases = [
        extract.analyze_case(
            [str(tmp_path / "imagesTr" / f"case{i}_000{c}.nii.gz") for c in range(2)],
            str(tmp_path / "labelsTr" / f"case{i}.nii.gz"),
            reader,
            drawn,
        )
        for i in range(3)
    ]
    found = fingerprint(Volumes(*samples, categories=classes, modalities=("T1", "T2")))
    assert [list(map(int, case[0])) for case in cases] == [list(size) for size in found.sizes]
    assert [case[1] for case in cases] == [pytest.approx(spacing) for spacing in found.spacings]  # float32 in the files
    assert np.median([case[4] for case in cases]) == found.kept
    for c, statistics in enumerate(found.intensities):
        values = np.concatenate([case[2][c] for case in cases])
        noise = 4 * float(values.std()) / drawn**0.5  # nnU-Net draws the voxels
        assert statistics.mean == pytest.approx(float(values.mean(dtype=np.float64)), abs=noise)
        assert statistics.std == pytest.approx(float(values.std(dtype=np.float64)), abs=noise)
        assert (statistics.minimum, statistics.maximum) == (values.min(), values.max())
        percentiles = {0.5: statistics.percentile_00_5, 50: statistics.median, 99.5: statistics.percentile_99_5}
        for percent, own in percentiles.items():
            low, high = np.percentile(values, (percent - 0.2, percent + 0.2))
            assert low <= own <= high
