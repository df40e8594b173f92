"""``routectl pack DUMP -o DIR``, with ``--explain`` and ``--verify``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import MismatchError, RoutectlError
from ..jobs.pack.layout import (
    LayoutOptions,
    layers_of,
    lens_of,
    packing_of,
    parse_lens,
    parse_ranks,
    renumber,
)
from ..jobs.pack.modes import check_given
from ..reports.text.wording import plural
from . import pack_options as opt
from .options import (
    Force,
    Format,
    Json,
    Model,
    NumExperts,
    NumLayers,
    Plain,
    Start,
    TopK,
    model_from,
    open_input,
)
from .output import emit, note, watching

if TYPE_CHECKING:
    from ..dump import Dump
    from ..jobs.pack.folder import Job
    from ..layouts.packing import Packing

__all__ = ["pack_command"]

_DUMP = typer.Argument(metavar="DUMP", show_default=False, help="A file, a folder or a glob.")


def _packed(
    dump: "Dump", model: object, options: LayoutOptions, rows: str | None
) -> "tuple[Dump, Packing]":
    """The dump, its layers numbered, and the Packing of its samples."""
    num_layers = layers_of(options, model, dump)
    dump = renumber(dump, options, num_layers)
    if dump.meta.layers_L[-1] >= num_layers:
        raise MismatchError(
            f"{dump.meta.path}: has a layer {dump.meta.layers_L[-1]}, but the model "
            f"{num_layers} layers"
        )
    with watching(dump, "measuring") as watched:
        lens = lens_of(watched, options, rows)
    return dump, packing_of(options, lens, [key.sample_id for key in dump.keys], num_layers)


def _explain(packing: "Packing", plain: bool) -> int:
    import sys

    from ..reports.pack.drawing import draw_layout
    from ..reports.text.tables import open_console

    draw_layout(packing, open_console(sys.stdout, plain=plain))
    return 0


def _write(job: "Job", output: Path, as_json: bool, plain: bool, force: bool) -> int:
    from ..files import replacing_folder
    from ..formats.replay.folder import foreign_content
    from ..jobs.pack.folder import write_folder
    from ..reports.pack.text import render_packed

    with replacing_folder(output, force=force, foreign=foreign_content) as folder:
        try:
            manifest = write_folder(job, folder)
        except ValueError as error:  # padding, dtype and ep that do not fit the dump
            raise MismatchError(str(error)) from None
    emit(manifest, render_packed, as_json=as_json, plain=plain)
    note(f"wrote {output}: {plural(len(manifest['files']), 'file')}")
    return 0


def _verify(job: "Job", folder: Path, as_json: bool, plain: bool) -> int:
    from ..jobs.pack.verify import verify_folder
    from ..reports.pack.document import verified_document
    from ..reports.pack.text import render_verified

    found = verify_folder(job, folder)
    document = verified_document(found, str(folder), job.dump.meta)
    emit(document, render_verified, as_json=as_json, plain=plain)
    return 0 if found.ok else 1


def pack_command(
    context_of: typer.Context,
    dump: Annotated[str | None, _DUMP] = None,
    output: opt.Folder = None,
    framework: opt.Framework = "verl",
    tp: opt.Tp = 1,
    cp: opt.Cp = 1,
    pp: opt.Pp = 1,
    vpp: opt.Vpp = 1,
    ep: opt.Ep = 1,
    dp: opt.Dp = 1,
    max_tokens_per_gpu: opt.MaxTokens = None,
    balance: opt.Balance = "first-fit",
    plan: opt.PlanFile = None,
    form: opt.Form = "thd",
    seq_len: opt.SeqLen = None,
    pad_multiplier: opt.PadMultiplier = None,
    sample_multiple: opt.SampleMultiple = None,
    min_local_rows: opt.MinLocalRows = None,
    bucket: opt.Bucket = None,
    fp8: opt.Fp8 = None,
    decoder_layers: opt.DecoderLayers = None,
    first_stage: opt.FirstStage = None,
    last_stage: opt.LastStage = None,
    account_embedding: opt.AccountEmbedding = False,
    account_loss: opt.AccountLoss = False,
    pipeline_layout: opt.PipelineLayout = None,
    moe_layer_freq: opt.MoeLayerFreq = None,
    padding: opt.PaddingPolicy = None,
    dtype: opt.Dtype = None,
    allow_missing: opt.AllowMissing = False,
    rank: opt.RankFilter = None,
    rows: opt.Rows = None,
    context: opt.Context = None,
    explain: opt.Explain = False,
    lens: opt.Lens = None,
    verify: opt.Verify = None,
    against: opt.Against = None,
    as_json: Json = False,
    plain: Plain = False,
    force: Force = False,
    model: Model = None,
    num_layers: NumLayers = None,
    top_k: TopK = None,
    num_experts: NumExperts = None,
    wire: Format = None,
    start: Start = None,
) -> int:
    """Write the replay tensors of packed sequences, for every rank.

    One folder: a safetensors file a rank and micro-batch with one [rows, K] tensor for each of its
    MoE layers, the mask and cu_seqlens; manifest.json; samples.parquet. --verify proves that every
    route is there exactly once, --explain draws the layout, `routectl unpack` goes back.
    """
    from ..files import refuse_existing
    from ..jobs.pack.folder import Job, job_of_manifest
    from ..layouts.packing import FRAMEWORKS
    from ..ops.pack.padding import TensorSpec

    if framework not in FRAMEWORKS:
        raise RoutectlError(f"framework {framework!r} is not known: {', '.join(FRAMEWORKS)}")
    layout = LayoutOptions(
        framework,
        tp,
        cp,
        pp,
        vpp,
        dp,
        pad_multiplier,
        fp8,
        sample_multiple,
        min_local_rows,
        bucket,
        form,
        seq_len,
        plan,
        max_tokens_per_gpu,
        balance,
        decoder_layers,
        first_stage,
        last_stage,
        account_embedding,
        account_loss,
        pipeline_layout,
        moe_layer_freq,
        context,
    )
    modes = {"-o": output, "--explain": explain or None, "--verify": verify}
    if sum(value is not None for value in modes.values()) != 1:
        raise RoutectlError("expected one of -o DIR, --explain and --verify DIR")
    has_manifest = verify is not None and (verify / "manifest.json").is_file()
    check_given(context_of, explain=explain, verify=verify, has_manifest=has_manifest)
    if explain and lens is not None:
        sizes = parse_lens(lens)
        return _explain(
            packing_of(layout, sizes, [None] * len(sizes), decoder_layers or pp * vpp), plain
        )
    path = dump if verify is None else against
    if path is None:
        raise RoutectlError("--verify needs --against DUMP" if verify else "expected a DUMP")
    if output is not None:
        refuse_existing(output, force=force)
    facts = model_from(model, num_layers, top_k, num_experts)
    source = open_input(path, facts, wire, start)
    only, spec = parse_ranks(rank), TensorSpec(padding, dtype, ep)
    if verify is not None and has_manifest:
        return _verify(job_of_manifest(verify, source, only, ep), verify, as_json, plain)
    job = Job(*_packed(source, facts, layout, rows), spec, only, allow_missing)
    if explain:
        return _explain(job.packing, plain)
    if verify is not None:
        return _verify(job, verify, as_json, plain)
    assert output is not None  # the one mode that is left
    return _write(job, output, as_json, plain, force)
