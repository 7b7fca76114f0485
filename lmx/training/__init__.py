"""Training: the LightningModule, callbacks, checkpoints, and the run that puts them together."""

from lmx.training.ending import requeue
from lmx.training.fit import Outcome, train

__all__ = ["Outcome", "requeue", "train"]
