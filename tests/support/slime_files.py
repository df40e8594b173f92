"""Dicts as slime and miles save them, written out by hand; no door is called here.

Sources: slime 624b824a (utils/types.py, observability/train_data_utils.py), miles 31f1ca96.
"""

import torch

CONFIG = {  # of the model that the dicts are of: layer 0 is dense
    "model_type": "deepseek_v3",
    "num_hidden_layers": 2,
    "first_k_dense_replace": 1,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
}
A_IDS, B_IDS = [[[0, 1]], [[2, 3]], [[1, 0]]], [[[3, 2]]]  # [T, 1 MoE layer, K]


def all_layers(ids):
    """int32 [T, 2, K]: zeros in layer 0, which is dense."""
    rows = torch.tensor(ids, dtype=torch.int32)
    return torch.cat([torch.zeros_like(rows), rows], dim=1)


def slime_sample(**more):
    """Sample.to_dict: every field of the class, ``more`` in place of some or beside them."""
    return {
        "group_index": 3,
        "index": 12,
        "rollout_id": None,
        "prompt": [{"role": "user", "content": "2 + 2"}],
        "tokens": [5, 6, 7, 8],
        "multimodal_inputs": None,
        "multimodal_train_inputs": None,
        "multimodal_train_input_id": None,
        "apply_chat_template_kwargs": {},
        "response": "four",
        "response_length": 2,
        "label": "4",
        "reward": 1.0,
        "loss_mask": [0, 1],
        "weight_versions": ["7", "7"],
        "rollout_log_probs": [-0.5, -2.0],
        "rollout_top_p_token_ids": None,
        "rollout_top_p_token_offsets": None,
        "rollout_routed_experts": all_layers(A_IDS),
        "remove_sample": False,
        "teacher_log_probs": None,
        "status": "completed",
        "metadata": {},
        "generate_function_path": None,
        "custom_rm_path": None,
        "train_metadata": None,
        "session_id": None,
        "non_generation_time": 0.25,
        "spec_info": dict.fromkeys(
            (
                "spec_accept_token_num",
                "spec_draft_token_num",
                "spec_verify_ct",
                "completion_token_num",
            ),
            0,
        ),
        "prefix_cache_info": {"cached_tokens": 1, "total_prompt_tokens": 2},
        **more,
    }


def short_sample(**more):
    """A second sample, of two tokens."""
    return slime_sample(
        index=13,
        tokens=[9, 4],
        response_length=1,
        loss_mask=[1],
        rollout_log_probs=[-1.0],
        rollout_routed_experts=all_layers(B_IDS),
        **more,
    )


def save_rollout(path, *samples):
    """A --save-debug-rollout-data file."""
    torch.save({"rollout_id": 0, "samples": list(samples)}, path)
    return path


def train_sample(rank, position, tokens, response, log_probs, **more):
    """A sample of a train dump: the columns' names, one entry of each."""
    return {
        "data_parallel_rank": rank,
        "sample_index": 12 + position,
        "rollout_position": position,
        "tokens": torch.tensor(tokens),
        "total_lengths": len(tokens),
        "response_lengths": response,
        "rewards": 1.0,
        "truncated": 0,
        "loss_masks": torch.ones(response, dtype=torch.int32),
        "rollout_log_probs": torch.zeros(response),
        "log_probs": torch.tensor(log_probs),
        "advantages": torch.zeros(response),
        **more,
    }


def shard(rank, partition, steps):
    """The micro-batches of a data-parallel rank: indices into its partition."""
    return {
        "rank": rank,
        "data_parallel_rank": rank,
        "sample_indices": [12 + i for i in partition],
        "partition": partition,
        "micro_batch_indices": steps,
        "num_microbatches": [len(steps)],
        "global_batch_sizes": [2],
    }


def train_data(**more):
    """A train dump of the two samples above, on two data-parallel ranks."""
    return {
        "format_version": 2,
        "rollout_id": 0,
        "rank": 0,
        "samples": [
            train_sample(1, 0, [5, 6, 7, 8], 2, [-0.25, -2.5]),
            train_sample(0, 1, [9, 4], 1, [-1.0]),
        ],
        "dp_shards": [shard(0, [1], [[0]]), shard(1, [0], [[0]])],
        "raw_reward": [1.0, 0.0],
        **more,
    }
