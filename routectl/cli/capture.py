"""``routectl capture URL --prompts FILE -o DST``."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import RoutectlError
from ..reports.text.wording import plural
from .options import Force, Model, NumExperts, NumLayers, TopK, model_from
from .output import check_output, counting, note, tokens_rate, watching

if TYPE_CHECKING:
    from ..engines.asking import Asking
    from ..engines.http import Address, RefusedError
    from ..engines.journal import Journal
    from ..engines.requests import Request
    from ..engines.server import Server
    from ..model import ModelFacts

__all__ = ["capture_command"]

_URL = typer.Argument(metavar="URL", show_default=False, help="The server: http://HOST:PORT.")
_PROMPTS = typer.Option(
    "--prompts", metavar="FILE", help="JSON lines: prompt_token_ids, prompt or messages; id, group."
)
_OUTPUT = typer.Option(
    "-o",
    "--output",
    metavar="DST",
    help="NAME.parquet: native; NAME.jsonl: requests and responses as they were.",
)
_ENDPOINT = typer.Option(
    metavar="NAME",
    show_default=False,
    help="generate (SGLang), completions, chat or inference (vLLM); found out when not given.",
)
_SERVED = typer.Option("--served-model", metavar="NAME", help="Of several models that are served.")
_SAMPLING = typer.Option(
    "--sampling", metavar="NAME=JSON", help="Any option of the engine's, as top_p=0.9; repeatable."
)
_CONCURRENCY = typer.Option(min=1, max=1024, help="Requests at once.")
_TIMEOUT = typer.Option(min=0.1, help="Seconds for a whole answer.")
_RETRIES = typer.Option(
    min=0, help="Further tries after 408, 425, 429, 5xx, time-outs and lost connections."
)
_BACKOFF = typer.Option(min=0.0, help="Seconds before the second try; doubled each time.")
_KEY = typer.Option("--api-key-file", metavar="FILE", help="Its text is sent as bearer token.")
_SKIP = typer.Option("--skip-refused", help="Go on without requests that the server refuses.")


@dataclass(frozen=True, slots=True)
class _Goal:
    """What is to be written, of which model, and whether samples may be left out."""

    output: Path
    facts: "ModelFacts | None"
    skip_refused: bool
    force: bool


def capture_command(
    url: Annotated[str, _URL],
    prompts: Annotated[str, _PROMPTS],
    output: Annotated[Path, _OUTPUT],
    n: Annotated[int, typer.Option("--n", min=1, help="Samples of every prompt.")] = 1,
    max_tokens: Annotated[int, typer.Option(min=0, help="Response tokens at most.")] = 256,
    temperature: Annotated[float, typer.Option(min=0.0)] = 1.0,
    seed: Annotated[
        int | None, typer.Option(help="Of a prompt's first sample; one more for each next one.")
    ] = None,
    sampling: Annotated[list[str] | None, _SAMPLING] = None,
    endpoint: Annotated[str | None, _ENDPOINT] = None,
    served_model: Annotated[str | None, _SERVED] = None,
    concurrency: Annotated[int, _CONCURRENCY] = 32,
    timeout: Annotated[float, _TIMEOUT] = 600.0,
    retries: Annotated[int, _RETRIES] = 6,
    backoff: Annotated[float, _BACKOFF] = 0.5,
    api_key_file: Annotated[Path | None, _KEY] = None,
    skip_refused: Annotated[bool, _SKIP] = False,
    force: Force = False,
    model: Model = None,
    num_layers: NumLayers = None,
    top_k: TopK = None,
    num_experts: NumExperts = None,
) -> int:
    """Ask a running SGLang or vLLM server for rollouts with routed experts.

    Answers are kept beside DST as they come, in DST.partial.jsonl: the same command after an
    interruption asks for what is missing. DST appears whole, in the order of the prompts. The
    server must run with --enable-return-routed-experts. docs/live.md says more.
    """
    from ..engines.asking import Asking
    from ..engines.http import parse_address
    from ..engines.patience import Patience
    from ..engines.prompts import read_prompts
    from ..engines.requests import Sampling, plan_requests
    from ..engines.server import ENDPOINTS
    from ..jobs.stdin import file_of

    if endpoint is not None and endpoint not in ENDPOINTS:
        raise RoutectlError(f"--endpoint {endpoint!r} is not known: {', '.join(ENDPOINTS)}")
    check_output(output, force)
    facts = _facts(output, model_from(model, num_layers, top_k, num_experts))
    goal = _Goal(output, facts, skip_refused, force)
    asked = read_prompts(Path(file_of(prompts)))
    wanted = Sampling(max_tokens, temperature, seed, _options(sampling))
    address = parse_address(url, _key(api_key_file))
    patience = Patience(retries, backoff)
    server = _server(address, endpoint, served_model, Patience(min(retries, 2), backoff))
    requests = plan_requests(server, asked, wanted, n, endpoint)
    asking = Asking(server, concurrency, timeout, patience, goal.facts)
    return _run(asking, requests, goal)


def _options(given: Sequence[str] | None) -> dict[str, Any]:
    """Sampling options out of NAME=JSON; a value that is no JSON is a string."""
    options: dict[str, Any] = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise RoutectlError(f"--sampling {text}: expected NAME=JSON, as top_p=0.9")
        try:
            options[name] = json.loads(value)
        except (ValueError, RecursionError):
            options[name] = value
    return options


def _key(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        key = path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise RoutectlError(f"{path}: no key can be read: {type(error).__name__}") from None
    if not key or not key.isprintable():
        raise RoutectlError(f"{path}: no key in it: expected one line")
    return key


def _facts(output: Path, model: "ModelFacts | Path | None") -> "ModelFacts | None":
    """The model of what is captured; None for JSON lines of a model that is not known."""
    from ..errors import FormatError
    from ..formats.documents.facts import find_context

    if output.suffix not in (".parquet", ".jsonl"):
        raise RoutectlError(f"{output}: expected NAME.parquet or NAME.jsonl")
    try:
        return find_context(output, model).facts
    except FormatError:
        if model is None and output.suffix == ".jsonl":
            return None
        raise


def _server(
    address: "Address", endpoint: str | None, model: str | None, patience: "Any"
) -> "Server":
    """The server, asked what it is; with an endpoint of one engine alone it is known."""
    import threading

    from ..engines.http import Line, Reply
    from ..engines.patience import body_or_raise, patiently
    from ..engines.server import assumed_server, find_server

    line, never = Line(address, 30.0), threading.Event()

    def ask(path: str) -> Reply:
        def attempt() -> Reply:
            reply = line.call(path)
            if reply.status == 429 or reply.status >= 500:
                body_or_raise(reply, address.url(path))
            return reply

        return patiently(attempt, patience, never)

    if endpoint is not None:
        known = assumed_server(address, endpoint, model)
        if known.engine is not None or model is not None:
            return known
    found = find_server(address, ask, model)
    name = f"{found.engine or 'a server of unknown kind'} {found.version or ''}".rstrip()
    note(f"{address.url('')}: {name}, model {found.model or 'not named'}")
    return found


def _run(asking: "Asking", requests: "Sequence[Request]", goal: _Goal) -> int:
    """Collect the answers and write them; what was had stays in the side file on trouble."""
    from ..engines.answers import judge_answer
    from ..engines.journal import Journal, partial_path
    from ..engines.run import collect

    journal = Journal(
        partial_path(goal.output),
        lambda request, doc: judge_answer(doc, request, asking.server, asking.facts).sample_id,
    )
    try:
        journal.load(requests)
        if len(journal):
            note(f"{journal.path}: {len(journal)} of {len(requests)} answers are there")
        todo = len(requests) - len(journal)
        with counting("capturing", todo, "samples", tokens_rate) as advance:
            refused = collect(
                asking, requests, journal, skip_refused=goal.skip_refused, on_answer=advance
            )
        _write(asking, requests, journal, goal)
    except BaseException:
        _kept(journal, len(requests))
        raise
    finally:
        journal.close()
    journal.path.unlink(missing_ok=True)
    _say_refused(refused)
    return 0


def _kept(journal: "Journal", total: int) -> None:
    if len(journal):
        note(f"{journal.path}: keeps {len(journal)} of {total} answers; the same command goes on")


def _say_refused(refused: "Sequence[tuple[Request, RefusedError]]") -> None:
    for request, error in refused[:3]:
        note(f"left out {request.sample_id}: {error}")
    if len(refused) > 3:
        note(f"left out {len(refused) - 3} more")


def _write(
    asking: "Asking", requests: "Sequence[Request]", journal: "Journal", goal: _Goal
) -> None:
    """The file that was asked for, whole, in the order of the requests."""
    from dataclasses import replace

    from ..formats import open_dump
    from ..formats.native.container import write_native

    had = [request.sample_id for request in requests if request.sample_id in journal]
    if not had:
        raise RoutectlError(f"{goal.output}: no answer to write: every request was refused")
    if goal.output.suffix == ".jsonl":
        journal.write_lines(goal.output, had, force=goal.force)
    else:
        dump = open_dump(journal.path, model=goal.facts, format="jsonl")
        places = {key.sample_id: i for i, key in enumerate(dump.keys)}
        ordered = dump.select(samples=[places[name] for name in had])
        source = asking.server.address.url(requests[0].path)
        meta = replace(dump.meta, path=source, file_bytes=None)
        with watching(ordered, "writing") as watched:
            write_native(watched, meta, goal.output, force=goal.force)
    note(f"wrote {goal.output}: {plural(len(had), 'sample')}")
