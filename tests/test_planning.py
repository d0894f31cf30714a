"""nnU-Net's rules one by one, on cases small enough to follow by hand, and the plan that they lead to."""

import re
from dataclasses import fields, replace

import pytest
from planning_cases import HIPPOCAMPUS, LARGE, STATISTICS, alike

from seglib.ops.intensity import Intensity
from seglib.ops.preparation import Preparation
from seglib.planning.fingerprint import ForegroundStatistics
from seglib.planning.memory import PLANNERS, batch_size, feature_maps, fits, foreground_patches, widths
from seglib.planning.normalization import masked, normalization
from seglib.planning.patch import initial_patch, shrink
from seglib.planning.plan import Configuration, Plan, check_plan_fits, plan
from seglib.planning.spacing import coarser, target_spacing, transposition
from seglib.planning.topology import Topology, poolable, topology
from seglib.planning.trace import trace
from seglib.types import Category


def test_the_target_spacing_is_the_median_of_each_axis():
    assert target_spacing([(1, 2, 1), (3, 1, 1), (2, 1, 1)], [(9, 9, 9)] * 3) == (2, 1, 1)
    assert target_spacing([(1, 1, 1), (2, 1, 1)], [(9, 9, 9)] * 2) == (1.5, 1, 1)


@pytest.mark.parametrize(
    ("coarse", "size", "wanted"),
    [
        ([4.0] * 9 + [2.0] * 2, (10, 40, 40), 2.0),  # the 10th percentile of 11 cases is the second smallest
        ([4.0] * 9 + [2.0] * 2, (10, 31, 40), 2.0),
        ([4.0] * 9 + [2.0] * 2, (10, 30, 40), 4.0),  # not less than a third of the voxels
        ([3.0] * 9 + [2.0] * 2, (10, 40, 40), 3.0),  # not more than three times the spacing
        ([4.0] * 9 + [0.5] * 2, (10, 40, 40), 1.0 + 1e-5),  # never finer than the others
    ],
)
def test_a_coarse_axis_gets_its_10th_percentile(coarse, size, wanted):
    assert target_spacing([(1.0, s, 0.5) for s in coarse], [(size[1], size[0], size[2])] * 11) == (1.0, wanted, 0.5)


@pytest.mark.parametrize(
    ("spacing", "order"),
    [((5, 1, 1), (0, 1, 2)), ((1, 5, 1), (1, 0, 2)), ((1, 1, 5), (2, 0, 1)), ((1, 1, 1), (0, 1, 2))],
)
def test_the_axis_with_the_largest_spacing_comes_first(spacing, order):
    assert transposition(spacing) == order


def test_fine_axes_grow_first_until_they_are_within_a_factor_of_2():
    assert coarser((5.0, 1.0, 3.0)) == (5.0, 1.03, 3.0)
    assert coarser((2.0, 1.0, 1.0)) == pytest.approx((2.06, 1.03, 1.03))


@pytest.mark.parametrize(
    ("spacing", "size", "axes"),
    [
        ((1, 1, 1), (8, 8, 8), (0, 1, 2)),
        ((1, 1, 1), (7, 8, 8), (1, 2)),
        ((2, 1, 1), (16, 16, 16), (1, 2)),  # apart by a factor of 2
        ((1.9, 1, 1), (16, 16, 16), (0, 1, 2)),
        ((4, 1, 1), (16, 4, 4), (0,)),  # the finest of those with 8 voxels counts
        ((1, 1, 1), (11, 7, 7), ()),  # one axis alone needs 12
        ((1, 1, 1), (12, 7, 7), (0,)),
        ((1, 1, 1), (7, 7, 7), ()),
    ],
)
def test_axes_are_halved_while_they_have_8_voxels_and_the_finest_spacing(spacing, size, axes):
    assert poolable(spacing, size) == axes


def test_thick_slices_are_halved_when_pixels_have_become_as_thick():
    made = topology((5, 1, 1), (20, 64, 50))
    # slices of 5 mm: pixels of 1 and 2 mm are halved alone, those of 4 mm together with them; then 10, 8 and 8 mm are
    # left with 10, 8 and 7 voxels
    assert made.strides == ((1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 1))
    assert made.kernels == ((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3))
    assert made.multiple == (4, 16, 8)
    assert made.patch == (20, 64, 56)
    assert made.sizes == ((20, 64, 56), (20, 32, 28), (20, 16, 14), (10, 8, 7), (5, 4, 7))


