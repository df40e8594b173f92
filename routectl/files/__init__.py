"""Files of any kind: read within limits, written whole or not at all."""
