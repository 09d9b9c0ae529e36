"""Converter: writes a model folder's weights in the formats that engines are built from. See `python -m convert
--help`."""
