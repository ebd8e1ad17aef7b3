"""Denoising by non-local means, written as one call of neighborhood attention: the main job."""