def test_a_kernel_stays_3_where_an_axis_falls_behind_again():
    made = topology((1, 1, 1), (8, 256, 256))
    assert made.strides[:3] == ((2, 2, 2), (1, 2, 2), (1, 2, 2))
    assert set(made.kernels) == {(3, 3, 3)}


def test_half_a_voxel_of_the_median_case_is_not_rounded_up_while_other_axes_are_halved():
    assert topology((9.5, 1.0, 0.7), (7.5, 210, 93)).multiple[0] == 1  # 8 voxels would be halved at the fourth level


def test_feature_maps_are_counted_as_they_are_computed():
    net = Topology((8, 8), ((3, 3), (3, 3)), ((2, 2),))
    # 64 and 16 pixels, 2 and 4 channels: 2 convolutions down and up a level, 1 transposed, scores of 3 classes
    assert feature_maps(net, 3, width=2) == (2 * 2 * 64 + 2 * 4 * 16) + (1 + 2) * 2 * 64 + 3 * 64
    # a stem or a skip, and 1 and 3 blocks of 2 convolutions; up 1 convolution
    down = (1 + 2 * 1) * 2 * 64 + (1 + 2 * 3) * 4 * 16
    assert feature_maps(net, 3, width=2, planner=PLANNERS["resenc_m"]) == down + (1 + 1) * 2 * 64 + 3 * 64


def test_channels_double_up_to_512_in_2d_and_320_in_3d():
    assert widths(6, 2) == (32, 64, 128, 256, 512, 512)
    assert widths(6, 3) == (32, 64, 128, 256, 320, 320)
    assert widths(3, 3, 8) == (8, 16, 32)


def test_the_patch_starts_as_a_cube_in_mm_within_the_median_case():
    assert initial_patch((1, 1, 1), (999, 999, 999)) == (256, 256, 256)
    assert initial_patch((4, 1, 2), (999, 999, 999)) == (128, 512, 256)
    assert initial_patch((4, 1, 2), (99.5, 999, 200)) == (99.5, 512, 200)
    assert initial_patch((2, 1), (9999, 9999)) == (1448, 2896)  # 2048 / √2, 2048 · √2


def test_the_axis_on_which_a_patch_covers_most_shrinks():
    assert shrink((1, 1, 1), (100, 200, 100), (64, 128, 96)).patch == (64, 128, 80)  # from 96 by 16
    assert shrink((1, 1, 1), (64, 64, 64), (64, 64, 64)).patch == (64, 64, 56)  # the last of equals
    # by 2 it would have 7 voxels and no longer be halved, so 1 is enough; the new patch is padded
    assert shrink((1, 1, 1), (9, 9, 9), (8, 9, 9)).patch == (8, 10, 8)


def test_a_batch_has_what_memory_takes_but_5_percent_of_the_voxels_at_most_and_2_at_least():
    patch = (10, 10, 10)
    assert batch_size(280_000_000, patch, 1e9) == 4  # 2 · 560 / 280
    assert batch_size(280_000_000, patch, 1e9, memory=12) == 6
    assert batch_size(280_000_000, patch, 60_000) == 3  # 5 % are 3000 voxels
    assert batch_size(280_000_000, patch, 10_000) == 2
    assert batch_size(340_000_000, patch, 60_000, planner=PLANNERS["resenc_m"]) == 4  # no 5 %, 2 · 680 / 340
    assert batch_size(510_000_000, (10, 10), 1e9) == 2  # 12 · 85 / 510


def test_a_patch_fits_when_2_do_and_for_residual_encoders_in_2d_when_12_do():
    assert fits(560_000_000, 3) and not fits(560_000_001, 3)
    assert fits(510_000_000, 2) and not fits(510_000_001, 2)
    assert fits(1_120_000_000, 3, memory=16)
    resenc = PLANNERS["resenc_m"]
    assert fits(135_000_000, 2, planner=resenc) and not fits(135_000_001, 2, planner=resenc)


@pytest.mark.parametrize(("batch", "foreground"), [(2, 1), (3, 1), (4, 1), (5, 2), (9, 3), (50, 16), (366, 121)])
def test_a_third_of_a_batch_is_centred_on_foreground(batch, foreground):
    assert foreground_patches(batch) == foreground


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("CT", "ct"),
        ("ct", "ct"),
        ("noNorm", "native"),
        ("rescale_to_0_1", "unit"),
        ("rgb_to_0_1", "rgb"),
        ("T2", "zscore"),
    ],
)
def test_the_name_of_a_channel_decides_its_normalisation(name, mode):
    assert normalization(name) == mode


