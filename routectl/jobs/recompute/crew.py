"""The processes that share a run: of this machine, one a device, those that torchrun started, or
workers of a Ray cluster.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...errors import RoutectlError
from ..progress import Progress
from .router_check import CHECKED_TOKENS
from .share import DeviceWork, cut_shares, do_work, showing
from .workers import run_workers

if TYPE_CHECKING:
    from ...dump import Dump
    from ...forward import Prepared
    from ...forward.torchrun import Ranks
    from ..cluster.tasks import Cluster
    from .cluster import Elsewhere

__all__ = ["DeviceCrew", "crew_of"]


@dataclasses.dataclass(frozen=True, slots=True)
class DeviceCrew:
    """Who runs: a process for each of ``devices``, the ``ranks`` of torchrun, this one on its
    device, or workers ``elsewhere``. The one that leads cuts the shares and joins the parts;
    ``progress`` hears of it.
    """

    devices: tuple[str, ...]
    ranks: "Ranks | None"
    progress: Progress
    elsewhere: "Elsewhere | None" = None

    @property
    def size(self) -> int:
        """How many processes there are."""
        return len(self.devices) if self.ranks is None else self.ranks.size

    @property
    def leads(self) -> bool:
        """Whether this process cuts and joins."""
        return self.ranks is None or self.ranks.rank == 0

    @property
    def sharing(self) -> int:
        """How many processes there are at most on a device; under torchrun on the CPU."""
        if self.elsewhere is not None:
            return self.elsewhere.sharing
        if self.ranks is None:
            return max(self.devices.count(device) for device in self.devices)
        return self.ranks.local_size if self.devices == ("cpu",) else 1

    def alone(self, asked: str) -> "DeviceCrew":
        """One process, unless more were asked for: all router inputs are written by one."""
        if (self.ranks is not None and self.size > 1) or "," in asked:
            raise RoutectlError("--router-inputs is written by one process: expected one --device")
        return DeviceCrew(self.devices[:1], self.ranks, self.progress)

    def prepare(self, work: DeviceWork) -> "Prepared":
        """The checkpoint opened by its headers, as it will be run."""
        return work.prepare() if self.elsewhere is None else self.elsewhere.prepare(work)

    def run(
        self, work: DeviceWork, prepared: "Prepared", source: "Dump", todo: Sequence[int]
    ) -> None:
        """Finish the parts of these samples, in shares of about equally many tokens."""
        small = source.select(layers=source.meta.layers_L[:1]).select(samples=todo)
        tokens = [max(1, sample.num_tokens or 0) for sample in small]
        shares = cut_shares(todo, tokens, self.size)
        first = next((number for number, share in enumerate(shares) if share), 0)
        how = "stream" if prepared.streamed else "plain"  # one decision for all
        works = [
            work.given(share, streaming=how, check_tokens=CHECKED_TOKENS * (number == first))
            for number, share in enumerate(shares)
        ]
        if self.elsewhere is not None:
            self.elsewhere.run(works, self.progress)
            return
        if self.ranks is not None:
            self._lead(self.ranks, works)
            return
        placed = [
            one.given(one.indices, device=device)
            for one, device in zip(works, self.devices, strict=True)
            if one.indices
        ]
        with showing(len(todo), self.progress) as on_progress:
            threads = int(prepared.provenance["threads"])
            run_workers(placed, threads, on_progress, self.progress.note)

    def follow(self, work: DeviceWork) -> None:
        """Do the share that the leading process tells, and say when it is done."""
        assert self.ranks is not None
        indices, changes = self.ranks.hear(f"share/{self.ranks.rank}")
        if indices:
            do_work(work.given(indices, **changes), self.progress.note)
        self.ranks.tell(f"done/{self.ranks.rank}", len(indices))

    def _lead(self, ranks: "Ranks", works: Sequence[DeviceWork]) -> None:
        """Tell every process of torchrun its share, do one, and wait for the others."""
        for rank, work in enumerate(works):
            changes = {name: getattr(work.options, name) for name in ("streaming", "check_tokens")}
            ranks.tell(f"share/{rank}", (work.indices, changes))
        own = works[0]
        with showing(len(own.indices), self.progress) as on_progress:
            do_work(own.given(own.indices, on_progress=on_progress), self.progress.note)
        for rank in range(1, ranks.size):
            ranks.hear(f"done/{rank}")


def crew_of(
    device: str, threads: int | None, progress: Progress, cluster: "Cluster | None" = None
) -> DeviceCrew:
    """Who runs on what was asked for with ``--device`` and ``--threads``, by torchrun, or on a
    cluster.

    Raises UnsupportedError as pick_devices does.
    """
    from ...forward import pick_devices
    from ...forward.torchrun import ranks_of_torchrun

    ranks = ranks_of_torchrun()
    if cluster is not None:
        from .cluster import elsewhere_of

        if ranks is not None:
            raise RoutectlError("--ray: torchrun has started this process already")
        workers = elsewhere_of(cluster, device, threads)
        return DeviceCrew((workers.device,) * workers.size, None, progress, workers)
    if ranks is None:
        return DeviceCrew(pick_devices(device, threads), None, progress)
    return DeviceCrew(pick_devices(device, threads, ranks.local), ranks, progress)
