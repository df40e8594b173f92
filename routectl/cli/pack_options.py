"""The options of ``routectl pack`` that no other command has."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "AccountEmbedding",
    "AccountLoss",
    "Against",
    "AllowMissing",
    "Balance",
    "Bucket",
    "Context",
    "Cp",
    "DecoderLayers",
    "Dp",
    "Dtype",
    "Ep",
    "Explain",
    "FirstStage",
    "Folder",
    "Form",
    "Fp8",
    "Framework",
    "LastStage",
    "Lens",
    "MaxTokens",
    "MinLocalRows",
    "MoeLayerFreq",
    "PadMultiplier",
    "PaddingPolicy",
    "PipelineLayout",
    "PlanFile",
    "Pp",
    "RankFilter",
    "Rows",
    "SampleMultiple",
    "SeqLen",
    "Tp",
    "Verify",
    "Vpp",
]

Framework = Annotated[
    str,
    typer.Option(
        "--framework",
        metavar="NAME",
        help="verl, slime, miles, skyrl, nemo-rl, prime-rl, ms-swift, roll, megatron, relax "
        "or another of docs/layouts.md.",
    ),
]
Tp = Annotated[int, typer.Option("--tp", min=1, help="Tensor (and sequence) parallel size.")]
Cp = Annotated[int, typer.Option("--cp", min=1, help="Context parallel size.")]
Pp = Annotated[int, typer.Option("--pp", min=1, help="Pipeline parallel size.")]
Vpp = Annotated[int, typer.Option("--vpp", min=1, help="Virtual chunks of each pipeline stage.")]
Ep = Annotated[
    int,
    typer.Option("--ep", min=1, help="Expert parallel size: for --padding spread, and for loads."),
]
Dp = Annotated[int, typer.Option("--dp", min=1, help="Data parallel size.")]
MaxTokens = Annotated[
    int | None,
    typer.Option(
        "--max-tokens-per-gpu",
        min=1,
        help="Tokens of a micro-batch, divided by cp; everything in one when not given.",
    ),
]
Balance = Annotated[
    str,
    typer.Option(
        "--balance",
        metavar="HOW",
        help="first-fit fills micro-batches, karmarkar-karp evens them out.",
    ),
]
PlanFile = Annotated[
    Path | None,
    typer.Option(
        "--plan",
        metavar="PLAN.json",
        help="Which samples form which micro-batch; slime's train data (.pt), too.",
    ),
]
Form = Annotated[
    str,
    typer.Option(
        "--form", metavar="FORM", help="thd, bshd (S-major, as Megatron flattens) or bshd-b-major."
    ),
]
SeqLen = Annotated[
    int | None,
    typer.Option(
        "--seq-len", min=1, help="S of BSHD; the longest sample, rounded up, when not given."
    ),
]
PadMultiplier = Annotated[
    int | None,
    typer.Option(
        "--pad-multiplier", min=1, help="data_pad_size_multiplier of slime, miles, Relax: 128."
    ),
]
SampleMultiple = Annotated[
    int | None,
    typer.Option("--sample-multiple", min=1, help="Pad each sample to a multiple of this."),
]
MinLocalRows = Annotated[
    int | None,
    typer.Option("--min-local-rows", min=1, help="Pad until each CP rank has so many rows."),
]
Bucket = Annotated[
    int | None, typer.Option("--bucket", min=1, help="Pad each micro-batch to a multiple of this.")
]
Fp8 = Annotated[
    str | None,
    typer.Option("--fp8", metavar="RECIPE", help="Pad for fp8: blockwise, mxfp8 or tensorwise."),
]
DecoderLayers = Annotated[
    int | None,
    typer.Option(
        "--decoder-layers",
        min=1,
        help="Layers of the model, dense ones too. --model tells; else the dump's last layer + 1.",
    ),
]
FirstStage = Annotated[
    int | None,
    typer.Option("--first-stage-layers", min=0, help="Layers of the first pipeline stage."),
]
LastStage = Annotated[
    int | None,
    typer.Option("--last-stage-layers", min=0, help="Layers of the last pipeline stage."),
]
AccountEmbedding = Annotated[
    bool,
    typer.Option("--account-embedding", help="The embedding counts as a layer of the first stage."),
]
AccountLoss = Annotated[
    bool, typer.Option("--account-loss", help="The loss counts as a layer of the last stage.")
]
PipelineLayout = Annotated[
    str | None,
    typer.Option(
        "--pipeline-layout",
        metavar="LAYOUT",
        help="pipeline_model_parallel_layout, such as 'Et*3|(tt|)*2,L'.",
    ),
]
MoeLayerFreq = Annotated[
    str | None,
    typer.Option(
        "--moe-layer-freq",
        metavar="FREQ",
        help="N, or 0,1,1: which layers are MoE. A dump of MoE layers only is numbered by it.",
    ),
]
PaddingPolicy = Annotated[
    str | None,
    typer.Option(
        "--padding",
        metavar="POLICY",
        help="zero, arange, spread or minus-one; the framework's own when not given.",
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        metavar="DTYPE",
        help="Integer dtype of the tensors; the framework's own when not given.",
    ),
]
AllowMissing = Annotated[
    bool,
    typer.Option("--allow-missing", help="Let padding stand for missing rows; the mask tells."),
]
RankFilter = Annotated[
    str | None, typer.Option("--rank", metavar="RANK", help="Only these ranks, such as cp=1,tp=0.")
]
Rows = Annotated[
    str | None,
    typer.Option(
        "--rows",
        metavar="ROWS",
        help="n-1 or n: rows of a sample of n tokens, where the dump does not tell n.",
    ),
]
Context = Annotated[
    int | None, typer.Option("--context", min=1, help="Refuse samples of more tokens than this.")
]
Explain = Annotated[
    bool, typer.Option("--explain", help="Draw which token sits where; nothing is written.")
]
Lens = Annotated[
    str | None,
    typer.Option(
        "--lens", metavar="N,N", help="For --explain: lengths of samples, instead of a dump."
    ),
]
Verify = Annotated[
    Path | None,
    typer.Option(
        "--verify",
        metavar="DIR",
        help="Check the tensors in DIR against a dump; nothing is written.",
    ),
]
Against = Annotated[
    str | None,
    typer.Option(
        "--against", metavar="DUMP", help="For --verify: the dump that the tensors were made from."
    ),
]
Folder = Annotated[
    Path | None,
    typer.Option(
        "-o", "--output", metavar="DIR", help="The folder to write; it appears whole or not at all."
    ),
]