def test_a_z_score_is_that_of_the_non_zero_region_where_cropping_took_a_quarter():
    found = alike((1.0, 1.0, 1.0), (9, 9, 9), 1, modalities=("CT", "PET"), kept=0.7499)
    assert masked(found) == (False, True)
    assert masked(replace(found, kept=0.75)) == (False, False)


def test_the_hippocampus_is_planned_as_nnunet_plans_it():
    made = plan(HIPPOCAMPUS)
    assert list(made.configurations) == ["2d", "3d_fullres"]
    full = made.configurations["3d_fullres"]
    assert (full.patch, full.batch_size, full.widths) == ((40, 56, 40), 9, (32, 64, 128, 256))
    assert full.strides == ((2, 2, 2),) * 3
    assert full.kernels == ((3, 3, 3),) * 4
    assert (full.blocks, full.decoder_blocks) == ((2, 2, 2, 2), (2, 2, 2))
    assert not full.batch_dice
    planar = made.configurations["2d"]
    assert (planar.patch, planar.batch_size, planar.batch_dice) == ((56, 40), 366, True)
    assert planar.foreground == 121 / 366


def test_the_arguments_of_the_network_are_those_of_the_configuration():
    assert plan(HIPPOCAMPUS, planner="resenc_l", width=8).configurations["2d"].model_arguments() == {
        "dims": 2,
        "widths": (8, 16, 32, 64),
        "kernels": ((3, 3),) * 4,
        "strides": ((2, 2),) * 3,
        "blocks": (1, 3, 4, 6),
        "decoder_blocks": (1, 1, 1),
        "residual": True,
        "batch_dice": True,
    }


def test_where_a_patch_covers_little_there_is_a_lowres_and_a_cascade():
    made = plan(LARGE)
    low, full, cascade = (made.configurations[f"3d_{name}"] for name in ("lowres", "fullres", "cascade_fullres"))
    steps = trace(LARGE)
    assert steps.fullres.covered < 0.25
    assert [step.covered < 0.25 for step in steps.lowres] == [True] * (len(steps.lowres) - 1) + [False]
    assert low.spacing == steps.lowres[-1].spacing
    assert low.spacing[1] == pytest.approx(2.0 * 1.03 ** len(steps.lowres))
    assert full.batch_dice and not low.batch_dice
    assert cascade == replace(full, name="3d_cascade_fullres", previous="3d_lowres")


def test_a_lowres_with_more_than_half_the_voxels_is_dropped():
    found = alike((1.0, 1.0, 1.0), (210, 210, 210), 20)
    steps = trace(found)
    assert steps.lowres and steps.fullres.voxels / steps.lowres[-1].voxels < 2
    made = plan(found).configurations
    assert list(made) == ["2d", "3d_fullres"] and not made["3d_fullres"].batch_dice


def test_cases_of_one_slice_are_planned_in_2d_alone():
    made = plan(alike((999.0, 1.0, 1.0), (1, 512, 600), 30))
    assert list(made.configurations) == ["2d"]
    assert "the median case has 1 x 512 x 600 voxels" in reason(made, "", "configurations").because


def test_the_axis_of_one_slice_comes_first_wherever_it_is():
    made = plan(alike((1.0, 1.0, 999.0), (512, 600, 1), 30))
    assert made.transpose == (2, 0, 1)
    assert made.median_spacing == (999.0, 1.0, 1.0)
    assert made.median_size == (1, 512, 600)
    assert made.configurations["2d"].median_size == (512, 600)


def test_one_voxel_along_another_axis_gives_slices_of_one_row():
    made = plan(alike((5.0, 1.0, 1.0), (20, 1, 300), 100)).configurations  # nnU-Net's answer, odd as it is
    assert made["2d"].patch == (1, 320)
    assert made["2d"].strides == ((1, 2),) * 5
    assert made["3d_fullres"].patch == (20, 1, 320)


def test_a_configuration_whose_axes_cannot_be_halved_is_left_out():
    made = plan(alike((1.0, 1.0, 1.0), (12, 7, 7), 9))
    assert list(made.configurations) == ["3d_fullres"]
    assert made.configurations["3d_fullres"].strides == ((2, 1, 1),)
    assert "no axis of the patch 7 x 7 of 2d can be halved" in reason(made, "", "configurations").because


