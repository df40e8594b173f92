"""What tests of trainers share: Megatron-Core in a process group of one."""

import pytest
import torch.distributed as dist

from support.mcore_ranks import megatron, topology


@pytest.fixture(scope="module")
def core():
    """Megatron-Core, and process groups of one rank."""
    with megatron() as found:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        with topology(found):
            yield found
        dist.destroy_process_group()
