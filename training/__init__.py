"""Trains bundles and evaluates them. The only package that may import torch."""
