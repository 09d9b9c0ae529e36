"""The demo's voice: a small model in exactly the real model's formats, trained from nothing but package registries."""
