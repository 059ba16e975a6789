import pytest
import torch
from diffusers import AutoencoderKL

from helpers import captioned, latent_cache


def autoencoder(seed=0, **settings):
    torch.manual_seed(seed)
    return AutoencoderKL(
        block_out_channels=(8, 8),
        norm_num_groups=4,
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        **settings,
    ).eval()


@pytest.fixture
def tasks(tmp_path):
    images = torch.rand(2, 20, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for name, found in zip(("birds", "cars"), images, strict=True):
        captioned.write_captioned(tmp_path / name, found, ["something"] * 20)
    return [captioned.read_captioned(tmp_path / name) for name in ("birds", "cars")]


def test_latents_are_the_scaled_means_and_come_back_the_same(tasks, tmp_path, monkeypatch):
    vae = autoencoder(scaling_factor=0.3)
    latents = latent_cache.cached_latents(tasks, vae, 8, tmp_path / "cache")
    for task, found in zip(tasks, latents, strict=True):
        with torch.no_grad():
            mean = vae.encode(captioned.read_images(task.files, 8)).latent_dist.mean
        torch.testing.assert_close(found, 0.3 * mean)
    monkeypatch.setattr(latent_cache, "_encode", None)  # the second time nothing is encoded
    for first, second in zip(latents, latent_cache.cached_latents(tasks, vae, 8, tmp_path / "cache"), strict=True):
        assert torch.equal(first, second)


def test_a_cache_of_something_else_is_refused(tasks, tmp_path):
    cache = tmp_path / "cache"
    latent_cache.cached_latents(tasks, autoencoder(), 8, cache)
    before = {path.name: path.read_bytes() for path in cache.iterdir()}
    for other in (autoencoder(seed=1), autoencoder(scaling_factor=0.5)):
        with pytest.raises(ValueError, match=r"0_birds.pt holds latents that were made by another autoencod"):
            latent_cache.cached_latents(tasks, other, 8, cache)
    with pytest.raises(ValueError, match=r"at another size \(size 8, now 16\). Delete it"):
        latent_cache.cached_latents(tasks, autoencoder(), 16, cache)
    tasks[1].files[0].write_bytes(tasks[1].files[1].read_bytes())
    with pytest.raises(ValueError, match=r"1_cars.pt holds latents that were made of other images"):
        latent_cache.cached_latents(tasks, autoencoder(), 8, cache)
    (cache / "0_birds.pt").write_bytes(b"cut off")
    with pytest.raises(ValueError, match=r"0_birds.pt is damaged.*Delete it to"):
        latent_cache.cached_latents(tasks, autoencoder(), 8, cache)
    (cache / "0_birds.pt").write_bytes(before["0_birds.pt"])
    assert {path.name: path.read_bytes() for path in cache.iterdir()} == before


def test_nothing_is_written_if_an_image_of_the_last_task_does_not_decode(tasks, tmp_path):
    tasks[1].files[-1].write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"00019\.png"):
        latent_cache.cached_latents(tasks, autoencoder(), 8, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_the_fingerprint_is_of_weights_and_settings_but_not_of_the_path(tmp_path):
    vae = autoencoder()
    vae.save_pretrained(tmp_path / "vae")
    again = AutoencoderKL.from_pretrained(tmp_path / "vae", low_cpu_mem_usage=False)
    assert latent_cache.vae_fingerprint(again) == latent_cache.vae_fingerprint(vae)
    with torch.no_grad():
        next(again.parameters()).view(-1)[0] += 1e-6
    assert latent_cache.vae_fingerprint(again) != latent_cache.vae_fingerprint(vae)
    half = autoencoder().to(torch.bfloat16)
    assert latent_cache.vae_fingerprint(half) != latent_cache.vae_fingerprint(vae)
