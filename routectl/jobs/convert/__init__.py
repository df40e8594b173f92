"""``routectl convert``: a dump in another form."""
