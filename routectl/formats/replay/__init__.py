"""The replay folder that pack writes: rank files, manifest, plans."""
