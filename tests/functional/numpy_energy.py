"""The energies again, written down literally with numpy in float64: one query and one pattern at a time, no tricks."""

import math

import numpy as np


def score(x, pattern, beta, similarity):
    if similarity == "dot":
        return beta * float(np.dot(x, pattern))
    return -beta * float(np.sum((x - pattern) ** 2)) / 2


def terms(x, patterns, beta, *, masses=None, similarity="distance", exclude=-1):
    """Pairs (mass, score) of the patterns that count."""
    masses = np.ones(len(patterns)) if masses is None else masses
    return [
        (float(mass), score(x, pattern, beta, similarity), pattern)
        for index, (mass, pattern) in enumerate(zip(masses, patterns, strict=True))
        if index != exclude and mass > 0
    ]


def probabilities(kept):
    top = max((s for _, s, _ in kept), default=0.0)
    weights = [m * math.exp(s - top) for m, s, _ in kept]
    return top, weights, math.fsum(weights)


def energy(x, patterns, beta, *, masses=None, similarity="distance", exclude=None, normalize=True):
    result = []
    for i, query in enumerate(np.asarray(x, dtype=np.float64)):
        kept = terms(
            query,
            np.asarray(patterns, dtype=np.float64),
            beta,
            masses=masses,
            similarity=similarity,
            exclude=-1 if exclude is None else exclude[i],
        )
        if not kept:
            result.append(math.inf)
            continue
        top, _, total = probabilities(kept)
        logsumexp = top + math.log(total)
        if normalize:
            logsumexp -= math.log(math.fsum(m for m, _, _ in kept))
        result.append((np.dot(query, query) / 2 if similarity == "dot" else 0.0) - logsumexp / beta)
    return np.array(result)


def responsibilities(x, patterns, beta, *, masses=None, similarity="distance", exclude=None):
    result = np.zeros((len(x), len(patterns)))
    masses = np.ones(len(patterns)) if masses is None else masses
    for i, query in enumerate(np.asarray(x, dtype=np.float64)):
        left_out = -1 if exclude is None else exclude[i]
        counted = [mu for mu in range(len(patterns)) if mu != left_out and masses[mu] > 0]
        kept = terms(query, patterns, beta, masses=masses, similarity=similarity, exclude=left_out)
        _, weights, total = probabilities(kept)
        for mu, weight in zip(counted, weights, strict=True):
            result[i, mu] = weight / total
    return result


def retrieve(x, patterns, beta, *, masses=None, similarity="distance", steps=1):
    for _ in range(steps):
        x = responsibilities(x, patterns, beta, masses=masses, similarity=similarity) @ patterns
    return x


def effective_patterns(x, patterns, beta, **options):
    squares = (responsibilities(x, patterns, beta, **options) ** 2).sum(1)
    return np.divide(1.0, squares, out=np.zeros_like(squares), where=squares > 0)
