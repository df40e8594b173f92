"""What a config.json says about a model's routes: MoE layers, experts and top_k.

Names and rules are those of transformers 5.23 (``models/*/{configuration,modeling}_*.py``) and of
the hub files that it rewrites on load. The defaults of its classes are not applied: a file that
names no dense layer has none.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from re import compile as pattern

from .errors import FormatError
from .visible import quoted

__all__ = ["ModelFacts", "facts_from_config", "facts_from_sizes", "text_part"]

MAX_LAYERS = 4096
MAX_EXPERTS = 65536  # ids are uint16 at most
SIZES = pattern(r"\d{1,9},\d{1,9},\d{1,9}")
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
TOP_K = (
    *("num_experts_per_tok", "num_experts_per_token", "top_k_experts"),
    *("moe_k", "moe_topk", "moe_top_k"),
)
TEXT_PARTS = ("thinker_config", "text_config", "llm_config", "language_config")  # outer, inner
SWITCHES = ("enable_moe_block", "is_moe")  # false: every layer is dense
ATTENTION = ("attention", "full_attention", "mamba", "linear_attention")
WORDS = (  # one word a layer: the name, the words of MoE layers, the other words
    ("mlp_layer_types", ("sparse", "moe", "hash_moe"), ("dense",)),
    ("layers_block_type", ("moe",), ("mlp", *ATTENTION)),
    ("hybrid_override_pattern", ("E",), ("M", "*", "-")),
)
NUMBERS = ("moe_layers", "moe_layers_enum")  # the MoE layers themselves
FIRST = ("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index", "dense_mlp_idx")
STEPS = ("decoder_sparse_step", "interleave_moe_layer_step", "moe_layer_interval")  # the last of n
IDLE = {"zaya": 1}  # choices of the family's routers behind the experts: Zaya's skip
MTP = ("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_layers", "mtp_num_layers")


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """The sizes of a model's routes; ``layers`` are its MoE layers, 0-based and ascending.

    ``num_layers`` counts dense layers too, as engines do; ``num_experts`` counts every id that the
    router can give: routed experts, and behind them ``zero_experts`` that return their input
    (LongCat) or nothing (Zaya), never shared ones; ``model_type`` is the text model's.
    ``mtp_layers`` are those that predict further tokens: behind the decoder's layers, in no other
    count. ``source`` says where they are from: a path, or words; it is in no comparison.
    """

    num_layers: int
    layers: tuple[int, ...]
    num_experts: int
    top_k: int
    model_type: str | None
    zero_experts: int = 0
    mtp_layers: int = 0
    source: str | None = field(default=None, compare=False)


def facts_from_config(config: Mapping[str, object], source: str) -> ModelFacts:
    """A config.json document, read into facts; ``source`` opens the message of a FormatError."""
    if not isinstance(config, Mapping):
        raise _bad(source, "not a config", quoted(config, 120), "a JSON object")
    part = text_part(config)
    reader = _Reader(part, source)
    routed = reader.same_in_all_layers(EXPERTS, "no MoE layer", 0, MAX_EXPERTS)
    if routed <= 1:
        raise _bad(source, "no MoE layer", f"{routed} experts", "2 or more")
    kind = part.get("model_type") or config.get("model_type")
    zero = reader.number("zero_expert_num", IDLE.get(str(kind), 0), high=MAX_EXPERTS - routed)
    top_k = reader.same_in_all_layers(TOP_K, "no top_k", 1, routed + zero)
    num_layers = reader.num_layers()
    layers = _moe_layers(reader, num_layers)
    if not layers:
        raise _bad(source, "no MoE layer", f"{num_layers} dense layers", "at least 1 MoE layer")
    return ModelFacts(
        num_layers,
        layers,
        routed + zero,
        top_k,
        kind if isinstance(kind, str) else None,
        zero,
        max(reader.number(name, 0) for name in MTP),
        source,
    )


def facts_from_sizes(text: str) -> ModelFacts | None:
    """The facts of ``LAYERS,K,E``, three numbers such as "48,8,128"; None for any other text.

    All layers are MoE layers: 1 to 4096 of them, 0-based; E is 1 to 65536, K 1 to E. Raises
    FormatError for a number out of these bounds.
    """
    if not SIZES.fullmatch(text):
        return None
    num_layers, top_k, num_experts = map(int, text.split(","))
    bounds = (
        ("LAYERS", num_layers, MAX_LAYERS),
        ("E", num_experts, MAX_EXPERTS),
        ("K", top_k, num_experts),
    )
    for name, size, most in bounds:
        if not 1 <= size <= most:
            raise FormatError(f"{text}: LAYERS,K,E: got {name} {size}, expected 1 to {most}")
    return ModelFacts(
        num_layers, tuple(range(num_layers)), num_experts, top_k, None, source=f"the sizes {text}"
    )


def text_part(config: Mapping[str, object]) -> Mapping[str, object]:
    """The part of a config.json that describes the text model; the whole where none has experts."""
    part = config
    for name in TEXT_PARTS:
        inner = part.get(name)
        part = inner if isinstance(inner, Mapping) else part
    experts = part.get("ffn_config")
    if isinstance(experts, Mapping):  # DBRX
        own = {"model_type": part.get("model_type"), "num_hidden_layers": part.get("n_layers")}
        part = {**part, **experts, **own}
    return config if all(part.get(name) is None for name in EXPERTS) else part


def _bad(source: str, wrong: str, got: str, expected: str) -> FormatError:
    hint = "a dense model has no routes" if wrong == "no MoE layer" else None
    return FormatError(f"{source}: {wrong}: got {got}, expected {expected}", hint=hint)


@dataclass(frozen=True, slots=True)
class _Reader:
    """The text part of a config, checked as it is read; null reads as absent."""

    part: Mapping[str, object]
    source: str

    def bad(self, name: str, value: object, expected: str) -> FormatError:
        return _bad(self.source, f"bad {name}", quoted(value, 120), expected)

    def check(self, name: str, value: object, low: int, high: int) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        raise self.bad(name, value, f"a whole number from {low} to {high}")

    def number(self, name: str, default: int, low: int = 0, high: int = MAX_LAYERS) -> int:
        value = self.part.get(name)
        return default if value is None else self.check(name, value, low, high)

    def same_in_all_layers(self, names: tuple[str, ...], wrong: str, low: int, high: int) -> int:
        """The one number under these names, in per-layer lists and overrides too."""
        overrides = self.part.get("per_layer_config")
        layers = overrides.values() if isinstance(overrides, Mapping) else ()
        found: dict[int, str] = {}
        for place in (self.part, *(layer for layer in layers if isinstance(layer, Mapping))):
            for name in (name for name in names if place.get(name) is not None):
                value = place[name]
                for entry in value if isinstance(value, list) else [value]:
                    found.setdefault(self.check(name, entry, low, high), name)
        if not found:
            raise _bad(self.source, wrong, f"none of {', '.join(names)}", "one of them")
        if len(found) > 1:
            got = " and ".join(f"{name}={number}" for number, name in list(found.items())[:2])
            raise _bad(self.source, "unlike layers", got, "one number for all layers")
        return next(iter(found))

    def num_layers(self) -> int:
        """The decoder layers; LongCat's num_hidden_layers counts two attentions in each."""
        blocks = self.part.get("layers_block_type") or self.part.get("hybrid_override_pattern")
        decoders = self.number("num_layers", 0)
        length = len(blocks) if isinstance(blocks, list | str) else 0
        hidden = self.number("num_hidden_layers", decoders or length)
        num_layers = decoders if hidden == 2 * decoders else hidden
        return self.check("num_hidden_layers", num_layers or None, 1, MAX_LAYERS)

    def entries(self, name: str, allowed: tuple[object, ...], num_layers: int) -> list[object]:
        """One allowed entry a layer; the MTP layers' entries, which follow, are dropped."""
        value = self.part[name]
        if not isinstance(value, list | str) or len(value) < num_layers:
            raise self.bad(name, value, f"an entry for each of {num_layers} layers")
        for entry in value[:num_layers]:
            if entry not in allowed:
                raise self.bad(name, entry, f"one of {', '.join(map(str, allowed))}")
        return list(value[:num_layers])

    def numbers(self, name: str) -> set[int]:
        """The layers in a list, or in a string such as "3,4" (Step 3)."""
        value = self.part.get(name)
        if isinstance(value, str):
            words = [word.strip() for word in value.split(",") if word.strip()]
            value = [int(w) if w.isdecimal() and len(w) < 9 else w for w in words]
        if not isinstance(value, list | None):
            raise self.bad(name, value, "a list of layers")
        return {self.check(name, entry, 0, MAX_LAYERS) for entry in value or ()}


