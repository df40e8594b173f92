"""A live model in its trainer's loop: its routes recorded, and given routes replayed."""

from .proof import Proof
from .recorder import Recorder
from .recording import record
from .replaying import replay

__all__ = ["Proof", "Recorder", "record", "replay"]
