"""Which fields an endpoint knows: what is given in the wrong place, or to no purpose, is told.

Engines pass over a field of a request that they do not know, and say nothing. The names are those
that the two engines' request classes declare; where a field needs a later version, it is told with
that. Source: SGLang 0.5.23, managers/io_struct.py (GenerateReqInput), api/v1 (SamplingParams),
entrypoints/openai/protocol.py; vLLM 0.32.0, entrypoints/openai/completion and chat_completion,
scale_out/token_in_token_out (protocol.py), sampling_params.py; vLLM 0.33.0 for the one since then.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import RoutectlError
from .server import Server

__all__ = ["check_places", "ignored_fields", "tells_versions"]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SGLANG_BOTH = _names(
    """
    bootstrap_host bootstrap_port bootstrap_room cache_salt custom_logit_processor
    data_parallel_rank disagg_prefill_dp_rank extra_key images_config lora_path mm_processor_kwargs
    priority return_hidden_states return_routed_experts rid routed_dp_rank routed_experts_start_len
    session_id session_params stream watermark
    """
)
_SGLANG_GENERATE = _SGLANG_BOTH | _names(
    """
    audio_data background bootstrap_pair_key conversation_id custom_labels decode_tp_size
    encoder_urls external_trace_header http_worker_ipc image_data image_max_dynamic_patch
    input_embeds input_ids kv_hints log_metrics logprob_start_len lora_id max_dynamic_patch
    max_thinking_tokens min_dynamic_patch mm_content_hashes mm_hashes modalities
    multi_item_delimiter_indices need_wait_for_mm_inputs no_logs num_items_assigned
    positional_embed_overrides received_time require_reasoning return_bytes return_entropy
    return_flat_raw_output_top_logprobs return_flat_raw_top_logprobs
    return_flat_raw_top_logprobs_b64 return_indexer_topk return_logprob return_prompt_token_ids
    return_sampling_mask return_text_in_logprobs routing_key sampling_logprobs_mode sampling_params
    text token_ids_logprob token_indices_to_pool top_logprobs_num use_audio_in_video video_config
    video_data video_max_dynamic_patch
    """
)
_SGLANG_SAMPLING = _names(
    """
    beam_width custom_params ebnf frequency_penalty ignore_eos json_schema logit_bias
    max_new_tokens min_new_tokens min_p n no_stop_trim presence_penalty regex repetition_penalty
    sampling_seed skip_special_tokens spaces_between_special_tokens stop stop_regex stop_token_ids
    stream_interval structural_tag temperature top_k top_p watermark
    """
)
_SGLANG_OPENAI = _SGLANG_BOTH | _names(
    """
    custom_params ebnf frequency_penalty ignore_eos logit_bias logprobs max_tokens min_p min_tokens
    model n no_stop_trim presence_penalty regex repetition_penalty response_format
    return_cached_tokens_details return_spec_tokens_details return_token_ids seed
    skip_special_tokens stop stop_regex stop_token_ids stream_options temperature top_k top_p user
    """
)
_SGLANG_COMPLETIONS = _SGLANG_OPENAI | _names(
    "best_of custom_labels echo json_schema prompt suffix"
)
_SGLANG_CHAT = _SGLANG_OPENAI | _names(
    """
    chat_template_kwargs continue_final_message input_ids max_completion_tokens max_dynamic_patch
    messages min_dynamic_patch parallel_tool_calls reasoning_effort
    return_flat_raw_output_top_logprobs return_flat_raw_top_logprobs_b64 return_input_ids_in_sglext
    return_meta_info return_output_ids_in_sglext return_prompt_token_ids return_sampling_mask
    sampling_logprobs_mode separate_reasoning stream_reasoning task thinking tool_choice tools
    top_logprobs use_audio_in_video video_config
    """
)
_VLLM_BOTH = _names(
    """
    allowed_token_ids bad_words frequency_penalty ignore_eos include_stop_str_in_output logit_bias
    logprob_token_ids logprobs max_tokens min_p min_tokens n presence_penalty prompt_logprobs
    repetition_detection repetition_penalty routed_experts_prompt_start seed skip_special_tokens
    spaces_between_special_tokens stop stop_token_ids stream_interval structured_outputs
    temperature thinking_token_budget top_k top_p watermarking
    """
)
_VLLM_SAMPLING = _VLLM_BOTH | _names(
    """
    detokenize extra_args flat_logprobs output_kind prompt_logprob_start prompt_logprob_token_ids
    skip_clone skip_reading_prefix_cache trace_decode_token_ids
    """
)
_VLLM_OPENAI = _VLLM_BOTH | _names(
    """
    add_special_tokens cache_salt ec_transfer_params echo kv_transfer_params length_penalty model
    priority request_id response_format return_token_ids return_tokens_as_token_ids
    return_weight_versions session_id stream stream_options truncate_prompt_tokens truncation_side
    use_beam_search user vllm_xargs
    """
)
_VLLM_COMPLETIONS = _VLLM_OPENAI | _names("prompt prompt_embeds suffix")
_VLLM_CHAT = _VLLM_OPENAI | _names(
    """
    add_generation_prompt chat_template chat_template_kwargs continue_final_message documents
    include_reasoning max_completion_tokens media_io_kwargs messages mm_processor_kwargs
    parallel_tool_calls reasoning_effort return_prompt_text tool_choice tools top_logprobs
    """
)
_VLLM_INFERENCE = _names(
    """
    cache_salt content_parts ec_transfer_params features kv_transfer_params model output_mode
    priority reasoning_ended reasoning_parser_kwargs request_id return_token_ids sampling_params
    stream stream_options token_ids token_offsets
    """
)
_KNOWN = {
    ("sglang", "generate"): (_SGLANG_GENERATE, _SGLANG_SAMPLING),
    ("sglang", "completions"): (_SGLANG_COMPLETIONS, None),
    ("sglang", "chat"): (_SGLANG_CHAT, None),
    ("vllm", "completions"): (_VLLM_COMPLETIONS, None),
    ("vllm", "chat"): (_VLLM_CHAT, None),
    ("vllm", "inference"): (_VLLM_INFERENCE, _VLLM_SAMPLING),
}
_SINCE = {("vllm", "return_weight_versions"): (0, 33)}
_OLD = {"sglang": "0.5.23", "vllm": "0.32"}  # the versions whose fields these are


def check_places(
    server: Server, endpoint: str, sampling: Iterable[str], fields: Iterable[str]
) -> None:
    """Raise RoutectlError for a sampling option that is a field of the request, or the reverse.

    Only an endpoint with an object ``sampling_params`` tells them apart.
    """
    known, options = _KNOWN.get((server.engine or "", endpoint), (frozenset(), None))
    if options is None:
        return
    for name in sampling:
        if name in known and name not in options:
            raise RoutectlError(
                f"--sampling {name}: {endpoint} takes it beside sampling_params, not among them",
                hint=f"--request {name}=VALUE",
            )
    for name in fields:
        if name in options and name not in known:
            raise RoutectlError(
                f"--request {name}: {endpoint} takes it in sampling_params, not beside them",
                hint=f"--sampling {name}=VALUE",
            )


def _number(version: str | None) -> tuple[int, ...] | None:
    """The first two numbers of a version; None where it is not known."""
    parts = (version or "").split(".")[:2]
    return (*map(int, parts),) if len(parts) == 2 and all(p.isdecimal() for p in parts) else None


def tells_versions(server: Server) -> bool:
    """Whether a server is known to tell weight versions in completions and chat when it is asked.

    Source: vLLM 0.33.0, entrypoints/openai (``return_weight_versions``); 0.32 passes over it.
    """
    number = _number(server.version)
    name = "return_weight_versions"
    return server.engine == "vllm" and number is not None and number >= _SINCE["vllm", name]


def ignored_fields(server: Server, endpoint: str, body: Mapping[str, Any]) -> list[str]:
    """What of a request the engine passes over in silence, a sentence for each name."""
    engine = server.engine or ""
    known, options = _KNOWN.get((engine, endpoint), (None, None))
    if known is None:
        return []
    told = []
    for name in body:
        since = _SINCE.get((engine, name))
        number = _number(server.version)
        if since is not None and number is not None and number < since:
            told.append(
                f"{name}: {server.name} ignores it, {engine} {since[0]}.{since[1]} does not"
            )
        elif name not in known:
            told.append(
                f"{name}: no field of {endpoint} as of {engine} {_OLD[engine]}, which ignores it"
            )
    if options is not None:
        verb = "refuses" if engine == "sglang" else "ignores"
        told += [
            f"{name}: not among the sampling_params of {engine} {_OLD[engine]}, which {verb} it"
            for name in body["sampling_params"]
            if name not in options
        ]
    return told
