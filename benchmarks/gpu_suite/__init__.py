"""What a GPU makes of the road, in one command: `make gpu-suite` (see docs/gpu-suite.md).

__main__.py    the command line
suite.py       runs the sections one after another, each in a process of its own, and writes after each
section.py     what a section is given: device, sizes, time left, where its figures go
sizes.py       what is measured: the 8B shape on a GPU, a toy of the same code on a CPU
timing.py      milliseconds of an action
floors.py      the bytes and operations that a frame cannot do without
engines.py     the engines that are held against each other, by name
frames.py      section `frames`: is what the device computes right?
rates.py       section `rates`: what can this device copy and multiply?
generate.py    sections `generate, <engine>`: backbone, depth, embedding, a whole step
codec.py       sections `decode` and `watermark`
road.py        section `road`: time to first audio, streams in real time
peer.py        sections `peer` and `peer, compiled`: Transformers' CSM at the same shape
gpu_tests.py   section `tests`: pytest's tests that are marked gpu
table.py       results → Markdown
costs.py       results → the cost table of `misotts capacity`
"""
