"""The versions of ``routectl predict``: their routers, and the hidden states they are given."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import MismatchError, RoutectlError, UnsupportedError
from ...files.places import place_of
from ...files.scratch import scratch_folder
from ..progress import Progress
from ..recompute.router_check import router_checker
from ..recompute.router_inputs import TOKENS, inputs_at, layer_routers, refuse_stage

if TYPE_CHECKING:
    import torch

    from ...checkpoints.router_inputs import RouterInputs
    from ...ops.predict.predict import RoutedVersion
    from ...ops.predict.replay_inputs import LayerRouter
    from ...routers.recipe import Recipe

__all__ = ["OpenVersion", "OpenVersions", "Sources", "named_paths", "open_versions"]

_DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}


@dataclass(frozen=True, slots=True, eq=False)
class OpenVersion:
    """A version whose routers are read: in the dtype of the hidden states, on the device.

    digest is of the routers as stored.
    """

    name: str
    number: int
    folder: Path
    recipe: "Recipe"
    routers: "Mapping[int, LayerRouter]"
    digest: str


@dataclass(frozen=True, slots=True)
class OpenVersions:
    """An old version, the one before it if any, and those after it."""

    old: OpenVersion
    previous: OpenVersion | None
    later: tuple[OpenVersion, ...]


def named_paths(option: str, values: Sequence[str] | None) -> dict[str, Path]:
    """{name: path} out of NAME=PATH, in order. Raises RoutectlError."""
    found: dict[str, Path] = {}
    for value in values or ():
        name, equals, path = value.partition("=")
        if not name or not equals or not path:
            raise RoutectlError(f"{option} {value!r}: expected NAME=PATH, for example v1=ckpt/v1")
        if name in found:
            raise RoutectlError(f"{option}: {name!r} is given twice")
        found[name] = place_of(path)
    return found


def open_versions(
    at: Mapping[str, Path], old: str, hidden: "RouterInputs", device: str
) -> OpenVersions:
    """The routers of the versions in ``at``, and how each selects; all must select alike.

    ``old`` is the name of the one that ``hidden`` is of; of those before it the last is read.
    """
    from ...checkpoints import open_checkpoint
    from ...checkpoints.routers import router_recipe
    from ...ops.predict.predict import router_digest
    from ...ops.staleness.attribution import places_of

    dtype = hidden[next(iter(hidden))].dtype
    found: list[OpenVersion] = []
    place = [*at].index(old)
    first = max(0, place - 1)
    for (name, folder), number in [*zip(at.items(), places_of([*at]), strict=True)][first:]:
        opened = open_checkpoint(str(folder))
        if opened.config is None:
            raise UnsupportedError(
                f"{folder}: {opened.format}: no config.json says how its routers select; "
                "convert it to an HF folder"
            )
        recipe = router_recipe(opened)
        if found and recipe != found[0].recipe:
            raise MismatchError(
                f"{folder}: selects otherwise than {found[0].name}: got {recipe.describe()}, "
                f"expected {found[0].recipe.describe()}"
            )
        stored = layer_routers(opened)
        if name == old:
            refuse_stage(hidden, stored)
        routers = {
            layer: _placed(router, recipe, dtype, device) for layer, router in stored.items()
        }
        digest = router_digest(stored)
        found.append(OpenVersion(name, number, folder, recipe, routers, digest))
    place -= first
    return OpenVersions(found[place], found[0] if place else None, tuple(found[place + 1 :]))


def _placed(
    router: "LayerRouter", recipe: "Recipe", dtype: "torch.dtype", device: str
) -> "LayerRouter":
    """The router as a model of that dtype has it."""
    from ...routers.maths import held_matrix

    parts = {field.name: getattr(router, field.name) for field in fields(router)}
    moved = {name: part.to(device) for name, part in parts.items() if part is not None}
    return replace(
        router, **{**moved, "weight_ED": held_matrix(recipe, router.weight_ED, dtype).to(device)}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where later versions' hidden states come from: files by name, or the old ones for all.

    how, filled as versions are opened, says it of each.
    """

    base: "RouterInputs"
    files: Mapping[str, Path]
    frozen: bool
    device: str
    progress: Progress
    how: dict[str, str]

    @contextmanager
    def later(self, versions: Sequence[OpenVersion]) -> "Iterator[list[RoutedVersion]]":
        """The versions with their hidden states; what is recomputed is gone after the block."""
        from ...ops.predict.predict import RoutedVersion

        with scratch_folder("predict") as scratch:
            found = []
            for number, version in enumerate(versions):
                if version.name in self.files:
                    path = self.files[version.name]
                    hidden, self.how[version.name] = inputs_at(str(path)), str(path)
                    refuse_stage(hidden, version.routers)
                    self._check(hidden)
                elif self.frozen:
                    hidden, self.how[version.name] = self.base, "of the old version"
                else:
                    target = scratch / f"{number}.safetensors"
                    hidden = self._recomputed(version, target)
                    self.how[version.name] = "recomputed"
                found.append(RoutedVersion(version.name, version.routers, hidden))
            yield found

    def _check(self, hidden: "RouterInputs") -> None:
        """Refuse a file of other tokens."""
        ids_T, base_T = hidden.token_ids_T, self.base.token_ids_T
        if ids_T is None or base_T is None:
            raise MismatchError(
                f"{hidden.path}: no token ids: rows are matched by them", hint=TOKENS
            )
        if hidden.lens != self.base.lens or not bool((ids_T == base_T).all()):
            raise MismatchError(f"{hidden.path}: other tokens than {self.base.path} has")

    def _recomputed(self, version: OpenVersion, target: Path) -> "RouterInputs":
        """Hidden states of the same tokens in a version's own forward, in the old ones' dtype."""
        from ...checkpoints.router_inputs import InputShapes, open_router_inputs, writing_inputs
        from ...dump import Sample
        from ...forward import RunOptions, prepare, run_forward

        stored = next(iter(self.base.infos.values())).dtype
        if stored not in _DTYPES:
            raise UnsupportedError(
                f"{self.base.path}: {stored}: no forward is run in it: {', '.join(_DTYPES)}"
            )
        self.progress.note(f"{version.name}: recomputing its hidden states from {version.folder}")
        options = RunOptions(
            checkpoint=version.folder, device=self.device, dtype=_DTYPES[stored], want_inputs=True
        )
        prepared = prepare(options)
        assert self.base.lens is not None
        assert self.base.token_ids_T is not None
        ids_T = self.base.token_ids_T.numpy().astype("int32")
        samples, begin = [], 0
        for length in self.base.lens:
            ids = ids_T[begin : begin + length]
            begin += length
            samples.append(
                Sample(
                    None,
                    prompt_ids=ids,
                    response_ids=ids[:0],
                    prompt_length=length,
                    response_length=0,
                )
            )
        width = prepared.store.skeleton.model.config.get_text_config().hidden_size
        shapes = InputShapes(prepared.layers, self.base.lens, width, stored)
        check = router_checker(prepared, self.progress.note)
        with writing_inputs(target, shapes, ids_T.tolist(), force=True) as writer:
            for result in run_forward(prepared, samples):
                assert result.inputs is not None
                if prepared.unverified:
                    check(result)
                writer.put(result.index, result.inputs)
        return open_router_inputs(target)
