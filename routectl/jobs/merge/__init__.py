"""``routectl merge``: partials added up."""
