"""The book's modern convolutional networks, in forms for small images: d2l 8, "Modern Convolutional Neural Networks".

The papers' networks take 224 x 224 pixels and shrink them at once. These keep small images large at first; the rest
is as in the papers, with fewer channels.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

__all__ = ["alexnet", "nin", "resnet18", "vgg"]


def alexnet(input_shape: list[int], classes: int, channels: list[int], hidden: list[int], dropout: float) -> nn.Module:
    """AlexNet (Krizhevsky, Sutskever and Hinton, 2012; d2l 8.1) with a stem of stride 1.

    torchvision's module can't be had with other channels, and has 57 million parameters.
    """
    layers = OrderedDict[str, nn.Module]()
    sizes = [input_shape[0], *channels]
    for i, kernel in enumerate((5, 5, 3, 3, 3), 1):
        layers[f"conv{i}"] = nn.Conv2d(sizes[i - 1], sizes[i], kernel, padding=kernel // 2)
        layers[f"conv{i}_activation"] = nn.ReLU()
        if i in (1, 2, 5):
            layers[f"pool{i}"] = nn.MaxPool2d(kernel_size=3, stride=2)
    layers["flatten"] = nn.Flatten()
    # Each of the three poolings makes (n - 1) // 2 pixels of n, which is this in the end.
    height, width = ((size - 7) // 8 for size in input_shape[1:])
    _add_classifier(layers, [sizes[-1] * height * width, *hidden], classes, dropout)
    return nn.Sequential(layers)


def vgg(input_shape: list[int], classes: int, channels: list[int], hidden: list[int], dropout: float) -> nn.Module:
    """VGG-11 (Simonyan and Zisserman, 2014; d2l 8.2) from torchvision's blocks, with batch normalisation (d2l 8.5).

    Poolings keep what sticks out at the edge, so that 28 pixels can be halved five times; the mean over what is left
    goes to the fully connected layers.
    """
    from torchvision.models.vgg import make_layers  # here, so that serving other models does not need torchvision

    first, second, third, fourth, fifth = channels
    blocks = [first, "M", second, "M", third, third, "M", fourth, fourth, "M", fifth, fifth, "M"]
    features: nn.Sequential = make_layers(blocks, batch_norm=True)
    features[0] = nn.Conv2d(input_shape[0], first, kernel_size=3, padding=1)
    for part in features:
        if isinstance(part, nn.MaxPool2d):
            part.ceil_mode = True
    layers = OrderedDict[str, nn.Module](features=features, mean=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten())
    _add_classifier(layers, [fifth, *hidden], classes, dropout)
    return nn.Sequential(layers)


def nin(input_shape: list[int], classes: int, channels: list[int], dropout: float) -> nn.Module:
    """Network in network (Lin, Chen and Yan, 2013; d2l 8.3): 1 x 1 convolutions, and the mean over all pixels as logit.

    The last block ends without the book's ReLU: a logit may be negative.
    """
    layers = OrderedDict[str, nn.Module]()
    sizes = [input_shape[0], *channels, classes]
    for i, kernel in enumerate((5, 5, 3, 3), 1):
        if i == 4:
            layers["dropout"] = nn.Dropout(dropout)
        layers[f"block{i}"] = nn.Sequential(
            nn.Conv2d(sizes[i - 1], sizes[i], kernel, padding=kernel // 2),
            nn.ReLU(),
            nn.Conv2d(sizes[i], sizes[i], kernel_size=1),
            nn.ReLU(),
            nn.Conv2d(sizes[i], sizes[i], kernel_size=1),
            nn.ReLU() if i < 4 else nn.Identity(),
        )
        if i < 3:
            layers[f"pool{i}"] = nn.MaxPool2d(kernel_size=3, stride=2)
    layers["mean"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    return nn.Sequential(layers)


def resnet18(input_shape: list[int], classes: int, dropout: float) -> nn.Module:
    """torchvision's ResNet-18 (He et al., 2015; d2l 8.6) with the paper's CIFAR stem: 3x3, stride 1, no pooling."""
    from torchvision.models import resnet18 as of_paper

    module: nn.Module = of_paper(weights=None, num_classes=classes)
    classifier: nn.Module = module.get_submodule("fc")
    module.conv1 = nn.Conv2d(input_shape[0], 64, kernel_size=3, padding=1, bias=False)
    module.maxpool = nn.Identity()
    if dropout:
        module.fc = nn.Sequential(OrderedDict[str, nn.Module](dropout=nn.Dropout(dropout), output=classifier))
    return module


def _add_classifier(layers: OrderedDict[str, nn.Module], sizes: list[int], classes: int, dropout: float) -> None:
    """The papers' three fully connected layers, with dropout after the first two."""
    for i in range(1, len(sizes)):
        layers[f"dense{i}"] = nn.Linear(sizes[i - 1], sizes[i])
        layers[f"dense{i}_activation"] = nn.ReLU()
        layers[f"dense{i}_dropout"] = nn.Dropout(dropout)
    layers["output"] = nn.Linear(sizes[-1], classes)
