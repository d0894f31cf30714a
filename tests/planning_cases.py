"""Data sets, fingerprints and files that the tests of planning share."""

import copy

from seglib.planning.fingerprint import Fingerprint, ForegroundStatistics
from seglib.types import Category

STATISTICS = ForegroundStatistics(80.0, 90.0, 40.0, -500.0, 900.0, -60.0, 250.0)


def alike(spacing, size, cases, *, modalities=("MRI",), classes=("background", "organ"), kept=1.0):
    """The fingerprint of cases that are all the same."""
    return Fingerprint(
        "Set", modalities, classes, (spacing,) * cases, (size,) * cases, kept, (STATISTICS,) * len(modalities)
    )


HIPPOCAMPUS = alike((1.0, 1.0, 1.0), (36, 50, 35), 260, classes=("background", "anterior", "posterior"))
LARGE = alike((3.0, 2.0, 2.0), (326, 400, 400), 100, modalities=("CT", "PET"), kept=0.7)


class Volumes:
    """A data set of given samples."""

    def __init__(self, *samples, modalities=("MRI",), categories=None):
        names = ("background", "organ")
        self.categories = categories or tuple(Category(i, n, False, (i, 0, 0)) for i, n in enumerate(names))
        self.samples, self.modalities = samples, modalities

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[index]


def as_nnunet_2_0_wrote_it(content):
    """The same plan with the network described as in the first files of version 2."""
    old = copy.deepcopy(content)
    for entry in old["configurations"].values():
        if "architecture" in entry:
            network = entry.pop("architecture")
            layers = network["arch_kwargs"]
            dims = len(entry["patch_size"])
            entry |= {
                "UNet_class_name": network["network_class_name"].rpartition(".")[2],
                "UNet_base_num_features": layers["features_per_stage"][0],
                "n_conv_per_stage_encoder": layers.get("n_conv_per_stage", layers.get("n_blocks_per_stage")),
                "n_conv_per_stage_decoder": layers["n_conv_per_stage_decoder"],
                "num_pool_per_axis": [sum(s[a] == 2 for s in layers["strides"]) for a in range(dims)],
                "pool_op_kernel_sizes": layers["strides"],
                "conv_kernel_sizes": layers["kernel_sizes"],
                "unet_max_num_features": 512 if dims == 2 else 320,
            }
    return old
