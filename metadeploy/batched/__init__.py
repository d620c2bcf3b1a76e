"""Batches of prompts through a frozen base in PyTorch; collecting, training and evaluation use it."""
