"""The generate stage: in-flight batching of utterances over a backbone engine and a depth engine."""
