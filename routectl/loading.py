"""Samples of a dump as torch tensors, for torch.utils.data.

Shape suffixes: T tokens with a row, L MoE layers, K top_k, N tokens, G response tokens.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .dump import Dump
from .jobs.library.opening import open_dump

if TYPE_CHECKING:
    from .model import ModelFacts

__all__ = ["RoutesDataset"]

_WIDEST_INT16 = 1 << 15


class RoutesDataset:
    """A dump as a map-style dataset: ``len``, and a dict of tensors by index.

    Give it to a torch.utils.data.DataLoader; it is picklable, and each worker opens the file for
    itself. Sequences differ in length, so pass a collate_fn, or batch_size=None. Neighbours share
    a row group: reading in order decodes each once, a shuffle decodes one a sample.

    path, model, base  as open_dump takes them.
    layers             transformer layers, such as a pipeline stage's; None for all.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        layers: Iterable[int] | None = None,
        model: "ModelFacts | str | Path | None" = None,
        base: str | Path | None = None,
    ) -> None:
        self._path, self._model, self._base = path, model, base
        self._layers = None if layers is None else tuple(layers)
        self._opened: Dump | None = None
        self._length = len(self._dump())

    def __repr__(self) -> str:
        return f"<RoutesDataset of {self._dump()!r}>"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def _dump(self) -> Dump:
        if self._opened is None:
            dump = open_dump(self._path, model=self._model, base=self._base)
            self._opened = dump.select(layers=self._layers)
        return self._opened

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The sample ``index``, with what the dump knows of it; a key is absent where it does not.

        routed_experts  [T, L, K]: uint8 where E <= 256, int16 up to 32768, else int32.
        missing         bool [T, L], True where no route was captured (its ids are 0).
        start           int, absolute position of row 0. layers: list, 0-based.
        token_ids       int64 [N]; prompt_length: int. loss_mask: bool [N].
        logprobs        float32 [G]. sample_id, group_id: str.
        """
        import torch

        sample = self._dump()[index]
        found: dict[str, Any] = {
            name: value
            for name in ("sample_id", "group_id", "prompt_length")
            if (value := getattr(sample, name)) is not None
        }
        routes = sample.routes
        if routes is not None:
            ids, missing = routes.ids_TLK, routes.missing_TL
            if routes.num_experts > 256:  # torch does little with uint16
                ids = ids.astype(np.int16 if routes.num_experts <= _WIDEST_INT16 else np.int32)
            none = np.zeros(ids.shape[:2], np.bool_)
            missing = none if missing is None else missing
            found |= {"routed_experts": torch.tensor(ids), "missing": torch.tensor(missing)}
            found |= {"start": routes.start, "layers": list(routes.layers_L)}
        for name, array, dtype in (
            ("token_ids", sample.token_ids, torch.int64),
            ("loss_mask", sample.loss_mask, torch.bool),
            ("logprobs", sample.logprobs, torch.float32),
        ):
            if array is not None:
                found[name] = torch.tensor(array, dtype=dtype)
        return found