def test_without_a_fullres_there_is_no_lowres():
    found = alike((5.2, 0.45, 1.67), (464, 8, 7), 9)
    steps = trace(found, planner="resenc_xl", memory=1.0)
    assert not steps.fullres.topology.strides and steps.lowres[-1].topology.strides
    assert not steps.drafts


@pytest.mark.parametrize("size", [(7, 7, 7), (11, 7, 7), (1, 1, 1)])
def test_cases_without_an_axis_to_halve_are_refused(size):
    with pytest.raises(
        ValueError, match=rf"no axis of the median case can be halved, .* it has \({size[0]}.0, {size[1]}.0, "
    ):
        plan(alike((1.0, 1.0, 1.0), size, 9))


def test_one_case_is_enough():
    made = plan(alike((1.0, 1.0, 1.0), (40, 40, 40), 1))
    assert {name: entry.batch_size for name, entry in made.configurations.items()} == {"2d": 2, "3d_fullres": 2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"planner": "tiny"}, "planner 'tiny' is unknown; choose one of plain, resenc_m"),
        ({"memory": 0.0}, "memory is a positive number of GB, got 0.0"),
        ({"memory": -8.0}, "memory is a positive number of GB, got -8.0"),
        ({"memory": float("nan")}, "memory is a positive number of GB, got nan"),
        ({"memory": float("inf")}, "memory is a positive number of GB, got inf"),
        ({"memory": 1e-9}, "not even a patch of .* voxels fits into memory"),
        ({"width": 0}, "width is the number of channels .* got 0"),
    ],
)
def test_plans_that_cannot_be_made_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        plan(HIPPOCAMPUS, **arguments)


def test_ct_of_one_value_is_refused_and_any_other_channel_is_not():
    flat = ForegroundStatistics(7.0, 7.0, 0.0, 7.0, 7.0, 7.0, 7.0)
    found = replace(HIPPOCAMPUS, intensities=(flat,))
    assert plan(found).configurations
    with pytest.raises(
        ValueError, match="nearly all foreground voxels of a CT channel are 7; is the image a label map"
    ):
        plan(replace(found, modalities=("CT",)))


def test_a_plan_says_how_cases_are_prepared():
    made = plan(replace(LARGE, spacings=((2.0, 2.0, 3.0),) * 100, sizes=((400, 400, 326),) * 100))
    ct = Intensity("ct", low=-60, high=250, mean=80, std=40)
    whole = Preparation(
        spacing=(3.0, 2.0, 2.0), intensities=(ct, Intensity("zscore")), masked=(False, True), transpose=(2, 0, 1)
    )
    assert made.preparation("3d_fullres") == whole
    assert made.preparation("2d") == replace(whole, spacing=(None, 2.0, 2.0))
    assert made.preparation("3d_cascade_fullres") == replace(whole, previous=1)
    with pytest.raises(ValueError, match="no configuration '3d'; choose one of 2d, 3d_lowres"):
        made.preparation("3d")


class Described:
    modalities = ("MRI",)
    categories = tuple(Category(i, name, False, (i, 0, 0)) for i, name in enumerate(HIPPOCAMPUS.classes))


def test_a_plan_of_another_data_set_is_refused():
    made = plan(HIPPOCAMPUS)
    check_plan_fits(made, Described())
    with pytest.raises(ValueError, match="data set 'Set' with the channels T1, T2, and this one has MRI"):
        check_plan_fits(
            replace(made, modalities=("T1", "T2"), intensities=(STATISTICS,) * 2, configurations={}), Described()
        )
    with pytest.raises(ValueError, match="with the classes background, organ, and this one has background, anterior"):
        check_plan_fits(replace(made, classes=("background", "organ")), Described())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernels": ((3, 3),)}, "a network of 4 levels has 4 kernels, got 1"),
        ({"strides": ((2, 2),)}, "a network of 4 levels has 3 strides, got 1"),
        ({"spacing": (1.0, 1.0, 1.0)}, "for 2 or 3 axes, as the patch"),
        ({"patch": (57, 40)}, r"the patch \(57, 40\) is no multiple of \(8, 8\)"),
        ({"masked": ()}, "1 channels are normalised, and 0 masked or not"),
    ],
)
def test_a_configuration_is_consistent(change, message):
    with pytest.raises(ValueError, match=message):
        replace(plan(HIPPOCAMPUS).configurations["2d"], **change)


