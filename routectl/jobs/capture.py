"""``routectl capture``: rollouts with routes, asked of a running engine."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RoutectlError, check_choice
from ..files.places import place_of
from ..files.reading import read_bytes
from ..model import ModelFacts
from ..reports.text.wording import plural
from .options import argument, check_bounds, force_option, no_tokens_option, option
from .progress import SILENT, Progress, tokens_rate
from .reading import EXPERT_MAP, MODEL, WITHOUT_TOKENS

if TYPE_CHECKING:
    from ..engines.asking import Asking
    from ..engines.http import Address, RefusedError
    from ..engines.journal import Journal
    from ..engines.requests import Request
    from ..engines.server import Server
    from ..formats.documents.facts import Model
    from ..formats.experts.maps import ExpertMap
    from ..reports.dumps import WrittenDocument

__all__ = ["CaptureRequest", "capture_rollouts"]

_MAX_KEY = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureRequest:
    """A server, the prompts, how it is asked, and the file to be written.

    timeout and backoff are in seconds; backoff is waited before the second try, and doubled each
    time. A file is replaced with ``force`` alone.
    """

    url: str = argument(
        metavar="URL", help="The server: http://HOST:PORT, or the URL of an endpoint there."
    )
    prompts: str = option(
        metavar="FILE", help="JSON lines: prompt_token_ids, prompt or messages; id, group."
    )
    save: Path = option(
        metavar="DST",
        help="NAME.parquet: native; NAME.jsonl: requests and responses as they were.",
    )
    n: int = option(1, least=1, help="Samples of every prompt.")
    max_tokens: int = option(256, least=0, help="Response tokens at most.")
    temperature: float = option(1.0, least=0.0, help=None)
    seed: int | None = option(None, help="Of a prompt's first sample; one more for each next one.")
    sampling: tuple[str, ...] = option(
        (), metavar="NAME=JSON", help="Any option of the engine's, as top_p=0.9; repeatable."
    )
    request: tuple[str, ...] = option(
        (),
        metavar="KEY=VALUE",
        help="A field of the request itself, as cache_salt=a; VALUE is JSON or else text; "
        "repeatable.",
    )
    endpoint: str | None = option(
        None,
        metavar="NAME",
        help="generate (SGLang), completions, chat or inference (vLLM); found out when not given.",
    )
    concurrency: int = option(32, least=1, most=1024, help="Requests at once.")
    timeout: float = option(600.0, least=0.1, help="Seconds for a whole answer.")
    retries: int = option(
        6, least=0, help="Further tries after 500, a time-out, a cut answer or an abort."
    )
    patience: float = option(
        600.0, least=0.0, help="Seconds to wait for a server that is away, busy or restarting."
    )
    api_key_file: Path | None = option(
        None, metavar="FILE", help="Its text is sent as bearer token."
    )
    skip_refused: bool = option(False, help="Go on without requests that the server refuses.")
    no_tokens: bool = no_tokens_option("DST and of DST.partial.jsonl, and keep no prompts there")
    force: bool = force_option()
    model: str | Path | ModelFacts | None = option(None, **MODEL)
    expert_map: Path | None = option(None, **EXPERT_MAP)
    backoff: float = 0.5

    def __post_init__(self) -> None:
        from ..engines.server import ENDPOINTS

        check_bounds(self)
        if not 0.0 <= self.backoff < inf:
            raise RoutectlError(f"backoff {self.backoff}: expected at least 0 seconds")
        if self.endpoint is not None:
            check_choice("--endpoint", self.endpoint, ENDPOINTS)


def capture_rollouts(request: CaptureRequest, progress: Progress = SILENT) -> "WrittenDocument":
    """Ask for rollouts and write them; the routectl.written/1 document.

    Answers are kept beside the file as they come; the same request goes on from them, unless it
    keeps no tokens.
    """
    from ..engines.asking import Asking
    from ..engines.http import parse_address
    from ..engines.patience import Patience
    from ..engines.prompts import read_prompts
    from ..engines.requests import Sampling, plan_requests
    from ..files.writing import refuse_existing
    from ..formats.documents.facts import Physical, read_model
    from .stdin import file_of

    refuse_existing(request.save, force=request.force)
    if request.save.suffix not in (".parquet", ".jsonl"):
        raise RoutectlError(f"{request.save}: expected NAME.parquet or NAME.jsonl")
    facts = None if request.model is None else read_model(request.model)
    fields = _values("--request", request.request, "KEY=VALUE, as cache_salt=a")
    served = _served(fields)
    asked = read_prompts(place_of(file_of(request.prompts)))
    wanted = Sampling(
        request.max_tokens,
        request.temperature,
        request.seed,
        _values("--sampling", request.sampling, "NAME=JSON, as top_p=0.9"),
        fields,
    )
    url, endpoint = _place(request)
    address = parse_address(url, _key(request.api_key_file))
    server = _server(address, request, endpoint, served)
    if facts is None:
        facts = _found(server, request.save, progress)
    experts = _experts(request, facts)
    progress.note(f"{address.url('')}: {server.name}, model {server.model or 'not named'}")
    requests = plan_requests(server, asked, wanted, request.n, endpoint)
    _say_ignored(server, requests, progress)
    patience = Patience(request.retries, request.backoff, outlast_s=request.patience)
    asking = Asking(
        server,
        request.concurrency,
        request.timeout,
        patience,
        facts if facts is None or experts is None else experts.physical(facts),
        say=progress.note,
        tokens=not request.no_tokens,
    )
    model = facts if experts is None else Physical(facts, experts)
    return _run(asking, requests, request, model, progress)


def _experts(request: CaptureRequest, facts: ModelFacts | None) -> "ExpertMap | None":
    """The map of the physical experts whose ids the engine answers with; of the model's layers."""
    if request.expert_map is None:
        return None
    from ..formats.documents.facts import MODEL_HINT
    from ..formats.experts.maps import read_expert_map
    from .stdin import file_of

    if facts is None:
        raise RoutectlError("--expert-map: the model is not known", hint=MODEL_HINT)
    experts = read_expert_map(file_of(str(request.expert_map)))
    experts.check(facts)
    return experts


