"""A small classifier trained on the digits at hand: the feature extractor of a Frechet distance on this domain."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from hopfield_replay.metrics import frechet_distance

FEATURES = 32


class DigitClassifier(nn.Module):
    """Two convolutions and two linear layers; the features are what the last layer sees."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveMaxPool2d(4),
            nn.Flatten(),
            nn.Linear(32 * 16, FEATURES),
        )
        self.head = nn.Linear(FEATURES, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, 10)."""
        logits: Tensor = self.head(self.body(images).relu())
        return logits

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Features (n, 32)."""
        return torch.cat([self.body(part) for part in images.split(512)])

    @torch.no_grad()
    def classify(self, images: Tensor) -> Tensor:
        """Most likely digit of each image (n,)."""
        return torch.cat([self(part).argmax(1) for part in images.split(512)])


def train_classifier(images: Tensor, labels: Tensor, steps: int = 600) -> tuple[DigitClassifier, float]:
    """Train on four fifths of (at most 10,000 of) the images; returns the classifier and its accuracy on the rest."""
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(images), generator=generator)[:10_000]
    train, test = order.split([len(order) * 4 // 5, len(order) - len(order) * 4 // 5])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = DigitClassifier(images.shape[1])
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(steps):
        batch = train[torch.randint(len(train), (64,), generator=generator)]
        optimizer.zero_grad()
        cross_entropy(model(images[batch]), labels[batch]).backward()
        optimizer.step()
    model.eval().requires_grad_(False)
    return model, float((model.classify(images[test]) == labels[test]).float().mean())


class GenerativeDistance:
    """Frechet distance in the classifier's features between generated and real images, and its floor.

    The floor is the distance of equally many other real images to the same real ones: nothing generated can be
    expected below it.

    Args:
        images: real images (n, 1, h, w).
        labels: their digits (n,).
        count: how many images are generated.
    """

    def __init__(self, images: Tensor, labels: Tensor, count: int) -> None:
        self.classifier, self.accuracy = train_classifier(images, labels)
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(1))[: 10_000 + count]
        others, real = order.split([count, len(order) - count])
        self.real = self.classifier.features(images[real])
        self.count = count
        self.floor = float(frechet_distance(self.real, self.classifier.features(images[others])))

    def __call__(self, generated: Tensor) -> float:
        """Distance of generated images, uint8."""
        return float(frechet_distance(self.real, self.classifier.features(generated.float() / 127.5 - 1)))

    def share_of(self, generated: Tensor, classes: list[int]) -> float:
        """Share of the generated images, uint8, that the classifier sees as one of these classes."""
        digits = self.classifier.classify(generated.float() / 127.5 - 1)
        return float(torch.isin(digits, torch.tensor(classes)).float().mean())
