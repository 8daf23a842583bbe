"""The figures of a run for TensorBoard, which is an optional package: `tensorboard --logdir DIR/tensorboard`.

metrics.jsonl is the record that counts. A run that is resumed writes its steps again, and TensorBoard shows
the later ones.
"""

from pathlib import Path

from aiinfra.train.step import TrainStep

try:
    from torch.utils.tensorboard import SummaryWriter
except ImportError:                       # TensorBoard is optional
    SummaryWriter = None

_SHOWN = ("loss", "bits_per_byte", "learning_rate", "gradient_norm", "tokens_per_second", "mfu")


class TensorBoard:
    """Writes events to a folder. Raises RuntimeError where TensorBoard is not installed."""

    def __init__(self, folder: Path) -> None:
        if SummaryWriter is None:
            raise RuntimeError("TensorBoard is not installed: pip install tensorboard, or train without "
                               "--tensorboard. metrics.jsonl has the same figures.")
        self._writer = SummaryWriter(folder)

    def write(self, record: TrainStep) -> None:
        """A point in each of the curves; what is not known is left out."""
        figures = record.as_json()
        for name in _SHOWN:
            if figures[name] is not None:
                self._writer.add_scalar(name, figures[name], record.step)
        self._writer.flush()
