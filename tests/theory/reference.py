"""The same mathematics in plain numpy, written without a look at the package: loops and definitions."""

import numpy as np


def patterns(n, c, d):
    gram = np.full((n, n), c) + (1 - c) * np.eye(n)
    stored = np.zeros((n + 1, d))
    stored[:n, :n] = np.linalg.cholesky(gram)
    stored[n, n] = 1
    return stored


def softmax(scores):
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def energy(x, stored, beta, masses=None):
    weights = np.ones(len(stored)) if masses is None else np.asarray(masses)
    scores = beta * stored @ x
    top = scores.max()
    return x @ x / 2 - (top + np.log(np.sum(weights * np.exp(scores - top)))) / beta


def fixed_point(x, stored, beta):
    for _ in range(20000):
        following = softmax(beta * stored @ x) @ stored
        if np.abs(following - x).max() < 1e-14:
            break
        x = following
    return x


def expected(x, stored, beta):
    d = len(x)
    p = softmax(beta * stored @ x)
    mean = p @ stored
    covariance = sum(w * np.outer(s - mean, s - mean) for w, s in zip(p, stored, strict=True))
    hessian = np.eye(d) - beta * covariance
    return (x @ x * np.trace(hessian) - x @ hessian @ x) / 2 - (d - 1) / 2 * (x - mean) @ x
