"""Reading and writing: images, files, pair lists and TOML."""
