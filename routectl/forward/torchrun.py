"""The processes that torchrun started: their numbers, and what they tell one another."""

import json
import os
import time
from dataclasses import dataclass
from typing import Any

from torch.distributed import is_torchelastic_launched
from torch.distributed.rendezvous import rendezvous

from ..errors import RoutectlError

__all__ = ["Ranks", "ranks_of_torchrun"]

_POLL_S = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Ranks:
    """One of ``size`` processes, number ``rank`` of all and ``local`` of those on its machine.

    What is told goes through torchrun's own key-value store, as JSON. Waiting is by polling, so
    that signals are heard: when a process fails, torchrun ends the others with SIGTERM.
    """

    store: Any
    rank: int
    size: int
    local: int
    local_size: int

    def tell(self, name: str, document: Any) -> None:
        """Say something to all, once. Raises RoutectlError where torchrun is gone."""
        try:
            self.store.set(self._key(name), json.dumps(document))
        except RuntimeError as error:
            raise self._gone(error) from None

    def hear(self, name: str) -> Any:
        """Wait until something is said, and return it. Raises RoutectlError as ``tell`` does."""
        try:
            while not self.store.check([self._key(name)]):
                time.sleep(_POLL_S)
            return json.loads(self.store.get(self._key(name)))
        except RuntimeError as error:
            raise self._gone(error) from None

    def _key(self, name: str) -> str:
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return f"routectl/{attempt}/{name}"

    def _gone(self, error: RuntimeError) -> RoutectlError:
        return RoutectlError(f"rank {self.rank}: torchrun is gone: {str(error).splitlines()[0]}")


def ranks_of_torchrun() -> Ranks | None:
    """This process among those of torchrun, which it names in the environment; else None."""
    if not is_torchelastic_launched():
        return None
    store, rank, size = next(rendezvous("env://"))
    local, local_size = (int(os.environ[name]) for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    return Ranks(store, rank, size, local, local_size)
