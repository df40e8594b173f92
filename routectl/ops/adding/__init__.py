"""What counts are made of that add up: parts, in any cut, order or tree, give one result.

Everything here is bounded, whatever is added. ``add`` puts more into a value while it is being
built; ``a + b`` is a new one and leaves both alone.
"""
