"""Audio as callers ask for it: 24 kHz float32 becomes bytes of a format at a rate.

`formats` has the table of formats and `open_encoder`; each other file holds the encoders of one library.
"""
