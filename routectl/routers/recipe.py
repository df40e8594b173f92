"""A recipe: how a router turns hidden states into ids and weights, as plain facts.

``recipes`` reads them from configs, ``routers.route`` applies them. E is num_experts, K is top_k.
"""

from dataclasses import dataclass, replace

from ..errors import unknown

__all__ = ["Recipe", "unfit_groups"]

WORDS = {
    "matrix_dtype": ("stored", "model", "float32"),
    "logits_dtype": ("weight", "weight_then_float32", "float32", "float32_then_model", "float64"),
    "score": ("softmax", "sigmoid", "sqrtsoftplus", "sparsemixer"),
    "score_dtype": ("float32", "logits", "rounded"),
    "select_on": ("scores", "logits", "table"),
    "bias_dtype": ("stored", "bfloat16"),
    "group_mask": ("-inf", "zero"),
    "weights_of": ("scores", "selection"),
    "weight_dtype": ("score", "logits", "model"),
    "tie": ("lowest", "highest"),
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one model's routers work; the order of the fields is the order of the steps.

    family, source   whose recipe it is, and where it was read: project, version, class.
    num_experts      E, routed experts only.
    top_k            K.
    matrix_dtype     of the router's matrix in the model: as stored; the model's own, which hidden
                     states have; or float32.
    logits_dtype     of the product of hidden and weight: the weight's; the same and then float32;
                     float32 or float64 for both operands; or float32, then rounded to the model's.
    logits_gap       why the product alone does not give the logits, or "".
    linear_bias      the product has a bias.
    multiplier       a factor on the logits.
    softcap          c: logits become c tanh(logits / c); 0 is none.
    score            the score function.
    score_dtype      float32; the logits'; or rounded: float32, then rounded to the logits' dtype.
    select_on        scores: experts are selected by score, and weights are scores. logits: they
                     are selected by logit, and the score function sees the selected ones only.
                     table: by a table of token ids.
    expert_bias      a bias is added to what is selected on.
    bias_dtype       the bias as stored, or rounded to bfloat16 first.
    n_group          groups of experts; 1 is none.
    topk_group       groups that are kept.
    group_best       a group scores the sum of so many of its best experts.
    group_distinct   experts that equal the best one do not count beside it (SGLang's Triton gate).
    each_group       every group gives its top_k / n_group best experts, and none is dropped.
    group_mask       what experts of dropped groups score.
    tie              which id is taken of equal scores.
    weights_of       scores: without bias and mask; selection: with them.
    normalise        the K weights are divided by their sum.
    norm_eps         is added to that sum.
    norm_min         is the least that sum can be.
    mean             weights are divided by K.
    expert_scale     a factor per expert on the weights.
    scale            a factor on the weights inside the router.
    weight_dtype     as computed; the logits'; or the model's, which is left to the caller.
    zero_experts     ids E and up that return their input.
    skip_experts     ids E and up that return nothing: their weight is 0.
    jitter           sparsemixer's threshold.
    hash_layers      layers, 0-based, that select by table; see ``at``.

    Raises ValueError for a word that is not known or sizes that do not fit.
    """

    family: str
    source: str
    num_experts: int
    top_k: int
    matrix_dtype: str = "stored"
    logits_dtype: str = "weight"
    logits_gap: str = ""
    linear_bias: bool = False
    multiplier: float = 1.0
    softcap: float = 0.0
    score: str = "softmax"
    score_dtype: str = "float32"
    select_on: str = "scores"
    expert_bias: bool = False
    bias_dtype: str = "stored"
    n_group: int = 1
    topk_group: int = 1
    group_best: int = 2
    group_distinct: bool = False
    each_group: bool = False
    group_mask: str = "-inf"
    tie: str = "lowest"
    weights_of: str = "scores"
    normalise: bool = False
    norm_eps: float = 0.0
    norm_min: float = 0.0
    mean: bool = False
    expert_scale: bool = False
    scale: float = 1.0
    weight_dtype: str = "score"
    zero_experts: int = 0
    skip_experts: int = 0
    jitter: float = 0.0
    hash_layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, known in WORDS.items():
            if getattr(self, name) not in known:
                raise unknown(name, getattr(self, name), known, ValueError)
        if not 1 <= self.top_k <= self.columns or self.num_experts < 1:
            raise ValueError(f"top_k must be in 1..{self.columns}, got {self.top_k}")
        if wrong := unfit_groups(self.columns, self.top_k, self.n_group, self.topk_group):
            raise ValueError(wrong)
        if self.grouped and not 1 <= self.group_best <= self.columns // self.n_group:
            raise ValueError(f"group_best must fit into a group, got {self.group_best}")
        if self.each_group and (self.grouped or self.top_k % self.n_group):
            raise ValueError(
                f"each_group: top_k {self.top_k} of {self.n_group} groups, none dropped"
            )
        if self.score == "sparsemixer" and self.top_k != 2:
            raise ValueError(f"sparsemixer selects 2 experts, got top_k {self.top_k}")

    @property
    def columns(self) -> int:
        """Columns of the logits: E, and the experts that return their input or nothing."""
        return self.num_experts + self.zero_experts + self.skip_experts

    @property
    def grouped(self) -> bool:
        """Whether groups change anything: some group is dropped."""
        return self.topk_group < self.n_group

    def at(self, layer: int) -> "Recipe":
        """The recipe of one layer, 0-based: a hash layer selects by table, without a bias."""
        if layer not in self.hash_layers:
            return replace(self, hash_layers=())
        return replace(self, hash_layers=(), select_on="table", expert_bias=False)

    def describe(self) -> str:
        """One line as people say it: "sigmoid + bias, top-2-sum of 8 groups keep 4, ..."."""
        return ", ".join(part for part in _parts(self) if part)


def unfit_groups(columns: int, top_k: int, n_group: int, topk_group: int) -> str:
    """Why experts cannot be split into these groups, or ""."""
    if n_group < 1 or columns % n_group:
        return f"bad n_group: got {n_group}, expected a divisor of {columns} experts"
    least = -(-top_k * n_group // columns)
    if not least <= topk_group <= n_group:
        return (
            f"bad topk_group: got {topk_group}, expected {least} to {n_group} for top-{top_k} "
            f"of {columns} experts in {n_group} groups"
        )
    return ""


def _parts(recipe: Recipe) -> list[str]:
    """The steps in words, empty where a step does nothing."""
    total = f"top-{recipe.top_k} of {recipe.num_experts}"
    total += f" + {recipe.zero_experts} zero experts" if recipe.zero_experts else ""
    total += " + 1 to skip" if recipe.skip_experts else ""
    late = f"{recipe.score} of those"
    if recipe.each_group:
        each = f"{recipe.columns // recipe.n_group} in each of {recipe.n_group} groups"
        total = f"top-{recipe.top_k // recipe.n_group} of {each}"
    layers = ", ".join(map(str, recipe.hash_layers))
    bias = " + bias" if recipe.expert_bias else ""
    best = "best" if recipe.group_best == 1 else f"top-{recipe.group_best}-sum"
    best += " of distinct scores" if recipe.group_distinct else ""
    groups = f"{best} of {recipe.n_group} groups keep {recipe.topk_group}"
    on = {"scores": recipe.score + bias, "logits": "logits" + bias, "table": ""}[recipe.select_on]
    return [
        f"layers {layers} by table of token ids" if layers else "",
        f"logits x {recipe.multiplier:g}" if recipe.multiplier != 1 else "",
        f"logits capped at {recipe.softcap:g}" if recipe.softcap else "",
        on,
        groups if recipe.grouped else "",
        total + (" by table of token ids" if not on else ""),
        late if recipe.select_on != "scores" else "",
        "normalised" if recipe.normalise else "",
        f"/ {recipe.top_k}" if recipe.mean else "",
        "x a scale per expert" if recipe.expert_scale else "",
        f"x {recipe.scale:g}" if recipe.scale != 1 else "",
    ]
