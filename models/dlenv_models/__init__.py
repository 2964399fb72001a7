"""The models half: datasets, the model zoo, training, evaluation, and the model repository.

Importing this package imports nothing heavy; its modules import torch, and torchvision only where it is needed.
"""