def test_a_plan_is_consistent():
    made = plan(LARGE)
    with pytest.raises(ValueError, match="the channels are CT, but there are statistics for 2"):
        replace(made, modalities=("CT",))
    without = {name: made.configurations[name] for name in ("2d", "3d_fullres", "3d_cascade_fullres")}
    with pytest.raises(ValueError, match="takes the prediction of '3d_lowres', which the plan does not have"):
        replace(made, configurations=without)


def reason(made, configuration, number):
    (found,) = (r for r in made.reasons if (r.configuration, r.number) == (configuration, number))
    return found


OF_THE_PLAN = {"memory", "transpose", "median_spacing", "median_size", "intensities", "configurations"}
OF_ALL_CONFIGURATIONS = {"normalization", "masked", "residual"}


@pytest.mark.parametrize("found", [HIPPOCAMPUS, LARGE, alike((999.0, 1.0, 1.0), (1, 64, 64), 3)])
@pytest.mark.parametrize("planner", PLANNERS)
def test_every_number_has_one_reason(found, planner):
    made = plan(found, planner=planner)
    given = {field.name for field in fields(Plan)} - {"dataset", "planner", "modalities", "classes", "reasons"}
    assert given == OF_THE_PLAN
    numbers = {field.name for field in fields(Configuration)} - {"name", "previous"} | {"foreground"}
    wanted = [("", number) for number in OF_THE_PLAN | OF_ALL_CONFIGURATIONS]
    for name in made.configurations:
        cascade = name == "3d_cascade_fullres"
        wanted += [(name, n) for n in (["previous"] if cascade else numbers - OF_ALL_CONFIGURATIONS)]
    assert sorted((r.configuration, r.number) for r in made.reasons) == sorted(wanted)
    assert all(getattr(r, field.name) for r in made.reasons for field in fields(r) if field.name != "configuration")


def test_reasons_say_the_numbers_of_the_plan():
    made = plan(LARGE)
    for name in ("2d", "3d_lowres", "3d_fullres"):
        entry = made.configurations[name]
        said = {r.number: r.value for r in made.reasons if r.configuration == name}
        assert said["patch"] == " x ".join(map(str, entry.patch))
        assert said["batch_size"] == str(entry.batch_size)
        assert said["widths"] == ", ".join(map(str, entry.widths))
        assert said["strides"] == ", ".join("x".join(map(str, stride)) for stride in entry.strides)
        assert said["kernels"] == ", ".join("x".join(map(str, kernel)) for kernel in entry.kernels)
        assert said["batch_dice"] == ("yes" if entry.batch_dice else "no")
        assert said["foreground"] == f"{round(entry.foreground * entry.batch_size)} of {entry.batch_size}"


@pytest.mark.parametrize("found", [HIPPOCAMPUS, LARGE, alike((5.0, 0.8, 0.8), (60, 512, 512), 40)])
@pytest.mark.parametrize("planner", ["plain", "resenc_l"])
def test_what_more_memory_or_more_cases_would_change_is_what_planning_with_them_gives(found, planner):
    made = plan(found, planner=planner)
    own = made.memory
    twice = replace(found, spacings=found.spacings * 2, sizes=found.sizes * 2)
    others = {
        f"with {2 * own:g} GB": plan(found, planner=planner, memory=2 * own),
        f"with {own / 2:g} GB": plan(found, planner=planner, memory=own / 2),
        f"with {len(twice.sizes)} cases": plan(twice, planner=planner),
    }
    for name in ("2d", "3d_fullres"):
        for number in ("patch", "batch_size"):
            said = dict(re.findall(r"(with \S+ (?:GB|cases)) ([^,]+)", reason(made, name, number).change))
            assert len(said) == (2 if number == "patch" else 3)
            for condition, text in said.items():
                assert ours(made, name, number, text) == ours(others[condition], name, number, None)


def ours(made, name, number, text):
    """The patch or the batch of a plan as the reasons say it; what they say where they say something else."""
    entry = made.configurations[name]
    patch = " x ".join(map(str, entry.patch))
    own = patch if number == "patch" else f"{entry.batch_size} of {patch}"
    return own if text in (None, "the same") else text


def test_the_edge_at_which_a_network_gets_deeper_is_said():
    said = reason(plan(HIPPOCAMPUS), "3d_fullres", "strides").change
    assert said.startswith("an edge of 96 along axis 0 or of 96 along axis 1")
    assert topology((1, 1, 1), (96, 56, 40)).multiple[0] == 16
    assert topology((1, 1, 1), (88, 56, 40)).multiple[0] == 8
