"""Physical experts of expert-parallel engines: their maps, and what SGLang's recorder writes."""
