"""Batches from the dataset, and the fits that train networks on them."""
