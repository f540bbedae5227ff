"""The offline embedder and the adapter for a user's callable (PRV-2, G-2)."""

import asyncio
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from polymem.errors import StorageDataError
from polymem.providers import embedding
from polymem.providers.embedding import (
    INSTALL_HINT,
    EmbeddingProvider,
    StaticEmbedder,
    adapt,
    load_default,
)


@pytest.fixture(scope="module")
def embedder() -> StaticEmbedder:
    found = load_default()
    if found is None:
        pytest.skip(INSTALL_HINT)
    return found


class TestStatic:
    def test_it_is_a_provider_with_a_name_and_a_dimension(self, embedder: StaticEmbedder) -> None:
        assert isinstance(embedder, EmbeddingProvider)
        assert (embedder.name, embedder.dimensions) == ("wordllama-l2-supercat-256", 256)

    def test_vectors_have_unit_length_and_the_declared_shape(self, embedder: StaticEmbedder) -> None:
        vectors = embedder.encode(["I moved to Lisbon", "¿Dónde vive? 🏠"])
        assert vectors.shape == (2, 256)
        assert vectors.dtype == np.float32
        assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1], abs=1e-5)

    def test_meaning_is_nearer_than_chance(self, embedder: StaticEmbedder) -> None:
        """A hash or random vector would fail this."""
        pet, dog, tax = embedder.encode(["my pet puppy", "a dog", "annual tax return"])
        assert pet @ dog > pet @ tax + 0.1

    def test_one_by_one_equals_the_batch_across_internal_batches(self, embedder: StaticEmbedder) -> None:
        texts = [f"turn number {n} about {'rain' if n % 2 else 'sun'}" for n in range(1100)]
        batch = embedder.encode(texts)
        for place in (0, 511, 512, 1099):
            assert np.allclose(asyncio.run(embedder.embed(texts[place])), batch[place], atol=1e-6)

    def test_the_batch_does_not_run_on_the_loop_thread(
        self, embedder: StaticEmbedder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen = []
        original = StaticEmbedder.encode

        def encode(self: StaticEmbedder, texts: list[str]) -> object:
            seen.append(threading.get_ident())
            return original(self, texts)

        monkeypatch.setattr(StaticEmbedder, "encode", encode)
        asyncio.run(embedder.embed_batch(["a", "b"]))
        assert seen != [threading.get_ident()]

    def test_a_text_without_tokens_is_the_zero_vector(self, embedder: StaticEmbedder) -> None:
        assert not embedder.encode([""]).any()
        assert embedder.encode([]).shape == (0, 256)

    def test_tokens_carry_their_word(self, embedder: StaticEmbedder) -> None:
        tokens = embedder.tokens("Where's Ada's unbelievability?")
        assert tokens.vectors.shape == (len(tokens.words), 256)
        assert {"Where", "s", "Ada", "unbelievability", ""} == set(tokens.words)
        assert tokens.words.count("unbelievability") > 1

    def test_tokens_add_up_to_the_vector(self, embedder: StaticEmbedder) -> None:
        total = embedder.tokens("Ada prefers dark mode").vectors.sum(axis=0)
        expected = asyncio.run(embedder.embed("Ada prefers dark mode"))
        assert np.allclose(total / np.linalg.norm(total), expected, atol=1e-6)

    def test_no_tokens_of_an_empty_text(self, embedder: StaticEmbedder) -> None:
        assert embedder.tokens("").vectors.shape == (0, 256)

    def test_several_threads_load_it_once(self, embedder: StaticEmbedder, monkeypatch: pytest.MonkeyPatch) -> None:
        fresh = StaticEmbedder(embedder._folder)
        loads = []
        read = StaticEmbedder._read
        monkeypatch.setattr(StaticEmbedder, "_read", lambda self: loads.append(1) or read(self))
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: fresh.encode(["same"]), range(16)))
        assert len(loads) == 1
        assert all(np.array_equal(vector, found[0]) for vector in found)

    def test_loading_it_imports_neither_wordllama_nor_a_downloader(self, embedder: StaticEmbedder) -> None:
        code = (
            "import sys; from polymem.providers.embedding import load_default; load_default().encode(['x']);"
            "print([name for name in ('wordllama', 'huggingface_hub', 'requests') if name in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"

    def test_memories_share_one_model(self, embedder: StaticEmbedder) -> None:
        assert load_default() is embedder

    @pytest.mark.parametrize("missing", ["wordllama", "tokenizers", "safetensors"])
    def test_without_the_extra_there_is_none_and_a_hint(self, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
        find = embedding.find_spec
        monkeypatch.setattr(embedding, "find_spec", lambda name: None if name == missing else find(name))
        assert load_default() is None
        assert "pip install 'polymem[embeddings]'" in INSTALL_HINT


def double(texts: list[str]) -> list[list[float]]:
    return [[float(len(text)), 1.0] for text in texts]


async def later(texts: list[str]) -> np.ndarray:
    await asyncio.sleep(0)
    return np.array(double(texts))


class TestAdapt:
    @pytest.mark.parametrize("function", [double, later, lambda texts: later(texts)])
    def test_sync_and_async_callables_become_providers(self, function: embedding.EmbedFunction) -> None:
        async def main() -> None:
            provider = await adapt(function, name="mine")
            assert (provider.name, provider.dimensions) == ("mine", 2)
            assert (await provider.embed_batch(["a", "bcd"])).tolist() == [[1, 1], [3, 1]]
            assert (await provider.embed("ab")).tolist() == [2, 1]
            assert (await provider.embed_batch([])).shape == (0, 2)

        asyncio.run(main())

    def test_a_provider_stays_as_it_is(self, embedder: StaticEmbedder) -> None:
        assert asyncio.run(adapt(embedder)) is embedder

    def test_the_name_defaults_to_the_callable(self) -> None:
        assert asyncio.run(adapt(double)).name == f"{__name__}.double"

    def test_a_blocking_callable_runs_in_a_thread(self) -> None:
        seen = []

        def slow(texts: list[str]) -> list[list[float]]:
            seen.append(threading.get_ident())
            return double(texts)

        asyncio.run(adapt(slow))
        assert seen
        assert threading.get_ident() not in seen

    @pytest.mark.parametrize(
        "answer",
        [[], [[1.0], [2.0]], [[]], [["x"]], [[float("nan")]], [[float("inf")]], None, [[1.0], [1.0, 2.0]], 3],
    )
    def test_a_bad_answer_names_the_field(self, answer: object) -> None:
        """G-2."""
        with pytest.raises(StorageDataError) as caught:
            asyncio.run(adapt(lambda texts: answer))
        assert caught.value.field == "embed"

    def test_another_length_than_before_is_refused_naming_both(self) -> None:
        lengths = iter([3, 4])

        async def main() -> None:
            provider = await adapt(lambda texts: np.ones((len(texts), next(lengths))))
            await provider.embed("x")

        with pytest.raises(StorageDataError, match="3 dimensions, got 4"):
            asyncio.run(main())

    def test_what_is_not_callable_is_refused(self) -> None:
        with pytest.raises(StorageDataError) as caught:
            asyncio.run(adapt(3))  # type: ignore[arg-type]
        assert caught.value.field == "embed"

    def test_the_users_own_exception_passes_untouched(self) -> None:
        """An exception of a user callback passes untouched."""

        def broken(texts: list[str]) -> None:
            raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            asyncio.run(adapt(broken))
