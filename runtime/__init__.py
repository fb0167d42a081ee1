"""One board's compute: models, stages and codecs. It knows nothing of peers and imports nothing heavy here."""
