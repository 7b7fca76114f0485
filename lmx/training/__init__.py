"""Training: the LightningModule, callbacks, checkpoints, and the run that puts them together."""

from lmx.training.slim_import import import_lightning

import_lightning()  # before any module that imports it by itself

from lmx.training.ending import requeue  # noqa: E402
from lmx.training.evaluate import record_test  # noqa: E402
from lmx.training.fit import Outcome, train  # noqa: E402

__all__ = ["Outcome", "record_test", "requeue", "train"]
