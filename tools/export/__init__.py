"""Export of Vision Transformers into model folders: stage graphs, codecs, manifest, card."""
