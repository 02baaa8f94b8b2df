"""Reading and writing of images, files, pair lists and TOML."""
