"""Training: :func:`fit`, :func:`evaluate` and the tasks."""

from seglib.train.loop import History, Interrupted, TrainConfig, evaluate, fit
from seglib.train.tasks import SemanticTask, Task

__all__ = ["History", "Interrupted", "SemanticTask", "Task", "TrainConfig", "evaluate", "fit"]