def _moe_layers(reader: _Reader, num_layers: int) -> tuple[int, ...]:
    """The MoE layers: off, else by a word a layer, else by their numbers, else by arithmetic."""
    part = reader.part
    if any(part.get(name) is False for name in SWITCHES):
        return ()
    for name, moe, others in (row for row in WORDS if part.get(row[0]) is not None):
        words = reader.entries(name, (*moe, *others), num_layers)
        if not all(word in ATTENTION for word in words):  # Jamba's list is of attention alone
            return tuple(layer for layer, word in enumerate(words) if word in moe)
    for name in NUMBERS:
        if part.get(name) is not None:
            return tuple(sorted(n for n in reader.numbers(name) if n < num_layers))
    return _by_arithmetic(reader, num_layers)


def _by_arithmetic(reader: _Reader, num_layers: int) -> tuple[int, ...]:
    """The layers that no rule calls dense."""
    first = max(reader.number(name, 0) for name in FIRST)
    last = reader.number("moe_layer_end_index", -1, low=-1)  # ERNIE: -1 is the last layer
    stop = num_layers if last == -1 else min(last + 1, num_layers)
    layers = set(range(first, stop)) - reader.numbers("mlp_only_layers")
    if isinstance(reader.part.get("moe_layer_freq"), list):
        flags = reader.entries("moe_layer_freq", (0, 1), num_layers)
        layers &= {layer for layer, flag in enumerate(flags) if flag}
    else:
        layers &= set(range(0, num_layers, reader.number("moe_layer_freq", 1, low=1)))
    for name in STEPS:
        step = reader.number(name, 1, low=1)
        layers &= set(range(step - 1, num_layers, step))
    period = reader.number("expert_layer_period", 1, low=1)
    offset = reader.number("expert_layer_offset", 0, high=period - 1)
    return tuple(sorted(layers & set(range(offset, num_layers, period))))
