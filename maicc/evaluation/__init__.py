"""Trained models, measured: adaptation, statistics, credit, speed."""
