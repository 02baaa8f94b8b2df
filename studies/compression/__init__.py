"""The reference study of compressing SuperPoint and SuperGlue, repeated with featherglue."""
