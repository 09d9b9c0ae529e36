"""The decode stage: frames of codes become audio, with one slot of Mimi's streaming state per stream."""
