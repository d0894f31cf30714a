"""Training: :func:`fit`, :func:`evaluate` and the tasks."""

from seglib.train.loop import History, TrainConfig, evaluate, fit
from seglib.train.prompt_task import PromptTask
from seglib.train.stopping import Interrupted
from seglib.train.tasks import InstanceTask, PanopticTask, RegionTask, SemanticTask, Task
from seglib.train.volume_task import VolumeTask

__all__ = [
    "TASKS", "History", "InstanceTask", "Interrupted", "PanopticTask", "PromptTask", "RegionTask", "SemanticTask",
    "Task", "TrainConfig", "VolumeTask", "evaluate", "fit",
]  # fmt: skip

TASKS: dict[str, type[Task]] = {
    "semantic": SemanticTask,
    "regions": RegionTask,
    "instance": InstanceTask,
    "panoptic": PanopticTask,
    "volume": VolumeTask,
    "prompt": PromptTask,
}
"""The tasks by the names that the model zoo uses."""
