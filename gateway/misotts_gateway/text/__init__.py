"""Text as callers send it becomes the parts of a turn: utterances for the model, and silences.

`plan` puts the other files together: SSML, the lexicon, normalisation, sentences.
"""
