"""Fuzzing of every door: ``targets.py`` names them, ``run.py`` runs one, guided by coverage."""
