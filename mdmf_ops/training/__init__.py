"""Labelled images to a detector's folder: augmentation, training, calibration, evaluation."""
