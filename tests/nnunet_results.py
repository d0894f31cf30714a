"""A folder of results as nnU-Net leaves it behind, with the weights of a network that was not trained."""

import json

import numpy as np
import torch
from nnunet_reference import nnunet

from seglib.data.volumes import CATEGORIES
from seglib.planning.fingerprint import Fingerprint, ForegroundStatistics
from seglib.planning.plan import plan
from seglib.planning.plans_json import plan_to_json

DATASET = {
    "channel_names": {"0": "CT"},
    "labels": {c.name: c.id for c in CATEGORIES},
    "numTraining": 2,
    "file_ending": ".nii.gz",
}
CT = ForegroundStatistics(100.0, 104.0, 35.0, -50.0, 240.0, 0.0, 200.0)


def plans(planner="plain"):
    """The content of ``nnUNetPlans.json``, for patches of 16 × 40 × 40 voxels of 3 × 1 × 1 mm."""
    facts = Fingerprint(
        "Dataset001_Synthetic",
        ("CT",),
        tuple(DATASET["labels"]),
        ((3.0, 1.0, 1.0),) * 2,
        ((16, 40, 40),) * 2,
        1.0,
        (CT,),
    )
    content = plan_to_json(plan(facts, planner=planner, memory=0.05, width=4))
    del content["seglib"]
    return content


def network(content, configuration, *, classes=4):
    """nnU-Net's network of a plan, whose norms aren't the identity."""
    architecture = content["configurations"][configuration]["architecture"]
    torch.manual_seed(0)
    net = nnunet("utilities.get_network_from_plans").get_network_from_plans(
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
        1,
        classes,
        allow_init=True,
        deep_supervision=False,
    )
    with torch.no_grad():
        for p in net.parameters():
            p += 0.1 * torch.randn_like(p)
    return net


def checkpoint(net, content, configuration, dataset=DATASET):
    """What nnU-Net's trainer saves, numbers of its log as NumPy's."""
    return {
        "network_weights": net.state_dict(),
        "optimizer_state": {"state": {0: {"momentum_buffer": torch.zeros(2)}}, "param_groups": [{"lr": 0.01}]},
        "grad_scaler_state": None,
        "logging": {"mean_fg_dice": [np.float64(0.3)], "train_losses": [np.float32(0.1)], "lrs": [0.01]},
        "_best_ema": np.float64(0.3),
        "current_epoch": 1000,
        "init_args": {
            "plans": content,
            "configuration": configuration,
            "fold": 0,
            "dataset_json": dataset,
            "device": torch.device("cpu"),
        },
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }


def results(root, configuration="3d_fullres", planner="plain"):
    """The folder, with plans.json, dataset.json and fold_0/checkpoint_final.pth."""
    content = plans(planner)
    folder = root / content["dataset_name"] / f"nnUNetTrainer__{content['plans_name']}__{configuration}"
    (folder / "fold_0").mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(content))
    (folder / "dataset.json").write_text(json.dumps(DATASET))
    saved = checkpoint(network(content, configuration), content, configuration)
    torch.save(saved, folder / "fold_0" / "checkpoint_final.pth")
    return folder