def _place(request: CaptureRequest) -> tuple[str, str | None]:
    """The URL of the server, and the endpoint that it or --endpoint names."""
    from ..engines.server import endpoint_in

    url, named = endpoint_in(request.url)
    if named is not None and request.endpoint not in (None, named):
        raise RoutectlError(
            f"{request.url}: ends in the path of {named}, and --endpoint is {request.endpoint}"
        )
    return url, named or request.endpoint


def _values(flag: str, given: Sequence[str], form: str) -> dict[str, Any]:
    """Values by name out of NAME=JSON; a value that is no JSON is a string."""
    options: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise RoutectlError(f"{flag} {text}: expected {form}")
        try:
            options[name] = json.loads(value)
        except (ValueError, RecursionError):
            options[name] = value
    return options


def _key(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        key = read_bytes(path, _MAX_KEY, "too large for a key").decode("ascii").strip()
    except UnicodeDecodeError as error:
        raise RoutectlError(f"{path}: no key can be read: {type(error).__name__}") from None
    if not key or not key.isprintable():
        raise RoutectlError(f"{path}: no key in it: expected one line")
    return key


def _served(fields: dict[str, Any]) -> str | None:
    """The model that --request model=NAME asks for, taken out of the fields; None without."""
    name = fields.pop("model", None)
    if name is not None and not (isinstance(name, str) and name):
        raise RoutectlError(f"--request model={name}: expected the name of a served model")
    return name


def _found(server: "Server", save: Path, progress: Progress) -> "ModelFacts | None":
    """The model that the server runs, found on this machine, else what lies beside DST.

    None where nothing tells it and NAME.jsonl is written, which needs none; RoutectlError where
    NAME.parquet is.
    """
    from ..errors import FormatError
    from ..formats.documents.facts import find_context, read_model
    from ..formats.documents.hub import cached_config

    for name in filter(None, (server.weights, server.model)):
        try:
            config = Path(name) if Path(name).is_absolute() else cached_config(name)
            facts = None if config is None else read_model(config)
        except FormatError:
            continue
        if facts is not None:
            progress.note(f"model of {server.address.url('')} from {facts.source}")
            return facts
    try:
        beside = find_context(save, None).facts
    except FormatError:  # nothing is there, or of something else
        beside = None
    if beside is not None:
        progress.note(f"model of {server.address.url('')} from {beside.source}, beside {save.name}")
    elif save.suffix == ".parquet":
        _refuse_unknown(server)
    return beside


def _refuse_unknown(server: "Server") -> None:
    """Raise RoutectlError: which model's sizes are needed for a native file."""
    from ..formats.documents.hub import hub_folder

    runs = server.weights or server.model
    where = f"neither a folder here nor in {hub_folder()}"
    raise RoutectlError(
        f"{server.address.url('')}: the model is not known: the server "
        + (f"runs {runs}, {where}" if runs else "does not say which it runs"),
        hint="--model CONFIG.json" + (f" of {runs}" if runs else "") + "; NAME.jsonl needs none",
    )


def _server(
    address: "Address", request: CaptureRequest, endpoint: str | None, served: str | None
) -> "Server":
    """The server, asked what it is. That somebody is there is known in seconds, or never."""
    from ..engines.patience import GaveUpError, Patience
    from ..engines.probing import probing
    from ..engines.server import find_server

    outlast_s = min(request.patience, 6 * request.backoff)
    patience = Patience(min(request.retries, 1), request.backoff, outlast_s=outlast_s)
    ask = probing(address, request.timeout, patience)
    try:
        return find_server(address, ask, endpoint, served)
    except GaveUpError as error:
        if error.away:
            error.hint = "start the engine with --enable-return-routed-experts: docs/live.md"
        raise


def _say_ignored(server: "Server", requests: "Sequence[Request]", progress: Progress) -> None:
    """Notes on what the engine will not heed."""
    from ..engines.parameters import ignored_fields

    told: dict[str, None] = {}
    seeds = False
    for request in requests:
        told.update(dict.fromkeys(ignored_fields(server, request.endpoint, request.body)))
        names = {*request.body, *request.body.get("sampling_params", ())}
        seeds = seeds or not names.isdisjoint(("seed", "sampling_seed"))
    for line in told:
        progress.note(line)
    if seeds and server.engine == "sglang" and not server.seeds:
        how = "runs" if server.seeds is False else "may run"
        progress.note(
            "a seed does nothing unless SGLang runs with --enable-deterministic-inference: this "
            f"server {how} without, and equal seeds give different samples"
        )


def _run(
    asking: "Asking",
    requests: "Sequence[Request]",
    goal: CaptureRequest,
    model: "Model",
    progress: Progress,
) -> "WrittenDocument":
    """Collect the answers and write them; what was had stays in the side file on trouble."""
    from ..engines.answers import judge_answer
    from ..engines.asking import collect
    from ..engines.journal import Journal, partial_path
    from ..reports.dumps import written_document

    journal = Journal(
        partial_path(goal.save),
        lambda request, doc: judge_answer(doc, request, asking.server, asking.facts).sample_id,
    )
    try:
        if not asking.tokens:
            journal.refuse_earlier()
        journal.load(requests)
        if len(journal):
            progress.note(f"{journal.path}: {len(journal)} of {len(requests)} answers are there")
        for line in journal.said_of(asking.server):
            progress.note(line)
        todo = len(requests) - len(journal)
        with progress.counting("capturing", todo, "samples", tokens_rate) as advance:
            refused = collect(
                asking, requests, journal, skip_refused=goal.skip_refused, on_answer=advance
            )
        count = _write(asking, requests, journal, goal, model, progress)
        journal.remove()
    except BaseException:
        _say_kept(journal, len(requests), asking, progress)
        raise
    finally:
        journal.close()
    _say_refused(refused, progress)
    form = "native" if goal.save.suffix == ".parquet" else "jsonl"
    return written_document(
        goal.url,
        str(goal.save),
        count,
        format=form,
        dropped=len(refused),
        left_out=[],
        bytes=goal.save.stat().st_size,
    )


def _say_kept(journal: "Journal", total: int, asking: "Asking", progress: Progress) -> None:
    if len(journal):
        then = "the same command goes on" if asking.tokens else "it is a dump, and not gone on with"
        progress.note(f"{journal.path}: keeps {len(journal)} of {total} answers; {then}")


def _say_refused(refused: "Sequence[tuple[Request, RefusedError]]", progress: Progress) -> None:
    for request, error in refused[:3]:
        progress.note(f"left out {request.sample_id}: {error}")
    if len(refused) > 3:
        progress.note(f"left out {len(refused) - 3} more")


def _write(
    asking: "Asking",
    requests: "Sequence[Request]",
    journal: "Journal",
    goal: CaptureRequest,
    model: "Model",
    progress: Progress,
) -> int:
    """The file that was asked for, whole, in the order of the requests."""
    from dataclasses import replace

    from ..formats import open_dump
    from ..formats.native.container import write_native

    had = [request.sample_id for request in requests if request.sample_id in journal]
    if not had:
        raise RoutectlError(f"{goal.save}: no answer to write: every request was refused")
    if goal.save.suffix == ".jsonl":
        journal.write_lines(goal.save, had, force=goal.force)
    else:
        dump = open_dump(journal.path, model=model, format="jsonl")
        places = {key.sample_id: i for i, key in enumerate(dump.keys)}
        ordered = dump.select(samples=[places[name] for name in had])
        source = asking.server.address.url(requests[0].path)
        names = "+".join(sorted(journal.models))
        served = {"served_model": names} if names else {}
        provenance = {**dump.meta.provenance, **served}
        meta = replace(dump.meta, path=source, file_bytes=None, provenance=provenance)
        with progress.watching(ordered, "writing") as watched:
            write_native(watched, meta, goal.save, force=goal.force)
    progress.note(f"wrote {goal.save}: {plural(len(had), 'sample')}")
    if goal.no_tokens:
        progress.note(WITHOUT_TOKENS)
    if goal.save.suffix == ".jsonl" and goal.expert_map is not None:
        named = f"{goal.save}::expert_map={goal.expert_map}"
        progress.note(f"{goal.save} has the physical ids, as they came: read it as {named}")
    return len(had)
