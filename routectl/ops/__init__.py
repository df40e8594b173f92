"""Verbs: nouns in, a frozen result out; no path, no print."""
