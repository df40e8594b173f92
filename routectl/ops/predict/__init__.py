"""predict: routes of later weights out of router inputs of today."""
