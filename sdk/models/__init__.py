"""The bundled checkpoints, in Hugging Face's layout; `examples/pebble/` has the recipe they were trained by."""
