"""Training: :func:`fit`, :func:`evaluate` and the tasks."""

from seglib.train.loop import History, TrainConfig, evaluate, fit
from seglib.train.stopping import Interrupted
from seglib.train.tasks import TASKS, InstanceTask, PanopticTask, RegionTask, SemanticTask, Task

__all__ = [
    "TASKS", "History", "InstanceTask", "Interrupted", "PanopticTask", "RegionTask", "SemanticTask", "Task",
    "TrainConfig", "evaluate", "fit",
]  # fmt: skip
