"""Audio as callers ask for it: 24 kHz float32 becomes bytes of a format at a rate.

`formats` has the table of formats and the encoder of a stream; each other file holds the encoders of one library.
"""
