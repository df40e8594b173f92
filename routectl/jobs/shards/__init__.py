"""Work cut into shards, and who does it: this process, or several of this machine."""
