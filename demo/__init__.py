"""The demo: a small model in the real model's file formats, and a script that speaks with it through the server."""
